"""Patch images and their overlap-add by slices and constant sums: nothing is gathered."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...train.solvers.algebra import PatchGrid
from .constants import constant


def cut_patches(frame: Tensor, grid: PatchGrid) -> Tensor:
    """Cut a frame into overlapping patches, one a column; `merge_patches` undoes it.

    The frame is seen as blocks of the grid's step; a patch is a square of neighbouring blocks.

    Args:
        frame: (N, 1, H, W), sides multiples of the grid's step.
        grid: of the patches.

    Returns:
        (N, size^2, patches), rows and columns in reading order.
    """
    # A trace would compute with the sides of a shape; whole numbers are constants.
    batch, _, height, width = (int(side) for side in frame.shape)
    step, across = grid.step, grid.size // grid.step
    rows, columns = _positions(height, grid), _positions(width, grid)
    blocks = frame.reshape(batch, height // step, step, width // step, step)
    blocks = blocks.permute(0, 2, 4, 1, 3)  # pixels of a block, then blocks
    tall = torch.stack([blocks[:, :, :, i : i + rows] for i in range(across)], dim=1)
    wide = [tall[..., j : j + columns] for j in range(across)]
    # (N, block row, row in it, block column, column in it, patch row, patch column)
    patches = torch.stack(wide, dim=3)
    return patches.reshape(batch, grid.size**2, rows * columns)


def merge_patches(patches: Tensor, shape: tuple[int, int], grid: PatchGrid) -> Tensor:
    """Put patches back: each pixel is the mean of the patches that show it.

    The sums run over rows and columns apart, as products with two small constant matrices that
    hold the share of each patch in each block.

    Args:
        patches: (N, size^2, patches).
        shape: (H, W) of the frame they were cut from.
        grid: of the patches.

    Returns:
        (N, 1, H, W).
    """
    height, width = shape
    batch, step, across = int(patches.shape[0]), grid.step, grid.size // grid.step
    rows, columns = _positions(height, grid), _positions(width, grid)
    split = patches.reshape(batch, across, step, across, step, rows, columns)
    split = split.permute(0, 2, 4, 1, 5, 3, 6).reshape(batch, step * step, -1, across * columns)
    wide = split @ constant(_shares(columns, across), patches)
    tall = wide.transpose(2, 3) @ constant(_shares(rows, across), patches)
    blocks = tall.reshape(batch, step, step, width // step, height // step)
    return blocks.permute(0, 4, 1, 3, 2).reshape(batch, 1, height, width)


def _positions(side: int, grid: PatchGrid) -> int:
    return (side - grid.size) // grid.step + 1


def _shares(positions: int, across: int) -> npt.NDArray[np.float64]:
    """(blocks of a patch times positions, blocks of the frame): 1 / patches that show the block."""
    place = np.add.outer(np.arange(across), np.arange(positions)).ravel()
    shows = place[:, None] == np.arange(positions + across - 1)
    shares: npt.NDArray[np.float64] = shows / shows.sum(axis=0)
    return shares
