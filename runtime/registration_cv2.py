"""Sub-pixel registration by OpenCV: phase correlation to start from, ECC to refine."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from .frame import FloatMap
from .registration import Shift, check_shift, correlate

# Gaussians whose difference is the texture. The finer one takes noise, fixed pattern and dead
# pixels, the coarser one shading and vignetting: all these stand still while the scene moves.
FINE_SIGMA, COARSE_SIGMA = 1.5, 4.0  # pixels
BORDER = 8  # pixels left out on each side, where the Gaussians see the frame mirrored
MOST_STEPS, PRECISION = 50, 1e-4  # of ECC; the precision is of the correlation


def extract_texture(prepared: FloatMap) -> FloatMap:
    """What of a prepared frame moves with the scene: a band of its detail.

    Args:
        prepared: (H, W) float32, without padding.

    Returns:
        (H - 2 b, W - 2 b) float32, the border of b = 8 pixels or an eighth of a side left out.
    """
    fine = cv2.GaussianBlur(prepared, (0, 0), FINE_SIGMA)
    coarse = cv2.GaussianBlur(prepared, (0, 0), COARSE_SIGMA)
    border = min(BORDER, *(side // 8 for side in prepared.shape))
    inside = slice(border, -border)
    return np.ascontiguousarray((fine - coarse)[inside, inside], np.float32)


def estimate_shift(older: FloatMap, newer: FloatMap) -> Shift:
    """Measure how the scene moved, and check it.

    Phase correlation (Kuglin & Hines, 1975) finds shifts of many pixels; the enhanced correlation
    coefficient (Evangelidis & Psarakis, 2008) refines them to hundredths.

    Args:
        older: texture of the older frame, from `extract_texture`.
        newer: of the newer frame, same shape.
    """
    return check_shift(older, newer, _measure(older, newer))


def _measure(older: FloatMap, newer: FloatMap) -> tuple[float, float] | None:
    """(rows, columns); None where a frame is without texture."""
    if not (np.ptp(older) > 0.0 and np.ptp(newer) > 0.0):
        return None
    # Copies: where no side needs padding, OpenCV writes the windowed frames into what it is given.
    (right, down), _ = cv2.phaseCorrelate(older.copy(), newer.copy(), _window(older.shape))
    starts = [(float(down), float(right)), (0.0, 0.0)]
    starts.sort(key=lambda start: correlate(older, newer, start), reverse=True)
    for start in starts:
        if (refined := _refine(older, newer, start)) is not None:
            return refined
    return starts[0]  # checked as any shift


def _refine(
    older: FloatMap, newer: FloatMap, start: tuple[float, float]
) -> tuple[float, float] | None:
    """(rows, columns) by ECC; None where it does not converge."""
    # Its warp leads from the newer frame's pixels to the older one's.
    warp = np.array([[1.0, 0.0, -start[1]], [0.0, 1.0, -start[0]]], np.float32)
    end = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, MOST_STEPS, PRECISION)
    try:
        _, found = cv2.findTransformECC(newer, older, warp, cv2.MOTION_TRANSLATION, end)
    except cv2.error:
        return None
    return -float(found[1, 2]), -float(found[0, 2])


@lru_cache(maxsize=4)
def _window(shape: tuple[int, int]) -> FloatMap:
    return np.asarray(cv2.createHanningWindow((shape[1], shape[0]), cv2.CV_32F), np.float32)
