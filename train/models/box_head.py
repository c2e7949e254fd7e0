"""An anchor-free head: from features to boxes, a place at a time (YOLOX, arXiv 2107.08430)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from .csp_darknet import activate

PRIOR = -4.6  # logit of an object before anything is learned: 0.01
LARGEST = 4.0  # logarithm of a side over the stride; beyond it a half-precision side would overflow


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a head says at each place; places in scan order.

    Attributes:
        boxes: (N, A, 4) edges top, left, bottom, right in pixels from the frame's corner.
        objects: (N, A) logits that there is a target.
        quality: (N, A) logits of how well the box fits it.
        centres: (A, 2) row and column of each place's centre, in those pixels.
        stride: pixels from one place to the next.
    """

    boxes: Tensor
    objects: Tensor
    quality: Tensor
    centres: Tensor
    stride: int


class BoxHead(nn.Module):
    """Two branches: whether there is a target, and where its edges are.

    As the decoupled head of YOLOX with one class, whose logit learns the overlap of box and
    target, as there.

    Shape:
        (N, C, h, w) features -> (N, 6, h, w): row and column of the centre in cells from the
        place's corner, logarithms of height and width in cells, logit of a target, of its quality.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.stem = activate(channels, hidden, side=1)
        self.what = nn.Sequential(activate(hidden, hidden), activate(hidden, hidden))
        self.where = nn.Sequential(activate(hidden, hidden), activate(hidden, hidden))
        self.quality = nn.Conv2d(hidden, 1, 1)
        self.edges = nn.Conv2d(hidden, 4, 1)
        self.object = nn.Conv2d(hidden, 1, 1)
        for layer in (self.quality, self.object):
            nn.init.constant_(cast(Tensor, layer.bias), PRIOR)

    def forward(self, x: Tensor) -> Tensor:
        """Read six numbers at each place."""
        x = self.stem(x)
        where = self.where(x)
        return torch.cat([self.edges(where), self.object(where), self.quality(self.what(x))], dim=1)


def decode(raw: Tensor, *, stride: int) -> Predictions:
    """Bring a head's numbers to pixels.

    Args:
        raw: (N, 6, h, w) from `BoxHead`.
        stride: pixels a cell.
    """
    batch, numbers, height, width = (int(side) for side in raw.shape)
    flat = raw.reshape(batch, numbers, height * width).transpose(1, 2)
    corners = _corners(height, width, raw)
    centre = (flat[..., :2] + corners) * stride
    half = flat[..., 2:4].clamp(max=LARGEST).exp() * (0.5 * stride)
    boxes = torch.cat([centre - half, centre + half], dim=-1)
    return Predictions(boxes, flat[..., 4], flat[..., 5], (corners + 0.5) * stride, stride)


def rate(predictions: Predictions) -> Tensor:
    """(N, A): the geometric mean of both probabilities, 0..1.

    YOLOX multiplies them; the mean orders boxes the same way, and keeps a find that is sure near
    1 where the overlap of a box of three pixels never is.
    """
    rated = predictions.objects.sigmoid() * predictions.quality.sigmoid()
    return rated.sqrt()


def _corners(height: int, width: int, like: Tensor) -> Tensor:
    """(A, 2): row and column of each place."""
    rows, columns = np.meshgrid(range(height), range(width), indexing="ij")
    places = np.stack([rows.ravel(), columns.ravel()], axis=1)
    corners: Tensor = torch.from_numpy(places).to(like)
    return corners
