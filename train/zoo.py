"""The models by name: how to build one, what size it takes, where its weights lie."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from .models import lrrnet, lrrnet_edge
from .models.drpcanet import DRPCANet
from .models.lrrnet import LRRNet
from .models.lrrnet_edge import LRRNetEdge
from .models.rpcanet import RPCANet

WEIGHTS_FOLDER = Path(__file__).parent / "weights"


@dataclass(frozen=True, slots=True)
class Model:
    """An entry of the zoo.

    Attributes:
        name: what users type.
        build: makes the network with fresh parameters; its forward maps (N, 1, H, W) in 0..1 to
            (reconstruction, target logits).
        stride: H and W must be multiples of this.
        size: (height, width) of the network's input unless the user asks for another.
        source: paper, for the manifest.
    """

    name: str
    build: Callable[[], nn.Module]
    stride: int
    size: tuple[int, int]
    source: str

    @property
    def weights(self) -> Path:
        """Where the shipped weights lie; not every model has some."""
        return WEIGHTS_FOLDER / f"{self.name}.safetensors"


MODELS = {
    model.name: model
    for model in (
        Model(
            name="lrrnet",
            build=LRRNet,
            stride=lrrnet.STRIDE,
            size=(256, 256),
            source="LRRNet, IEEE TGRS 2025, doi 10.1109/TGRS.2025.3608239",
        ),
        Model(
            name="lrrnet-edge",
            build=LRRNetEdge,
            stride=lrrnet_edge.STRIDE,
            size=(512, 512),
            source="irstd: LRRNet's idea (IEEE TGRS 2025) rebuilt for engines",
        ),
        Model(
            name="rpcanet",
            build=RPCANet,
            stride=1,
            size=(256, 256),
            source="RPCANet, WACV 2024, arXiv 2311.00917",
        ),
        Model(
            name="drpcanet",
            build=DRPCANet,
            stride=1,
            size=(256, 256),
            source="DRPCA-Net, IEEE TGRS 2025, doi 10.1109/TGRS.2025.3588392",
        ),
    )
}


def read_size(text: str) -> tuple[int, int]:
    """Read HEIGHTxWIDTH, e.g. "512x640".

    Raises:
        ValueError: the text is something else.
    """
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise ValueError(f"size is {text!r}, expected HEIGHTxWIDTH, e.g. 512x640")
    return int(sides[0]), int(sides[1])


def find_model(name: str) -> Model:
    """Look a model up by name.

    Raises:
        ValueError: there is no such model; the text proposes the nearest name.
    """
    if name in MODELS:
        return MODELS[name]
    close = difflib.get_close_matches(name.lower(), MODELS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"unknown model {name!r}; {hint}known: {', '.join(sorted(MODELS))}")
