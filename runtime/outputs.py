"""What every engine owes for a frame: one confidence map, and no NaN in it."""

from __future__ import annotations

import numpy as np

from .errors import OutputError
from .frame import FloatMap


def check_confidence(output: FloatMap, size: tuple[int, int]) -> FloatMap:
    """Take a network's output as the confidence (H', W') that it must be.

    Args:
        output: float32, as the engine gives it.
        size: (H', W').

    Raises:
        OutputError: it is of another size, or holds NaN or infinity.

    Example:
        >>> check_confidence(np.zeros((1, 1, 2, 3), np.float32), (2, 3)).shape
        (2, 3)
    """
    if output.size != size[0] * size[1]:
        raise OutputError(
            f"the network's output has shape {output.shape}, expected one confidence for each of "
            f"{size[0]}x{size[1]} pixels; export the bundle again"
        )
    confidence = output.reshape(size)
    # NaN and infinity survive the sum: one pass instead of a mask.
    if not np.isfinite(confidence.sum()):
        raise OutputError("the network's output holds NaN or infinity; do not fly this bundle")
    return confidence
