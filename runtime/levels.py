"""Levels of a frame: its mean and deviation, and what brings them to another frame's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .frame import FloatMap

# What 1.0 counts. A sensor of 16 bits has a sixteenth as many levels, and the sums of whole
# numbers come out the same in any order, on a GPU too; they fit 64 bits up to 4095x4095 pixels.
LEVEL_UNIT = 2**20


@dataclass(frozen=True, slots=True)
class Levels:
    """Mean and standard deviation of a prepared frame, 1.0 counted as `LEVEL_UNIT`."""

    mean: float
    deviation: float


def measure_levels(seen: FloatMap) -> Levels:
    """Measure a prepared frame.

    Args:
        seen: (H, W) float32, 0..1, without padding.

    Example:
        >>> measure_levels(np.array([[0.25, 0.75]], np.float32))
        Levels(mean=524288.0, deviation=262144.0)
    """
    counts = np.rint(seen * np.float32(LEVEL_UNIT)).astype(np.int64)
    pixels = float(counts.size)
    mean = float(int(counts.sum())) / pixels
    variance = float(int((counts * counts).sum())) / pixels - mean * mean
    return Levels(mean, math.sqrt(max(variance, 0.0)))


def match_levels(older: Levels, newest: Levels) -> tuple[np.float32, np.float32]:
    """Gain and offset that bring a frame to the mean and deviation of another.

    A frame that is constant to the last of its levels only gets the other's mean.

    Example:
        >>> gain, offset = match_levels(Levels(2e5, 1e5), Levels(4e5, 3e5))
        >>> float(gain), round(float(offset) * LEVEL_UNIT)
        (3.0, -200000)
    """
    gain = newest.deviation / older.deviation if older.deviation >= 1.0 else 1.0
    offset = (newest.mean - gain * older.mean) / LEVEL_UNIT
    return np.float32(gain), np.float32(offset)
