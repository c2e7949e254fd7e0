"""From a model of the zoo to a bundle on disk: every step of an export, in order."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from .. import __version__
from ..calibration.gate import Limits, check_gate
from ..runtime.bundle import (
    SCHEMA,
    Accuracy,
    Manifest,
    Parity,
    Precision,
    TensorSpec,
    WeightsRecord,
    seal_bundle,
    stage_bundle,
)
from ..runtime.detector import Detector
from ..runtime.engine import load_engine
from ..runtime.evaluation import LabelledFrame, score_masks
from ..runtime.frame import FrameContract
from ..runtime.scoring import Scores
from ..runtime.targets import Extraction
from ..train.checkpoint import Weights, load_into
from ..train.zoo import Model
from .graph import count_operators, fold_scales, lift_constants
from .lint import check_graph
from .parity import check_parity
from .precision import layer_precisions, to_fp16
from .report import write_report
from .trace import INPUT, OUTPUT, trace

GRAPHS: dict[Precision, str] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx"}


@dataclass(frozen=True, slots=True)
class Order:
    """What to export.

    Attributes:
        model: of the zoo.
        weights: its parameters.
        weights_file: where they were read.
        contract: what the network will expect.
        precision: what engines will run.
        threshold: of confidence, written into the manifest.
        labelled: frames that parity and accuracy are measured on.
        labelled_name: what these are called in the report.
        labelled_contract: `contract` at the bit depth of those frames: most labelled sets have 8
            bits, whatever the sensor has.
    """

    model: Model
    weights: Weights
    weights_file: Path
    contract: FrameContract
    precision: Precision
    threshold: float
    labelled: Sequence[LabelledFrame]
    labelled_name: str
    labelled_contract: FrameContract


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
        OSError: the folder cannot be written.
    """
    with stage_bundle(folder) as stage:
        network = order.model.build().eval()
        load_into(network, order.weights.tensors, name=order.weights_file.name)
        say(f"tracing {order.model.name} at {order.contract.height}x{order.contract.width}")
        graphs = make_graphs(network, order)
        say(f"comparing torch and ONNX Runtime on {order.labelled_name}")
        parity = _measure_parity(network, graphs["fp32"], order)
        accuracy = []
        for precision, graph in graphs.items():
            say(f"measuring {precision} on {len(order.labelled)} frames of {order.labelled_name}")
            accuracy.append(measure(graph, order))
        if len(accuracy) > 1:
            check_gate(accuracy[0], accuracy[-1], Limits())
        for precision, graph in graphs.items():
            (stage / GRAPHS[precision]).write_bytes(graph.SerializeToString())
        scored = {name: scores for name, scores in zip(graphs, accuracy, strict=True)}
        manifest = describe(order, graphs[order.precision], parity, scored)
        (stage / "report.md").write_text(write_report(manifest), encoding="utf-8")
        return seal_bundle(stage, manifest)


def make_graph(network: nn.Module, size: tuple[int, int]) -> onnx.ModelProto:
    """Trace a network at (height, width), rewrite the graph and check it: FP32, as bundles have it.

    Raises:
        ValueError: a graph that TensorRT could not build.
    """
    graph = trace(network, size)
    lift_constants(graph)
    fold_scales(graph)
    check_graph(graph)
    return graph


def make_graphs(network: nn.Module, order: Order) -> dict[Precision, onnx.ModelProto]:
    """The graph in FP32 and in the precision that was ordered."""
    graph = make_graph(network, (order.contract.height, order.contract.width))
    graphs: dict[Precision, onnx.ModelProto] = {"fp32": graph}
    if order.precision == "fp16":
        graphs["fp16"] = to_fp16(graph)
        check_graph(graphs["fp16"])
    return graphs


def _measure_parity(network: nn.Module, graph: onnx.ModelProto, order: Order) -> Parity:
    engine = load_engine(graph.SerializeToString())
    frames = [labelled.frame for labelled in order.labelled]
    return check_parity(network, engine, frames, order.labelled_contract)


def measure(graph: onnx.ModelProto, order: Order) -> Scores:
    """Score a graph on the labelled frames, exactly as a detector will run it."""
    extraction = Extraction(threshold=order.threshold)
    engine = load_engine(graph.SerializeToString())
    with Detector(engine, order.labelled_contract, extraction) as detector:
        return score_masks(detector, order.labelled)


def describe(
    order: Order, graph: onnx.ModelProto, parity: Parity, scored: dict[Precision, Scores]
) -> Manifest:
    """Write down what was made; the files and the seal come when the bundle is closed."""
    shape = (1, 1, order.contract.height, order.contract.width)
    return Manifest(
        schema=SCHEMA,
        model=order.model.name,
        source=order.model.source,
        precision=order.precision,
        graph=GRAPHS[order.precision],
        weights=WeightsRecord(
            file=order.weights_file.name,
            sha256=hashlib.sha256(order.weights_file.read_bytes()).hexdigest(),
            notes=dict(order.weights.notes),
        ),
        frame=order.contract,
        threshold=order.threshold,
        input=TensorSpec(INPUT, shape, "float32"),
        output=TensorSpec(OUTPUT, shape, "float32"),
        operators=count_operators(graph),
        layers=layer_precisions(graph),
        parity=parity,
        accuracy=tuple(
            _accuracy(precision, scores, order.labelled_name)
            for precision, scores in scored.items()
        ),
        versions={
            "irstd": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": str(torch.__version__),
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        files={},
    )


def _accuracy(precision: Precision, scores: Scores, dataset: str) -> Accuracy:
    return Accuracy(
        precision=precision,
        dataset=dataset,
        frames=scores.frames,
        iou=_defined(scores.iou),
        niou=_defined(scores.niou),
        pd=_defined(scores.pd),
        fa_per_mpix=scores.fa_per_mpix,
    )


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
