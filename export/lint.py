"""Lint: what must not stand in a graph that TensorRT 8.6 to 11 shall build."""

from __future__ import annotations

import onnx

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


def check_graph(model: onnx.ModelProto) -> None:
    """Refuse a graph that some supported TensorRT could not build.

    Raises:
        ValueError: an operator is refused, a shape is not fixed, the opset is another, or the
            graph is no valid ONNX; the text lists every reason.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise ValueError(f"the graph is no valid ONNX: {str(err).splitlines()[0]}") from err
    problems = _operator_problems(model.graph) + _shape_problems(model.graph)
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
