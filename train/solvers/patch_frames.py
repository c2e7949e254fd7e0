"""Whole frames as patches and back: padded to the grid before, cropped to the frame after."""

from __future__ import annotations

from torch import Tensor

from .algebra import Algebra, PatchGrid
from .borders import extend, sides


def cut_frame(algebra: Algebra, frame: Tensor, grid: PatchGrid) -> Tensor:
    """(N, 1, H, W) to the patch image (N, size^2, patches).

    Raises:
        ValueError: the frame is smaller than a patch.
    """
    height, width = sides(frame)
    grid.check(height, width)
    padded = extend(frame, after=(grid.padded(height) - height, grid.padded(width) - width))
    return algebra.cut_patches(padded, grid)


def merge_frame(
    algebra: Algebra, patches: Tensor, shape: tuple[int, int], grid: PatchGrid
) -> Tensor:
    """The patch image of a frame of (H, W) back to (N, 1, H, W)."""
    height, width = shape
    padded = (grid.padded(height), grid.padded(width))
    return algebra.merge_patches(patches, padded, grid)[:, :, :height, :width]


def cut_tensor(algebra: Algebra, frame: Tensor, grid: PatchGrid) -> Tensor:
    """(N, 1, H, W) to the patch tensor (N, size, size, patches); errors as in `cut_frame`."""
    patches = cut_frame(algebra, frame, grid)
    return patches.reshape(int(patches.shape[0]), grid.size, grid.size, int(patches.shape[2]))


def merge_tensor(
    algebra: Algebra, patches: Tensor, shape: tuple[int, int], grid: PatchGrid
) -> Tensor:
    """The patch tensor of a frame of (H, W) back to (N, 1, H, W)."""
    flat = patches.reshape(int(patches.shape[0]), grid.size**2, int(patches.shape[3]))
    return merge_frame(algebra, flat, shape, grid)
