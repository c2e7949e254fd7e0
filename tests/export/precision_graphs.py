"""Hand-made graphs to convert to FP16, and what is in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from irstd.export.lint import check_graph
from irstd.export.precision import to_fp16

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    graph = inferred.graph
    found = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def evaluate(model: onnx.ModelProto, *inputs: np.ndarray) -> list[np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))


def random(shape: Sequence[int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


CONSTANTS = {
    "weight": 0.3 * random((4, 3, 3, 3), 1),
    "second_weight": 0.3 * random((4, 4, 1, 1), 2),
    "bias": random((4,), 3),
    "axes": np.array([2, 3], np.int64),
    "shape": np.array([1, 4, 36], np.int64),
    "scales": np.array([1, 1, 2, 2], np.float32),
}


def node(kind: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], name=f"{kind}_{output}", **attributes)


def conv(output: str, *, data: str = "x", weight: str = "weight") -> onnx.NodeProto:
    pads = [1, 1, 1, 1] if weight == "weight" else [0, 0, 0, 0]
    return node("Conv", f"{data} {weight} bias", output, pads=pads)


def build(
    nodes: Sequence[onnx.NodeProto], outputs: dict[str, Sequence[int]] | None = None
) -> onnx.ModelProto:
    read = {name for entry in nodes for name in entry.input}
    graph = helper.make_graph(
        nodes,
        "hand-made",
        [helper.make_tensor_value_info("x", FLOAT, [1, 3, 6, 6])],
        [
            helper.make_tensor_value_info(name, FLOAT, shape)
            for name, shape in (outputs or {"y": [1, 4, 6, 6]}).items()
        ],
        [numpy_helper.from_array(CONSTANTS[name], name) for name in CONSTANTS if name in read],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def converted(
    model: onnx.ModelProto, *, tolerance: float = 0.02, islands: Sequence[str] = ()
) -> onnx.ModelProto:
    """Convert a hand-made graph, and see that it still computes the same, nearly."""
    before = model.SerializeToString()
    result = to_fp16(model, islands=islands)
    assert model.SerializeToString() == before
    check_graph(result)
    x = random((1, 3, 6, 6), 9)
    for ours, theirs in zip(evaluate(result, x), evaluate(model, x), strict=True):
        assert ours.dtype == np.float32 and ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=tolerance)
    return result


def reader(output: str, *, data: str) -> onnx.NodeProto:
    return conv(output, data=data, weight="second_weight")


CHAIN = [
    conv("c"),
    node("Relu", "c", "r"),
    reader("d", data="r"),
    node("Relu", "d", "s"),
    reader("y", data="s"),
]
