"""An unfinished training on disk: everything that the next step depends on."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ..runtime.files import write_whole
from .checkpoint import UNREADABLE
from .recipe import Recipe, flatten

Stored = dict[str, object]


@dataclass(frozen=True, slots=True)
class State:
    """Where a training stands between two steps.

    Randomness needs no place here: crops and dropout follow from the seed and the step's number.

    Attributes:
        step: steps done.
        best: highest validation so far, -1 before the first.
        losses: of the steps since the last row of the log.
        network: parameters and buffers by key.
        averaged: their exponential average by key.
        optimiser: as torch's optimisers give it.
        schedule: of the learning rate, as torch gives it.
        origin: what the training was started with, by name; it must be the same on resuming.
    """

    step: int
    best: float
    losses: tuple[float, ...]
    network: Mapping[str, Tensor]
    averaged: Mapping[str, Tensor]
    optimiser: Stored
    schedule: Stored
    origin: Mapping[str, str]


def state_path(output: Path) -> Path:
    """Where the state of the training that writes `output` lies."""
    return output.with_name(output.name + ".unfinished")


def describe_origin(recipe: Recipe, **others: str) -> dict[str, str]:
    """A recipe and what else decides a training, as text by name."""
    recipe_text = {name: str(value) for name, value in flatten(asdict(recipe)).items()}
    return {**recipe_text, **others}


def save_state(path: Path, state: State) -> None:
    """Write a state; the file before it stays until the new one is whole."""
    content = io.BytesIO()
    fields = {name: getattr(state, name) for name in State.__slots__}
    fields["network"], fields["averaged"] = dict(state.network), dict(state.averaged)
    torch.save(fields, content)
    write_whole(path, content.getvalue())


def read_state(path: Path, origin: Mapping[str, str]) -> State:
    """Read a state and see that it belongs to this training.

    Args:
        path: of the state.
        origin: what this training was started with.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged, or the training was started with something else; the text
            says with what.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no unfinished training {path}; leave --resume out")
    try:
        fields = torch.load(path, map_location="cpu", weights_only=True)
        state = State(**cast(Stored, fields))  # type: ignore[arg-type]
    except (*UNREADABLE, OSError) as err:
        raise ValueError(
            f"unfinished training {path} is damaged; delete it and start again"
        ) from err
    different = [
        f"{name} {state.origin.get(name, 'not set')} then, {origin.get(name, 'not set')} now"
        for name in sorted({*state.origin, *origin})
        if state.origin.get(name) != origin.get(name)
    ]
    if different:
        raise ValueError(
            f"{path} was started with something else: {'; '.join(different)}; resume with what it "
            "was started with, or delete it"
        )
    return state
