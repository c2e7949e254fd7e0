"""A synthetic sensor: radiance into counts, with noise, fixed pattern, defects and bits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .frame import FloatMap, Frame


@dataclass(frozen=True, slots=True)
class Sensor:
    """A focal plane array after its two-point correction, with what that leaves."""

    level: float  # counts of the background's mean
    span: float  # counts from the background's darkest to its brightest pixel
    noise: float  # temporal noise at the level, standard deviation in counts
    gain: FloatMap  # (H, W) error of each pixel's gain
    columns: FloatMap  # (W,) counts that each column's amplifier adds
    defects: npt.NDArray[np.intp]  # flat indices of dead and hot pixels
    stuck: FloatMap  # counts that they show
    bit_depth: int

    def expose(self, radiance: FloatMap) -> FloatMap:
        """Turn a background of 0..1 into counts."""
        counts = self.level + self.span * (radiance - radiance.mean(dtype=np.float64))
        return np.asarray(counts, np.float32)

    def read(self, counts: FloatMap, random: np.random.Generator) -> Frame:
        """Add noise, fixed pattern and defects, and quantise."""
        # Half of the variance at the level is the photons', half the read-out's.
        noise = self.noise * np.sqrt(0.5 + 0.5 * counts.clip(min=0.0) / self.level)
        seen = counts + self.gain * (counts - self.level) + self.columns
        seen += noise * random.standard_normal(counts.shape, np.float32)
        seen.flat[self.defects] = self.stuck
        digits = np.rint(seen).clip(0, 2**self.bit_depth - 1)
        kind = np.uint8 if self.bit_depth == 8 else np.uint16
        frame: Frame = digits.astype(kind)
        return frame


def make_sensor(
    random: np.random.Generator,
    size: tuple[int, int],
    *,
    bit_depth: int,
    noise: float,
    defects: int,
) -> Sensor:
    """Draw a sensor.

    Args:
        random: draws what is not given.
        size: (rows, columns).
        bit_depth: 8 for a display output, 9 to 16 for raw counts.
        noise: temporal noise, standard deviation over the background's span.
        defects: number of dead and hot pixels.
    """
    scale = 2**bit_depth - 1
    # An 8-bit output has gone through the camera's gain control; raw counts have not.
    low, high = (0.5, 0.75) if bit_depth == 8 else (0.04, 0.16)
    level = scale * random.uniform(0.3, 0.4)
    span = scale * log_uniform(random, low, high)
    hot = random.random(defects) < 0.5
    return Sensor(
        level=level,
        span=span,
        noise=noise * span,
        gain=0.7 * noise * random.standard_normal(size, np.float32),
        columns=0.5 * noise * span * random.standard_normal(size[1], np.float32),
        defects=random.choice(size[0] * size[1], defects, replace=False),
        stuck=np.where(hot, scale * random.uniform(0.8, 1.0, defects), 0.0).astype(np.float32),
        bit_depth=bit_depth,
    )


def log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform."""
    return math.exp(random.uniform(math.log(low), math.log(high)))
