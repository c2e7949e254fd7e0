"""The sizes that a network with halvings takes."""

from __future__ import annotations

from torch import Tensor


def check_sides(x: Tensor, *, stride: int) -> None:
    """Refuse sizes that the halvings of a network do not divide.

    Args:
        x: (N, 1, H, W).
        stride: 2 to the number of halvings.

    Raises:
        ValueError: H or W is no multiple of `stride`.
    """
    height, width = x.shape[-2:]
    if height % stride or width % stride:
        raise ValueError(
            f"input is {height}x{width}, expected multiples of {stride}; pad it to "
            f"{-(-height // stride) * stride}x{-(-width // stride) * stride}"
        )
