from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from irstd.export.lint import FUSED, REFUSED, check_graph

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
NO_OPERATOR_OF_ONNX = ("Inverse", "SVD")


def value(name: str, shape: Sequence[int | str], kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 17,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "hand-made", inputs, outputs, tensors)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def relu(
    shape: Sequence[int | str] = (1, 4, 6, 6), *, opset: int = 17, domains: Sequence[str] = ()
) -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    x, y = value("x", shape), value("y", shape)
    return model_of(nodes, inputs=[x], outputs=[y], opset=opset, domains=domains)


def branch(name: str, offset: float) -> onnx.GraphProto:
    number = numpy_helper.from_array(np.full((2,), offset, np.float32), f"{name}_offset")
    node = helper.make_node("Constant", [], [f"{name}_out"], value=number)
    return helper.make_graph([node], name, [], [value(f"{name}_out", [2])])


def graph_with(operator: str) -> onnx.ModelProto:
    """The smallest valid graph of one refused operator, at the first opset that has it."""
    x, square = value("x", [1, 4, 6, 6]), value("x", [1, 6, 6])
    if operator in ("GroupNormalization", "InstanceNormalization"):
        groups = {"num_groups": 2} if operator.startswith("Group") else {}
        sides = 2 if groups else 4
        node = helper.make_node(operator, ["x", "s", "b"], ["y"], **groups)
        constants = dict.fromkeys(("s", "b"), np.ones(sides, np.float32))
        opset = 21 if groups else 17  # 18 had it too, and 21 took that back
        y = value("y", [1, 4, 6, 6])
        return model_of([node], inputs=[x], outputs=[y], constants=constants, opset=opset)
    if operator == "DeformConv":
        constants = {
            "w": np.ones((4, 4, 1, 1), np.float32),
            "o": np.zeros((1, 2, 6, 6), np.float32),
        }
        node = helper.make_node(operator, ["x", "w", "o"], ["y"], kernel_shape=[1, 1])
        y = value("y", [1, 4, 6, 6])
        return model_of([node], inputs=[x], outputs=[y], constants=constants, opset=19)
    if operator == "NonZero":
        node = helper.make_node(operator, ["x"], ["y"])
        return model_of([node], inputs=[x], outputs=[value("y", [4, "n"], INT)])
    if operator == "Unique":
        node = helper.make_node(operator, ["x"], ["y"])
        return model_of([node], inputs=[x], outputs=[value("y", ["n"])])
    if operator == "DFT":
        node = helper.make_node(operator, ["x"], ["y"], axis=1)
        shape = [1, 8, 2]
        return model_of([node], inputs=[value("x", shape)], outputs=[value("y", shape)])
    if operator == "STFT":
        node = helper.make_node(operator, ["x", "step", "", "length"], ["y"], onesided=1)
        constants = {"step": np.array(4, np.int64), "length": np.array(8, np.int64)}
        y = value("y", [1, 3, 5, 2])
        x = value("x", [1, 16, 1])
        return model_of([node], inputs=[x], outputs=[y], constants=constants)
    if operator == "Det":
        node = helper.make_node(operator, ["x"], ["y"])
        return model_of([node], inputs=[square], outputs=[value("y", [1])])
    if operator == "If":
        node = helper.make_node(
            operator, ["c"], ["y"], then_branch=branch("a", 1), else_branch=branch("b", 2)
        )
        return model_of([node], inputs=[value("c", [], BOOL)], outputs=[value("y", [2])])
    if operator == "Loop":
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["c_in"], ["c_out"]),
                helper.make_node("Add", ["v_in", "v_in"], ["v_out"]),
            ],
            "body",
            [value("i", [], INT), value("c_in", [], BOOL), value("v_in", [2])],
            [value("c_out", [], BOOL), value("v_out", [2])],
        )
        node = helper.make_node(operator, ["n", "", "x"], ["y"], body=body)
        constants = {"n": np.array(3, np.int64)}
        x, y = value("x", [2]), value("y", [2])
        return model_of([node], inputs=[x], outputs=[y], constants=constants)
    if operator == "Scan":
        body = helper.make_graph(
            [
                helper.make_node("Add", ["s_in", "e"], ["s_out"]),
                helper.make_node("Identity", ["s_out"], ["r"]),
            ],
            "body",
            [value("s_in", [2]), value("e", [2])],
            [value("s_out", [2]), value("r", [2])],
        )
        node = helper.make_node(operator, ["s", "x"], ["t", "y"], body=body, num_scan_inputs=1)
        inputs, outputs = (
            [value("s", [2]), value("x", [3, 2])],
            [value("t", [2]), value("y", [3, 2])],
        )
        return model_of([node], inputs=inputs, outputs=outputs)
    assert operator in NO_OPERATOR_OF_ONNX, f"no graph for {operator}; write one"
    # As other tools write it, in a domain of their own.
    node = helper.make_node(operator, ["x"], ["y"], domain="com.microsoft")
    y = value("y", [1, 6, 6])
    return model_of([node], inputs=[square], outputs=[y], domains=["com.microsoft"])


