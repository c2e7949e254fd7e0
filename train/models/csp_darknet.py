"""CSPDarknet with a pyramid from coarse to fine: YOLOX's features of single frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDE = 32  # of the coarsest features
POOLS = (5, 9, 13)  # pixels; windows of the pooling pyramid


def activate(inputs: int, outputs: int, *, side: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution, its normalisation, which an export folds into it, and SiLU."""
    convolution = nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.SiLU(inplace=True))


class Bottleneck(nn.Module):
    """A 1x1 and a 3x3 convolution, with a skip where asked."""

    def __init__(self, channels: int, *, has_skip: bool) -> None:
        super().__init__()
        self.narrow = activate(channels, channels, side=1)
        self.wide = activate(channels, channels)
        self.has_skip = has_skip

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        found: Tensor = self.wide(self.narrow(x))
        return x + found if self.has_skip else found


class CspLayer(nn.Module):
    """Half of the channels through bottlenecks, half past them (CSPNet, CVPRW 2020)."""

    def __init__(self, inputs: int, outputs: int, *, depth: int, has_skip: bool = True) -> None:
        super().__init__()
        hidden = outputs // 2
        self.through = activate(inputs, hidden, side=1)
        self.past = activate(inputs, hidden, side=1)
        blocks = (Bottleneck(hidden, has_skip=has_skip) for _ in range(depth))
        self.blocks = nn.Sequential(*blocks)
        self.merge = activate(2 * hidden, outputs, side=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        both = torch.cat([self.blocks(self.through(x)), self.past(x)], dim=1)
        merged: Tensor = self.merge(both)
        return merged


class PoolPyramid(nn.Module):
    """Maxima over windows of several sizes beside the features (SPP, TPAMI 2015)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.narrow = activate(channels, hidden, side=1)
        self.merge = activate(hidden * (1 + len(POOLS)), channels, side=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        narrow = self.narrow(x)
        pooled = [F.max_pool2d(narrow, side, stride=1, padding=side // 2) for side in POOLS]
        merged: Tensor = self.merge(torch.cat([narrow, *pooled], dim=1))
        return merged


class Focus(nn.Module):
    """2x2 pixels fold into channels, then a 3x3 convolution."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.fold = nn.PixelUnshuffle(2)
        self.convolution = activate(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) to (N, outputs, H / 2, W / 2)."""
        folded: Tensor = self.convolution(self.fold(x))
        return folded


class CspDarknet(nn.Module):
    """Features of single frames at 1/4 and, with all that is coarser in them, at 1/8.

    YOLOX-s (arXiv 2107.08430) has `channels` = 128. Its path back from fine to coarse is left out,
    as in Tridos. The first convolution takes one channel, not three.

    Shape:
        (N, 1, H, W), H and W multiples of 32 ->
        (N, channels / 2, H / 4, W / 4), (N, channels, H / 8, W / 8).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 16 or channels % 16:
            raise ValueError(f"channels is {channels}, expected a multiple of 16")
        quarter, half, double, most = channels // 4, channels // 2, 2 * channels, 4 * channels
        self.stem = Focus(quarter)
        self.fourth = _level(quarter, half, depth=1)
        self.eighth = _level(half, channels, depth=3)
        self.sixteenth = _level(channels, double, depth=3)
        self.coarsest = nn.Sequential(
            activate(double, most, stride=2),
            PoolPyramid(most),
            CspLayer(most, most, depth=1, has_skip=False),
        )
        self.lateral_16 = activate(most, double, side=1)
        self.merge_16 = CspLayer(2 * double, double, depth=1, has_skip=False)
        self.lateral_8 = activate(double, channels, side=1)
        self.merge_8 = CspLayer(2 * channels, channels, depth=1, has_skip=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Frames to their features."""
        fourth = self.fourth(self.stem(x))
        eighth = self.eighth(fourth)
        sixteenth = self.sixteenth(eighth)
        wide = self.lateral_16(self.coarsest(sixteenth))
        wide = self.merge_16(torch.cat([_double(wide), sixteenth], dim=1))
        fine = self.merge_8(torch.cat([_double(self.lateral_8(wide)), eighth], dim=1))
        return fourth, fine


def _level(inputs: int, outputs: int, *, depth: int) -> nn.Sequential:
    """Half the resolution, then a CSP layer."""
    return nn.Sequential(
        activate(inputs, outputs, stride=2), CspLayer(outputs, outputs, depth=depth)
    )


def _double(x: Tensor) -> Tensor:
    """Each pixel four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
