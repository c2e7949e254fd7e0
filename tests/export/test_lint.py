from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from irstd.export.lint import REFUSED, check_graph
from irstd.tests.export.lint_graphs import BOOL, INT, model_of, value

NO_OPERATOR_OF_ONNX = ("Inverse", "SVD")


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
