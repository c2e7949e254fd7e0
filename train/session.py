"""A training from start to end: data in, logs, best and last weights out, resumable at any time."""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from ..runtime.evaluation import LabelledFrame
from ..runtime.frame import FrameContract
from ..runtime.scoring import Scores
from .checkpoint import Weights, load_into, read_weights, save_weights
from .clip_data import SCENE_DEPTHS, SCENES, read_clips
from .data import (
    Batch,
    CropSet,
    Examples,
    Share,
    as_training_frames,
    batches,
    read_empty,
    read_split,
)
from .fake_quantize import kept_ranges, observe_ranges, round_convolutions, without_ranges
from .logs import SCORES, Row, TrainingLog
from .loop import Training, TrainingError, average, fitness
from .recipe import Recipe
from .state import describe_origin, read_state, save_state, state_path
from .zoo import Model

RANGE_FRAMES = 32  # of each dataset that tell the ranges of INT8; an export takes as many


@dataclass(frozen=True, slots=True)
class Job:
    """What to train and where everything lies.

    Attributes:
        model: of the zoo.
        recipe: what decides the outcome beside the data.
        data: datasets with the lists "train" and "val"; of sequences for a network of clips.
        backgrounds: folders of target-free frames; a network of clips learns from scenes that are
            generated over them.
        initial: weights to start from; None starts from fresh ones.
        output: where the best weights go.
        workers: processes that draw crops ahead; 0 draws in the training's own.
        is_int8: whether convolutions compute as an INT8 graph will (quantisation-aware).
    """

    model: Model
    recipe: Recipe
    data: tuple[Path, ...]
    backgrounds: tuple[Path, ...]
    initial: Path | None
    output: Path
    workers: int
    is_int8: bool = False

    def __post_init__(self) -> None:
        if not (self.data or self.is_generated):
            raise ValueError(_nothing_to_learn(self.model))
        if self.is_int8 and self.initial is None:
            raise ValueError(
                f"quantisation-aware training fine-tunes trained weights, and none of "
                f"{self.model.name} come with the SDK; pass --initial WEIGHTS"
            )
        if self.recipe.crop % self.model.stride:
            raise ValueError(
                f"crop is {self.recipe.crop}, {self.model.name} needs a multiple of "
                f"{self.model.stride}"
            )
        if any(side % self.model.stride for side in self.model.size):
            height, width = self.model.size
            raise ValueError(
                f"size is {height}x{width}, {self.model.name} needs multiples of "
                f"{self.model.stride}"
            )
        if len(set(self.names)) < len(self.names):
            raise ValueError(
                f"two datasets have the same name among {', '.join(self.names)}; logs could not "
                "tell them apart; rename a folder"
            )

    @property
    def is_generated(self) -> bool:
        """Whether scenes are generated to learn from."""
        return self.model.clip is not None and bool(self.backgrounds)

    @property
    def names(self) -> list[str]:
        """What is validated on: generated scenes, and datasets by their folders."""
        scenes = [f"{SCENES}-{depth}bit" for depth in SCENE_DEPTHS] if self.is_generated else []
        return [*scenes, *(root.resolve().name for root in self.data)]

    @property
    def contract(self) -> FrameContract:
        """What the network takes."""
        model = self.model
        return FrameContract(*model.size, clip=model.clip, answer=model.answer)

    @property
    def last(self) -> Path:
        """Where the weights of the last validation go."""
        return self.output.with_name(f"{self.output.stem}-last{self.output.suffix}")

    @property
    def origin(self) -> dict[str, str]:
        """What decides the outcome, as text by name."""
        return describe_origin(
            self.recipe,
            model=self.model.name,
            size="x".join(map(str, self.model.size)),
            data=", ".join(root.resolve().name for root in self.data),
            backgrounds=", ".join(folder.resolve().name for folder in self.backgrounds),
            initial="fresh" if self.initial is None else self.initial.name,
            **({"qat": "int8"} if self.is_int8 else {}),
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands after a step.

    Attributes:
        step: steps done.
        steps: steps in all.
        loss: of this step.
        row: what was written to the log, after the last step of an epoch.
    """

    step: int
    steps: int
    loss: float
    row: Row | None = None


@dataclass(frozen=True, slots=True)
class Frames:
    """The frames of a job, read.

    Attributes:
        crops: to learn from.
        validation: labelled frames of each dataset.
    """

    crops: Examples
    validation: tuple[Sequence[LabelledFrame], ...]


def read_frames(job: Job) -> Frames:
    """Read what a job learns from and is validated on.

    Raises:
        FileNotFoundError: a folder, a list or a file is missing.
        ValueError: an empty list, or a frame or mask that is none.
    """
    if job.model.clip is not None:
        return Frames(*read_clips(job.data, job.backgrounds, job.contract, job.recipe))
    training = [as_training_frames(read_split(root, "train"), job.contract) for root in job.data]
    empty = [one for folder in job.backgrounds for one in read_empty(folder, job.contract)]
    validation = tuple(read_split(root, "val") for root in job.data)
    return Frames(CropSet(training, empty, job.recipe), validation)


def _nothing_to_learn(model: Model) -> str:
    if model.clip is None:
        return f"{model.name} learns from labelled frames; pass --data DATASET"
    return (
        f"{model.name} learns from clips; pass --backgrounds FOLDER with target-free frames, over "
        "which labelled scenes are generated, or --data DATASET with sequences and masks"
    )


def steps_per_epoch(crops: Examples) -> int:
    """Steps that draw as many examples as an epoch has."""
    return -(-len(crops) // crops.recipe.batch)


def train(job: Job, frames: Frames, fabric: Fabric, *, resume: bool) -> Iterator[Progress]:
    """Train one step at a time as the caller iterates.

    Ctrl-C, or a polite kill, ends it after the step under way; a hard kill loses the steps since
    the last epoch's end. Either way `resume` goes on with the same losses.

    Args:
        job: what to train.
        frames: from `read_frames`.
        fabric: launched.
        resume: go on with the unfinished training of the same output.

    Yields:
        Progress after each step.

    Raises:
        FileNotFoundError: nothing to resume.
        ValueError: the unfinished training was started with something else, or there is one and
            it is not resumed; weights of another network; a batch that processes cannot share; no
            convolution that INT8 could round, where that is asked for.
        TrainingError: it was interrupted, the loss is not finite, or memory ran out.
    """
    run = _Run(job, frames, fabric)
    run.begin(resume=resume)
    # Workers that draw crops hear no signal; they end when what they draw for is closed.
    with run.log, closing(run.draw()) as drawn, _interruption() as is_interrupted:
        yield from run.steps(drawn, is_interrupted)
    if fabric.is_global_zero:
        state_path(job.output).unlink(missing_ok=True)


class _Run:
    """One process's part of a training."""

    def __init__(self, job: Job, frames: Frames, fabric: Fabric) -> None:
        if job.recipe.batch % fabric.world_size:
            raise ValueError(
                f"batch is {job.recipe.batch}, expected a multiple of the {fabric.world_size} "
                "processes that share it"
            )
        self.job, self.frames, self.fabric = job, frames, fabric
        self.epoch_steps = steps_per_epoch(frames.crops)
        torch.manual_seed(job.recipe.seed)
        network = job.model.build()
        if job.initial is not None:
            load_into(network, read_weights(job.initial).tensors, name=job.initial.name)
        if job.is_int8:
            round_convolutions(network, observe_ranges(network, self._spread()))
        self.validated = copy.deepcopy(network)
        steps = job.recipe.epochs * self.epoch_steps
        self.training = Training(fabric, network, job.recipe, steps=steps, as_flown=job.is_int8)
        self.losses: list[float] = []
        self.log: TrainingLog

    def _spread(self) -> Iterator[Tensor]:
        """Training frames that stand for all, as in flight."""
        return self.frames.crops.spread(self.job.contract, most=RANGE_FRAMES)

    def begin(self, *, resume: bool) -> None:
        path = state_path(self.job.output)
        if resume:
            state = read_state(path, self.job.origin)
            self.training.restore(state)
            self.losses = list(state.losses)
        elif path.exists():
            raise ValueError(f"{path} is an unfinished training; go on with --resume, or delete it")
        self.log = TrainingLog(
            self.job.output.with_suffix(".csv"),
            self.job.names,
            after=self.training.step,
            is_written=self.fabric.is_global_zero,
        )

    def draw(self) -> Generator[Batch, None, None]:
        """The batches of the steps that are left."""
        share = Share(self.fabric.global_rank, self.fabric.world_size)
        left = range(self.training.step, self.training.steps)
        return batches(self.frames.crops, left, share, workers=self.job.workers)

    def steps(
        self, drawn: Iterator[Batch], is_interrupted: Callable[[], bool]
    ) -> Iterator[Progress]:
        training = self.training
        waiting, begun = 0.0, time.perf_counter()
        while training.step < training.steps:
            asked = time.perf_counter()
            frames, masks = next(drawn)
            waiting += time.perf_counter() - asked
            loss = training.advance(frames, masks)
            self.losses.append(loss)
            row = None
            if training.step % self.epoch_steps == 0:
                row = self._end_epoch(time.perf_counter() - begun, waiting)
                waiting, begun = 0.0, time.perf_counter()
            yield Progress(training.step, training.steps, loss, row)
            if self._agreed(is_interrupted()) and training.step < training.steps:
                self._save_state()
                raise TrainingError(
                    f"interrupted after step {training.step} of {training.steps}; the same command "
                    "with --resume goes on from there"
                )

    def _agreed(self, wish: bool) -> bool:
        """Whether any process wants to stop: they must stop after the same step."""
        if self.fabric.world_size == 1:
            return wish
        return average(self.fabric, torch.tensor(float(wish), device=self.fabric.device)) > 0.0

    def _end_epoch(self, seconds: float, waiting: float) -> Row:
        epoch = self.training.step // self.epoch_steps
        is_due = epoch % self.job.recipe.validate_every == 0 or epoch == self.job.recipe.epochs
        row = Row(
            epoch=epoch,
            step=self.training.step,
            loss=float(np.mean(self.losses)),
            learning_rate=self.training.learning_rate,
            seconds=seconds,
            waiting=waiting / seconds,
            scores=self._validate() if is_due else (),
        )
        self.losses.clear()
        self.log.add(row)
        self._save_state()
        return row

    def _validate(self) -> tuple[Scores, ...]:
        scores = self.training.validate(self.validated, self.frames.validation, self.job.contract)
        is_best = fitness(scores) > self.training.best
        self.training.best = max(self.training.best, fitness(scores))
        if self.fabric.is_global_zero:
            tensors = self.training.averaged()
            weights = Weights(without_ranges(tensors), self._notes(scores), kept_ranges(tensors))
            save_weights(self.job.last, weights)
            if is_best:
                save_weights(self.job.output, weights)
        return scores

    def _notes(self, scores: Sequence[Scores]) -> dict[str, str]:
        lists = ", ".join(
            name if name.startswith(SCENES) else f"{name} {{}}.txt" for name in self.job.names
        )
        notes = {
            **{f"training.{name}": text for name, text in self.job.origin.items()},
            "model": self.job.model.name,
            "normalisation": self.job.contract.normalisation,
            "size": f"{self.job.contract.height}x{self.job.contract.width}",
            "trained_on": lists.replace("{}", "train"),
            "chosen_on": lists.replace("{}", "val"),
            "step": f"{self.training.step} of {self.training.steps}",
        }
        if self.job.is_int8:
            notes["fine_tuned"] = "quantisation-aware; val scores are those of INT8, fake-quantised"
        for name, score in zip(self.job.names, scores, strict=True):
            for kind in SCORES:
                notes[f"val.{name}.{kind}"] = f"{getattr(score, kind):.4f}"
        return notes

    def _save_state(self) -> None:
        if self.fabric.is_global_zero:
            state = self.training.state(self.losses, self.job.origin)
            save_state(state_path(self.job.output), state)


@contextmanager
def _interruption() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and a polite kill into a wish, heard after the step under way."""
    wished: list[int] = []

    def hear(number: int, _: FrameType | None) -> None:
        wished.append(number)
        # A second Ctrl-C is obeyed at once.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {one: signal.signal(one, hear) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(wished)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
