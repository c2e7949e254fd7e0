"""`irstd-train`: labelled frames in, weights out."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import click
import torch
from lightning_fabric import Fabric

from ..runtime.commands.shared import PlainCommand, track
from . import unsupervised
from .processes import choose_device
from .recipe import CLIPS, FINE_TUNING, Recipe, read_recipe
from .session import Job, Progress, read_frames, steps_per_epoch, train
from .zoo import Model, find_model, read_size

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
SHORT = ("epochs", "batch", "crop", "learning_rate", "seed")  # values with an option of their own


@click.command(cls=PlainCommand, context_settings={"show_default": True})
@click.option("--model", "model_name", required=True, help="Model of the zoo, e.g. lrrnet-edge.")
@click.option(
    "--data",
    multiple=True,
    type=FOLDER,
    help="Dataset with train.txt and val.txt, of sequences for a network of clips; several are "
    "drawn from in balance.",
)
@click.option(
    "--sequence",
    type=FOLDER,
    help="Frames that lowrank3d is fitted to, without labels, in place of a training.",
)
@click.option(
    "--backgrounds",
    multiple=True,
    type=FOLDER,
    help="Folder of target-free frames: hard negatives, and ground for synthetic targets; for a "
    "network of clips, for whole scenes, which need no --data.",
)
@click.option("--recipe", "recipe_file", type=FILE, help="Recipe (.toml); see train/recipe.py.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change one value of the recipe, e.g. augmentation.noise=0.",
)
@click.option("--epochs", type=int, help="As --set epochs=N.")
@click.option("--batch", type=int, help="As --set batch=N.")
@click.option("--crop", type=int, help="As --set crop=N.")
@click.option("--learning-rate", type=float, help="As --set learning_rate=X.")
@click.option("--seed", type=int, help="As --set seed=N.")
@click.option("--size", metavar="HxW", help="Network input in flight; the model's own by default.")
@click.option("--initial", type=FILE, help="Weights to start from, e.g. for fine-tuning.")
@click.option(
    "--qat",
    is_flag=True,
    help="Fine-tune for INT8: convolutions compute as irstd-export --int8 will write them; starts "
    "from --initial or the shipped weights, with "
    + ", ".join(f"{name}={value}" for name, value in FINE_TUNING.items())
    + " where nothing else is said.",
)
@click.option("--resume", is_flag=True, help="Go on with the unfinished training of --output.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    help="Where to train; torchrun gives each process a device of its own.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="CPU threads of the arithmetic; torch's own choice.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=2,
    help="Processes that draw crops ahead; 0 for none.",
)
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Where the best weights go; with --sequence the targets (.json, .jsonl, .csv, or a "
    "folder that gets the confidence too).",
)
def train_command(
    model_name: str,
    data: tuple[Path, ...],
    sequence: Path | None,
    backgrounds: tuple[Path, ...],
    recipe_file: Path | None,
    changes: tuple[str, ...],
    epochs: int | None,
    batch: int | None,
    crop: int | None,
    learning_rate: float | None,
    seed: int | None,
    size: str | None,
    initial: Path | None,
    qat: bool,
    resume: bool,
    device: str,
    threads: int | None,
    workers: int,
    output: Path,
) -> None:
    """Train a model on the `train` lists of datasets; their `val` lists choose the weights.

    OUTPUT gets the weights that do best on the validation lists; beside it lie those of the last
    validation, a CSV file, a TensorBoard log and, until it is done, the unfinished training.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    model = find_model(model_name)
    short = (epochs, batch, crop, learning_rate, seed)
    changed = (*changes, *(f"{n}={v}" for n, v in zip(SHORT, short, strict=True) if v is not None))
    asked = None if size is None else read_size(size)
    if model.name == unsupervised.NAME:
        _check_unsupervised(data, recipe_file, initial, qat=qat, resume=resume)
        order = unsupervised.Order(sequence, backgrounds, changed, output, asked, device)
        unsupervised.run(model, order)
        return
    _check_supervised(model, sequence, output)
    recipe = read_recipe(recipe_file, changed, defaults=_defaults(model, qat=qat))
    start = _find_start(model, qat=qat) if initial is None else initial
    sized = model if asked is None else replace(model, size=asked)
    job = Job(sized, recipe, data, backgrounds, start, output, workers, is_int8=qat)
    run(job, make_fabric(device, recipe), resume=resume)


