"""Edges of a frame by its structure tensor, at the scales at which DRTENet weighs features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..solvers.pyramid import halve
from ..solvers.structure import stretch, structure_tensor
from .lrrnet_edge import ResidualBlock

SMOOTH = 1.0  # pixels, of the Gaussian in front of the derivatives
WINDOW = 1.0  # pixels, of the one behind
# A power of two, so exact, and gone after the stretch. It lays the squares of squared derivatives
# (steps of 1/255 up to 1) into the range of FP16.
GAIN = 16.0
LEAST = 1e-3 * GAIN  # contrast of edges below which a frame counts as flat, grey levels of 0..1


@torch.no_grad()
def map_edges(frames: Tensor) -> Tensor:
    """How strong the edge at each pixel is: the root of the structure tensor's larger eigenvalue.

    Computed in FP32 also where a network computes in bfloat16. It is an input to the network, so
    no gradient passes.

    Args:
        frames: (N, 1, H, W), 0..1.

    Returns:
        (N, 1, H, W), 0..1 in each frame; 0 where a frame is constant.
    """
    with torch.autocast(frames.device.type, enabled=False):
        larger, _ = structure_tensor(GAIN * frames, smooth=SMOOTH, window=WINDOW)
        return stretch(larger.sqrt(), least=LEAST)


@torch.no_grad()
def edge_pyramid(edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bring an edge map to the frame's size, a quarter and an eighth of it.

    As published: each halving of the pyramid (cv2.pyrDown) is followed by one bilinear step to half
    of that, corners on corners.

    Args:
        edges: (N, 1, H, W), H and W multiples of 8, at least 16.

    Returns:
        (N, 1, H, W), (N, 1, H / 4, W / 4), (N, 1, H / 8, W / 8).
    """
    with torch.autocast(edges.device.type, enabled=False):
        half = halve(edges)
        return edges, _shrink(half), _shrink(halve(half))


def _shrink(edges: Tensor) -> Tensor:
    shrunk: Tensor = F.interpolate(edges, scale_factor=0.5, mode="bilinear", align_corners=True)
    return shrunk


class TensorWeighting(nn.Module):
    """Weigh features by the edges, as a residual (RTWM): E + F + R(F) with F = (E + G) * G.

    G is the edge map spread over the channels, R two convolutions with a skip.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(1, channels, 1, bias=False)
        self.refine = ResidualBlock(channels)

    def forward(self, features: Tensor, edges: Tensor) -> Tensor:
        """Features (N, C, H, W) and edges (N, 1, H, W) to (N, C, H, W)."""
        guide = self.spread(edges)
        weighed = (features + guide) * guide
        led: Tensor = features + weighed + self.refine(weighed)
        return led
