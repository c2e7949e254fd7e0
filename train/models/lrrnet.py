"""LRRNet: compress, reconstruct the background, subtract, refine (TGRS 2025, arXiv 2506.10425)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .sides import check_sides

STRIDE = 8  # three halvings
GROUPS = 16
DROPOUT = 0.2
CHANNELS = 16
MULTIPLES = (1, 2, 4, 8)


class Attention(nn.Module):
    """Global self-attention over all positions, one head, no positional encoding."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.to_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Attend from every position to every position, (N, C, H, W) to the same shape."""
        batch, channels, height, width = x.shape
        qkv = self.to_qkv(self.norm(x)).reshape(batch, 3, channels, height * width)
        query, key, value = qkv.transpose(2, 3).unbind(1)
        # The scale is named so that a trace holds a constant instead of computing it from shapes.
        seen = F.scaled_dot_product_attention(query, key, value, scale=channels**-0.5)
        mixed: Tensor = self.to_out(seen.transpose(1, 2).reshape(batch, channels, height, width))
        return x + mixed


class ResidualBlock(nn.Module):
    """Two pre-activated convolutions, a learned scale per channel, a skip, then attention."""

    def __init__(self, inputs: int, outputs: int, *, attends: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, outputs, 1, 1))
        self.norm_1 = nn.GroupNorm(GROUPS, inputs)
        self.conv_1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm_2 = nn.GroupNorm(GROUPS, outputs)
        self.conv_2 = nn.Sequential(nn.Dropout(DROPOUT), nn.Conv2d(outputs, outputs, 3, padding=1))
        self.residual_connection = (
            nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        )
        self.attention = Attention(outputs) if attends else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        hidden = self.conv_1(F.relu(self.norm_1(x)))
        hidden = self.conv_2(F.relu(self.norm_2(hidden)))
        refined: Tensor = self.attention(self.scale * hidden + self.residual_connection(x))
        return refined


class Downsample(nn.Module):
    """Halve both sides by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.downsample = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H / 2, W / 2)."""
        halved: Tensor = self.downsample(x)
        return halved


class Upsample(nn.Module):
    """Double both sides by repetition, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.upsample = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 2 H, 2 W)."""
        doubled: Tensor = self.upsample(x)
        return doubled


class LRRNet(nn.Module):
    """The published network: 3,454,994 parameters, 267 tensors, the published key names.

    The structure follows the released code where it differs from the paper's figure: one residual
    and one scale per block (the figure shows two), no convolution between the U-Net and the
    subtraction. The only deviation: attention by `scaled_dot_product_attention`, the same
    numbers without the score matrix.

    Shape:
        (N, 1, H, W) float32 in 0..1, H and W multiples of 8 ->
        reconstruction (N, 1, H, W) of the whole input, target logits (N, 1, H, W).
    """

    def __init__(self) -> None:
        super().__init__()
        widths = [CHANNELS * multiple for multiple in MULTIPLES]
        self.init_conv = nn.Conv2d(1, CHANNELS, 3, padding=1)
        self.second_conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.downs, skips = _encoder(widths)
        self.mid = nn.ModuleList(
            [
                ResidualBlock(widths[-1], widths[-1], attends=True),
                ResidualBlock(widths[-1], widths[-1]),
            ]
        )
        self.ups = _decoder(widths, skips)
        self.out_resblock = ResidualBlock(CHANNELS, CHANNELS)
        self.out_norm = nn.GroupNorm(GROUPS, CHANNELS)
        self.out_conv = nn.Conv2d(CHANNELS, 1, 3, padding=1)
        self.out_norm1 = nn.GroupNorm(GROUPS, CHANNELS)
        self.out_conv1 = nn.Conv2d(CHANNELS, 1, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruct the frame and find what the background does not explain."""
        check_sides(x, stride=STRIDE)
        shallow = self.init_conv(x)
        background = self.reconstruct_background(shallow)
        residual = self.out_resblock(shallow - background)
        frame = self.out_conv1(F.relu(self.out_norm1(residual + background)))
        target = self.out_conv(F.relu(self.out_norm(residual)))
        return frame, target

    def reconstruct_background(self, shallow: Tensor) -> Tensor:
        """The U-Net: shallow features (N, 16, H, W) to background features of that shape."""
        x: Tensor = self.second_conv(shallow)
        skips = [x]
        for layer in self.downs:
            x = layer(x)
            skips.append(x)
        for layer in self.mid:
            x = layer(x)
        for layer in self.ups:
            x = layer(x if isinstance(layer, Upsample) else torch.cat([x, skips.pop()], dim=1))
        return x


def _encoder(widths: list[int]) -> tuple[nn.ModuleList, list[int]]:
    """Two blocks a level and a halving between levels; also the channels of every skip."""
    layers = nn.ModuleList()
    channels = widths[0]
    skips = [channels]
    for level, width in enumerate(widths):
        for _ in range(2):
            layers.append(ResidualBlock(channels, width))
            channels = width
            skips.append(channels)
        if level < len(widths) - 1:
            layers.append(Downsample(channels))
            skips.append(channels)
    return layers, skips


def _decoder(widths: list[int], skips: list[int]) -> nn.ModuleList:
    """Three blocks a level, each fed one skip, and a doubling between levels."""
    layers = nn.ModuleList()
    waiting = list(skips)
    channels = widths[-1]
    for level, width in reversed(list(enumerate(widths))):
        for _ in range(3):
            layers.append(ResidualBlock(channels + waiting.pop(), width))
            channels = width
        if level > 0:
            layers.append(Upsample(channels))
    return layers