def _check_supervised(model: Model, sequence: Path | None, output: Path) -> None:
    """Refuse what cannot be trained with labels, and what only a fit without them knows."""
    if sequence is not None:
        raise ValueError(f"only {unsupervised.NAME} is fitted to a --sequence; leave it out")
    if output.suffix != ".safetensors":
        raise ValueError(f"output is {output.name}, expected a name that ends in .safetensors")
    if not model.is_trained:
        raise ValueError(
            f"{model.name} has no parameters, so there is nothing to train; export it as it is: "
            f"irstd-export --model {model.name}"
        )


def _defaults(model: Model, *, qat: bool) -> dict[str, object]:
    """What a recipe holds where nothing is said."""
    return {**(CLIPS if model.clip else {}), **(FINE_TUNING if qat else {})}


def _find_start(model: Model, *, qat: bool) -> Path | None:
    """The weights that a fine-tuning starts from where none are named."""
    return model.weights if qat and model.weights.is_file() else None


def _check_unsupervised(
    data: tuple[Path, ...],
    recipe_file: Path | None,
    initial: Path | None,
    *,
    qat: bool,
    resume: bool,
) -> None:
    """Refuse what only a training with labels knows."""
    given = {
        "--data": bool(data),
        "--recipe": recipe_file is not None,
        "--initial": initial is not None,
        "--qat": qat,
        "--resume": resume,
    }
    if wrong := [name for name, is_given in given.items() if is_given]:
        raise ValueError(
            f"{unsupervised.NAME} learns without labels and in minutes; leave {', '.join(wrong)} "
            "out, and pass --backgrounds FOLDER or --sequence FOLDER"
        )


def make_fabric(device: str, recipe: Recipe) -> Fabric:
    """The machine to train on: one device a process, as many processes as torchrun started.

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    accelerator = "gpu" if choose_device(device) == "cuda" else "cpu"
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=accelerator,
        devices=processes,
        num_nodes=max(1, world // processes),
        strategy="ddp" if world > 1 else "auto",
        precision="bf16-mixed" if recipe.arithmetic == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


def run(job: Job, fabric: Fabric, *, resume: bool) -> None:
    """Read the frames, train, and tell how it goes."""
    frames = read_frames(job)
    job.output.parent.mkdir(parents=True, exist_ok=True)
    steps = train(job, frames, fabric, resume=resume)
    if not fabric.is_global_zero:
        for _ in steps:
            pass
        return
    count = job.recipe.epochs * steps_per_epoch(frames.crops)
    if job.is_int8:
        click.echo(f"fine-tuning {job.initial} for INT8; val scores are those of INT8", err=True)
    shown = _Shown(job.names, "val as int8" if job.is_int8 else "val")
    for progress in track(steps, label=job.model.name, count=count, say=shown.line):
        if text := shown.report(progress):
            # A progress bar leaves the line open.
            click.echo(f"\n{text}" if sys.stderr.isatty() else text, err=True)
    chosen_on = "the val lists of " if job.data and not job.is_generated else ""
    click.echo(f"best weights on {chosen_on}{', '.join(job.names)}: {job.output}")


class _Shown:
    """What a person sees: the loss as it moves, and the scores of the last validation."""

    def __init__(self, names: list[str], scored: str = "val") -> None:
        self._names = names
        self._scored = scored
        self._scores = ""

    def line(self, progress: Progress | None) -> str:
        """What stands beside the progress bar."""
        if progress is None:
            return ""
        return f"loss {progress.loss:.3f}{self._scores and f'; {self._scores}'}"

    def report(self, progress: Progress) -> str:
        """A line of its own after a validation, else nothing."""
        row = progress.row
        if row is None or not row.scores:
            return ""
        self._scores = "; ".join(
            f"{name} IoU {score.iou:.3f} Pd {score.pd:.3f} Fa {score.fa_per_mpix:.0f}"
            for name, score in zip(self._names, row.scores, strict=True)
        )
        return (
            f"epoch {row.epoch}, step {row.step} of {progress.steps}: loss {row.loss:.3f}; "
            f"{self._scored} {self._scores}"
        )


if __name__ == "__main__":
    train_command()
