"""A network of boxes in the loop that every other network trains in."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from irstd.runtime.evaluation import LabelledFrame
from irstd.runtime.frame import ClipContract, FrameContract
from irstd.train.engine_torch import TorchEngine
from irstd.train.loop import Training
from irstd.train.models.tridos import FRAMES, Design, Tridos
from irstd.train.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPE = Recipe(crop=32, batch=2, learning_rate=1e-3)
CLIP = ClipContract(FRAMES, registration="none")
CONTRACT = FrameContract(32, 32, clip=CLIP, answer="boxes")


def small() -> Tridos:
    torch.manual_seed(0)
    return Tridos(Design(channels=16))


def batch() -> tuple[Tensor, Tensor]:
    """A spot that moves over noise, in two clips."""
    generator = torch.Generator().manual_seed(0)
    frames = 0.1 * torch.rand(2, FRAMES, 32, 32, generator=generator)
    masks = torch.zeros(2, 1, 32, 32)
    for time in range(FRAMES):
        frames[:, time, 12:15, 8 + time : 11 + time] = 1.0
    masks[:, :, 12:15, 12:15] = 1.0
    return frames, masks


def test_the_loss_falls_and_a_training_goes_on_where_it_was(fabric: Fabric) -> None:
    training = Training(fabric, small(), RECIPE, steps=30)
    losses = [training.advance(*batch()) for _ in range(3)]
    state = copy.deepcopy(training.state(losses, {}))  # as a file keeps it
    following = [training.advance(*batch()) for _ in range(2)]
    assert following[-1] < losses[0]
    again = Training(fabric, small(), RECIPE, steps=30)
    again.restore(state)
    assert [again.advance(*batch()) for _ in range(2)] == following


def test_it_is_validated_as_it_flies(fabric: Fabric) -> None:
    frames = np.random.default_rng(0).integers(0, 90, (FRAMES + 2, 32, 32), np.uint8)
    masks = np.zeros((32, 32), np.bool_)
    masks[5:8, 5:8] = True
    labelled = [
        LabelledFrame(str(number), frame, masks, begins=number == 0)
        for number, frame in enumerate(frames)
    ]
    training = Training(fabric, small(), RECIPE, steps=9)
    (scores,) = training.validate(small(), [labelled], CONTRACT)
    assert (scores.frames, scores.targets, scores.pd) == (3, 3, 0.0)
    assert math.isfinite(scores.iou)


def test_the_engine_gives_what_the_network_finds() -> None:
    network = small().eval()
    engine = TorchEngine(network, size=(32, 32), device=torch.device("cpu"), frames=FRAMES)
    clip = np.random.default_rng(0).random((1, FRAMES, 32, 32), np.float32)
    with torch.inference_mode():
        expected = network.find_boxes(torch.from_numpy(clip))[0].numpy()
    found = engine.run(clip)
    assert found.shape == (64, 5)
    np.testing.assert_array_equal(found, expected)
