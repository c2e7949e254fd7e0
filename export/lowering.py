"""Lower precisions: calibrated on frames, mixed so that targets stay, or refused."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import onnx

from ..calibration.bias import find_shifts, take_back
from ..calibration.cache import cache_folder, range_key, read_ranges, write_ranges
from ..calibration.frames import LEAST_FRAMES, CalibrationSet
from ..calibration.gate import CalibrationError, Limits, find_losses
from ..calibration.quantize import list_candidates, to_int8
from ..calibration.ranges import Calibrated, Method, Observation, estimate, find_largest, observe
from ..calibration.sensitivity import (
    Layers,
    Lower,
    Measure,
    Mix,
    measure_damage,
    measure_mix,
    search_mix,
)
from ..runtime.clip import prepare_input
from ..runtime.frame import FloatMap, FrameContract
from ..runtime.scoring import Scores
from .graph import count_layer_flop, find_module
from .lint import check_graph
from .precision import emulate_fp16, layer_precisions, to_fp16

Reached: TypeAlias = Literal["fp16", "int8"]

# Shares of the arithmetic that are tried, round by round. INT8 chooses among the first: the few
# layers that cost most accuracy hold next to no arithmetic. Strict limits come down to some pixels,
# so all that lies between those is tried before more arithmetic is given up.
SHARES: dict[Reached, tuple[tuple[float, ...], ...]] = {
    "int8": ((1.0, 0.97, 0.9), (0.985,), (0.955,), (0.94,), (0.92,), (0.8,), (0.65,), (0.5,)),
    "fp16": ((1.0,), (0.97,), (0.9,), (0.8,), (0.65,), (0.5,)),
}
# What the curve shows beside what the search tried.
SHOWN: dict[Reached, tuple[float, ...]] = {"int8": (0.65,), "fp16": ()}
DAMAGE_FRAMES = 4
SMALLEST_FP16, LARGEST_FP16 = 2.0**-24, 65504.0
HEADROOM = 4.0  # between what calibration frames reach in FP16 and where it ends
TRAINED = "trained"  # what ranges that came with the weights are called beside the methods


@dataclass(frozen=True, slots=True)
class Lowering:
    """How to lower a graph.

    Attributes:
        precision: to reach.
        frames: that ranges come from.
        contract: of these frames.
        method: that makes ranges of what is observed.
        limits: what may be lost.
        trained: ranges that INT8 takes instead, by the names of the modules that a
            quantisation-aware training rounded: these layers and no others. Empty where the
            weights bring none.
    """

    precision: Reached
    frames: CalibrationSet
    contract: FrameContract
    method: Method
    limits: Limits
    trained: Mapping[str, float] = field(default_factory=dict)

    @property
    def ranged_by(self) -> str:
        """What the ranges follow from, by name."""
        if self.precision == "fp16":
            return "minmax"  # FP16 clips nothing: what is largest must fit
        return TRAINED if self.trained else self.method


@dataclass(frozen=True, slots=True)
class Lowered:
    """A graph in a lower precision that passed the gate.

    Attributes:
        graph: with Q/DQ pairs or casts.
        chosen: the mix of precisions that it is.
        share: part of the FLOP of convolutions and matrix products that is lowered, 0..1.
        curve: mixes that were scored, `chosen` among them, largest share first.
        damage: mean squared change of confidence by each layer alone; empty where nobody asked.
        observed: what tensors took on the calibration frames; empty for FP16.
        ranges: what of it is carried; empty for FP16.
        untrained: layers that INT8 could take, but the training of the ranges did not round.
    """

    graph: onnx.ModelProto
    chosen: Mix
    share: float
    curve: tuple[Mix, ...]
    damage: dict[str, float]
    observed: dict[str, Observation]
    ranges: dict[str, float]
    untrained: frozenset[str] = frozenset()

    @property
    def scores(self) -> Mapping[str, Scores]:
        """On the labelled sets, by name."""
        return self.chosen.scores


@dataclass(frozen=True, slots=True)
class _Able:
    """What a precision can take of a graph.

    Attributes:
        names: of the layers.
        lower: how.
        calibrated: of INT8.
        untrained: layers that are left out because the training did not round them.
    """

    names: list[str]
    lower: Lower
    calibrated: Calibrated = field(default_factory=lambda: Calibrated({}, {}, {}))
    untrained: frozenset[str] = frozenset()


def lower_graph(
    graph: onnx.ModelProto,
    lowering: Lowering,
    *,
    before: Mapping[str, Scores],
    measure: Measure,
    say: Callable[[str], None],
) -> Lowered:
    """Bring a graph to a lower precision without losing targets.

    Args:
        graph: FP32.
        lowering: how.
        before: scores of FP32 on the labelled sets, by name.
        measure: scores a graph on them.
        say: receives a line before each long step.

    Raises:
        CalibrationError: more is lost than the limits allow, whatever mix is tried.
        ValueError: the gate can judge nothing on a labelled set, the graph has no layer that the
            precision can take, or TensorRT could not build what became of it.
    """
    find_losses(before, before, lowering.limits)  # refuse now and not in an hour
    pairs = _prepare(lowering, say)
    seen = [with_targets for with_targets, _ in pairs]
    if lowering.precision == "int8":
        able = _int8(graph, lowering, pairs, say)
    else:
        say(f"checking the range of FP16 on {len(pairs)} frames")
        able = _fp16(graph, seen, say)
    if not able.names:
        raise ValueError(f"{lowering.precision} can take no layer of the graph; export it in fp32")
    flop = count_layer_flop(graph)

    @functools.cache
    def damage() -> dict[str, float]:
        say(f"lowering each of {len(able.names)} layers alone")
        as_written = functools.partial(_emulate, able.lower)
        return measure_damage(graph, as_written, able.names, seen[:DAMAGE_FRAMES], say=say)

    layers = Layers(able.lower, {name: flop[name] for name in able.names}, damage)
    announced = _announce(measure, lowering.precision, say)
    search = search_mix(
        layers, SHARES[lowering.precision], before=before, measure=announced, limits=lowering.limits
    )
    lowered = able.lower(search.chosen.layers)
    check_graph(lowered)
    return Lowered(
        graph=lowered,
        chosen=search.chosen,
        share=_share(lowered, flop),
        curve=_complete(search.tried, layers, SHOWN[lowering.precision], announced),
        damage=damage() if damage.cache_info().currsize else {},
        observed=able.calibrated.observed,
        ranges=able.calibrated.ranges,
        untrained=able.untrained,
    )


def carry_ranges(nodes: Sequence[onnx.NodeProto], trained: Mapping[str, float]) -> dict[str, float]:
    """Ranges of a quantisation-aware training by convolution of the graph.

    Args:
        nodes: convolutions; those of modules that the training did not round are left out.
        trained: by module name; some modules may serve nothing but the reconstruction, which is
            not exported.
    """
    modules = {node.name: find_module(node.name, trained) for node in nodes}
    return {name: trained[module] for name, module in modules.items() if module is not None}


def accept_half(
    graph: onnx.ModelProto,
    scores: Mapping[str, Scores],
    *,
    before: Mapping[str, Scores],
    limits: Limits,
) -> Lowered:
    """Take an FP16 graph as a solver's lower precision, or refuse it.

    Args:
        graph: with casts to FP16 and back.
        scores: of it on the labelled sets, by name, computed as it is written.
        before: of FP32.
        limits: what may be lost.

    Raises:
        CalibrationError: more is lost.
        ValueError: the gate can judge nothing on a labelled set.
    """
    if losses := find_losses(before, scores, limits):
        raise CalibrationError(
            f"the lower precision loses targets: {'; '.join(losses)}; nothing was written"
        )
    flop = count_layer_flop(graph)
    halves = [name for name, kind in layer_precisions(graph).items() if kind == "fp16"]
    share = _share(graph, flop)
    chosen = Mix(frozenset(halves), 1.0, scores)
    return Lowered(graph, chosen, share, (chosen,), {}, {}, {})


def _prepare(lowering: Lowering, say: Callable[[str], None]) -> list[tuple[FloatMap, FloatMap]]:
    """With the targets and without. A clip in which the scene is cut is none, and that is said."""
    prepared, cut = [], []
    for pair in lowering.frames.frames:
        shown = prepare_input([*pair.older, pair.frame], lowering.contract)
        empty = prepare_input([*pair.older_empty, pair.empty], lowering.contract)
        if shown is None or empty is None:
            cut.append(pair.name)
            continue
        prepared.append((shown, empty))
    if len(prepared) < LEAST_FRAMES:
        raise CalibrationError(
            f"in {len(cut)} of {len(lowering.frames.frames)} clips to calibrate on the scene is "
            f"cut, e.g. before {cut[0]}; {LEAST_FRAMES} whole ones are the least: put each shot "
            "into a folder of its own"
        )
    if cut:
        say(f"left out, as the scene is cut in these clips: those that end with {', '.join(cut)}")
    return prepared


def _calibrate(
    graph: onnx.ModelProto,
    lowering: Lowering,
    pairs: Sequence[tuple[FloatMap, FloatMap]],
    say: Callable[[str], None],
) -> Calibrated:
    """Ranges of every convolution's input, from the cache where it has them."""
    folder = cache_folder()
    key = range_key(graph, lowering.contract, lowering.frames, lowering.method)
    if (cached := read_ranges(folder, key)) is not None:
        say(f"ranges are those of an earlier export ({folder / key[:12]}...)")
        return cached
    say(f"collecting ranges on {len(pairs)} frames of {lowering.frames.source}")
    nodes = list_candidates(graph)
    observed = observe(graph, list(dict.fromkeys(node.input[0] for node in nodes)), pairs)
    ranges = estimate(observed, lowering.method)
    alive = [node.name for node in nodes if ranges[node.input[0]]]
    shifts = find_shifts(graph, ranges, alive, [seen for seen, _ in pairs])
    calibrated = Calibrated(ranges, observed, shifts)
    try:
        write_ranges(folder, key, calibrated)
    except OSError as err:
        say(f"ranges are not kept for the next export: {err}")
    return calibrated


