"""Frames and folders of them to calibrate on."""

import numpy as np

from irstd.runtime.frame import FrameContract
from irstd.runtime.media_cv2 import write_image

CONTRACT = FrameContract(32, 32)


def noise(seed, *, bit_depth=8, shape=(32, 32)):
    """A frame of some level and clutter, both other ones for each seed."""
    rng = np.random.default_rng(seed)
    full_scale = 2**bit_depth - 1
    level = rng.uniform(0.1, 0.9) * full_scale
    values = rng.normal(level, rng.uniform(0.005, 0.05) * full_scale, shape).clip(0, full_scale)
    return values.astype(np.uint8 if bit_depth == 8 else np.uint16)


def write(folder, images):
    """Write (name, image) pairs."""
    for name, image in images:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, image)
    return folder


def plain(folder, count=10, **options):
    return write(folder, [(f"f{i}.png", noise(i, **options)) for i in range(count)])