# --- what passes ----------------------------------------------------------------------------------


def test_a_plain_graph_passes_unchanged() -> None:
    model = relu()
    before = model.SerializeToString()
    check_graph(model)
    assert model.SerializeToString() == before


# --- what does not --------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", REFUSED)
def test_refused_operators(operator: str) -> None:
    with pytest.raises(ValueError, match="TensorRT could not build the graph: ") as caught:
        check_graph(graph_with(operator))
    assert f"{operator} ({REFUSED[operator]})" in str(caught.value)


@pytest.mark.parametrize("operator", NO_OPERATOR_OF_ONNX)
def test_operators_that_onnx_does_not_know(operator: str) -> None:
    model = graph_with("Det")
    model.graph.node[0].op_type = operator
    with pytest.raises(ValueError, match=f"the graph is no valid ONNX: .*{operator}"):
        check_graph(model)


@pytest.mark.parametrize("shape", [("n", 4, 6, 6), (1, 4, "h", "w"), (1, 4, None, 6)])
def test_shapes_that_are_not_fixed(shape: Sequence[int | str]) -> None:
    with pytest.raises(ValueError, match="x has no fixed shape; y has no fixed shape"):
        check_graph(relu(shape))


def test_an_output_without_a_shape() -> None:
    model = relu()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ValueError, match="y has no fixed shape|no valid ONNX"):
        check_graph(model)


@pytest.mark.parametrize("opset", [13, 16, 18])
def test_another_opset(opset: int) -> None:
    with pytest.raises(ValueError, match=f"opset ai.onnx {opset}, not 17"):
        check_graph(relu(opset=opset))


def test_a_foreign_domain() -> None:
    node = helper.make_node("FusedConv", ["x", "w"], ["y"], domain="com.microsoft")
    model = model_of(
        [node],
        inputs=[value("x", [1, 4, 6, 6])],
        outputs=[value("y", [1, 4, 6, 6])],
        constants={"w": np.ones((4, 4, 1, 1), np.float32)},
        domains=["com.microsoft"],
    )
    with pytest.raises(ValueError, match=r"FusedConv \(no operator of ONNX itself\)"):
        check_graph(model)


def test_an_import_of_a_foreign_domain() -> None:
    with pytest.raises(ValueError, match="opset com.microsoft 1"):
        check_graph(relu(domains=["com.microsoft"]))


def test_every_reason_is_listed() -> None:
    model = graph_with("NonZero")
    model.opset_import[0].version = 16
    with pytest.raises(ValueError) as caught:
        check_graph(model)
    assert str(caught.value) == (
        "TensorRT could not build the graph: NonZero (its output's shape depends on values); "
        "y has no fixed shape; opset ai.onnx 16, not 17"
    )


