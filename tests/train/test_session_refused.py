from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from irstd.tests.train.session_jobs import (
    RECIPE,
    assert_same_outcome,
    begin,
    interrupt,
    losses,
    moved,
    table,
)
from irstd.train.checkpoint import Weights, read_weights, save_weights
from irstd.train.loop import TrainingError
from irstd.train.session import Job, read_frames
from irstd.train.state import read_state, state_path
from irstd.train.zoo import Model


@pytest.fixture
def elsewhere(job: Job) -> Job:
    """The same job with another output."""
    return moved(job, "uninterrupted")


class Diverging(nn.Module):
    """Says nan from a training pass on; before that it is the network that it holds."""

    def __init__(self, network: nn.Module, *, passes: int) -> None:
        super().__init__()
        self.body, self.head = network.body, network.head
        self.left = passes

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.left -= self.training
        reconstruction, logits = self.head(self.body(x)).split(1, dim=1)
        return reconstruction, logits * math.nan if self.left < 0 else logits


def diverging(build: Callable[[], nn.Module], passes: int) -> Callable[[], nn.Module]:
    return lambda: Diverging(build(), passes=passes)


def test_a_loss_that_is_not_finite_keeps_what_was_good(
    job: Job, elsewhere: Job, fabric: Fabric, tiny: Model
) -> None:
    expected = losses(begin(elsewhere, fabric))
    bad = replace(job, model=replace(tiny, build=diverging(tiny.build, 5)))
    found = []
    with pytest.raises(TrainingError, match="the loss is nan in step 6 of 8"):
        for progress in begin(bad, fabric):
            found.append(progress.loss)
    assert found == expected[:5]
    for path in (job.output, job.last):
        weights = read_weights(path)
        assert weights.notes["step"] == "4 of 8"
        assert all(torch.isfinite(tensor).all() for tensor in weights.tensors.values())
    assert read_state(state_path(job.output), job.origin).step == 4
    assert losses(begin(job, fabric, resume=True)) == expected[4:]
    assert_same_outcome(job, elsewhere)


def test_an_unfinished_training_is_not_overwritten(job: Job, fabric: Fabric) -> None:
    interrupt(job, fabric, after=3)
    state, rows = state_path(job.output).read_bytes(), table(job)
    with pytest.raises(ValueError, match="best.safetensors.unfinished is an unfinished training; "):
        next(begin(job, fabric))
    assert state_path(job.output).read_bytes() == state
    assert table(job) == rows


def test_nothing_to_resume(job: Job, fabric: Fabric) -> None:
    with pytest.raises(FileNotFoundError, match="there is no unfinished training .*; leave --res"):
        next(begin(job, fabric, resume=True))
    assert not list(job.output.parent.iterdir())


def test_resuming_something_else(job: Job, fabric: Fabric) -> None:
    interrupt(job, fabric, after=3)
    state, rows = state_path(job.output).read_bytes(), table(job)
    other = replace(job, recipe=replace(RECIPE, seed=2, batch=4))
    with pytest.raises(ValueError, match="batch 2 then, 4 now; seed 1 then, 2 now; resume with"):
        next(begin(other, fabric, resume=True))
    assert state_path(job.output).read_bytes() == state
    assert table(job) == rows


def test_a_batch_that_processes_cannot_share(job: Job) -> None:
    two = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    odd = replace(job, recipe=replace(RECIPE, batch=3))
    with pytest.raises(ValueError, match="^batch is 3, expected a multiple of the 2 processes"):
        next(begin(odd, two))


def test_initial_weights_of_another_network(job: Job, fabric: Fabric) -> None:
    initial = job.output.parents[1] / "initial.safetensors"
    save_weights(initial, Weights(nn.Linear(2, 2).state_dict()))
    with pytest.raises(ValueError, match=r"^initial\.safetensors does not fit Tiny: "):
        next(begin(replace(job, initial=initial), fabric))
    with pytest.raises(FileNotFoundError):
        next(begin(replace(job, initial=initial.with_name("none.safetensors")), fabric))
    assert not list(job.output.parent.iterdir())


def test_backgrounds_that_are_none(job: Job, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        read_frames(replace(job, backgrounds=(tmp_path / "empty",)))
    with pytest.raises(FileNotFoundError, match="none is no folder; pass a folder of target-free"):
        read_frames(replace(job, backgrounds=(tmp_path / "none",)))
