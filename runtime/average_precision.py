"""AP50: the area under the curve of precision over recall, of boxes that overlap by half."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .boxes import overlaps

LEAST = 0.5  # IoU from which a box finds a target

Numbers = npt.NDArray[np.floating]


class AveragePrecision:
    """Adds up boxes with scores, frame by frame.

    As PASCAL VOC from 2010 (Everingham et al., IJCV 2010): boxes of all frames by falling score,
    precision made monotonous, area over all points. In the order of their scores each box finds
    the target of its frame that it overlaps most; if that has been found already, or the overlap
    is below one half, it is a false alarm. No threshold enters.

    Example:
        >>> average = AveragePrecision()
        >>> said = np.array([[0, 0, 4, 4, 0.9], [9, 9, 12, 12, 0.8]])
        >>> average.add(said, np.array([[0, 0, 4, 5]]))
        >>> average.result()
        1.0
    """

    def __init__(self) -> None:
        self._scores: list[Numbers] = []
        self._finds: list[npt.NDArray[np.bool_]] = []
        self._targets = 0

    def add(self, boxes: Numbers, truth: Numbers) -> None:
        """Take a frame.

        Args:
            boxes: (n, 5) edges top, left, bottom, right and score, in any unit.
            truth: (m, 4) edges of the true targets, in that unit.

        Raises:
            ValueError: other shapes, or numbers that are not finite.
        """
        boxes, truth = _check(boxes, 5, "boxes"), _check(truth, 4, "true boxes")
        order = np.argsort(-boxes[:, 4], kind="stable")
        finds, free = np.zeros(len(boxes), np.bool_), np.ones(len(truth), np.bool_)
        overlap = overlaps(boxes[order], truth)
        for number in range(len(order) if len(truth) else 0):
            target = int(overlap[number].argmax())
            finds[number] = free[target] and overlap[number, target] >= LEAST
            free[target] &= not finds[number]
        self._scores.append(boxes[order, 4])
        self._finds.append(finds)
        self._targets += len(truth)

    def result(self) -> float:
        """AP50 of the frames so far, 0..1; NaN without targets."""
        if not self._targets:
            return math.nan
        order = np.argsort(-np.concatenate(self._scores), kind="stable")
        found = np.cumsum(np.concatenate(self._finds)[order])
        precision = found / np.arange(1, len(found) + 1)
        # The best that is reached at this recall or a higher one.
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        gained = np.diff(found, prepend=0) / self._targets
        return float((precision * gained).sum())


def _check(boxes: Numbers, columns: int, name: str) -> Numbers:
    if boxes.ndim != 2 or boxes.shape[1] != columns:
        raise ValueError(f"{name} have shape {boxes.shape}, expected (n, {columns})")
    if not np.isfinite(boxes).all():
        raise ValueError(f"{name} hold NaN or infinity, expected edges in pixels")
    return boxes
