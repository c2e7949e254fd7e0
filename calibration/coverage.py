"""Few frames that stand for many: what makes frames differ, and the choice that covers it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..runtime.components import connect
from ..runtime.frame import FloatMap, Frame

Features = npt.NDArray[np.float64]

PERCENTILES = (1.0, 50.0, 99.0, 100.0)
THUMBNAIL = 4  # cells along each side
# Range seen, range in counts, clutter, spots, thumbnail: no group counts more for being larger.
GROUPS = (len(PERCENTILES), len(PERCENTILES), 2, 2, THUMBNAIL**2)
WEIGHTS = np.repeat(1.0 / np.sqrt(GROUPS), GROUPS)

SPOT_RADIUS, RING_RADIUS = 2, 5  # half-widths of a target's own square, and of what surrounds it
OUTSTANDING = 5.0  # a spot rises by so many standard deviations
FAINT = 1e-4  # of the range; clutter and spots below this count as none
SAME = 1e-9  # a feature that spreads less over all frames differs by rounding alone


def describe(frame: Frame, prepared: FloatMap, *, bit_depth: int) -> Features:
    """Measure what a network's activations depend on.

    Args:
        frame: (H, W) uint8 or uint16, as the sensor gave it.
        prepared: (1, 1, height, width) float32 made of it by `runtime.frame.prepare`, 0..1.
        bit_depth: of the sensor.

    Returns:
        (28,) float64: percentiles of `prepared`, percentiles of `frame` over the full scale,
        clutter (log), spots (log), and a 4x4 thumbnail.
    """
    seen = prepared[0, 0]
    groups = (
        np.percentile(seen, PERCENTILES),
        np.percentile(frame, PERCENTILES) / (2**bit_depth - 1),
        _clutter(seen),
        _spots(seen),
        _thumbnail(seen),
    )
    return np.concatenate(groups).astype(np.float64)


def _clutter(seen: FloatMap) -> Features:
    """Fine-scale texture and noise (second differences), and edges (gradient), as logarithms."""
    fine = max(float(np.diff(seen, n=2, axis=axis).std()) for axis in (0, 1))
    energy = sum(float(np.square(np.diff(seen, axis=axis)).mean()) for axis in (0, 1))
    return np.log([fine + FAINT, np.sqrt(energy) + FAINT])


def _spots(seen: FloatMap) -> Features:
    """The highest target-like spot and the number of outstanding ones, as logarithms.

    A spot is what rises over the mean of the ring around it: a white top-hat that costs two sums.
    """
    inner, outer = 2 * SPOT_RADIUS + 1, 2 * RING_RADIUS + 1
    around = _box_sums(seen, RING_RADIUS) - _box_sums(seen, SPOT_RADIUS)
    raised = seen - around / (outer**2 - inner**2)
    outstanding = raised > max(OUTSTANDING * float(raised.std()), FAINT)
    return np.log([max(float(raised.max()), 0.0) + FAINT, 1.0 + connect(outstanding).count])


def _box_sums(values: FloatMap, radius: int) -> Features:
    """Sum over the square window around each pixel; the border is mirrored."""
    wide = np.pad(values.astype(np.float64), ((radius + 1, radius),) * 2, mode="symmetric")
    sums = wide.cumsum(axis=0).cumsum(axis=1)
    size = 2 * radius + 1
    strips = sums[size:] - sums[:-size]
    return np.asarray(strips[:, size:] - strips[:, :-size])


def _thumbnail(seen: FloatMap) -> Features:
    """(16,) means of 4x4 cells; what does not fill a cell at the lower and right border is cut."""
    rows, columns = (side // THUMBNAIL for side in seen.shape)
    whole = seen[: rows * THUMBNAIL, : columns * THUMBNAIL]
    cells = whole.reshape(THUMBNAIL, rows, THUMBNAIL, columns)
    return np.asarray(cells.mean(axis=(1, 3), dtype=np.float64).ravel())


def standardise(features: Features) -> Features:
    """Bring the features of all frames, (N, 28), to mean 0 and spread 1, weighted by group."""
    # Sorted, because a sum depends on its order in the last bit and shall not depend on names.
    ordered = np.sort(features, axis=0)
    spread = ordered.std(axis=0)
    centred = features - ordered.mean(axis=0)
    weighted: Features = centred / np.where(spread > SAME, spread, np.inf) * WEIGHTS
    return weighted


def choose_spread(points: Features, preferred: npt.NDArray[np.bool_], *, most: int) -> list[int]:
    """Choose points that leave none far from a chosen one.

    Greedy k-center (Gonzalez, 1985): first the point nearest to the mean, then again and again the
    one farthest from all chosen. Of equal ones the first counts.

    Args:
        points: (N, F), around a mean of 0.
        preferred: (N,) bool; at least half of the chosen points are of these, if there are so many.
        most: number of points to choose.

    Returns:
        Indices in the order of the choice; all N where there are no more than `most`.
    """
    count = min(most, len(points))
    wanted = min((count + 1) // 2, int(preferred.sum()))
    # Before the first choice the nearest to the mean counts as farthest from all.
    distances = -np.linalg.norm(points, axis=1)
    chosen: list[int] = []
    for turn in range(count):
        allowed = preferred.copy() if turn < wanted else np.ones(len(points), np.bool_)
        allowed[chosen] = False
        best = int(np.argmax(np.where(allowed, distances, -np.inf)))
        reach = np.linalg.norm(points - points[best], axis=1)
        distances = np.minimum(distances, reach) if chosen else reach
        chosen.append(best)
    return chosen
