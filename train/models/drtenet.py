"""DRTENet: a conv-transformer U-Net led by the structure tensor's edges (IEEE TGRS 2025)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..solvers.borders import sides
from .lrrnet_edge import PRIOR, activate
from .sides import check_sides
from .structure_edges import TensorWeighting, edge_pyramid, map_edges

STRIDE = 16
WIDTH = 32
NARROWEST = 8
ROWS = 7  # that the query and the key of a row see
KERNELS = 2  # that a dynamic convolution mixes
REDUCTION = 4  # of the channels inside a channel attention; 16 would leave 4 of 64, some dead


def conv_block(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions, each with its normalisation and a ReLU."""
    return nn.Sequential(activate(inputs, outputs), activate(outputs, outputs))


class ConvTransformer(nn.Module):
    """Convolve values twice, plainly and dilated; let every row see every other; widen.

    The logits of row i for row j are slope * query_i * key_j, one slope for each channel.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.plain = nn.Sequential(*(activate(inputs, inputs) for _ in range(3)))
        self.dilated = nn.Sequential(
            *(activate(inputs, inputs, dilation=dilation) for dilation in (2, 4, 2))
        )
        self.query = nn.Conv2d(inputs, 1, (ROWS, 1), padding=(ROWS // 2, 0))
        self.key = nn.Conv2d(inputs, 1, (ROWS, 1), padding=(ROWS // 2, 0), bias=False)
        self.slope = nn.Parameter(torch.empty(inputs, 1, 1).uniform_(-1.0, 1.0))
        self.gamma = nn.Parameter(torch.zeros(1))
        self.widen = activate(inputs, outputs)
        self.shortcut = activate(inputs, outputs, side=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        values = self.plain(x) + self.dilated(x)
        seen = self.gamma * (self.attend(x) @ values) + values + x
        widened: Tensor = self.widen(seen) + self.shortcut(seen)
        return widened

    def attend(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the weight of row j for row i in each channel, (N, C, H, H)."""
        query = self.query(x).mean(dim=3, keepdim=True)
        key = self.key(x).mean(dim=3, keepdim=True)
        weights: Tensor = (self.slope * (query * key.transpose(2, 3))).softmax(dim=3)
        return weights


class DilatedBlock(nn.Module):
    """Convolutions of growing dilation beside a plain one, all of them merged."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.plain = activate(inputs, outputs)
        self.twofold = activate(outputs, outputs // 2, dilation=2)
        self.fourfold = activate(outputs // 2, outputs // 2, dilation=4)
        self.dilated = activate(outputs, outputs, dilation=2)
        self.merge = activate(2 * outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        plain = self.plain(x)
        twofold = self.twofold(plain)
        both = torch.cat([twofold, self.fourfold(twofold)], dim=1)
        merged: Tensor = self.merge(torch.cat([plain, self.dilated(both)], dim=1))
        return merged


class DynamicFeatures(nn.Module):
    """A depthwise convolution whose kernel is mixed for each frame (Chen et al., CVPR 2020).

    Each kernel convolves and is normalised by itself, and the results are mixed: the same up to
    the normalisations, which then fold, and no weight of the graph is computed.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kernels = nn.ModuleList(_depthwise(channels) for _ in range(KERNELS))
        self.choice = nn.Conv2d(channels, KERNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        weights = self.choice(x.mean(dim=(2, 3), keepdim=True)).softmax(dim=1).split(1, dim=1)
        parts = [weight * kernel(x) for weight, kernel in zip(weights, self.kernels, strict=True)]
        return F.relu(sum(parts[1:], start=parts[0]))


def _depthwise(channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels))


class ChannelAttention(nn.Module):
    """A weight in 0..1 for each channel, from the channels' means (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = channels // REDUCTION
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 1, 1)."""
        mean = x.mean(dim=(2, 3), keepdim=True)
        weight: Tensor = self.excite(F.relu(self.squeeze(mean))).sigmoid()
        return weight


