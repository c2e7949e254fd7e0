"""LRRNet-Edge: LRRNet's idea in a twentieth of its arithmetic, shaped for engines; ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from .sides import check_sides

STRIDE = 16
CELL = 2  # pixels of the frame, in each direction, that the stem folds into channels
RANK = 32  # directions that the context keeps of the background
PRIOR = -4.0  # logit of a target before anything is learned: targets are rare
# The context divides by a mean that may vanish where nothing is active.
SMALLEST_MEAN = 1e-2


@dataclass(frozen=True, slots=True)
class Design:
    """What was varied to find the network; the defaults are what was found.

    Attributes:
        widths: channels at 1/2, 1/4, 1/8 and 1/16 of the frame.
        deepest: residual blocks at 1/16.
        has_context: whether every position sees the whole frame.
        subtracts: whether the background is subtracted, as in LRRNet, or added.
    """

    widths: tuple[int, int, int, int] = (16, 32, 64, 128)
    deepest: int = 1
    has_context: bool = True
    subtracts: bool = True


def convolve(
    inputs: int, outputs: int, *, side: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """A convolution and its normalisation, which an export folds into it."""
    padding = dilation * (side // 2)
    convolution = nn.Conv2d(inputs, outputs, side, stride, padding, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


def activate(
    inputs: int, outputs: int, *, side: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """A normalised convolution and a ReLU, which engines run as one kernel."""
    convolution = convolve(inputs, outputs, side=side, stride=stride, dilation=dilation)
    return convolution.append(nn.ReLU(inplace=True))


class ResidualBlock(nn.Module):
    """Two convolutions and a skip; the ReLU comes last, so that the sum fuses with it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = activate(channels, channels)
        self.second = convolve(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return F.relu(x + self.second(self.first(x)))


class LowRankContext(nn.Module):
    """The background of the whole frame in few directions: linear attention.

    Keys compress all positions to RANK directions, queries reconstruct each position from them.
    ReLU takes the place of softmax (Cai et al., EfficientViT, ICCV 2023), so the cost is linear
    in the frame and no N x N matrix exists. Means in place of sums keep FP16 in range at any size.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = activate(channels, RANK, side=1)
        self.key = activate(channels, RANK, side=1)
        self.value = convolve(channels, channels, side=1)
        self.merge = convolve(channels, channels, side=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        height, width = (int(side) for side in x.shape[-2:])
        share = (height * width) ** -0.5  # on both factors: the product is a mean, never a sum
        query, key, value = self.query(x), self.key(x), self.value(x)
        query, key, value = (
            part.reshape(*part.shape[:2], height * width) for part in (query, key, value)
        )
        directions = (value * share) @ (key * share).transpose(1, 2)
        weight = (key.mean(dim=2, keepdim=True) * query).sum(dim=1, keepdim=True) + SMALLEST_MEAN
        seen = (directions @ query / weight).reshape(x.shape)
        return F.relu(x + self.merge(seen))


def _fold_cells(outputs: int) -> nn.Sequential:
    """Space to depth, then a 3x3 convolution: both together are one strided convolution."""
    convolution = nn.Conv2d(1, outputs, 3 * CELL, CELL, padding=CELL, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Widen(nn.Module):
    """Fewer channels at twice the resolution: a 1x1 convolution, then repetition."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, 2 H, 2 W)."""
        return F.interpolate(self.convolution(x), scale_factor=2.0, mode="nearest")


class LRRNetEdge(nn.Module):
    """Compress, reconstruct the background, subtract, refine, with nothing at full resolution.

    What differs from LRRNet, and why:

    - the stem folds 2x2 pixels into channels and the heads unfold them (sub-pixel convolution, Shi
      et al., CVPR 2016): full-resolution layers of 16 channels are half of LRRNet's arithmetic
      and bound by memory;
    - BatchNorm, which an export folds into the convolutions, in place of GroupNorm, which stays;
    - linear attention of low rank in place of softmax attention, at 1/16 in place of 1/8;
    - skips are added, not concatenated; one block a level;
    - no dropout: it is not compatible with BatchNorm's statistics (Li et al., CVPR 2019).

    Shape:
        (N, 1, H, W) float32 in 0..1, H and W multiples of 16 ->
        reconstruction (N, 1, H, W) of the whole input, target logits (N, 1, H, W).
    """

    def __init__(self, design: Design | None = None) -> None:
        super().__init__()
        design = design or Design()
        half, quarter, eighth, sixteenth = design.widths
        self.subtracts = design.subtracts
        self.stem = nn.Sequential(_fold_cells(half), activate(half, half))
        self.down_4 = nn.Sequential(activate(half, quarter, stride=2), ResidualBlock(quarter))
        self.down_8 = nn.Sequential(activate(quarter, eighth, stride=2), ResidualBlock(eighth))
        self.down_16 = nn.Sequential(
            activate(eighth, sixteenth, stride=2),
            *(ResidualBlock(sixteenth) for _ in range(design.deepest)),
            LowRankContext(sixteenth) if design.has_context else nn.Identity(),
        )
        self.widen_8, self.up_8 = Widen(sixteenth, eighth), ResidualBlock(eighth)
        self.widen_4, self.up_4 = Widen(eighth, quarter), ResidualBlock(quarter)
        self.widen_2 = Widen(quarter, half)
        self.refine = nn.Sequential(activate(half, half), activate(half, half))
        self.target = nn.Conv2d(half, CELL * CELL, 3, padding=1)
        self.reconstruction = nn.Conv2d(half, CELL * CELL, 3, padding=1)
        self.unfold = nn.PixelShuffle(CELL)
        nn.init.constant_(cast(Tensor, self.target.bias), PRIOR)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruct the frame and find what the background does not explain."""
        check_sides(x, stride=STRIDE)
        shallow = self.stem(x)
        background = self.reconstruct_background(shallow)
        residual = self.refine(shallow - background if self.subtracts else shallow + background)
        frame: Tensor = self.unfold(self.reconstruction(residual + background))
        target: Tensor = self.unfold(self.target(residual))
        return frame, target

    def reconstruct_background(self, shallow: Tensor) -> Tensor:
        """Shallow features (N, C, H / 2, W / 2) to background features of that shape."""
        fourth = self.down_4(shallow)
        eighth = self.down_8(fourth)
        sixteenth = self.down_16(eighth)
        eighth = self.up_8(eighth + self.widen_8(sixteenth))
        fourth = self.up_4(fourth + self.widen_4(eighth))
        background: Tensor = self.widen_2(fourth)
        return background
