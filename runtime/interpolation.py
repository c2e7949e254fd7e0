"""Interpolation: a frame at sub-pixel places."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from .frame import FloatMap

Places = npt.NDArray[np.float64]
Number = TypeVar("Number", float, Places)

BORDER = 2  # pixels around a frame that cubic convolution may ask for


def cut(background: FloatMap, corner: tuple[float, float], size: tuple[int, int]) -> FloatMap:
    """Cut a frame out of a wider background at a sub-pixel place.

    Cubic convolution (Keys, 1981, a = -1/2). Linear interpolation would blur the texture at half
    pixels and not at whole ones, so a drifting background would flicker.

    Args:
        background: (R, C) float32.
        corner: (row, column) of the frame's first pixel; 2 pixels more are needed on each side.
        size: (rows, columns) of the frame.

    Returns:
        `size` float32.
    """
    top, rows = _cubic_taps(corner[0])
    left, columns = _cubic_taps(corner[1])
    strip = np.zeros((size[0], background.shape[1]), np.float32)
    for step, weight in enumerate(rows):
        strip += weight * background[top + step : top + step + size[0]]
    frame = np.zeros(size, np.float32)
    for step, weight in enumerate(columns):
        frame += weight * strip[:, left + step : left + step + size[1]]
    return frame


def _cubic_taps(place: float) -> tuple[int, FloatMap]:
    """The first of the four pixels around a place, and their weights."""
    first = math.floor(place)
    return first - 1, np.array(_cubic_weights(place - first), np.float32)


def _cubic_weights(t: Number) -> tuple[Number, Number, Number, Number]:
    """Weights of the four pixels around a place that is `t`, 0..1, past the second of them."""
    return (
        -0.5 * t + t**2 - 0.5 * t**3,
        1.0 - 2.5 * t**2 + 1.5 * t**3,
        0.5 * t + 2.0 * t**2 - 1.5 * t**3,
        -0.5 * t**2 + 0.5 * t**3,
    )


def move(frame: FloatMap, shift: tuple[float, float], *, outside: FloatMap) -> FloatMap:
    """Move a frame's content by a sub-pixel shift.

    Args:
        frame: (H, W) float32.
        shift: (rows, columns) that its content moves, downwards and to the right.
        outside: (H, W) float32, shown where the content came in from beyond the frame.

    Returns:
        (H, W) float32, by cubic convolution.

    Example:
        >>> frame = np.arange(16, dtype=np.float32).reshape(4, 4)
        >>> move(frame, (1.0, 0.0), outside=np.zeros_like(frame))[:, 0].tolist()
        [0.0, 0.0, 4.0, 8.0]
    """
    rows, columns = (move_side(size, by) for size, by in zip(frame.shape, shift, strict=True))
    moved = outside.copy()
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return moved
    wide = np.pad(frame, BORDER, mode="edge")
    corner = (rows.start - shift[0] + BORDER, columns.start - shift[1] + BORDER)
    shown = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
    # Past the last pixel only by a rounding error, whose weight is as small: one more is enough.
    moved[shown] = cut(wide, corner, (rows.stop - rows.start, columns.stop - columns.start))
    return moved


@dataclass(frozen=True, slots=True)
class MovedSide:
    """How `move` fills one side of a frame: what a device needs to do the same.

    Attributes:
        start: first pixel that shows the content that was moved.
        stop: pixel after the last one; none shows it where `stop` is not above `start`.
        first: place, before the move, of the first of the four pixels that make pixel `start`.
            Where there is no such pixel, the nearest of the border stands in.
        weights: (4,) float32, of these four.
    """

    start: int
    stop: int
    first: int
    weights: FloatMap


def move_side(size: int, by: float) -> MovedSide:
    """Say how a side of `size` pixels is filled whose content moves by a sub-pixel shift.

    Example:
        >>> side = move_side(4, 0.5)
        >>> side.start, side.stop, side.first, side.weights.tolist()
        (1, 4, -1, [-0.0625, 0.5625, 0.5625, -0.0625])
    """
    start, stop = max(math.ceil(by), 0), min(math.floor(size - 1 + by), size - 1) + 1
    first, weights = _cubic_taps(start - by + BORDER)
    return MovedSide(start, stop, first - BORDER, weights)


def sample(background: FloatMap, rows: Places, columns: Places) -> FloatMap:
    """Sample a field on a grid of sub-pixel places, e.g. one of another scale.

    Cubic convolution, as in `cut`.

    Args:
        background: (R, C) float32.
        rows: (H,) place of each row, between 1 and R - 3.
        columns: (W,) likewise.

    Returns:
        (H, W) float32.

    Example:
        >>> field = np.arange(36, dtype=np.float32).reshape(6, 6)
        >>> sample(field, np.array([1.0, 1.5]), np.array([2.0])).tolist()
        [[8.0], [11.0]]
    """
    top, along = _taps(rows)
    left, across = _taps(columns)
    strip = sum(along[step, :, None] * background[top + step] for step in range(4))
    picked = np.asarray(strip, np.float32)
    frame = sum(across[step] * np.take(picked, left + step, axis=1) for step in range(4))
    return np.asarray(frame, np.float32)


def _taps(places: Places) -> tuple[npt.NDArray[np.intp], FloatMap]:
    """The first of the four pixels around each place, and (4, places) their weights."""
    first = np.floor(places)
    weights = np.stack(_cubic_weights(places - first)).astype(np.float32)
    return first.astype(np.intp) - 1, weights
