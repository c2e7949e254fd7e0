"""What every engine owes for a frame: one confidence map, or boxes, and no NaN in it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from .errors import OutputError
from .frame import FloatMap

BOXES = "boxes"  # what a graph calls its output where that is boxes
COLUMNS = 5  # of a box: top, left, bottom, right, score


def check_output(output: FloatMap, name: str, size: Sequence[int]) -> FloatMap:
    """Take a network's output as what its name says.

    Args:
        output: float32, as the engine gives it.
        name: that the graph gives it: "boxes", or anything else for a confidence map.
        size: (H', W') of the network's input.

    Returns:
        Boxes (A, 5), or confidence (H', W').

    Raises:
        OutputError: it is of another shape, or holds NaN or infinity.

    Example:
        >>> check_output(np.zeros((1, 1, 2, 3), np.float32), "confidence", (2, 3)).shape
        (2, 3)
        >>> check_output(np.zeros((1, 96, 5), np.float32), "boxes", (32, 48)).shape
        (96, 5)
    """
    if why := wrong_shape(output.shape, name, size):
        raise OutputError(f"the network's output {why}; export the bundle again")
    answer = output.reshape(-1, COLUMNS) if name == BOXES else output.reshape(tuple(size))
    # NaN and infinity survive the sum: one pass instead of a mask.
    if not np.isfinite(answer.sum()):
        raise OutputError("the network's output holds NaN or infinity; do not fly this bundle")
    return answer


def scores_of(answer: FloatMap) -> FloatMap:
    """What of an answer says how sure the network is: the scores of boxes, a map as it is.

    Args:
        answer: from `check_output`; no network takes frames of 5 columns.
    """
    return answer[:, -1] if answer.shape[1] == COLUMNS else answer


def wrong_shape(shape: Sequence[int], name: str, size: Sequence[int]) -> str:
    """What is wrong with the shape of an output; nothing where it fits."""
    if name != BOXES and prod(shape) != prod(size):
        return (
            f"has shape {tuple(shape)}, expected one confidence for each of "
            f"{'x'.join(map(str, size))} pixels"
        )
    if name == BOXES and (len(shape) != 3 or shape[0] != 1 or shape[2] != COLUMNS or shape[1] < 1):
        return f"has shape {tuple(shape)}, expected boxes (1, A, {COLUMNS})"
    return ""
