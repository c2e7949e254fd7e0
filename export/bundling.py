"""From a model of the zoo to a bundle on disk: every step of an export, in order."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from .. import __version__
from ..calibration.gate import find_losses
from ..runtime.bundle import (
    SCHEMA,
    Accuracy,
    Calibration,
    CpuChoice,
    Manifest,
    Parity,
    Precision,
    SolverRecord,
    TensorSpec,
    WeightsRecord,
    seal_bundle,
    stage_bundle,
)
from ..runtime.engine import load_engine
from ..runtime.frame import FloatMap, FrameContract
from ..runtime.scoring import Scores
from ..train.checkpoint import Weights, load_into
from ..train.fake_quantize import check_ranges
from ..train.zoo import Model
from .accuracy import Judge, note_accuracy
from .bundle_plans import REPORT, make_plan
from .graph import count_operators, fold_scales, lift_constants, share_constants
from .inputs import prepare_inputs
from .lint import check_graph
from .lowering import Lowered, Lowering, accept_half, lower_graph
from .outcome import Outcome, describe_layers
from .parity import FRAMES, compare_answers
from .plan_order import PlanOrder
from .precision import layer_precisions, to_fp16
from .report import write_report
from .speed import choose_for_cpu, distrust
from .trace import INPUT, trace
from .unroll import Unrolled, Unrolling, unroll_measured

GRAPHS: dict[Precision, str] = {
    "fp32": "model.onnx",
    "fp16": "model.fp16.onnx",
    "int8": "model.int8.onnx",
}
UNROLLED_FRAMES = 2  # on which a solver is run to rest, which takes seconds each
ENGINE, AS_WRITTEN = "ONNX Runtime", "as the graph is written"  # what accuracy is measured with


@dataclass(frozen=True, slots=True)
class Order:
    """What to export.

    Attributes:
        model: of the zoo.
        weights: its parameters.
        weights_file: where they were read; None for a model without parameters.
        contract: what the network will expect.
        lowering: to what precision, and how; None for FP32.
        judge: labelled sets that parity and accuracy are measured on, and the threshold of
            confidence, which the manifest keeps.
        plan: to build; None for none.
        iterations: of a solver; None takes its own.
    """

    model: Model
    weights: Weights
    weights_file: Path | None
    contract: FrameContract
    lowering: Lowering | None
    judge: Judge
    plan: PlanOrder | None = None
    iterations: int | None = None

    @property
    def precision(self) -> Precision:
        """What TensorRT will build from."""
        return "fp32" if self.lowering is None else self.lowering.precision


@dataclass(frozen=True, slots=True)
class Precisions:
    """The graphs of a bundle, and what is known of them.

    Attributes:
        graphs: by precision.
        before: scores of FP32 on the labelled sets, by name.
        accuracy: on them, FP32 first.
        cpu: what a CPU runs.
        lowered: how the lower precision came about; None where there is none.
    """

    graphs: dict[Precision, onnx.ModelProto]
    before: Mapping[str, Scores]
    accuracy: tuple[Accuracy, ...]
    cpu: CpuChoice
    lowered: Lowered | None


def export_bundle(order: Order, folder: Path, *, say: Callable[[str], None]) -> Manifest:
    """Make a bundle; it is whole or absent.

    Args:
        order: what to export.
        folder: the bundle; an older bundle there is replaced.
        say: receives a line before each long step.

    Returns:
        The manifest as written.

    Raises:
        ValueError: weights of another network, or a graph that TensorRT could not build.
        ParityError: the graph answers differently than the network.
        CalibrationError: the lower precision loses targets.
        EngineError: the plan cannot be built, or computes layers in other precisions.
        OSError: the folder cannot be written.
    """
    with stage_bundle(folder) as stage:
        unrolling = _build(order, say=say)
        network = unrolling.network
        say(f"tracing {order.model.name} at {order.contract.height}x{order.contract.width}")
        graph = _make_graph(network, order)
        say(f"comparing torch and ONNX Runtime on {order.judge.names}")
        parity = _measure_parity(network, graph, order)
        made = _make_precisions(graph, unrolling.half, order, say=say)
        for precision, made_graph in made.graphs.items():
            (stage / GRAPHS[precision]).write_bytes(made_graph.SerializeToString())
        manifest = describe(order, made, parity, unrolling.record)
        manifest = _with_plan(manifest, order, stage, say=say)
        outcome = tell_outcome(made, order, say=say)
        pictures = () if outcome is None else _draw(outcome, stage)
        report = write_report(manifest, outcome, pictures, cost=unrolling.cost)
        (stage / REPORT).write_text(report, encoding="utf-8")
        return seal_bundle(stage, manifest)


def _with_plan(
    manifest: Manifest, order: Order, stage: Path, *, say: Callable[[str], None]
) -> Manifest:
    """Put the plan that is ordered beside the graphs; gives the manifest that tells of it."""
    if order.plan is None:
        return manifest
    model = (stage / GRAPHS[order.precision]).read_bytes()
    made = make_plan(model, manifest, order.precision, order.plan, say=say)
    (stage / made.name).write_bytes(made.content)
    return replace(manifest, plans={made.name: made.record})


def make_graph(network: nn.Module, size: tuple[int, int], *, frames: int = 1) -> onnx.ModelProto:
    """Trace a network at (height, width), rewrite the graph and check it: FP32, as bundles have it.

    Raises:
        ValueError: a graph that TensorRT could not build.
    """
    graph = trace(network, size, frames=frames)
    lift_constants(graph)
    share_constants(graph)
    fold_scales(graph)
    check_graph(graph)
    return graph


def _make_graph(network: nn.Module, order: Order) -> onnx.ModelProto:
    _, frames, height, width = order.contract.input_shape
    return make_graph(network, (height, width), frames=frames)


def _build(order: Order, *, say: Callable[[str], None]) -> Unrolling:
    """The network with its weights; of a solver its twin, measured against it."""
    network = order.model.build().eval()
    if order.weights_file is not None:
        load_into(network, order.weights.tensors, name=order.weights_file.name)
        check_ranges(network, order.weights.ranges, name=order.weights_file.name)
    return unroll_measured(
        network,
        [torch.from_numpy(one) for one in _prepare(order, most=UNROLLED_FRAMES)],
        iterations=order.iterations,
        say=say,
    )


def _weights(order: Order) -> WeightsRecord | None:
    if order.weights_file is None:
        return None
    return WeightsRecord(
        file=order.weights_file.name,
        sha256=hashlib.sha256(order.weights_file.read_bytes()).hexdigest(),
        notes=dict(order.weights.notes),
    )


def _measure_parity(network: nn.Module, graph: onnx.ModelProto, order: Order) -> Parity:
    engine = load_engine(graph.SerializeToString())
    amplifies = isinstance(network, Unrolled)
    return compare_answers(network, engine, _prepare(order, most=FRAMES), amplifies=amplifies)


def _prepare(order: Order, *, most: int) -> list[FloatMap]:
    """Some inputs, of every labelled set about as many."""
    sets = order.judge.sets
    share = -(-most // len(sets))
    return [one for some in sets for one in prepare_inputs(some.frames, some.contract, most=share)]


def _make_precisions(
    graph: onnx.ModelProto, half: nn.Module | None, order: Order, *, say: Callable[[str], None]
) -> Precisions:
    """Measure FP32, and what is ordered below it; the lower precision must pass the gate."""
    say(f"measuring fp32 on {order.judge.description}")
    before = order.judge.score(graph)
    graphs: dict[Precision, onnx.ModelProto] = {"fp32": graph}
    accuracy = note_accuracy(before, precision="fp32", engine=ENGINE)
    lowered = _lower(graph, half, order, before, say)
    if lowered is None or order.lowering is None:
        return Precisions(graphs, before, accuracy, choose_for_cpu(graphs, "fp32"), None)
    precision = order.precision
    graphs[precision] = lowered.graph
    say(f"measuring and timing {precision} as this CPU runs it")
    as_run = order.judge.score(lowered.graph)
    accuracy += note_accuracy(lowered.scores, precision=precision, engine=AS_WRITTEN)
    accuracy += note_accuracy(as_run, precision=precision, engine=ENGINE)
    cpu = choose_for_cpu(graphs, precision)
    if losses := find_losses(before, as_run, order.lowering.limits):
        cpu = distrust(cpu, losses)
    return Precisions(graphs, before, accuracy, cpu, lowered)


def _lower(
    graph: onnx.ModelProto,
    half: nn.Module | None,
    order: Order,
    before: Mapping[str, Scores],
    say: Callable[[str], None],
) -> Lowered | None:
    """Lower the graph of a network; trace a solver's own twin in FP16."""
    if order.lowering is None:
        return None
    if order.model.is_trained:
        measure = order.judge.score_as_written
        return lower_graph(graph, order.lowering, before=before, measure=measure, say=say)
    say("tracing and measuring the twin that computes in fp16")
    lowered = to_fp16(graph) if half is None else _make_graph(half, order)
    scores = order.judge.score_as_written(lowered)
    return accept_half(lowered, scores, before=before, limits=order.lowering.limits)


