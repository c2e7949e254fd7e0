"""Contrast of targets before and after detection: SCR, its gain, and background suppression.

SCR = |mean of target - mean of its surroundings| / standard deviation of its surroundings, SCRG =
SCR after / SCR before, BSF = standard deviation of the background before / after. The surroundings
are the target's box widened by 20 pixels, as in Gao et al., Infrared Patch-Image Model (TIP 2013).
Different from code in circulation, every target counts, also the last of a frame, and target pixels
belong to no background, neither to their own nor to a neighbour's.

A good detector leaves the surroundings of most targets at exactly 0. Their SCR after detection and
its gain are then infinite and a mean says nothing; medians are given, with how many are infinite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .components import Components, connect
from .frame import FloatMap
from .scoring import Mask

MARGIN = 20  # pixels around a target's box


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of values that may be infinite.

    Attributes:
        median: over the defined values, infinite ones included; NaN where there are none.
        count: values, undefined ones included.
        infinite: values divided by a deviation of exactly 0.
        undefined: values that are 0 / 0, or have no background pixel to be measured on.
    """

    median: float
    count: int
    infinite: int
    undefined: int


@dataclass(frozen=True, slots=True)
class ContrastScores:
    """Contrast over a set of frames.

    Attributes:
        scr_in: signal-to-clutter ratio in the frame, one value a target.
        scr_out: signal-to-clutter ratio in the confidence map, one value a target.
        scrg: their ratio, one value a target.
        bsf: background suppression factor, one value a frame.
    """

    scr_in: Spread
    scr_out: Spread
    scrg: Spread
    bsf: Spread


class Contrast:
    """Adds up frames and their confidence maps."""

    def __init__(self) -> None:
        self._before: list[float] = []
        self._after: list[float] = []
        self._suppression: list[float] = []

    def add(self, frame: FloatMap, confidence: FloatMap, truth: Mask) -> None:
        """Measure one frame; one without target counts for the BSF.

        Args:
            frame: (H, W) float32, the normalised frame.
            confidence: (H, W) float32, what the detector made of it.
            truth: (H, W) bool.

        Raises:
            TypeError: `truth` is not bool.
            ValueError: different shapes, or NaN or infinite values.
        """
        _check(frame, confidence, truth)
        targets = connect(truth)
        self._before += signal_to_clutter(frame, truth, targets)
        self._after += signal_to_clutter(confidence, truth, targets)
        self._suppression.append(_divide(_deviation(frame[~truth]), _deviation(confidence[~truth])))

    def result(self) -> ContrastScores:
        """The contrast of the frames so far."""
        gains = [
            _divide(after, before) for after, before in zip(self._after, self._before, strict=True)
        ]
        return ContrastScores(
            scr_in=_spread(self._before),
            scr_out=_spread(self._after),
            scrg=_spread(gains),
            bsf=_spread(self._suppression),
        )


def signal_to_clutter(values: FloatMap, truth: Mask, targets: Components) -> list[float]:
    """SCR of each target, in the order of its components.

    Args:
        values: (H, W) float32, frame or confidence map.
        truth: (H, W) bool, all targets.
        targets: `connect(truth)`.
    """
    ratios = []
    for label in range(targets.count):
        rows = targets.rows[targets.labels == label]
        columns = targets.columns[targets.labels == label]
        around = (
            slice(max(rows.min() - MARGIN, 0), rows.max() + MARGIN + 1),
            slice(max(columns.min() - MARGIN, 0), columns.max() + MARGIN + 1),
        )
        clutter = values[around][~truth[around]]
        signal = values[rows, columns].mean(dtype=np.float64)
        level = clutter.mean(dtype=np.float64) if clutter.size else math.nan
        ratios.append(_divide(abs(float(signal - level)), _deviation(clutter)))
    return ratios


def _deviation(values: FloatMap) -> float:
    # In float64 equal float32 values give exactly 0.
    return float(values.std(dtype=np.float64)) if values.size else math.nan


def _divide(part: float, whole: float) -> float:
    """The quotient of numbers >= 0, NaN for 0 / 0 and infinity / infinity."""
    if whole == 0.0:
        return math.inf if part > 0.0 else math.nan
    return part / whole


def _spread(values: list[float]) -> Spread:
    defined = [value for value in values if not math.isnan(value)]
    return Spread(
        median=float(np.median(defined)) if defined else math.nan,
        count=len(values),
        infinite=sum(map(math.isinf, values)),
        undefined=len(values) - len(defined),
    )


def _check(frame: FloatMap, confidence: FloatMap, truth: Mask) -> None:
    if truth.dtype != np.bool_:
        raise TypeError(f"truth is {truth.dtype}, expected bool")
    if not frame.shape == confidence.shape == truth.shape or truth.ndim != 2:
        raise ValueError(
            f"frame has shape {frame.shape}, confidence {confidence.shape} and truth "
            f"{truth.shape}, expected the same (height, width)"
        )
    for name, values in (("frame", frame), ("confidence", confidence)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds NaN or infinity, expected finite float32 values")
