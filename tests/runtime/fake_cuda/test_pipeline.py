"""The whole way of a frame, on a fake device: the targets are those of the CPU, frame by frame."""

import numpy as np
import pytest

from irstd.runtime import Detector, Extraction, FrameContract
from irstd.runtime.engine import load_engine
from irstd.tests.conftest import bright_spot_graph

COLUMNS = ("row", "column", "area", "peak", "score", "box")


def frames(count, shape=(60, 50), *, seed=0, top=16383):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        frame = rng.normal(0.3, 0.01, shape) * top
        for row, column in rng.integers(3, min(shape) - 3, (3, 2)):
            frame[row - 1 : row + 2, column - 1 : column + 2] = 0.8 * top
        yield frame.astype(np.uint16)


def assert_same(targets, expected):
    assert targets.found == expected.found
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(targets, column), getattr(expected, column), column)


def cpu(contract, extraction, size=(48, 40)):
    model = bright_spot_graph(*size).SerializeToString()
    return Detector(load_engine(model, threads=1), contract, extraction)


CONTRACT = FrameContract(48, 40, bit_depth=14)


def test_frames_one_by_one(bench, library):
    bench.install(library)
    extraction = Extraction(0.3)
    with Detector(bench.engine(), CONTRACT, extraction) as detector:
        with cpu(CONTRACT, extraction) as truth:
            for frame in frames(4):
                assert_same(detector(frame), truth(frame))
    bench.driver.assert_clean()
