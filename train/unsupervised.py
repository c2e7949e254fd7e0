"""What `irstd-train` does without labels: learn the steps of lowrank3d, or fit one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from ..runtime.commands.shared import track
from ..runtime.frame import ClipContract
from .processes import choose_device
from .recipe import parse_value
from .sequences.learning import Learned, Learning, LearningOptions
from .sequences.lowrank3d_fit import FitOptions
from .sequences.sequence_fit import Iterate, SequenceFit, check_output, read_runs
from .zoo import Model

NAME = "lowrank3d"
THRESHOLD = 0.5
Options = TypeVar("Options", FitOptions, LearningOptions)


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked of lowrank3d.

    Attributes:
        sequence: to fit; None learns the steps.
        backgrounds: folders of target-free frames to learn over.
        changes: of the options, NAME=VALUE each.
        output: where weights, or targets, go.
        size: (height, width) that a sequence's frames are fitted to; None leaves their own.
        device: auto, cpu or cuda.
    """

    sequence: Path | None
    backgrounds: tuple[Path, ...]
    changes: tuple[str, ...]
    output: Path
    size: tuple[int, int] | None
    device: str


def read_options(kind: type[Options], changes: Sequence[str]) -> Options:
    """Options of a fit or a training, with single values changed.

    Args:
        kind: of options.
        changes: NAME=VALUE each; later ones win.

    Raises:
        ValueError: no NAME=VALUE, a name that there is not, or a value out of its range.

    Example:
        >>> read_options(FitOptions, ["iterations=50"]).iterations
        50
    """
    known = asdict(kind())
    table: dict[str, object] = {}
    for change in changes:
        name, separator, text = change.partition("=")
        if not separator:
            raise ValueError(f"override {change!r} is no NAME=VALUE, e.g. seed=1")
        if name not in known:
            raise ValueError(f"{NAME} has no {name!r} here; known: {', '.join(known)}")
        table[name] = parse_value(text)
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as err:
        raise ValueError(f"{NAME}: {err}") from err


def run(model: Model, order: Order) -> None:
    """Fit the sequence of an order, or learn over its backgrounds.

    Raises:
        FileNotFoundError: a folder is missing.
        ValueError: neither is given, frames that cannot be fitted together, an option that is
            none, or an output of another kind.
    """
    if order.sequence is not None:
        _fit(order.sequence, order)
        return
    if model.clip is None or not order.backgrounds:
        raise ValueError(
            f"{NAME} learns from clips generated over target-free frames, without masks; pass "
            "--backgrounds FOLDER, or --sequence FOLDER to fit one sequence"
        )
    if order.size is not None:
        raise ValueError(f"{NAME} learns on crops of any size; leave --size out, or use --crop")
    _learn(model.clip, order)


def _learn(clip: ClipContract, order: Order) -> None:
    output = order.output
    if output.suffix != ".safetensors":
        raise ValueError(f"output is {output.name}, expected a name that ends in .safetensors")
    options = read_options(LearningOptions, order.changes)
    device = choose_device(order.device)
    output.parent.mkdir(parents=True, exist_ok=True)
    learning = Learning(order.backgrounds, clip, options, output, device=device)
    for learned in track(learning.steps(), label=NAME, count=options.steps + 1, say=_tell_step):
        if learned.validation is not None:
            click.echo(
                f"step {learned.step} of {options.steps}: loss on clips kept apart "
                f"{learned.validation:.5f}",
                err=True,
            )
    click.echo(f"best weights, by the loss on clips kept apart: {output}")


def _fit(sequence: Path, order: Order) -> None:
    options = read_options(FitOptions, order.changes)
    device = choose_device(order.device)
    check_output(order.output)  # now, and not in an hour
    runs = read_runs(sequence, span=options.block, say=lambda line: click.echo(line, err=True))
    work = SequenceFit(runs, options, size=order.size, device=device)
    for _ in track(work.steps(), label=NAME, count=work.iterations, say=_tell_iterate):
        pass
    work.write(order.output, threshold=THRESHOLD)
    click.echo(f"targets of {sum(map(len, runs))} frames, and the losses: {order.output}")


def _tell_step(learned: Learned | None) -> str:
    return "" if learned is None else f"loss {learned.loss:.4f}"


def _tell_iterate(one: Iterate | None) -> str:
    return "" if one is None else f"block {one.block + 1}, loss {one.losses.whole:.5f}"