class CrossLevelFusion(nn.Module):
    """Fuse encoder and decoder by what they share and what they add (DFOM).

    S = E + D, P = E * D, M = B1(S) * B2(P) * S; out = W [S * CA1(M) + P * CA2(P)].
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sum_features = DynamicFeatures(channels)
        self.product_features = DynamicFeatures(channels)
        self.mixed_attention = ChannelAttention(channels)
        self.product_attention = ChannelAttention(channels)
        self.widen = activate(channels, 2 * channels, side=1)

    def forward(self, encoded: Tensor, decoded: Tensor) -> Tensor:
        """Two maps (N, C, H, W) to (N, 2 C, H, W)."""
        # Neither is negative, so the ReLU changes no number. It stands between the product and its
        # means: what is multiplied for a mean stays in FP32, with all that reads nothing else.
        added, product = encoded + decoded, F.relu(encoded * decoded)
        mixed = self.sum_features(added) * self.product_features(product) * added
        fused = added * self.mixed_attention(mixed) + product * self.product_attention(product)
        widened: Tensor = self.widen(fused)
        return widened


class Enlarge(nn.Module):
    """Twice the resolution by bilinear interpolation, then a convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = activate(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, 2 H, 2 W)."""
        doubled = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        enlarged: Tensor = self.convolution(doubled)
        return enlarged


class DRTENet(nn.Module):
    """The published structure where it is disclosed, our own choices where it is not.

    From the paper and the released code (models/, its only working width, 32): stages, widths,
    dilations, the residual structure-tensor weighting, heads and deep supervision. Deviations, and
    why:

    - one input. The released code takes an edge map as a second one and does not say how it is
      made; here it is the root of the larger eigenvalue of the frame's structure tensor, stretched
      to 0..1, inside the graph (`map_edges`; its scales are ours). The difference of the
      eigenvalues, the other candidate, is 0 on a point target;
    - the pyramid of the edge map is a strided depthwise convolution in the graph; the released
      forward leaves the GPU for cv2.pyrDown on a NumPy copy (times 255, then divided by it);
    - query and key are means of the rows of a 7x1 convolution. The released code maps all H * W
      pixels to H numbers by a Linear, twice 65536 x 256 at the first stage: 34 million parameters
      that fix the input at 256x256. A Linear that averages rows is what is computed here. The
      biases that the softmax takes out again (of the key, of the slopes) are gone;
    - one channel in, and one of the edge map, where it repeats both three times: sums of weights;
    - DFOM is missing there and is rebuilt from the paper's figure. Undisclosed and ours: its
      "dynamic feature extraction" (two depthwise 3x3 kernels mixed for each frame), the reduction
      4 of its channel attention, normalisation and ReLU behind its last 1x1 convolution;
    - the residual block of the weighting is missing too: the one of ResNet (He et al., CVPR 2016);
    - layers that are declared and never used (6.3 million parameters) are gone, and so are
      biases in front of a batch normalisation;
    - heads follow the width; there they are wired for width 32, and the default 64 crashes. Their
      biases start at -4, because targets are rare;
    - the side outputs exist in training only. What the six outputs are held to is not published:
      here the loop's loss, averaged, where a sum would only scale it;
    - there is no reconstruction: the frame is handed on in its place, so that term is 0.

    Shape:
        (N, 1, H, W) float32 in 0..1, H and W multiples of 16 -> the frame itself, target logits
        (N, 1, H, W); in training (N, 6, H, W), the final ones first, then side outputs from the
        finest level to the deepest.
    """

    def __init__(self, width: int = WIDTH) -> None:
        """Start afresh.

        Args:
            width: channels at full resolution; twice as many at each of four levels below.

        Raises:
            ValueError: `width` is less than 8.
        """
        if width < NARROWEST:
            raise ValueError(f"width is {width}, expected {NARROWEST} or more, e.g. {WIDTH}")
        super().__init__()
        c1, c2, c3, c4, c5 = (width * 2**level for level in range(5))
        self.encode_1 = conv_block(1, c1)
        self.encode_2, self.weigh_2 = ConvTransformer(c1, c2), TensorWeighting(c2)
        self.encode_3, self.weigh_3 = ConvTransformer(c2, c3), TensorWeighting(c3)
        self.encode_4, self.weigh_4 = ConvTransformer(c3, c4), TensorWeighting(c4)
        self.bottleneck = DilatedBlock(c4, c5)
        self.up_5, self.fuse_5 = Enlarge(c5, c4), CrossLevelFusion(c4)
        self.decode_5 = DilatedBlock(c5, c4)
        self.up_4, self.fuse_4 = Enlarge(c4, c3), CrossLevelFusion(c3)
        self.decode_4 = conv_block(c4, c3)
        self.up_3, self.fuse_3 = Enlarge(c3, c2), CrossLevelFusion(c2)
        self.decode_3 = conv_block(c3, c2)
        self.up_2, self.decode_2 = Enlarge(c2, c1), conv_block(c2, c1)
        self.target = _head(c1, side=1)
        self.beside = nn.ModuleList(_head(channels, side=3) for channels in (c1, c2, c3, c4, c5))
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Hand the frame on and find its targets."""
        check_sides(x, stride=STRIDE)
        edges_1, edges_4, edges_8 = edge_pyramid(map_edges(x))
        e1 = self.encode_1(x)
        e2 = self.pool(self.weigh_2(self.encode_2(e1), edges_1))
        e3 = self.weigh_3(self.encode_3(self.pool(e2)), edges_4)
        e4 = self.weigh_4(self.encode_4(self.pool(e3)), edges_8)
        e5 = self.bottleneck(self.pool(e4))
        d5 = self.decode_5(self.fuse_5(e4, self.up_5(e5)))
        d4 = self.decode_4(self.fuse_4(e3, self.up_4(d5)))
        d3 = self.decode_3(self.fuse_3(e2, self.up_3(d4)))
        d2 = self.decode_2(torch.cat([e1, self.up_2(d3)], dim=1))
        logits: Tensor = self.target(d2)
        if not self.training:
            return x, logits
        return x, torch.cat([logits, *self._look_beside(d2, d3, d4, d5, e5)], dim=1)

    def _look_beside(self, *features: Tensor) -> list[Tensor]:
        """The logits of each level, brought to the size of the first."""
        size = sides(features[0])
        return [
            F.interpolate(head(level), size, mode="bilinear", align_corners=False)
            for head, level in zip(self.beside, features, strict=True)
        ]


def _head(channels: int, *, side: int) -> nn.Conv2d:
    head = nn.Conv2d(channels, 1, side, padding=side // 2)
    nn.init.constant_(cast(Tensor, head.bias), PRIOR)
    return head
