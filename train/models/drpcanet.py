"""DRPCA-Net: RPCANet whose steps depend on the frame (IEEE TGRS 2025, arXiv 2507.09541)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .rpcanet import CHANNELS, STAGES, Stage, initialise, plain_convs, unfold

BLOCKS = 5
SLOPE = 0.2
SQUEEZED = 2  # channels inside the channel attention
HIDDEN = 3  # channels inside the generator of a step's weight
SIDE = 3  # of the kernel that the spatial attention makes for each frame


class FrameMean(nn.Module):
    """The mean of each channel over the frame."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 1, 1)."""
        return x.mean(dim=(2, 3), keepdim=True)


class FrameWeight(nn.Module):
    """A weight in 0..1 for each frame, from the frame's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(
            FrameMean(), nn.Conv2d(1, HIDDEN, 1), nn.ReLU(), nn.Conv2d(HIDDEN, 1, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) to (N, 1, 1, 1)."""
        weight: Tensor = self.generator(x)
        return weight


class DynamicSparse(nn.Module):
    """The target step: T = P - epsilon(P) * SP(P) at P = gamma(T) T + (1 - gamma(T)) (D - B)."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = plain_convs()
        self.gamma_generator = FrameWeight()
        self.epsilon_generator = FrameWeight()

    def forward(self, frame: Tensor, background: Tensor, target: Tensor) -> Tensor:
        """Frame D, background B and target T to the next target, all (N, 1, H, W)."""
        gamma = self.gamma_generator(target)
        start = gamma * target + (1 - gamma) * (frame - background)
        sparse: Tensor = start - self.epsilon_generator(start) * self.convs(start)
        return sparse


class ChannelAttention(nn.Module):
    """Weigh each channel by its mean and its maximum over the frame."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Conv2d(CHANNELS, SQUEEZED, 1), nn.ReLU(), nn.Conv2d(SQUEEZED, CHANNELS, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        mean = x.mean(dim=(2, 3), keepdim=True)
        peak = x.amax(dim=(2, 3), keepdim=True)
        weight: Tensor = (self.fc(mean) + self.fc(peak)).sigmoid()
        return x * weight


class DynamicSpatialAttention(nn.Module):
    """Weigh each pixel by the mean of its channels, filtered with a kernel made for the frame."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel_generator = nn.Sequential(
            FrameMean(),
            nn.Conv2d(CHANNELS, CHANNELS, 1),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, SIDE * SIDE, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        filtered = filter_each(x.mean(dim=1, keepdim=True), self.kernel_generator(x))
        return x * filtered.sigmoid()


def filter_each(maps: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each map with its own 3x3 kernel, zeros around it.

    Shifted maps times scalars: TensorRT dislikes a convolution whose weights are computed.

    Args:
        maps: (N, 1, H, W).
        kernels: (N, 9, 1, 1), row by row.

    Returns:
        (N, 1, H, W).
    """
    height, width = maps.shape[-2:]
    wide = _pad(maps)
    shifted = [
        wide[..., row : row + height, column : column + width]
        for row in range(SIDE)
        for column in range(SIDE)
    ]
    return (torch.cat(shifted, dim=1) * kernels).sum(dim=1, keepdim=True)


def _pad(maps: Tensor) -> Tensor:
    """One zero around each map. The pads of F.pad are computed in the graph that a trace makes."""
    column = torch.zeros_like(maps[..., :1])
    wide = torch.cat([column, maps, column], dim=3)
    row = torch.zeros_like(wide[..., :1, :])
    return torch.cat([row, wide, row], dim=2)


class AttentiveBlock(nn.Module):
    """Two convolutions, channel attention, spatial attention, then the skip (RCSAB)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            nn.BatchNorm2d(CHANNELS),
            _leaky_relu(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            nn.BatchNorm2d(CHANNELS),
            ChannelAttention(),
            DynamicSpatialAttention(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        refined: Tensor = x + self.body(x)
        return refined


class ResidualGroup(nn.Module):
    """Attentive blocks and a convolution under one more skip."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [AttentiveBlock() for _ in range(BLOCKS)]
        self.body = nn.Sequential(*blocks, nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        refined: Tensor = x + self.body(x)
        return refined


class DynamicMerge(nn.Module):
    """The reconstruction step: D = MG(B + T), with MG a residual group between 1x1 convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping = nn.Sequential(
            nn.Conv2d(1, CHANNELS, 1),
            nn.BatchNorm2d(CHANNELS),
            _leaky_relu(),
            ResidualGroup(),
            nn.Conv2d(CHANNELS, 1, 1),
        )

    def forward(self, background: Tensor, target: Tensor) -> Tensor:
        """Background B and target T to the frame that the next stage sees, all (N, 1, H, W)."""
        frame: Tensor = self.mapping(background + target)
        return frame


def _leaky_relu() -> nn.Module:
    # In place: at full resolution the activations are what fills the memory.
    return nn.LeakyReLU(SLOPE, inplace=True)


class DRPCANet(nn.Module):
    """The published network: 1,168,980 parameters, 1,050 tensors, the published key names.

    The structure and the start of the weights follow the released code (GrokCV/DRPCA-Net,
    models/DRPCANet.py at its defaults). Deviations from it:

    - both D and T are returned at any time, where its constructor chooses; `trace` drops what
      only makes D;
    - the kernel of the spatial attention is applied by `filter_each` to all frames at once, where
      it loops over the batch with one convolution each: the same numbers up to rounding;
    - pooling over the frame by means and maxima instead of adaptive pooling: the same numbers.

    Shape:
        (N, 1, H, W) float32 in 0..1, any H and W ->
        reconstruction D (N, 1, H, W) of the whole input, target logits T (N, 1, H, W).
    """

    def __init__(self) -> None:
        super().__init__()
        self.decos = nn.ModuleList(Stage(DynamicSparse(), DynamicMerge()) for _ in range(STAGES))
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Split the frame into background and target, stage after stage."""
        return unfold(self.decos, x)
