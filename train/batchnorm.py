"""Batch normalisation whose statistics span all processes, on GPUs and on CPUs alike."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from .processes import count_processes, total

MOMENTUM = 0.1  # of the running statistics; torch's default, which every model of the zoo has


class SharedBatchNorm2d(nn.BatchNorm2d):
    """`BatchNorm2d` over the batches of all processes, which hold equally many images.

    torch's own SyncBatchNorm computes on GPUs only. Here the first two moments are summed over the
    processes, gradients included, so that several processes learn what one would.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        if not self.training or count_processes() == 1:
            return super().forward(x)
        mean, variance = self._moments(x)
        scale = self.weight / torch.sqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return (x * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel; also moves the running statistics."""
        count = x.numel() // x.shape[1] * count_processes()
        # The distance from a value near the mean keeps the digits that x**2 would lose.
        near = cast(Tensor, self.running_mean).clone()
        centred = x.float() - near[:, None, None]
        sums = torch.stack([centred.sum(dim=(0, 2, 3)), centred.square().sum(dim=(0, 2, 3))])
        first, second = total(sums) / count
        variance = (second - first.square()).clamp(min=0.0)
        self._remember(near + first.detach(), variance.detach() * (count / max(count - 1, 1)))
        return near + first, variance

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        cast(Tensor, self.running_mean).lerp_(mean, MOMENTUM)
        cast(Tensor, self.running_var).lerp_(variance, MOMENTUM)
        cast(Tensor, self.num_batches_tracked).add_(1)


def share_statistics(network: nn.Module) -> nn.Module:
    """Replace every `BatchNorm2d` in place by one that counts all processes; same parameters."""
    for name, child in network.named_children():
        if type(child) is nn.BatchNorm2d:
            setattr(network, name, _shared(child))
        else:
            share_statistics(child)
    return network


def _shared(norm: nn.BatchNorm2d) -> SharedBatchNorm2d:
    if norm.momentum != MOMENTUM or not (norm.affine and norm.track_running_stats):
        raise ValueError(
            f"cannot share the statistics of {norm}; expected momentum {MOMENTUM}, affine, and "
            "running statistics"
        )
    shared = SharedBatchNorm2d(norm.num_features, eps=norm.eps)
    shared.load_state_dict(norm.state_dict())
    return shared
