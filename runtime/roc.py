"""Receiver operating characteristic: what each threshold finds, and what it costs.

The curve counts pixels, so that it has an area; beside it stand Pd and Fa of whole targets at the
thresholds one would fly with. Confidences are taken as they are, never divided by a frame's
largest, and frames without target count.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .frame import FloatMap
from .scoring import Mask, Scorer, check_masks

Curve = npt.NDArray[np.float64]

STEPS = 1000  # thresholds of the curve are 0, 1/STEPS, 2/STEPS ... 1
EDGES = (np.arange(STEPS + 1) / STEPS).astype(np.float32)
TARGET_THRESHOLDS = (0.01, *(step / 100 for step in range(5, 100, 5)), 0.99)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What one threshold gives: a target is where the confidence is above it.

    Attributes:
        threshold: confidence, 0..1.
        tpr: found pixels of all target pixels.
        fpr: false pixels of all background pixels.
        pd: found targets of all targets.
        fa_per_mpix: pixels of false components for each million pixels.
        false_alarms_per_frame: false components for each frame.
    """

    threshold: float
    tpr: float
    fpr: float
    pd: float
    fa_per_mpix: float
    false_alarms_per_frame: float


@dataclass(frozen=True, slots=True)
class RocResult:
    """A finished curve, from the strictest threshold, (0, 0), to none at all, (1, 1).

    Attributes:
        thresholds: (1002,) float64, falling from 1 to 0, then minus infinity: every pixel.
        tpr: (1002,) float64, true-positive rate of pixels; NaN without target pixels.
        fpr: (1002,) float64, false-positive rate of pixels; NaN without background.
        auc: area under the curve by trapezoids; pixels that share a bin count half.
        points: Pd and Fa at some of the thresholds, rising.
    """

    thresholds: Curve
    tpr: Curve
    fpr: Curve
    auc: float
    points: tuple[OperatingPoint, ...]

    def table(self) -> tuple[tuple[float, ...], ...]:
        """The operating points as rows: threshold, tpr, fpr, Pd, Fa per Mpix, alarms per frame."""
        return tuple(
            (p.threshold, p.tpr, p.fpr, p.pd, p.fa_per_mpix, p.false_alarms_per_frame)
            for p in self.points
        )

    def write_csv(self, path: Path) -> None:
        """Write the whole curve; Pd and Fa stay empty at thresholds where no targets were counted.

        Args:
            path: the file, written anew.
        """
        measured = {
            p.threshold: (p.pd, p.fa_per_mpix, p.false_alarms_per_frame) for p in self.points
        }
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(OperatingPoint.__slots__)
            for row in zip(
                self.thresholds.tolist(), self.tpr.tolist(), self.fpr.tolist(), strict=True
            ):
                writer.writerow([*row, *measured.get(row[0], ("", "", ""))])


class Roc:
    """Adds up confidence maps, frame by frame, in constant memory.

    Example:
        >>> roc = Roc()
        >>> roc.add(np.eye(8, dtype=np.float32), np.eye(8, dtype=bool))
        >>> roc.result().auc
        1.0
    """

    def __init__(self) -> None:
        self._positives = np.zeros(STEPS + 1, np.int64)
        self._negatives = np.zeros(STEPS + 1, np.int64)
        self._scorers = {threshold: Scorer() for threshold in TARGET_THRESHOLDS}

    def add(self, confidence: FloatMap, truth: Mask) -> None:
        """Score one frame.

        Args:
            confidence: (H, W) float32, 0..1.
            truth: (H, W) bool.

        Raises:
            TypeError: `confidence` is not float32, or `truth` not bool.
            ValueError: different sizes, or confidences that are NaN or outside 0..1.
        """
        if confidence.dtype != np.float32:
            raise TypeError(f"confidence is {confidence.dtype}, expected float32, 0..1")
        # Written so that NaN fails too.
        if not ((confidence >= 0) & (confidence <= 1)).all():
            raise ValueError(
                f"confidence runs from {confidence.min()} to {confidence.max()}, expected 0..1 "
                "without NaN; apply the sigmoid to logits"
            )
        check_masks(confidence > 0, truth)
        # Bin k holds EDGES[k-1] < confidence <= EDGES[k]: a pixel is above threshold k exactly
        # when its bin is.
        bins = np.searchsorted(EDGES, confidence)
        self._positives += np.bincount(bins[truth], minlength=STEPS + 1)
        self._negatives += np.bincount(bins[~truth], minlength=STEPS + 1)
        for threshold, scorer in self._scorers.items():
            scorer.add(confidence > np.float32(threshold), truth)

    def result(self) -> RocResult:
        """The curve of the frames so far."""
        thresholds = np.append(np.arange(STEPS, -1, -1) / STEPS, -math.inf)
        tpr, fpr = _rates(self._positives), _rates(self._negatives)
        auc = float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1])) / 2)
        return RocResult(thresholds, tpr, fpr, auc, tuple(self._points(tpr, fpr)))

    def _points(self, tpr: Curve, fpr: Curve) -> list[OperatingPoint]:
        points = []
        for threshold, scorer in self._scorers.items():
            scores, place = scorer.result(), STEPS - round(threshold * STEPS)
            points.append(
                OperatingPoint(
                    threshold=threshold,
                    tpr=float(tpr[place]),
                    fpr=float(fpr[place]),
                    pd=scores.pd,
                    fa_per_mpix=scores.fa_per_mpix,
                    false_alarms_per_frame=scores.false_alarms_per_frame,
                )
            )
        return points


def _rates(counts: npt.NDArray[np.int64]) -> Curve:
    """Part of the pixels above each threshold, from the strictest (none) to no threshold (all)."""
    above = np.append(0, np.cumsum(counts[::-1]))
    if above[-1] == 0:
        return np.full(above.size, math.nan)
    return np.asarray(above / above[-1], np.float64)