def broken_edge(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nowhere"


def wrong_output_shape(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Reluu"


def wrong_type(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64


@pytest.mark.parametrize("damage", [broken_edge, wrong_output_shape, unknown_operator, wrong_type])
def test_broken_graphs(damage: object) -> None:
    model = relu()
    damage(model)  # type: ignore[operator]
    with pytest.raises(ValueError, match="^the graph is no valid ONNX: .") as caught:
        check_graph(model)
    assert "\n" not in str(caught.value)


def test_an_empty_model() -> None:
    with pytest.raises(ValueError, match="no valid ONNX"):
        check_graph(onnx.ModelProto())


# --- INT8 -----------------------------------------------------------------------------------------


def pair(
    source: str, result: str, *, scale: str = "scale", zero: str = "zero", **axis: int
) -> list[onnx.NodeProto]:
    """QuantizeLinear and DequantizeLinear between two values."""
    parts = [name for name in (scale, zero) if name]
    inner = f"{result}_int8"
    return [
        helper.make_node("QuantizeLinear", [source, *parts], [inner], name=f"Q_{result}", **axis),
        helper.make_node(
            "DequantizeLinear", [inner, *parts], [result], name=f"DQ_{result}", **axis
        ),
    ]


WEIGHTS = np.random.default_rng(0).normal(size=(4, 4, 1, 1)).astype(np.float32)
CONSTANTS: dict[str, np.ndarray] = {
    "weight": WEIGHTS,
    "bias": np.ones(4, np.float32),
    "scale": np.array(0.1, np.float32),
    "zero": np.array(0, np.int8),
    "scales": np.full(4, 0.01, np.float32),
    "zeros": np.zeros(4, np.int8),
}


def quantised(
    nodes: Sequence[onnx.NodeProto] | None = None,
    constants: dict[str, np.ndarray] | None = None,
    **changed: np.ndarray,
) -> onnx.ModelProto:
    """A convolution whose input and weights are rounded, or other nodes that make `y` of `x`."""
    usual = [
        *pair("x", "x_8"),
        *pair("weight", "weight_8", scale="scales", zero="zeros", axis=0),
        helper.make_node("Conv", ["x_8", "weight_8", "bias"], ["y"], name="conv"),
    ]
    return model_of(
        list(nodes or usual),
        inputs=[value("x", [1, 4, 6, 6])],
        outputs=[value("y", [1, 4, 6, 6])],
        constants=CONSTANTS | (constants or {}) | changed,
    )


def behind(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """The same, and nodes that make `z`, then `y` of it."""
    model = quantised()
    model.graph.node[-1].output[0] = "z"
    model.graph.node.extend(nodes)
    return model


def test_symmetric_int8_passes() -> None:
    check_graph(quantised())
    check_graph(quantised(weight=np.abs(WEIGHTS), scales=CONSTANTS["scales"] * 3))


def test_weights_with_one_scale_or_stored_as_int8_pass() -> None:
    nodes = [
        *pair("x", "x_8"),
        *pair("weight", "weight_8"),
        helper.make_node("Conv", ["x_8", "weight_8", "bias"], ["y"]),
    ]
    check_graph(quantised(nodes))
    stored = helper.make_node("DequantizeLinear", ["stored", "scales", "zeros"], ["w"], axis=0)
    conv = helper.make_node("Conv", ["x_8", "w", "bias"], ["y"])
    model = quantised(
        [*pair("x", "x_8"), stored, conv], {"stored": np.ones(WEIGHTS.shape, np.int8)}
    )
    check_graph(model)


def test_rounding_between_two_convolutions_passes() -> None:
    last = helper.make_node("Conv", ["z_8", "weight_8", "bias"], ["y"])
    check_graph(behind(*pair("z", "z_8"), last))


def test_rounding_behind_the_activation_passes() -> None:
    relu = helper.make_node("Relu", ["z"], ["r"])
    last = helper.make_node("Add", ["r_8", "z"], ["y"])
    check_graph(behind(relu, *pair("r", "r_8"), last))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"zero": np.array(1, np.int8)}, "a zero point other than 0"),
        ({"zero": np.array(0, np.uint8)}, "a zero point that is not INT8"),
        ({"zero": np.array(128, np.uint8)}, "a zero point that is not INT8"),
        ({"scale": np.array(0, np.float32)}, "a scale that is no positive number"),
        ({"scale": np.array(-0.1, np.float32)}, "a scale that is no positive number"),
        ({"scale": np.array(np.nan, np.float32)}, "a scale that is no positive number"),
        ({"scale": np.array(np.inf, np.float32)}, "a scale that is no positive number"),
    ],
)
def test_activations_that_not_every_tensorrt_reads(
    changed: dict[str, np.ndarray], reason: str
) -> None:
    with pytest.raises(ValueError, match="TensorRT could not build the graph") as caught:
        check_graph(quantised(**changed))
    assert f"Q_x_8 has {reason}; DQ_x_8 has {reason}" in str(caught.value)
    assert "weight_8" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"zeros": np.array([0, 0, 0, 1], np.int8)}, "a zero point other than 0"),
        ({"zeros": np.zeros(4, np.uint8)}, "a zero point that is not INT8"),
        ({"scales": np.array([1, 1, 0, 1], np.float32)}, "a scale that is no positive number"),
        ({"scales": np.array([1, 1, np.nan, 1], np.float32)}, "a scale that is no positive number"),
    ],
)
def test_weights_that_not_every_tensorrt_reads(changed: dict[str, np.ndarray], reason: str) -> None:
    with pytest.raises(ValueError, match="TensorRT could not build the graph") as caught:
        check_graph(quantised(**changed))
    assert f"Q_weight_8 has {reason}; DQ_weight_8 has {reason}" in str(caught.value)
    assert "x_8" not in str(caught.value)


