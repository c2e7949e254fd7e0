"""Scores: IoU, nIoU, F1, Pd and Fa, counted alike in training, at the gate and on the device.

Pixel scores follow Dai et al., Asymmetric Contextual Modulation (WACV 2021); Pd and Fa follow Li et
al., Dense Nested Attention Network (TIP 2023). A score that the frames leave undefined is NaN: Pd
without targets, IoU and F1 without any foreground, everything without frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .components import Components, Indices, connect

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]

MATCH_DISTANCE = 3.0  # pixels; a target is found by a centroid strictly nearer than this


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores over a set of masks.

    Attributes:
        iou: intersection over union of the foreground, both summed over the set ("mIoU" in most
            papers, though it is no mean).
        niou: mean over the frames of each frame's IoU; 1 where prediction and truth are empty.
        precision: true foreground pixels of the predicted ones.
        recall: predicted pixels of the true foreground ones.
        f1: harmonic mean of both, 2 iou / (1 + iou).
        pd: found targets of all targets.
        fa_per_mpix: pixels of false components for each million pixels.
        frames: how many were scored.
        targets: how many true components they hold.
        false_alarms_per_frame: components that match no target, for each frame.
    """

    iou: float
    niou: float
    precision: float
    recall: float
    f1: float
    pd: float
    fa_per_mpix: float
    frames: int
    targets: int
    false_alarms_per_frame: float


@dataclass(frozen=True, slots=True)
class PointScores:
    """Scores over sequences that know centroids or boxes only.

    Attributes:
        pd: found targets of all targets.
        false_alarms_per_frame: predicted targets that match no true one, for each frame.
        frames: how many were scored.
        targets: how many true centroids or boxes they hold.
        frames_before_start: how many more came before a clip was whole; they are not scored.
    """

    pd: float
    false_alarms_per_frame: float
    frames: int
    targets: int
    frames_before_start: int = 0


@dataclass(frozen=True, slots=True)
class Matched:
    """What a prediction and the truth hold, and which belong together.

    Attributes:
        components: of the prediction.
        targets: of the truth.
        pairs: (k, 2) indices of a component and of the target that it finds.
    """

    components: Components
    targets: Components
    pairs: Indices


class Scorer:
    """Adds up masks, frame by frame; frames may differ in size.

    The rules differ from the code most papers share in these points. A false component counts
    whatever its area: there it is dropped when some matched one has the same area. Predictions come
    thresholded at a fixed confidence, not at half of each frame's largest. Frames without target
    count for Fa. The nearest pair is matched first, not the first in scan order.

    Example:
        >>> scorer = Scorer()
        >>> scorer.add(np.eye(8, dtype=bool), np.eye(8, dtype=bool))
        >>> scorer.result().iou
        1.0
    """

    def __init__(self) -> None:
        self._intersection = self._predicted = self._true = self._pixels = 0
        self._frames = self._targets = self._found = self._alarms = self._alarm_pixels = 0
        self._iou_sum = 0.0

    def add(self, prediction: Mask, truth: Mask) -> None:
        """Score one frame.

        Args:
            prediction: (H, W) bool, what was taken for a target.
            truth: (H, W) bool, what is one.

        Raises:
            TypeError: not bool.
            ValueError: not two-dimensional, or of different sizes.
        """
        matched = match_masks(prediction, truth)
        intersection = int(np.count_nonzero(prediction & truth))
        predicted, true = int(np.count_nonzero(prediction)), int(np.count_nonzero(truth))
        union = predicted + true - intersection
        self._intersection += intersection
        self._predicted += predicted
        self._true += true
        self._pixels += truth.size
        self._iou_sum += intersection / union if union else 1.0
        self._add_targets(matched)

    def _add_targets(self, matched: Matched) -> None:
        components, found = matched.components, len(matched.pairs)
        matched_pixels = int(components.areas()[matched.pairs[:, 0]].sum())
        self._frames += 1
        self._targets += matched.targets.count
        self._found += found
        self._alarms += components.count - found
        self._alarm_pixels += components.rows.size - matched_pixels

    def result(self) -> Scores:
        """The scores of the frames so far."""
        union = self._predicted + self._true - self._intersection
        return Scores(
            iou=_ratio(self._intersection, union),
            niou=_ratio(self._iou_sum, self._frames),
            precision=_ratio(self._intersection, self._predicted),
            recall=_ratio(self._intersection, self._true),
            f1=_ratio(2 * self._intersection, self._predicted + self._true),
            pd=_ratio(self._found, self._targets),
            fa_per_mpix=_ratio(self._alarm_pixels * 1_000_000, self._pixels),
            frames=self._frames,
            targets=self._targets,
            false_alarms_per_frame=_ratio(self._alarms, self._frames),
        )


