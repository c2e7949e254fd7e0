"""Trainings to begin, to interrupt and to compare."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric

from irstd.train.checkpoint import read_weights
from irstd.train.loop import TrainingError
from irstd.train.recipe import Recipe
from irstd.train.session import Job, Progress, read_frames, train
from irstd.train.state import state_path

RECIPE = Recipe(
    epochs=4, batch=2, crop=16, learning_rate=0.05, averaging=0.5, validate_every=2, seed=1
)


def moved(job: Job, folder: str) -> Job:
    return replace(job, output=job.output.parents[1] / folder / job.output.name)


def begin(job: Job, fabric: Fabric, *, resume: bool = False) -> Iterator[Progress]:
    job.output.parent.mkdir(exist_ok=True)
    return train(job, read_frames(job), fabric, resume=resume)


def losses(steps: Iterator[Progress]) -> list[float]:
    return [progress.loss for progress in steps]


def interrupt(
    job: Job, fabric: Fabric, *, after: int, resume: bool = False, by: int = signal.SIGINT
) -> list[float]:
    """Train until a signal comes after a step; gives the losses until then."""
    found = []
    with pytest.raises(TrainingError, match=rf"^interrupted after step {after} of 8; .* --resume"):
        for progress in begin(job, fabric, resume=resume):
            found.append(progress.loss)
            if progress.step == after:
                os.kill(os.getpid(), by)
    return found


def table(job: Job) -> list[dict[str, str]]:
    """The rows of the log, less what the clock says."""
    with job.output.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{key: row[key] for key in row if key not in ("seconds", "waiting")} for row in rows]


def assert_same_outcome(job: Job, expected: Job) -> None:
    """Weights to the bit, notes and rows to the letter."""
    for ours, theirs in ((job.output, expected.output), (job.last, expected.last)):
        found, wanted = read_weights(ours), read_weights(theirs)
        assert found.notes == wanted.notes
        torch.testing.assert_close(dict(found.tensors), dict(wanted.tensors), rtol=0, atol=0)
    assert table(job) == table(expected)
    assert not state_path(job.output).exists()
