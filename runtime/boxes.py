"""Boxes that a network gives become targets: the best of those that overlap, bounded in number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .frame import FloatMap, Geometry
from .targets import Extraction, Targets, to_sensor

FAINTEST = 0.01  # score; below it a box is not even kept for a curve
MOST = 1000  # boxes of a frame that are compared with one another, those with the best score
OVERLAP = 0.5  # IoU above which the worse of two boxes is the same target

Overlaps = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Boxes:
    """What is left of a network's boxes once each target has one.

    Attributes:
        values: (n, 5) float32, best score first: edges top, left, bottom, right in the network's
            pixels from the frame's corner, and the score, 0..1.
        left_out: best score of the boxes that the bound left out; 0 where it left none out.
    """

    values: FloatMap
    left_out: float = 0.0


def suppress(boxes: FloatMap) -> Boxes:
    """Keep the best box wherever several overlap (non-maximum suppression).

    At most 1000 boxes, those with the best score, are compared, whatever a network says.

    Args:
        boxes: (A, 5) float32, as `Boxes.values`, in any order.

    Example:
        >>> said = [[0, 0, 4, 4, 0.6], [0, 0, 4, 5, 0.9], [8, 8, 9, 9, 0.5], [0, 0, 1, 1, 0.001]]
        >>> suppress(np.array(said, np.float32)).values[:, 4].tolist()
        [0.8999999761581421, 0.5]
    """
    seen = np.flatnonzero(boxes[:, 4] >= FAINTEST)
    order = seen[np.argsort(-boxes[seen, 4], kind="stable")]
    left_out = float(boxes[order[MOST], 4]) if len(order) > MOST else 0.0
    best = boxes[order[:MOST]]
    same = overlaps(best, best) > OVERLAP
    is_kept = np.ones(len(best), np.bool_)
    for number in range(len(best)):
        if is_kept[number]:
            is_kept[number + 1 :] &= ~same[number, number + 1 :]
    return Boxes(best[is_kept], left_out)


def overlaps(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> Overlaps:
    """IoU of every box with every other one; 0 for boxes without area.

    Args:
        first: (n, 4 or more), edges top, left, bottom, right come first.
        second: (m, 4 or more), likewise.

    Returns:
        (n, m) float64.

    Example:
        >>> overlaps(np.array([[0, 0, 2, 2]]), np.array([[0, 1, 2, 3], [5, 5, 6, 6]])).round(3)
        array([[0.333, 0.   ]])
    """
    ours, theirs = first[:, None, :4].astype(np.float64), second[None, :, :4].astype(np.float64)
    low = np.maximum(ours[..., :2], theirs[..., :2])
    high = np.minimum(ours[..., 2:], theirs[..., 2:])
    both = np.clip(high - low, 0.0, None).prod(axis=2)
    areas = [np.clip(one[..., 2:] - one[..., :2], 0.0, None).prod(axis=2) for one in (ours, theirs)]
    either = areas[0] + areas[1] - both
    ratio: Overlaps = np.divide(both, either, out=np.zeros_like(both), where=either > 0.0)
    return ratio


def paint(boxes: Boxes, shape: tuple[int, int]) -> FloatMap:
    """Draw boxes as a confidence map: a pixel has the score of the best box that holds its centre.

    A box too small to hold a centre gets the pixel that it lies in.

    Args:
        boxes: from `suppress`.
        shape: (H', W') of the network's input.

    Returns:
        (H', W') float32, 0..1.
    """
    painted = np.zeros(shape, np.float32)
    for top, left, bottom, right, score in boxes.values[::-1].tolist():  # the best comes last
        (first, below), (left_most, beyond) = _span(top, bottom), _span(left, right)
        painted[max(first, 0) : max(below, 0), max(left_most, 0) : max(beyond, 0)] = score
    return painted


def _span(low: float, high: float) -> tuple[int, int]:
    """First pixel whose centre lies between two edges, and the first behind the last one."""
    first, beyond = int(np.ceil(low - 0.5)), int(np.ceil(high - 0.5))
    middle = int(np.floor(0.5 * (low + high)))
    return (first, beyond) if beyond > first else (middle, middle + 1)


def on_sensor(boxes: Boxes, geometry: Geometry) -> FloatMap:
    """All boxes as targets would have them, and their scores.

    What reaches beyond the sensor's frame is cut, and a box whose centre lies beyond it is none.

    Args:
        boxes: from `suppress`.
        geometry: how the network's pixels lie on the sensor's.

    Returns:
        (n, 5) float32, best score first; edges in sensor pixels, origin at the centre of the first.
    """
    centres = 0.5 * (boxes.values[:, :2] + boxes.values[:, 2:4])
    limits = np.array([geometry.height, geometry.width], np.float32)
    seen = boxes.values[((centres >= 0.0) & (centres <= limits)).all(axis=1)]
    edges = to_sensor(np.clip(seen[:, :4], 0.0, np.tile(limits, 2)), geometry)
    return np.concatenate([edges, seen[:, 4:]], axis=1)


def read_boxes(boxes: Boxes, geometry: Geometry, extraction: Extraction) -> Targets:
    """Make targets of boxes: centre, area and edges are the box's, peak and score its score.

    Args:
        boxes: from `suppress`.
        geometry: how the network's pixels lie on the sensor's.
        extraction: threshold, smallest area, bound.

    Returns:
        Targets in sensor pixels, best score first; a note where so many boxes are above the
        threshold that some were never compared.
    """
    seen = on_sensor(boxes, geometry)
    area = (seen[:, 2:4] - seen[:, :2]).prod(axis=1)
    is_found = (seen[:, 4] > extraction.threshold) & (area >= extraction.min_area)
    keep = np.flatnonzero(is_found)
    chosen = seen[keep[: extraction.max_targets]]
    score = np.ascontiguousarray(chosen[:, 4])
    return Targets(
        row=0.5 * (chosen[:, 0] + chosen[:, 2]),
        column=0.5 * (chosen[:, 1] + chosen[:, 3]),
        area=area[keep[: extraction.max_targets]],
        peak=score,
        score=score,
        box=np.ascontiguousarray(chosen[:, :4]),
        found=keep.size,
        note=_flooded(boxes, extraction),
    )


def _flooded(boxes: Boxes, extraction: Extraction) -> str:
    if boxes.left_out <= extraction.threshold:
        return ""
    return (
        f"more than {MOST} boxes are above the threshold of {extraction.threshold:g}, "
        f"only the best {MOST} were looked at; raise the threshold"
    )
