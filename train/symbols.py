"""Burnt-in symbols: what cameras write into their frames, which is bright, small and no target."""

from __future__ import annotations

import numpy as np

from ..runtime.frame import FloatMap
from ..runtime.media_cv2 import text_stencil

SYMBOLS = "0123456789.:+-ABDEFLNRSTVZ"


def burn_in(frame: FloatMap, mask: FloatMap, *, rng: np.random.Generator) -> FloatMap:
    """Write what cameras burn into their frames: a line of figures, or a reticle.

    Args:
        frame: (H, W) float32, 0..1.
        mask: (H, W) float32; labelled pixels keep their values.
        rng: source of randomness.

    Returns:
        A new frame.
    """
    value = float(rng.choice([0.0, 1.0, rng.uniform(0.7, 1.0)]))
    marked = frame.copy()
    if rng.random() < 0.7:
        count = int(rng.integers(1, 12))
        text = "".join(SYMBOLS[i] for i in rng.integers(len(SYMBOLS), size=count))
        row, column = (int(rng.integers(extent)) for extent in frame.shape)
        size = float(rng.uniform(0.25, 0.7))
        shape = (frame.shape[0], frame.shape[1])
        marked[text_stencil(shape, text, row=row, column=column, scale=size)] = value
    else:
        _draw_reticle(marked, value, rng)
    return np.where(mask > 0, frame, marked)


def _draw_reticle(frame: FloatMap, value: float, rng: np.random.Generator) -> None:
    """Four ticks around a free centre, one or two pixels wide."""
    row, column = (int(rng.integers(extent)) for extent in frame.shape)
    gap, length, width = (int(rng.integers(*ends)) for ends in ((0, 8), (3, 20), (1, 3)))
    near, far = gap + 1, gap + 1 + length
    for first, last in ((1 - far, 1 - near), (near, far)):
        rows = slice(max(0, row + first), max(0, row + last))
        columns = slice(max(0, column + first), max(0, column + last))
        frame[rows, column : column + width] = value
        frame[row : row + width, columns] = value