def tell_outcome(made: Precisions, order: Order, *, say: Callable[[str], None]) -> Outcome | None:
    """Set the lower precision beside FP32, target by target; None where there is none."""
    if order.lowering is None or made.lowered is None or not order.model.is_trained:
        return None
    say(f"comparing fp32 and {order.precision} target by target on {order.judge.description}")
    full, lower = made.graphs["fp32"], made.lowered.graph
    return Outcome(
        precision=order.lowering.precision,
        limits=order.lowering.limits,
        before=made.before,
        lowered=made.lowered,
        layers=describe_layers(full, made.lowered),
        compared=order.judge.compare(full, lower),
        threshold=order.judge.threshold,
    )


def _draw(outcome: Outcome, stage: Path) -> tuple[str, ...]:
    # Matplotlib takes seconds to load, which neither --help nor an FP32 bundle shall wait for.
    from .pictures import draw_pictures

    return draw_pictures(outcome, stage)


def describe(
    order: Order, made: Precisions, parity: Parity, solver: SolverRecord | None
) -> Manifest:
    """Write down what was made; the files and the seal come when the bundle is closed."""
    graph = made.graphs[order.precision]
    shape = order.contract.input_shape
    return Manifest(
        schema=SCHEMA,
        model=order.model.name,
        source=order.model.source,
        precision=order.precision,
        graphs={precision: GRAPHS[precision] for precision in made.graphs},
        cpu=made.cpu,
        weights=_weights(order),
        solver=solver,
        frame=order.contract,
        threshold=order.judge.threshold,
        input=TensorSpec(INPUT, shape, "float32"),
        output=_describe_output(graph),
        operators=count_operators(graph),
        layers=layer_precisions(graph),
        parity=parity,
        accuracy=made.accuracy,
        calibration=_calibration(order, made.lowered),
        versions={
            "irstd": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": str(torch.__version__),
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        plans={},
        files={},
    )


def _describe_output(graph: onnx.ModelProto) -> TensorSpec:
    (output,) = graph.graph.output
    sides = tuple(side.dim_value for side in output.type.tensor_type.shape.dim)
    return TensorSpec(output.name, sides, "float32")


def _calibration(order: Order, lowered: Lowered | None) -> Calibration | None:
    if order.lowering is None or lowered is None or not order.model.is_trained:
        return None  # a solver's twin is not calibrated
    frames = order.lowering.frames
    return Calibration(
        method=order.lowering.ranged_by,
        source=frames.source,
        frames=len(frames.frames),
        offered=frames.offered,
        labelled=frames.labelled,
        sha256=frames.sha256,
        share=lowered.share,
    )
