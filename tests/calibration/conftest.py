"""Fixtures of several tests of calibration."""

import numpy as np
import pytest

from irstd.tests.calibration.frames_on_disk import noise, write


@pytest.fixture
def dataset(tmp_path):
    """Twelve frames with masks; a target in every third one."""
    spot = np.zeros((32, 32), np.uint8)
    spot[15:17, 15:17] = 255
    for i in range(12):
        mask = spot if i % 3 == 0 else np.zeros_like(spot)
        frame = np.maximum(noise(i) // 2, mask)
        write(tmp_path, [(f"images/m{i}.png", frame), (f"masks/m{i}.png", mask)])
    return tmp_path
