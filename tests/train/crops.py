"""Frames that crops can be told by, and recipes for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from irstd.train.data import TrainingFrame
from irstd.train.recipe import Augmentation, Recipe

FloatMap = npt.NDArray[np.float32]
SIDE = 16

OFF = Augmentation(
    zoom=1.0,
    sharper_sensors=0.0,
    gain=0.0,
    transplants=0.0,
    injected=0.0,
    symbols=0.0,
    blur=0.0,
    noise=0.0,
    defects=0.0,
    finer_levels=0.0,
    empty_share=0.0,
)

PLAIN = Recipe(batch=4, crop=SIDE, augmentation=OFF)


def constant(value: float) -> TrainingFrame:
    """A frame that can be told from others in any crop and turn."""
    return TrainingFrame(np.full((SIDE, SIDE), value, np.float32), np.zeros((SIDE, SIDE), "f4"))


def scene(seed: int, height: int = 48, width: int = 40) -> TrainingFrame:
    """A frame of noise with a 3x3 target in its middle; nothing may write to it."""
    rng = np.random.default_rng(seed)
    frame = rng.uniform(0.2, 0.4, (height, width)).astype(np.float32)
    mask = np.zeros((height, width), np.float32)
    window = np.s_[height // 2 : height // 2 + 3, width // 2 : width // 2 + 3]
    frame[window], mask[window] = 0.9, 1
    frame.flags.writeable = mask.flags.writeable = False
    return TrainingFrame(frame, mask)


def same(first: Sequence[FloatMap], second: Sequence[FloatMap]) -> bool:
    return all(np.array_equal(*pair) for pair in zip(first, second, strict=True))
