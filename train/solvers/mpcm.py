"""MPCM: multiscale patch contrast (Wei et al., Pattern Recognition 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .borders import extend, sides
from .solver import to_logits

CELLS = (3, 5, 7, 9)  # sides of the cells, pixels
# One of each pair of opposite neighbours, in cells: (rows, columns).
HALF_RING = ((-1, -1), (-1, 0), (-1, 1), (0, 1))


class Mpcm(nn.Module):
    """The least product of contrasts to opposite neighbour cells, the most over cell sizes.

    Bright targets only: a contrast below 0 counts as 0.

    Shape:
        (N, 1, H, W) in 0..1 -> background, target logits, both of it.
    """

    sigmas = 12.0

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """The frame without its contrasts, and these."""
        contrast = contrast_at(frame, CELLS[0])
        for cell in CELLS[1:]:
            contrast = torch.maximum(contrast, contrast_at(frame, cell))
        return frame - contrast, to_logits(contrast, sigmas=self.sigmas)


def contrast_at(frame: Tensor, cell: int) -> Tensor:
    """Contrast of each pixel's cell to the eight cells around it.

    Args:
        frame: (N, 1, H, W).
        cell: side of a cell in pixels, odd.
    """
    height, width = sides(frame)
    margin = cell + cell // 2
    means = F.avg_pool2d(
        extend(frame, before=(margin, margin), after=(margin, margin)), cell, stride=1
    )

    def at(row: int, column: int) -> Tensor:
        top, left = (1 + row) * cell, (1 + column) * cell
        return means[:, :, top : top + height, left : left + width]

    centre = at(0, 0)
    products = [
        F.relu(centre - at(row, column)) * F.relu(centre - at(-row, -column))
        for row, column in HALF_RING
    ]
    least = products[0]
    for product in products[1:]:
        least = torch.minimum(least, product)
    return least
