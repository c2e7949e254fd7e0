"""What the tests of the networks share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def unsettle() -> Callable[..., None]:
    """Bring a network into eval mode, every parameter and statistic away from its start.

    So none of them can get lost unseen, in an export or beside a reference.
    """

    @torch.no_grad()
    def change(network: nn.Module, *, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for tensor in (layer.running_mean, layer.bias):
                    tensor.normal_(0, 0.3, generator=generator)
                for tensor in (layer.running_var, layer.weight):
                    tensor.uniform_(0.5, 1.5, generator=generator)
            if isinstance(layer, nn.Conv2d):
                bound = (3 / layer.weight[0].numel()) ** 0.5
                layer.weight.uniform_(-bound, bound, generator=generator)
                if layer.bias is not None:
                    layer.bias.normal_(0, 0.3, generator=generator)
        network.eval()

    return change
