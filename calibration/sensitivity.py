"""Sensitivity: which layers must not be in a lower precision is found, not guessed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx

from ..runtime.engine import load_engine
from ..runtime.errors import OutputError
from ..runtime.frame import FloatMap
from ..runtime.outputs import scores_of
from ..runtime.scoring import Scores
from .gate import CalibrationError, Limits, find_losses

# Makes the graph in which the named layers, and no others, are in the lower precision.
Lower: TypeAlias = Callable[[Collection[str]], onnx.ModelProto]
# Scores a graph on every labelled set, by name.
Measure: TypeAlias = Callable[[onnx.ModelProto], Mapping[str, Scores]]


@dataclass(frozen=True, slots=True)
class Mix:
    """Some layers in the lower precision, the others not.

    Attributes:
        layers: names of those in the lower precision.
        share: their part of the arithmetic of all layers that can be lowered, 0..1.
        scores: on the labelled sets, by name; empty where the output held NaN or infinity.
    """

    layers: frozenset[str]
    share: float
    scores: Mapping[str, Scores]


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found.

    Attributes:
        chosen: the mix to take.
        tried: every mix that was scored, largest share first.
    """

    chosen: Mix
    tried: tuple[Mix, ...]


@dataclass(frozen=True, slots=True)
class Layers:
    """What can be lowered, and what that costs and saves.

    Attributes:
        lower: makes the graph in which the named layers are lowered.
        cost: arithmetic of each layer, in any unit.
        damage: gives, when first asked, the harm that each layer does alone.
    """

    lower: Lower
    cost: Mapping[str, int]
    damage: Callable[[], Mapping[str, float]]

    def choose(self, share: float) -> frozenset[str]:
        """Keep the most harmful layers out, as long as a share of the arithmetic is lowered."""
        if share >= 1.0:
            return frozenset(self.cost)
        return choose_layers(self.damage(), self.cost, share=share)

    def share(self, layers: Collection[str]) -> float:
        """Part of the arithmetic of all these layers that some of them are."""
        return sum(self.cost[name] for name in layers) / sum(self.cost.values())


def measure_damage(
    graph: onnx.ModelProto,
    lower: Lower,
    layers: Collection[str],
    frames: Sequence[FloatMap],
    *,
    say: Callable[[str], None],
) -> dict[str, float]:
    """Lower one layer at a time and see how far the confidence moves: cheap, and needs no labels.

    Args:
        graph: FP32.
        lower: makes the graph with the named layers lowered.
        layers: names.
        frames: prepared, with targets.
        say: receives a line now and then.

    Returns:
        Mean squared change of confidence by layer; infinite where none is left.
    """
    expected = _run(graph, frames)
    damage = {}
    for number, layer in enumerate(layers, 1):
        damage[layer] = _compare(lower([layer]), frames, expected)
        if number % 20 == 0:
            say(f"  {number} of {len(layers)} layers")
    return damage


def _compare(graph: onnx.ModelProto, frames: Sequence[FloatMap], expected: FloatMap) -> float:
    try:
        change = _run(graph, frames) - expected
    except OutputError:
        return math.inf
    return float(np.square(change, dtype=np.float64).mean())


def _run(graph: onnx.ModelProto, frames: Sequence[FloatMap]) -> FloatMap:
    engine = load_engine(graph.SerializeToString())
    try:
        return np.stack([scores_of(engine.run(frame)) for frame in frames])
    finally:
        engine.close()


def choose_layers(
    damage: Mapping[str, float], cost: Mapping[str, int], *, share: float
) -> frozenset[str]:
    """Keep the most harmful layers out of the lower precision, as long as a share of it remains.

    Args:
        damage: of each layer.
        cost: arithmetic of each layer, in any unit.
        share: least part of the arithmetic that is lowered, 0..1.

    Returns:
        The layers to lower. Those with most damage for their arithmetic are left out first; one
        that is too large to be left out is passed over.
    """
    remaining = sum(cost.values())
    least = share * remaining
    lowered = set(cost)
    for layer in sorted(cost, key=lambda name: damage[name] / cost[name], reverse=True):
        if remaining - cost[layer] >= least:
            remaining -= cost[layer]
            lowered.remove(layer)
    return frozenset(lowered)


def search_mix(
    layers: Layers,
    rounds: Sequence[Sequence[float]],
    *,
    before: Mapping[str, Scores],
    measure: Measure,
    limits: Limits,
) -> Search:
    """Find the share of the arithmetic that can be lowered with a loss inside the limits.

    Scores decide; the damage only says which layers to leave out for a share.

    Args:
        layers: what can be lowered.
        rounds: shares to try. Those of one round make engines of about the same speed: the one
            with the highest IoU is taken, of several labelled sets where that changes to the worst.
            The next round is tried only if none of them passes.
        before: scores of FP32 on each labelled set, by name.
        measure: scores a graph.
        limits: what may be lost.

    Raises:
        CalibrationError: none of the shares stays inside; the text has the numbers of every try.
    """
    tried: list[Mix] = []
    for shares in rounds:
        passed = []
        for chosen in dict.fromkeys(layers.choose(share) for share in shares):
            if any(mix.layers == chosen for mix in tried):
                continue
            tried.append(measure_mix(layers, chosen, measure))
            if not find_losses(before, tried[-1].scores, limits):
                passed.append(tried[-1])
        if passed:
            return Search(max(passed, key=lambda mix: _worst_change(before, mix)), tuple(tried))
    raise CalibrationError(_refusal(before, tried, limits))


def measure_mix(layers: Layers, chosen: frozenset[str], measure: Measure) -> Mix:
    """Score the graph in which the chosen layers are lowered."""
    scores: Mapping[str, Scores] = {}
    with suppress(OutputError):
        scores = measure(layers.lower(chosen))
    return Mix(chosen, layers.share(chosen), scores)


def _worst_change(before: Mapping[str, Scores], mix: Mix) -> float:
    """Of IoU, over the labelled sets."""
    return min(mix.scores[name].iou - scores.iou for name, scores in before.items())


def _refusal(before: Mapping[str, Scores], tried: Sequence[Mix], limits: Limits) -> str:
    lines = [
        f"{mix.share:.0%} lowered: {'; '.join(find_losses(before, mix.scores, limits))}"
        for mix in tried
    ]
    return (
        "the lower precision loses targets, also with the layers that cost most left in FP32:\n  "
        + "\n  ".join(lines)
        + "\nnothing was written; use another precision, frames nearer to the camera's "
        "(--frames), more labelled ones (--labelled), or wider limits (--max-drop-pd, "
        "--max-drop-iou, --max-rise-fa)"
    )
