"""Lint: what must not stand in a graph that TensorRT 8.6 to 11 shall build."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from ..calibration.quantize import DQ, Q
from .trace import OPSET

# Operator: why it is refused.
REFUSED = {
    "GroupNormalization": "TensorRT 8.6 to 10 fail on it or compute it wrongly",
    "InstanceNormalization": "slow in TensorRT, single-threaded in ONNX Runtime",
    "Loop": "the number of iterations must be fixed",
    "Scan": "the number of iterations must be fixed",
    "If": "a branch on values stops the GPU",
    "NonZero": "its output's shape depends on values",
    "Unique": "no TensorRT has it",
    "DFT": "no TensorRT has it",
    "STFT": "no TensorRT has it",
    "Det": "no TensorRT has it",
    "Inverse": "no TensorRT has it",
    "SVD": "no TensorRT has it",
    "DeformConv": "needs a plugin",
}

# What TensorRT computes in one kernel with the convolution in front of it.
FUSED = ("Add", "Clip", "LeakyRelu", "PRelu", "Relu", "Sigmoid")


def check_graph(model: onnx.ModelProto) -> None:
    """Refuse a graph that some supported TensorRT could not build.

    Raises:
        ValueError: an operator is refused, a shape is not fixed, the opset is another, INT8 is
            written in a form that not every TensorRT reads, or the graph is no valid ONNX; the
            text lists every reason.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise ValueError(f"the graph is no valid ONNX: {str(err).splitlines()[0]}") from err
    problems = _operator_problems(model.graph) + _shape_problems(model.graph)
    problems += _pair_problems(model.graph) + _fusion_problems(model.graph)
    for entry in model.opset_import:
        if (entry.domain, entry.version) != ("", OPSET):
            problems.append(f"opset {entry.domain or 'ai.onnx'} {entry.version}, not {OPSET}")
    if problems:
        raise ValueError("TensorRT could not build the graph: " + "; ".join(problems))


def _operator_problems(graph: onnx.GraphProto) -> list[str]:
    found = sorted({node.op_type for node in graph.node} & REFUSED.keys())
    problems = [f"{operator} ({REFUSED[operator]})" for operator in found]
    foreign = sorted({node.op_type for node in graph.node if node.domain not in ("", "ai.onnx")})
    return problems + [f"{operator} (no operator of ONNX itself)" for operator in foreign]


def _shape_problems(graph: onnx.GraphProto) -> list[str]:
    return [
        f"{value.name} has no fixed shape"
        for value in (*graph.input, *graph.output)
        if not all(side.HasField("dim_value") for side in value.type.tensor_type.shape.dim)
    ]


def _pair_problems(graph: onnx.GraphProto) -> list[str]:
    """What is not symmetric INT8 with constant FP32 scales: a number a tensor, or one a filter."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    problems = []
    for node in graph.node:
        if node.op_type not in (Q, DQ):
            continue
        maker = makers.get(node.input[0])
        source = maker.input[0] if maker is not None and maker.op_type == Q else node.input[0]
        found = [
            *_zero_problems(constants.get(node.input[2]) if len(node.input) > 2 else None),
            *_scale_problems(constants.get(node.input[1]), node, is_weight=source in constants),
        ]
        problems += [f"{node.name or node.op_type} has {problem}" for problem in found]
    return problems


def _zero_problems(zero: onnx.TensorProto | None) -> list[str]:
    if zero is None:
        return ["no constant zero point"]
    if zero.data_type == onnx.TensorProto.INT32:
        return ["a zero point of INT32, as for a bias, which must stay FP32"]
    if zero.data_type != onnx.TensorProto.INT8:
        return ["a zero point that is not INT8"]
    return ["a zero point other than 0"] if numpy_helper.to_array(zero).any() else []


def _scale_problems(
    scale: onnx.TensorProto | None, node: onnx.NodeProto, *, is_weight: bool
) -> list[str]:
    if scale is None:
        return ["no constant scale"]
    if scale.data_type != onnx.TensorProto.FLOAT:
        return [f"a scale that is not FP32, which opset {OPSET} asks for"]
    values = numpy_helper.to_array(scale)
    problems = []
    if not (np.isfinite(values) & (values > 0)).all():
        problems.append("a scale that is no positive number")
    axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
    if values.ndim and not is_weight:
        problems.append("a scale for each channel, which only weights take")
    if values.ndim and is_weight and axis != 0:
        problems.append(f"scales along axis {axis} of its weights, not 0")
    return problems


def _fusion_problems(graph: onnx.GraphProto) -> list[str]:
    """Pairs that part a convolution from the activation or sum that would run in its kernel."""
    convolved = {node.output[0]: node.name for node in graph.node if node.op_type == "Conv"}
    rounded = _follow(graph, DQ, _follow(graph, Q, convolved))
    return [
        f"{rounded[name]} is rounded in front of {node.name or node.op_type}, which belongs to it"
        for node in graph.node
        for name in node.input
        if node.op_type in FUSED and name in rounded
    ]


def _follow(graph: onnx.GraphProto, operator: str, sources: dict[str, str]) -> dict[str, str]:
    """What an operator makes of some values, and the names that these have."""
    return {
        node.output[0]: sources[node.input[0]]
        for node in graph.node
        if node.op_type == operator and node.input[0] in sources
    }
