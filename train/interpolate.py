"""Weights between two trainings: what fine-tuning gained, without all that it forgot.

python -m irstd.train.interpolate --model NAME --data DIR FIRST SECOND --share X ... --output FILE
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import torch
from torch import Tensor

from ..runtime.commands.shared import PlainCommand
from ..runtime.datasets import open_dataset
from ..runtime.evaluation import LabelledFrame, read_labelled
from ..runtime.frame import FrameContract
from ..runtime.scoring import Scores
from .checkpoint import Weights, load_into, read_weights, save_weights
from .logs import SCORES
from .loop import fitness, score_network
from .zoo import Model, find_model, read_size

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)


def interpolate(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Weights on the line between two trainings, of which one went on from the other.

    Fine-tuning on one kind of frames forgets others; between its start and its end lie weights
    that keep both (Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022). Trainings
    that began apart have no such line.

    Args:
        first: state dict of the start.
        second: of the end, with the same keys and shapes.
        share: of the end, 0..1.

    Returns:
        A state dict; what counts, and is no number to average, is the end's.

    Raises:
        ValueError: a share out of range, other keys or another shape.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share is {share}, expected 0 to 1")
    if first.keys() != second.keys():
        other = sorted(first.keys() ^ second.keys())[0]
        raise ValueError(f"only one of both has {other!r}; these are two different networks")
    mixed = {}
    for key, end in second.items():
        if first[key].shape != end.shape:
            raise ValueError(
                f"{key} is {tuple(first[key].shape)} in one and {tuple(end.shape)} in the other; "
                "these are two different networks"
            )
        is_number = end.is_floating_point()
        mixed[key] = torch.lerp(first[key].to(end.dtype), end, share) if is_number else end.clone()
    return mixed


@click.command(cls=PlainCommand)
@click.argument("first", type=FILE)
@click.argument("second", type=FILE)
@click.option("--model", "model_name", required=True, help="Model of the zoo, e.g. lrrnet-edge.")
@click.option("--data", multiple=True, required=True, type=FOLDER, help="Dataset with val.txt.")
@click.option(
    "--share", "shares", multiple=True, required=True, type=float, help="Of SECOND, 0 to 1."
)
@click.option("--size", metavar="HxW", help="Network input in flight; the model's own by default.")
@click.option("--output", required=True, type=FILE, help="Where the best of them go.")
def interpolate_command(
    first: Path,
    second: Path,
    model_name: str,
    data: tuple[Path, ...],
    shares: tuple[float, ...],
    size: str | None,
    output: Path,
) -> None:
    """Score weights between FIRST and SECOND on val lists and keep those with the best mean IoU.

    SECOND went on from FIRST. A line for each share says what it scores; asked for one only, that
    one is kept.
    """
    if output.suffix != ".safetensors":
        raise ValueError(f"output is {output.name}, expected a name that ends in .safetensors")
    model = find_model(model_name)
    start, end = read_weights(first), read_weights(second)
    height, width = read_size(size) if size else model.size
    contract = FrameContract(height, width, clip=model.clip, answer=model.answer)
    sets = [list(read_labelled(open_dataset(root, split="val"), clip=model.clip)) for root in data]
    names = [root.resolve().name for root in data]
    best, highest = None, -1.0
    for share in shares:
        tensors = interpolate(start.tensors, end.tensors, share)
        scores = _score(model, tensors, sets, contract)
        click.echo(f"{share:g}: " + "; ".join(map(_say, names, scores)))
        if fitness(scores) > highest:
            highest = fitness(scores)
            best = Weights(tensors, {**end.notes, **_notes(first, second, share, names, scores)})
    if best is not None:
        save_weights(output, best)


def _score(
    model: Model,
    tensors: Mapping[str, Tensor],
    sets: Sequence[Sequence[LabelledFrame]],
    contract: FrameContract,
) -> tuple[Scores, ...]:
    network = model.build()
    load_into(network, tensors, name=model.name)
    return score_network(network, sets, contract)


def _say(name: str, score: Scores) -> str:
    return f"{name} IoU {score.iou:.4f} Pd {score.pd:.4f} Fa {score.fa_per_mpix:.1f}"


def _notes(
    first: Path, second: Path, share: float, names: Sequence[str], scores: Sequence[Scores]
) -> dict[str, str]:
    notes = {"interpolated": f"{share:g} of {second.name}, the rest {first.name}"}
    for name, score in zip(names, scores, strict=True):
        notes |= {f"val.{name}.{kind}": f"{getattr(score, kind):.4f}" for kind in SCORES}
    return notes


if __name__ == "__main__":
    interpolate_command()
