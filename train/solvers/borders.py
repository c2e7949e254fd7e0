"""Borders of images by slices and concatenation, which every TensorRT takes."""

from __future__ import annotations

import torch
from torch import Tensor


def sides(images: Tensor) -> tuple[int, int]:
    """Height and width of (N, C, H, W) as plain numbers, which a trace holds as constants."""
    return int(images.shape[2]), int(images.shape[3])


def extend(
    images: Tensor, *, before: tuple[int, int] = (0, 0), after: tuple[int, int] = (0, 0)
) -> Tensor:
    """Repeat the outermost rows and columns of (N, C, H, W).

    Args:
        images: to be widened.
        before: rows above, columns to the left.
        after: rows below, columns to the right.
    """
    for axis, (front, back) in enumerate(zip(before, after, strict=True), start=2):
        if front or back:
            length = int(images.shape[axis])
            first, last = images.narrow(axis, 0, 1), images.narrow(axis, length - 1, 1)
            images = torch.cat([first] * front + [images] + [last] * back, dim=axis)
    return images


def mirror(images: Tensor, width: int) -> Tensor:
    """Mirror (N, C, H, W) on all sides without the edge pixel itself, as OpenCV does by default."""
    for axis in (2, 3):
        length = int(images.shape[axis])
        places = range(1, width + 1)
        before = [images.narrow(axis, place, 1) for place in reversed(places)]
        after = [images.narrow(axis, length - 1 - place, 1) for place in places]
        images = torch.cat([*before, images, *after], dim=axis)
    return images
