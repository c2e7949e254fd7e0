"""Registration: how far the scene moved between two frames, and whether to believe it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import EngineError
from .frame import FloatMap
from .interpolation import move

if TYPE_CHECKING:
    from types import ModuleType

LEAST_CORRELATION = 0.5  # of registered frames; small ones of unlike scenes may reach 0.4
LARGEST_LOSS = 0.01  # of correlation that registering may cost against leaving the frames as are
LARGEST_MOVE = 0.25  # of a side between two frames


@dataclass(frozen=True, slots=True)
class Shift:
    """How the scene moved from one frame to a newer one.

    Attributes:
        row: pixels downwards; what was at (r, c) is at (r + row, c + column).
        column: pixels to the right.
        reason: why the shift that was measured is not believed; (row, column) is (0, 0) then.
            Empty where it is believed.
        correlation: of the two frames once the older one was moved as measured, -1..1; 0 where
            they were not compared.
    """

    row: float
    column: float
    reason: str = ""
    correlation: float = 0.0

    @property
    def is_trusted(self) -> bool:
        """Whether the shift passed every check."""
        return not self.reason


def correlate(older: FloatMap, newer: FloatMap, shift: tuple[float, float]) -> float:
    """Correlation of two frames where they overlap after the older one was moved.

    Args:
        older: (H, W) float32, any linear unit.
        newer: the same.
        shift: (rows, columns) that the scene moved.

    Returns:
        -1..1; 0 where there is nothing to correlate.
    """
    beyond = np.full_like(older, np.nan)
    moved = move(older, shift, outside=beyond)
    inside = ~np.isnan(moved)
    first, second = moved[inside], newer[inside]
    if first.size == 0:
        return 0.0
    first, second = first - first.mean(), second - second.mean()
    power = float(first @ first) * float(second @ second)
    return float(first @ second) / math.sqrt(power) if power > 0.0 else 0.0


def check_shift(older: FloatMap, newer: FloatMap, measured: tuple[float, float] | None) -> Shift:
    """Believe a measured shift, or fall back to none and say why.

    Args:
        older: (H, W) float32, the texture that the shift was measured on.
        newer: the same of the newer frame.
        measured: (rows, columns); None where nothing could be measured.
    """
    if measured is None or not np.isfinite(measured).all():
        return Shift(0.0, 0.0, "the frames have no texture that could be registered")
    row, column = measured
    if abs(row) > LARGEST_MOVE * older.shape[0] or abs(column) > LARGEST_MOVE * older.shape[1]:
        return Shift(
            0.0, 0.0, f"a shift of ({row:.1f}, {column:.1f}) pixels is more than a quarter frame"
        )
    before, after = correlate(older, newer, (0.0, 0.0)), correlate(older, newer, measured)
    reason = ""
    if after < LEAST_CORRELATION:
        reason = f"registered frames correlate by {after:.2f} only"
    elif after < before - LARGEST_LOSS:
        said = f"a shift of ({row:.1f}, {column:.1f}) pixels lowers the frames' correlation"
        reason = f"{said} from {before:.2f} to {after:.2f}"
    return Shift(0.0, 0.0, reason, after) if reason else Shift(row, column, correlation=after)


def load_registration() -> ModuleType:
    """The module that measures shifts, which needs OpenCV.

    Raises:
        EngineError: OpenCV is not installed.
    """
    try:
        from . import registration_cv2
    except ImportError as err:
        raise EngineError(
            f"clips of a moving camera need OpenCV ({err}): pip install 'irstd[cpu]'"
        ) from err
    return registration_cv2