class PointScorer:
    """Adds up predicted and true centroids, frame by frame, with the matching of `Scorer`."""

    def __init__(self) -> None:
        self._frames = self._targets = self._found = self._alarms = 0

    def add(
        self, predicted: npt.NDArray[np.floating], truth: Sequence[tuple[float, float]]
    ) -> None:
        """Score one frame.

        Args:
            predicted: (n, 2) row and column of the extracted targets, in the sensor's pixels.
            truth: (row, column) of each true target, none for a frame without.

        Raises:
            ValueError: not pairs of finite numbers.
        """
        true = np.array(truth, np.float64) if len(truth) else np.zeros((0, 2))
        self._add(len(predicted), len(truth), len(match(predicted, true)))

    def add_boxes(
        self,
        predicted: npt.NDArray[np.floating],
        truth: Sequence[tuple[float, float, float, float]],
    ) -> None:
        """Score one frame whose targets are known by boxes, with the rule of `match_boxes`.

        Args:
            predicted: (n, 2) row and column of the extracted targets, in the sensor's pixels.
            truth: (row0, column0, row1, column1) edges of each true box.

        Raises:
            ValueError: not finite numbers.
        """
        boxes = np.array(truth, np.float64) if len(truth) else np.zeros((0, 4))
        self._add(len(predicted), len(truth), len(match_boxes(predicted, boxes)))

    def _add(self, predicted: int, targets: int, found: int) -> None:
        self._frames += 1
        self._targets += targets
        self._found += found
        self._alarms += predicted - found

    def result(self) -> PointScores:
        """The scores of the frames so far."""
        return PointScores(
            pd=_ratio(self._found, self._targets),
            false_alarms_per_frame=_ratio(self._alarms, self._frames),
            frames=self._frames,
            targets=self._targets,
        )


def match_masks(prediction: Mask, truth: Mask) -> Matched:
    """Find which components of a prediction are targets, by the rule that Pd and Fa count with.

    Args:
        prediction: (H, W) bool, what was taken for a target.
        truth: (H, W) bool, what is one.

    Raises:
        TypeError: not bool.
        ValueError: not two-dimensional, or of different sizes.
    """
    check_masks(prediction, truth)
    components, targets = connect(prediction), connect(truth)
    return Matched(components, targets, match(components.centroids(), targets.centroids()))


def match(
    predicted: npt.NDArray[np.floating],
    truth: npt.NDArray[np.floating],
    *,
    distance: float = MATCH_DISTANCE,
) -> Indices:
    """Pair predicted with true centroids, one to one, the nearest pair of all first.

    Args:
        predicted: (n, 2) row and column in pixels.
        truth: (m, 2) row and column in pixels.
        distance: pixels; only pairs strictly nearer than this are made.

    Returns:
        (k, 2) indices into `predicted` and `truth`, nearest pair first; pairs equally near in the
        order of `predicted`, then of `truth`.

    Raises:
        ValueError: not pairs of finite numbers.

    Example:
        >>> match(np.array([[5.0, 2.0], [5.0, 0.5]]), np.array([[5.0, 0.0]])).tolist()
        [[1, 0]]
    """
    gaps = _square_gaps(_check_points(predicted), _check_points(truth))
    return _pair_nearest(gaps, gaps < distance**2)


def match_boxes(predicted: npt.NDArray[np.floating], truth: npt.NDArray[np.floating]) -> Indices:
    """Pair predicted centroids with true boxes, one to one, the nearest pair of all first.

    A box is found by a centroid inside of it, borders included, or strictly nearer than 3 pixels to
    its centre: published boxes are often wider than their target and sometimes tighter, and what
    finds a mask's centroid shall not miss a box around it.

    Args:
        predicted: (n, 2) row and column in pixels.
        truth: (m, 4) edges (row0, column0, row1, column1) in pixels.

    Returns:
        (k, 2) indices into `predicted` and `truth`, as `match`; near means near the box's centre.

    Raises:
        ValueError: not finite numbers of these shapes.

    Example:
        >>> match_boxes(np.array([[9.0, 4.0], [0.0, 0.0]]), np.array([[1.0, 1, 9, 9]])).tolist()
        [[0, 0]]
    """
    ours, edges = _check_points(predicted), _check_points(truth, size=4)
    gaps = _square_gaps(ours, (edges[:, :2] + edges[:, 2:]) / 2)
    points = ours[:, None]
    inside = ((edges[None, :, :2] <= points) & (points <= edges[None, :, 2:])).all(axis=2)
    return _pair_nearest(gaps, inside | (gaps < MATCH_DISTANCE**2))


def _square_gaps(ours: Points, theirs: Points) -> Points:
    gaps: Points = np.square(ours[:, None] - theirs[None]).sum(axis=2)
    return gaps


def _pair_nearest(gaps: Points, may: Mask) -> Indices:
    """Pair rows with columns where they may be, the smallest gap first."""
    first, second = np.nonzero(may)
    order = np.argsort(gaps[first, second], kind="stable")
    free_ours, free_theirs = [True] * gaps.shape[0], [True] * gaps.shape[1]
    pairs = []
    for i, j in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if free_ours[i] and free_theirs[j]:
            free_ours[i] = free_theirs[j] = False
            pairs.append((i, j))
    return np.array(pairs, np.intp).reshape(-1, 2)


def check_masks(prediction: Mask, truth: Mask) -> None:
    """Refuse what is not a pair of masks of one size.

    Raises:
        TypeError: not bool.
        ValueError: not two-dimensional, or of different sizes.
    """
    for name, mask in (("prediction", prediction), ("truth", truth)):
        if mask.dtype != np.bool_:
            raise TypeError(
                f"{name} is {mask.dtype}, expected bool; threshold it, e.g. confidence > 0.5"
            )
    if prediction.shape != truth.shape or truth.ndim != 2:
        raise ValueError(
            f"prediction has shape {prediction.shape} and truth {truth.shape}, expected the same "
            "(height, width); score at the sensor frame's own size"
        )


def _check_points(points: npt.NDArray[np.floating], *, size: int = 2) -> Points:
    if points.shape[1:] != (size,):
        name, of = ("points", "row and column") if size == 2 else ("boxes", "four edges")
        raise ValueError(
            f"{name} have shape {points.shape}, expected (n, {size}): the {of} of each"
        )
    if not np.isfinite(points).all():
        raise ValueError("points hold NaN or infinity, expected rows and columns in pixels")
    return points.astype(np.float64)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