def _int8(
    graph: onnx.ModelProto,
    lowering: Lowering,
    pairs: Sequence[tuple[FloatMap, FloatMap]],
    say: Callable[[str], None],
) -> _Able:
    """The layers that INT8 can take, and how: what has no range to divide stays in FP32."""
    calibrated, nodes = _calibrate(graph, lowering, pairs, say), list_candidates(graph)
    left: frozenset[str] = frozenset()
    if lowering.trained:
        carried = carry_ranges(nodes, lowering.trained)
        left = frozenset(node.name for node in nodes if node.name not in carried)
        nodes = [node for node in nodes if node.name in carried]
        say(f"ranges are those of the training, for the {len(nodes)} layers that it rounded")
        of_inputs = {node.input[0]: carried[node.name] for node in nodes}
        # The training saw what rounding shifts, and its biases answer that.
        calibrated = replace(calibrated, ranges=calibrated.ranges | of_inputs, shifts={})
    ranges, shifts = calibrated.ranges, calibrated.shifts
    names = [node.name for node in nodes if ranges[node.input[0]]]
    if dead := [node.name for node in nodes if not ranges[node.input[0]]]:
        say(f"stays in fp32, as it reads nothing but zeros on the frames: {', '.join(dead)}")

    def lower(layers: Collection[str]) -> onnx.ModelProto:
        corrections = {name: shifts[name] for name in layers if name in shifts}
        return take_back(to_int8(graph, ranges, layers), corrections)

    return _Able(names, lower, calibrated, left)