def test_a_zero_point_that_is_left_out() -> None:
    conv = helper.make_node("Conv", ["x_8", "weight", "bias"], ["y"])
    with pytest.raises(ValueError, match="Q_x_8 has no constant zero point; DQ_x_8 has no const"):
        check_graph(quantised([*pair("x", "x_8", zero=""), conv]))


def test_scales_and_zero_points_that_are_computed() -> None:
    nodes = [
        helper.make_node("Exp", ["scale"], ["made"]),
        *pair("x", "x_8", scale="made"),
        helper.make_node("Conv", ["x_8", "weight", "bias"], ["y"]),
    ]
    with pytest.raises(ValueError, match="Q_x_8 has no constant scale; DQ_x_8 has no constant sc"):
        check_graph(quantised(nodes))


def test_a_scale_for_each_channel_of_an_activation() -> None:
    nodes = [
        *pair("x", "x_8", scale="scales", zero="zeros", axis=1),
        helper.make_node("Conv", ["x_8", "weight", "bias"], ["y"]),
    ]
    with pytest.raises(ValueError, match="Q_x_8 has a scale for each channel, which only weights"):
        check_graph(quantised(nodes))


@pytest.mark.parametrize("axis", [{"axis": 1}, {}])
def test_weights_with_scales_along_another_axis(axis: dict[str, int]) -> None:
    nodes = [
        *pair("weight", "weight_8", scale="scales", zero="zeros", **axis),
        helper.make_node("Conv", ["x", "weight_8", "bias"], ["y"]),
    ]
    with pytest.raises(ValueError, match="DQ_weight_8 has scales along axis 1 of its weights, not"):
        check_graph(quantised(nodes))


def test_a_quantised_bias() -> None:
    dequantise = helper.make_node("DequantizeLinear", ["b", "scales", "z"], ["b_8"], name="DQ_b")
    dequantise.attribute.append(helper.make_attribute("axis", 0))
    conv = helper.make_node("Conv", ["x", "weight", "b_8"], ["y"])
    model = quantised([dequantise, conv], {"b": np.ones(4, np.int32), "z": np.zeros(4, np.int32)})
    with pytest.raises(ValueError, match="DQ_b has a zero point of INT32, as for a bias"):
        check_graph(model)


def test_a_scale_in_half_precision() -> None:
    with pytest.raises(ValueError, match="no valid ONNX|a scale that is not FP32"):
        check_graph(quantised(scale=np.array(0.1, np.float16)))


@pytest.mark.parametrize("operator", FUSED)
def test_rounding_between_a_convolution_and_what_runs_in_its_kernel(operator: str) -> None:
    more = {"Add": ["x"], "PRelu": ["slope"]}.get(operator, [])
    last = helper.make_node(operator, ["z_8", *more], ["y"], name="last")
    model = behind(*pair("z", "z_8"), last)
    model.graph.initializer.append(numpy_helper.from_array(np.full((4, 1, 1), 0.1, "f4"), "slope"))
    with pytest.raises(ValueError, match="conv is rounded in front of last, which belongs to it"):
        check_graph(model)


def test_rounding_of_the_second_summand() -> None:
    last = helper.make_node("Add", ["x", "z_8"], ["y"], name="sum")
    with pytest.raises(ValueError, match="conv is rounded in front of sum"):
        check_graph(behind(*pair("z", "z_8"), last))
