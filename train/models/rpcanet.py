"""RPCANet: robust PCA unfolded into stages of small networks (WACV 2024, arXiv 2311.00917)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STAGES = 6
CHANNELS = 32
LOW_RANK_LAYERS = 3
SPARSE_LAYERS = 6
EPSILON = 0.01


def normalised_convs() -> nn.Sequential:
    """A map to a map: convolutions, each but the last normalised and rectified."""
    layers = _normalised_conv(1)
    for _ in range(LOW_RANK_LAYERS):
        layers += _normalised_conv(CHANNELS)
    return nn.Sequential(*layers, nn.Conv2d(CHANNELS, 1, 3, padding=1))


def plain_convs() -> nn.Sequential:
    """A map to a map: convolutions, each but the last rectified, none normalised."""
    layers: list[nn.Module] = [nn.Conv2d(1, CHANNELS, 3, padding=1), _relu()]
    for _ in range(SPARSE_LAYERS):
        layers += [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), _relu()]
    return nn.Sequential(*layers, nn.Conv2d(CHANNELS, 1, 3, padding=1))


def _normalised_conv(inputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS), _relu()]


def _relu() -> nn.Module:
    # In place: at full resolution the activations are what fills the memory.
    return nn.ReLU(inplace=True)


class LowRank(nn.Module):
    """The background step: B = (D - T) + LR(D - T)."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = normalised_convs()

    def forward(self, frame: Tensor, target: Tensor) -> Tensor:
        """Frame D and target T to background B, all (N, 1, H, W)."""
        rest = frame - target
        background: Tensor = rest + self.convs(rest)
        return background


class Sparse(nn.Module):
    """The target step: T = P - epsilon * SP(P) at P = T + D - B."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = plain_convs()
        self.epsilon = nn.Parameter(torch.full((1,), EPSILON))

    def forward(self, frame: Tensor, background: Tensor, target: Tensor) -> Tensor:
        """Frame D, background B and target T to the next target, all (N, 1, H, W)."""
        start = target + frame - background
        sparse: Tensor = start - self.epsilon * self.convs(start)
        return sparse


class Merge(nn.Module):
    """The reconstruction step: D = MG(B + T)."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping = normalised_convs()

    def forward(self, background: Tensor, target: Tensor) -> Tensor:
        """Background B and target T to the frame that the next stage sees, all (N, 1, H, W)."""
        frame: Tensor = self.mapping(background + target)
        return frame


class Stage(nn.Module):
    """One iteration of the solver: background, then target, then the frame they make."""

    def __init__(self, sparse: nn.Module, merge: nn.Module) -> None:
        super().__init__()
        self.lowrank = LowRank()
        self.sparse = sparse
        self.merge = merge

    def forward(self, frame: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Frame D and target T to the next D and T, all (N, 1, H, W)."""
        background = self.lowrank(frame, target)
        target = self.sparse(frame, background, target)
        return self.merge(background, target), target


def unfold(stages: nn.ModuleList, frame: Tensor) -> tuple[Tensor, Tensor]:
    """Run the stages from T = 0 and D = the frame, (N, 1, H, W), to the last D and T."""
    # One zero stands for a map of zeros: a traced graph keeps no constant of the frame's size.
    target = frame.new_zeros(1, 1, 1, 1)
    for stage in stages:
        frame, target = stage(frame, target)
    return frame, target


def initialise(network: nn.Module) -> None:
    """Start the weights of every convolution as published; biases keep torch's start."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_normal_(layer.weight)


class RPCANet(nn.Module):
    """The published network: 679,896 parameters, 462 tensors, the published key names.

    The structure and the start of the weights follow the released code (fengyiwu98/RPCANet, class
    RPCANet9 at its defaults). Deviation from it: both D and T are returned at any time, where its
    constructor chooses; `trace` drops what only makes D.

    Shape:
        (N, 1, H, W) float32 in 0..1, any H and W ->
        reconstruction D (N, 1, H, W) of the whole input, target logits T (N, 1, H, W).
    """

    def __init__(self) -> None:
        super().__init__()
        self.decos = nn.ModuleList(Stage(Sparse(), Merge()) for _ in range(STAGES))
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Split the frame into background and target, stage after stage."""
        return unfold(self.decos, x)