def _fp16(graph: onnx.ModelProto, frames: Sequence[FloatMap], say: Callable[[str], None]) -> _Able:
    """The layers that FP16 can take, and how: what FP16 cannot hold on the frames stays in FP32."""
    largest = find_largest(graph, frames)
    beyond = {
        name
        for name, value in largest.items()
        if value * HEADROOM > LARGEST_FP16 or 0.0 < value < SMALLEST_FP16
    }
    wide = {node.name for node in graph.graph.node if beyond & {*node.input, *node.output}}
    if wide:
        say(f"{len(wide)} operators at the ends of FP16's range stay in fp32")
    able = layer_precisions(to_fp16(graph, islands=wide))
    names = [name for name, precision in able.items() if precision == "fp16"]

    def lower(layers: Collection[str]) -> onnx.ModelProto:
        return to_fp16(graph, islands=wide, kept_layers=set(names) - set(layers))

    return _Able(names, lower)


def _emulate(lower: Lower, layers: Collection[str]) -> onnx.ModelProto:
    return emulate_fp16(lower(layers))


def _announce(measure: Measure, precision: Reached, say: Callable[[str], None]) -> Measure:
    def announced(graph: onnx.ModelProto) -> Mapping[str, Scores]:
        layers = layer_precisions(graph)
        lowered = sum(one == precision for one in layers.values())
        say(f"measuring {precision} in {lowered} of {len(layers)} layers")
        return measure(graph)

    return announced


def _complete(
    tried: Sequence[Mix], layers: Layers, shares: Sequence[float], measure: Measure
) -> tuple[Mix, ...]:
    """The curve: what was tried, and some shares more."""
    mixes = list(tried)
    for share in shares:
        chosen = layers.choose(share)
        if all(mix.layers != chosen for mix in mixes):
            mixes.append(measure_mix(layers, chosen, measure))
    return tuple(sorted(mixes, key=lambda mix: mix.share, reverse=True))


def _share(graph: onnx.ModelProto, flop: dict[str, int]) -> float:
    lowered = sum(
        flop.get(name, 0) for name, kind in layer_precisions(graph).items() if kind != "fp32"
    )
    return lowered / sum(flop.values()) if flop else 1.0
