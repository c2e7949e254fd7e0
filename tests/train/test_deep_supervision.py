"""Networks that give several maps of logits in training: each is held to the mask."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from irstd.train.loop import Training
from irstd.train.models.drtenet import DRTENet
from irstd.train.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")


class Levels(nn.Module):
    """Says the same about every pixel, one logit a map."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.logits.expand(len(x), -1, *x.shape[2:])


def loss(fabric: Fabric, *logits: float) -> float:
    masks = torch.zeros(2, 1, 8, 8)
    masks[:, :, 2:4, 3:6] = 1.0
    recipe = Recipe(batch=2, crop=16, batch_share=0.5)
    return Training(fabric, Levels(*logits), recipe, steps=20).advance(
        torch.rand(2, 1, 8, 8), masks
    )


def test_the_loss_is_the_mean_of_the_maps(fabric: Fabric) -> None:
    alone = [loss(fabric, logit) for logit in (-3.0, 0.0, 2.0)]
    assert len({round(one, 3) for one in alone}) == 3
    assert loss(fabric, -3.0, 0.0, 2.0) == pytest.approx(sum(alone) / 3, rel=1e-6)


def test_every_map_is_pulled_on(fabric: Fabric) -> None:
    network = Levels(-1.0, -1.0)
    masks = torch.ones(1, 1, 8, 8)
    training = Training(fabric, network, Recipe(batch=1, crop=16), steps=20)
    training.advance(torch.rand(1, 1, 8, 8), masks)
    first, second = network.logits.flatten().tolist()
    assert first == pytest.approx(second)
    assert first > -1.0


def test_drtenet_learns_fast(fabric: Fabric) -> None:
    torch.manual_seed(0)
    frames = 0.2 * torch.rand(4, 1, 32, 32)
    masks = torch.zeros_like(frames)
    for place in range(4):
        masks[place, 0, 6 + 5 * place : 9 + 5 * place, 12:15] = 1.0
    recipe = Recipe(batch=4, crop=32, learning_rate=5e-3, start_share=0.0)
    training = Training(fabric, DRTENet(8), recipe, steps=20)
    losses = [training.advance(frames + 0.6 * masks, masks) for _ in range(20)]
    assert losses[-1] < 0.75 * losses[0]
