"""Defects of a sensor, known by their looks in one frame or by staying in their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

FloatMap: TypeAlias = npt.NDArray[np.float32]
Values: TypeAlias = npt.NDArray[Any]
Image = TypeVar("Image", bound=Values)

# A defect stands out from all 8 neighbours by this part of the frame's span ...
DEFECT_STEP = 0.25
# ... and its neighbours share less than this part of its height. Optics spread a point over
# several pixels: at a PSF of sigma 0.5 px the nearest neighbour still gets 0.23 of the peak.
DEFECT_SHARE = 0.15

# Part of the range by which a pixel must stay above its neighbours: half of DEFECT_STEP, as all
# frames agree. Half and twice of it do nearly as well (docs/solvers.md).
LASTING_STEP = 0.125


def repair_defects(frame: Image, *, span: int) -> Image:
    """Replace dead and hot pixels by their nearest neighbour in value.

    A pixel is a defect when it leaves the range of its 8 neighbours by more than a quarter of
    `span` while they share less than 15 % of its height: no optics draws such a point. This is
    conservative smoothing (Fisher et al., Hypermedia Image Processing Reference) held to defects.

    Args:
        frame: (H, W) unsigned integers.
        span: the frame's range in counts, from `stretch_limits`.

    Returns:
        `frame` itself where nothing is wrong, else a repaired copy.
    """
    step = max(int(DEFECT_STEP * span), 1)
    highest, lowest = _neighbour_range(frame)
    above = np.maximum(frame, highest) - highest
    below = lowest - np.minimum(frame, lowest)
    suspects = np.flatnonzero(np.maximum(above, below) > step)
    if suspects.size == 0:
        return frame
    return _repair(frame, suspects, highest, lowest)


def repair_lasting(
    newest: FloatMap, frames: Sequence[FloatMap], *, step: float = LASTING_STEP
) -> FloatMap:
    """Lower pixels that have been hot in all frames to their highest neighbour.

    A pixel is hot when its minimum over time exceeds that of each of its 8 neighbours by more than
    an eighth of the frame's range. One frame does not tell a hot pixel from a small target, since
    both may be a single pixel; but a target leaves its pixel within a clip, and then the minimum is
    the background. What else stands out at rest, a lamp under a camera that hovers, is no target of
    a clip either. Dark pixels make no targets and stay.

    A target that the camera follows to the pixel, all the clip long, loses what it has over its
    highest neighbour.

    Args:
        newest: (H, W) float32, 0..1.
        frames: (H, W) float32 each, where the sensor saw them, `newest` among them.
        step: by which the minimum must exceed the neighbours', 0..1.

    Returns:
        (H, W) float32; `newest` itself where nothing is hot.

    Example:
        >>> frames = np.full((3, 4, 4), 0.2, np.float32)
        >>> frames[:, 1, 1] = 1.0  # stays
        >>> frames[2, 2, 3] = 1.0  # comes
        >>> repaired = repair_lasting(frames[2], frames)
        >>> float(repaired[1, 1]) < 0.3, float(repaired[2, 3])
        (True, 1.0)
    """
    lowest = np.minimum.reduce(list(frames))
    is_hot = lowest - _neighbour_range(lowest)[0] > step
    if not is_hot.any():
        return newest
    return np.where(is_hot, np.minimum(newest, _neighbour_range(newest)[0]), newest)


def _neighbour_range(frame: Values) -> tuple[Values, Values]:
    """The highest and lowest of each pixel's 8 neighbours; the border is mirrored."""
    wide = np.pad(frame, 1, mode="reflect")
    sides = np.maximum(wide[:, :-2], wide[:, 2:])
    rows = np.maximum(sides, wide[:, 1:-1])
    highest = np.maximum(np.maximum(rows[:-2], rows[2:]), sides[1:-1])
    sides = np.minimum(wide[:, :-2], wide[:, 2:])
    rows = np.minimum(sides, wide[:, 1:-1])
    lowest = np.minimum(np.minimum(rows[:-2], rows[2:]), sides[1:-1])
    return highest, lowest


def _repair(frame: Image, suspects: npt.NDArray[np.intp], highest: Values, lowest: Values) -> Image:
    value = frame.ravel()[suspects].astype(np.int64)
    top = highest.ravel()[suspects].astype(np.int64)
    bottom = lowest.ravel()[suspects].astype(np.int64)
    # Height of the pixel over the far side of its neighbours, and how much of it they share.
    hot = (value > top) & (top - bottom < DEFECT_SHARE * (value - bottom))
    dead = (value < bottom) & (top - bottom < DEFECT_SHARE * (top - value))
    repaired = frame.copy()
    repaired.flat[suspects[hot]] = top[hot]
    repaired.flat[suspects[dead]] = bottom[dead]
    return repaired
