"""`irstd-train`: labelled frames in, weights out."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from ..runtime.commands.shared import PlainCommand, track
from ..runtime.frame import FrameContract
from .data import load_frames, open_split
from .loop import Progress, Recipe, TrainingLog, save_with, steps_per_epoch, train
from .zoo import Model, find_model


@click.command(cls=PlainCommand, context_settings={"show_default": True})
@click.option("--model", "model_name", required=True, help="Model of the zoo, e.g. lrrnet.")
@click.option(
    "--data",
    "roots",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="Dataset with train.txt and val.txt; give it several times to train on several.",
)
@click.option("--epochs", default=50, help="Passes over as many crops as there are frames.")
@click.option("--batch", default=8, help="Crops a step.")
@click.option("--crop", default=128, help="Side of the crops in network pixels.")
@click.option("--learning-rate", default=1e-3, help="Peak of the one-cycle schedule.")
@click.option("--seed", default=0, help="Of the crops and of the initial weights.")
@click.option("--threads", default=0, help="CPU threads; 0 leaves it to torch.")
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the weights go (.safetensors); a .csv log lies beside.",
)
def train_command(
    model_name: str,
    roots: tuple[Path, ...],
    epochs: int,
    batch: int,
    crop: int,
    learning_rate: float,
    seed: int,
    threads: int,
    output: Path,
) -> None:
    """Train a model on the `train` lists of datasets; their `val` lists choose the weights."""
    model = find_model(model_name)
    recipe = Recipe(epochs=epochs, batch=batch, crop=crop, learning_rate=learning_rate, seed=seed)
    if threads:
        torch.set_num_threads(threads)
    run(model, recipe, roots=roots, output=output)


def run(model: Model, recipe: Recipe, *, roots: tuple[Path, ...], output: Path) -> None:
    """Train one model from data on disk and write the best weights to `output`."""
    contract = FrameContract(height=model.size[0], width=model.size[1])
    training = [load_frames(dataset, contract) for dataset in open_split(roots, "train")]
    validation = [load_frames(dataset, contract) for dataset in open_split(roots, "val")]
    names = [root.resolve().name for root in roots]
    notes = {
        "model": model.name,
        "normalisation": contract.normalisation,
        "size": f"{contract.height}x{contract.width}",
        "trained_on": ", ".join(f"{name} train.txt" for name in names),
        "chosen_on": ", ".join(f"{name} val.txt" for name in names),
    }
    torch.manual_seed(recipe.seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    steps = train(
        model.build(),
        recipe,
        training=training,
        validation=validation,
        keep=save_with(output, notes),
    )
    count = recipe.epochs * steps_per_epoch(training, recipe)
    with TrainingLog(output.with_suffix(".csv")) as log:
        for progress in track(steps, label=f"training {model.name}", count=count):
            if progress.validation:
                log.write(progress, names)
                click.echo(_validation_line(progress, names), err=True)
    click.echo(f"best weights on {notes['chosen_on']}: {output}")


def _validation_line(progress: Progress, names: list[str]) -> str:
    scores = "; ".join(
        f"{name} IoU {score.iou:.3f} Pd {score.pd:.3f} Fa {score.fa_per_mpix:.0f}"
        for name, score in zip(names, progress.validation, strict=True)
    )
    return f"\nstep {progress.step} of {progress.steps}: loss {progress.loss:.3f}; val {scores}"


if __name__ == "__main__":
    train_command()
