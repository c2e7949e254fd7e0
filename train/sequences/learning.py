"""Learning without labels: the steps of `lowrank3d` from generated clips and the loss of the fit.

This is no `Session`: that learns from masks, chooses by the IoU of validation lists, and keeps what
a run of hours must not lose. Here there are no masks, what chooses is the loss itself on clips
kept apart, and a training takes minutes.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...runtime.files import write_whole
from ...runtime.frame import ClipContract, FrameContract
from ..checkpoint import Weights, save_weights
from ..clip_data import part_backgrounds
from ..clips import GeneratedClips
from ..loop import GRADIENT_NORM, TrainingError
from ..recipe import Recipe
from .lowrank3d import LowRank3d, measure_loss

VALIDATION_CLIPS = 12
VALIDATION_SEED = 1_000_000  # added to the training's
LEAST_RATE = 0.05  # of the cosine schedule, over its peak
WARM_UP = 0.1  # part of the steps
SCALARS = 20.0  # rate of step sizes and weights, which are few and logarithms, over the others'


@dataclass(frozen=True, slots=True)
class LearningOptions:
    """What decides a training without labels, beside the backgrounds.

    Attributes:
        steps: of Adam.
        batch: clips a step.
        crop: side of a clip's frames, pixels.
        learning_rate: peak of the cosine schedule, of the convolutions.
        validate_every: steps from one validation to the next.
        seed: of the weights and the clips.
    """

    steps: int = 400
    batch: int = 2
    crop: int = 64
    learning_rate: float = 1e-3
    validate_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if self.crop < 32:
            raise ValueError(f"crop is {self.crop}, expected 32 pixels or more")
        if not 0.0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}, expected more than 0")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, expected 0 or more")


@dataclass(frozen=True, slots=True)
class Learned:
    """Where a training stands after a step.

    Attributes:
        step: done, 0 before the first.
        loss: of this step; not a number before the first.
        validation: loss on the clips kept apart; None where it was not measured.
    """

    step: int
    loss: float
    validation: float | None


class Learning:
    """A training without labels, a step at a time.

    Attributes:
        network: that learns; the best weights so far are in `output`.
        best: lowest loss on the clips kept apart.
    """

    def __init__(
        self,
        backgrounds: Sequence[Path],
        clip: ClipContract,
        options: LearningOptions,
        output: Path,
        *,
        device: str = "cpu",
    ) -> None:
        """Read the backgrounds, and begin.

        Args:
            backgrounds: folders of target-free frames; a quarter is for validation alone.
            clip: what the network takes.
            options: what decides the outcome.
            output: where the best weights go.
            device: cpu or cuda.

        Raises:
            FileNotFoundError: a folder is missing.
            ValueError: one holds no image.
        """
        seen, kept = part_backgrounds(backgrounds, FrameContract(options.crop, options.crop))
        torch.manual_seed(options.seed)
        self.network = LowRank3d().to(device)
        self.best = math.inf
        self._options, self._output, self._device = options, output, device
        recipe = Recipe(crop=options.crop, seed=options.seed)
        self._source = GeneratedClips(seen, clip, recipe)
        apart = replace(recipe, seed=options.seed + VALIDATION_SEED)
        self._validation = _draw(GeneratedClips(kept, clip, apart), 0, VALIDATION_CLIPS).to(device)
        parameters = list(self.network.parameters())
        self._groups = {
            1.0: [one for one in parameters if one.ndim == 4],
            SCALARS: [one for one in parameters if one.ndim != 4],
        }
        self._optimiser = torch.optim.Adam([{"params": group} for group in self._groups.values()])
        self._rows: list[Learned] = []

    def steps(self) -> Iterator[Learned]:
        """Learn; the loss before the first step comes first.

        Raises:
            TrainingError: the loss is not finite.
        """
        yield self._end_step(0, math.nan, self._validate())
        options = self._options
        for step in range(1, options.steps + 1):
            loss = self._advance(step)
            is_due = step % options.validate_every == 0 or step == options.steps
            yield self._end_step(step, loss, self._validate() if is_due else None)

    def _advance(self, step: int) -> float:
        options = self._options
        rate = options.learning_rate * _schedule(step / options.steps)
        for group, factor in zip(self._optimiser.param_groups, self._groups, strict=True):
            group["lr"] = factor * rate
        clips = _draw(self._source, (step - 1) * options.batch, options.batch).to(self._device)
        loss = measure_loss(clips, self.network.find_background(clips)).whole
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} in step {step} of {options.steps}; the weights of the steps "
                "before are kept; lower --learning-rate"
            )
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        self._optimiser.step()
        return value

    @torch.no_grad()
    def _validate(self) -> float:
        losses = [
            measure_loss(clip[None], self.network.find_background(clip[None])).whole
            for clip in self._validation
        ]
        return float(torch.stack(losses).mean())

    def _end_step(self, step: int, loss: float, validation: float | None) -> Learned:
        self._rows.append(Learned(step, loss, validation))
        if validation is not None:
            write_whole(self._output.with_suffix(".csv"), self._table().encode())
            if validation < self.best:
                self.best = validation
                notes = self._notes(step, validation)
                save_weights(self._output, Weights(self.network.state_dict(), notes))
        return self._rows[-1]

    def _notes(self, step: int, validation: float) -> dict[str, str]:
        options = self._options
        return {
            "model": "lowrank3d",
            "normalisation": "stretch",
            "trained_on": "generated clips over target-free backgrounds, without masks",
            "chosen_on": "generated clips over other backgrounds, by the loss",
            "step": f"{step} of {options.steps}",
            "validation_loss": f"{validation:.6f}",
            "validation_loss_before": f"{self._rows[0].validation:.6f}",
            "training.batch": str(options.batch),
            "training.crop": str(options.crop),
            "training.learning_rate": str(options.learning_rate),
            "training.seed": str(options.seed),
        }

    def _table(self) -> str:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(("step", "loss", "validation"))
        for row in self._rows:
            measured = "" if row.validation is None else f"{row.validation:.6f}"
            table.writerow((row.step, "" if row.step == 0 else f"{row.loss:.6f}", measured))
        return text.getvalue()


def _draw(source: GeneratedClips, first: int, count: int) -> Tensor:
    """Clips `first` to `first + count` - 1, (count, T, crop, crop)."""
    return torch.stack(
        [torch.from_numpy(source.draw(first + place).frames) for place in range(count)]
    )


def _schedule(done: float) -> float:
    """Up to 1, then along a cosine to `LEAST_RATE`."""
    if done < WARM_UP:
        return done / WARM_UP
    down = (done - WARM_UP) / (1.0 - WARM_UP)
    return LEAST_RATE + (1.0 - LEAST_RATE) * 0.5 * (1.0 + math.cos(math.pi * down))
