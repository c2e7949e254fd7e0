"""What a lower precision did to a network: the facts that a bundle's report and pictures tell."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx

from ..calibration.gate import Limits
from ..calibration.sensitivity import Mix
from ..runtime.bundle import Precision
from ..runtime.comparison import Comparison
from ..runtime.scoring import Scores
from .graph import count_layer_flop, list_modules
from .lowering import Lowered, Reached
from .precision import layer_precisions

SENSITIVITY, RANGES, DISAGREEMENTS = "sensitivity.png", "ranges.png", "disagreements.png"
SHOWN_NAMES = 3


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or matrix product.

    Attributes:
        name: of its node in the graph.
        input: name of the tensor that it reads.
        share: its part of the arithmetic of all layers, 0..1.
        damage: mean squared change of confidence when it alone is lowered; None where that was not
            measured.
        precision: that it has in the bundle's graph.
    """

    name: str
    input: str
    share: float
    damage: float | None
    precision: Precision


@dataclass(frozen=True, slots=True)
class Outcome:
    """A lower precision that passed the gate, beside FP32.

    Attributes:
        precision: the lower one.
        limits: what it was allowed to lose.
        before: scores of FP32 on the labelled sets, by name.
        lowered: how it came about.
        layers: all, those with most damage first, then those that were not measured.
        compared: FP32 and the lower precision on these sets, target by target.
        threshold: of confidence.
    """

    precision: Reached
    limits: Limits
    before: Mapping[str, Scores]
    lowered: Lowered
    layers: tuple[Layer, ...]
    compared: Mapping[str, Comparison]
    threshold: float

    @property
    def measured(self) -> tuple[Layer, ...]:
        """The layers whose damage was measured, most of it first."""
        return tuple(layer for layer in self.layers if layer.damage is not None)

    @property
    def kept(self) -> tuple[Layer, ...]:
        """The layers that stayed in FP32."""
        return tuple(layer for layer in self.layers if layer.precision == "fp32")

    @property
    def unfit(self) -> tuple[Layer, ...]:
        """Those of them that the precision cannot take, whatever the scores."""
        candidates = {name for mix in self.lowered.curve for name in mix.layers}
        candidates |= self.lowered.damage.keys()
        chosen = self.lowered.chosen.layers
        return tuple(
            layer for layer in self.kept if layer.name in chosen or layer.name not in candidates
        )

    def share(self, mix: Mix) -> float:
        """Part of the arithmetic of all layers that is lowered in a mix, 0..1."""
        unfit = {layer.name for layer in self.unfit}
        return sum(layer.share for layer in self.layers if layer.name in mix.layers - unfit)


def describe_layers(graph: onnx.ModelProto, lowered: Lowered) -> tuple[Layer, ...]:
    """List every layer of a graph with what was learned about it, most damage first.

    Args:
        graph: FP32.
        lowered: what was made of it.
    """
    flop = count_layer_flop(graph)
    precisions = layer_precisions(lowered.graph)
    inputs = {node.name: node.input[0] for node in graph.graph.node if node.name in flop}
    layers = [
        Layer(
            name=name,
            input=inputs[name],
            share=cost / sum(flop.values()),
            damage=lowered.damage.get(name),
            precision=precisions[name],
        )
        for name, cost in flop.items()
    ]
    return tuple(sorted(layers, key=_harm, reverse=True))


def _harm(layer: Layer) -> float:
    return -1.0 if layer.damage is None else layer.damage


def shorten(name: str) -> str:
    """The part of a node's name that a person needs to find the layer in the model's code.

    Example:
        >>> shorten("/network/down_4/down_4.1/first/first.0/Conv")
        'down_4.1/first.0'
        >>> shorten("/network/down_16/down_16.2/MatMul_1")
        'down_16.2/MatMul_1'
    """
    modules, operator = list_modules(name), name.rsplit("/", 1)[-1]
    return "/".join(modules if modules and operator == "Conv" else [*modules, operator])


def shorten_all(names: Collection[str]) -> str:
    """Some short names for a sentence, and how many more there are.

    Example:
        >>> shorten_all(["/network/a/Conv", "/network/b/Conv", "c", "d", "e"])
        'a, b, c and 2 more'
        >>> shorten_all(["/network/a/Conv"])
        'a'
    """
    named = [shorten(name) for name in names]
    if len(named) <= SHOWN_NAMES:
        return ", ".join(named)
    return f"{', '.join(named[:SHOWN_NAMES])} and {len(named) - SHOWN_NAMES} more"
