"""The training loop: crops in, the weights that do best on validation frames out."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel

from ..runtime.scoring import Scorer, Scores
from .checkpoint import Weights, save_weights
from .data import CropSampler, TrainingFrame
from .losses import balanced_bce, reconstruction_error, soft_iou

WARM_UP = 0.0999  # part of the steps; torch divides by zero where 0.1 of them is exactly one


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the outcome of a training.

    Attributes:
        epochs: passes over as many crops as there are training frames.
        batch: crops a step.
        crop: side of the square crops, network pixels.
        target_share: probability that a crop must hold a target.
        learning_rate: peak of the one-cycle schedule (Smith and Topin, 2018) of Adam.
        start_share: part of the steps over which the cross-entropy start fades to nothing.
        target_weight: weight of a target pixel in that cross-entropy.
        reconstruction_weight: weight of LRRNet's reconstruction term.
        averaging: decay a step of the exponential average of the weights that is validated.
        validate_every: epochs between validations; the last epoch is always validated.
        seed: of the crops and of the initial weights.
    """

    epochs: int
    batch: int = 8
    crop: int = 128
    target_share: float = 0.75
    learning_rate: float = 1e-3
    start_share: float = 0.3
    target_weight: float = 10.0
    reconstruction_weight: float = 0.1
    averaging: float = 0.998
    validate_every: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "crop", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")
        for name in ("target_share", "start_share", "averaging"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        if not self.learning_rate > 0.0:
            raise ValueError(f"learning_rate is {self.learning_rate}, expected more than 0")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands after a step; `validation` is filled where one took place.

    Attributes:
        step: steps done.
        steps: steps in all.
        loss: of this step.
        validation: one entry a dataset.
    """

    step: int
    steps: int
    loss: float
    validation: tuple[Scores, ...] = ()


def train(
    network: nn.Module,
    recipe: Recipe,
    *,
    training: Sequence[Sequence[TrainingFrame]],
    validation: Sequence[Sequence[TrainingFrame]],
    keep: Callable[[Weights], None],
) -> Iterator[Progress]:
    """Train a network, one step at a time as the caller iterates.

    Args:
        network: maps frames (N, 1, H, W) to (reconstruction, target logits); trained in place.
        recipe: what decides the outcome.
        training: prepared frames, one list a dataset.
        validation: likewise; the mean IoU over these lists chooses the weights.
        keep: receives the averaged weights whenever they are the best so far.

    Yields:
        Progress after each step.

    Raises:
        ValueError: there are no validation frames, or a training list is empty.
    """
    if not all(validation) or not validation:
        raise ValueError("no validation frames; the weights are chosen by them, pass some")
    sampler = CropSampler(training, recipe.crop, recipe.target_share)
    epoch = steps_per_epoch(training, recipe)
    steps = epoch * recipe.epochs
    optimiser = Adam(network.parameters(), lr=recipe.learning_rate)
    schedule = OneCycleLR(optimiser, recipe.learning_rate, total_steps=steps, pct_start=WARM_UP)
    averaged = AveragedModel(network, avg_fn=_moving_average(recipe.averaging))
    batches = sampler.batches(
        size=recipe.batch, count=steps, rng=np.random.default_rng(recipe.seed)
    )
    best = -1.0
    for step, (frames, masks) in enumerate(batches, start=1):
        fading = max(0.0, 1.0 - step / max(1.0, recipe.start_share * steps))
        loss = _step(network, optimiser, frames, masks, recipe=recipe, start=fading)
        schedule.step()
        averaged.update_parameters(network)
        scores: tuple[Scores, ...] = ()
        if step % (epoch * recipe.validate_every) == 0 or step == steps:
            scores = tuple(validate(averaged, frames) for frames in validation)
            if (fitness := _fitness(scores)) > best:
                best = fitness
                keep(Weights(_snapshot(averaged.module), _notes(recipe, step, scores)))
        yield Progress(step, steps, loss, scores)


def _moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """The rule of an exponential average: (average, newest, steps so far) to the next average."""
    return lambda average, newest, _: torch.lerp(average, newest, 1 - decay)


def _fitness(scores: Sequence[Scores]) -> float:
    """Mean IoU of the sets that define one; 0 where nothing is true and nothing predicted."""
    defined = [score.iou for score in scores if not math.isnan(score.iou)]
    return float(np.mean(defined)) if defined else 0.0


def _snapshot(network: nn.Module) -> dict[str, Tensor]:
    """The state dict as it is now; torch's own goes on changing with the network."""
    return {key: tensor.clone() for key, tensor in network.state_dict().items()}


def steps_per_epoch(training: Sequence[Sequence[TrainingFrame]], recipe: Recipe) -> int:
    """Steps that draw as many crops as there are frames in all datasets together."""
    return -(-sum(map(len, training)) // recipe.batch)


def _step(
    network: nn.Module,
    optimiser: Adam,
    frames: Tensor,
    masks: Tensor,
    *,
    recipe: Recipe,
    start: float,
) -> float:
    network.train()
    reconstruction, logits = network(frames)
    loss = soft_iou(logits, masks)
    loss = loss + recipe.reconstruction_weight * reconstruction_error(reconstruction, frames)
    if start > 0:
        loss = loss + start * balanced_bce(logits, masks, target_weight=recipe.target_weight)
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    # A single hard crop must not throw away what thousands have taught.
    nn.utils.clip_grad_norm_(network.parameters(), max_norm=1.0)
    optimiser.step()
    return float(loss.detach())


@torch.inference_mode()
def validate(network: nn.Module, frames: Sequence[TrainingFrame]) -> Scores:
    """Score a network on whole prepared frames at the network's resolution, logit > 0."""
    network.eval()
    scorer = Scorer()
    for labelled in frames:
        _, logits = network(torch.from_numpy(labelled.frame)[None, None])
        scorer.add(logits[0, 0].numpy() > 0, labelled.mask > 0.5)
    return scorer.result()


def _notes(recipe: Recipe, step: int, scores: Sequence[Scores]) -> dict[str, str]:
    notes = {f"recipe.{name}": str(value) for name, value in asdict(recipe).items()}
    notes["step"] = str(step)
    notes["validation.iou"] = ", ".join(f"{score.iou:.4f}" for score in scores)
    return notes


class TrainingLog:
    """A CSV file beside the weights with one row a validation and dataset."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file)
        self._rows.writerow(["step", "loss", "dataset", "iou", "niou", "pd", "fa_per_mpix"])

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, progress: Progress, datasets: Sequence[str]) -> None:
        """Add the validation of a step, one row a dataset, and flush it."""
        for name, scores in zip(datasets, progress.validation, strict=True):
            figures = (scores.iou, scores.niou, scores.pd, scores.fa_per_mpix)
            row = [progress.step, f"{progress.loss:.4f}", name, *(f"{x:.4f}" for x in figures)]
            self._rows.writerow(row)
        self._file.flush()


def save_with(path: Path, notes: dict[str, str]) -> Callable[[Weights], None]:
    """A `keep` that writes to `path`, adding notes on the model and its frame contract."""

    def keep(weights: Weights) -> None:
        save_weights(path, Weights(weights.tensors, {**notes, **weights.notes}))

    return keep
