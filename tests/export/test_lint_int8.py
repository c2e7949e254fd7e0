from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from irstd.export.lint import FUSED, check_graph
from irstd.tests.export.lint_graphs import model_of, value


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
