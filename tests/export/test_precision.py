from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from irstd.calibration.quantize import to_int8
from irstd.export.graph import count_operators, fold_scales, lift_constants
from irstd.export.lint import check_graph
from irstd.export.precision import layer_precisions, to_fp16
from irstd.export.trace import INPUT, OUTPUT, trace
from irstd.tests.export.precision_graphs import (
    CHAIN,
    CONSTANTS,
    FLOAT,
    HALF,
    build,
    conv,
    converted,
    evaluate,
    node,
    random,
    types,
)
from irstd.tests.export.rtx import Parsed
from irstd.train.models.lrrnet import LRRNet

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def single() -> onnx.ModelProto:
    """LRRNet with random weights as export prepares it for conversion."""
    torch.manual_seed(0)
    net = LRRNet()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model = trace(net, (64, 48))
    lift_constants(model)
    fold_scales(model)
    return model


@pytest.fixture(scope="module")
def half(single: onnx.ModelProto) -> onnx.ModelProto:
    return to_fp16(single)


# --- LRRNet ---------------------------------------------------------------------------------------


def test_the_result_is_a_valid_graph(half: onnx.ModelProto) -> None:
    check_graph(half)
    names = [entry.name for entry in half.graph.node]
    assert len(set(names)) == len(names)


def test_input_and_output_stay_single(single: onnx.ModelProto, half: onnx.ModelProto) -> None:
    assert list(half.graph.input) == list(single.graph.input)
    assert list(half.graph.output) == list(single.graph.output)
    assert half.graph.input[0].name == INPUT and half.graph.output[0].name == OUTPUT
    assert half.graph.input[0].type.tensor_type.elem_type == FLOAT
    assert half.graph.output[0].type.tensor_type.elem_type == FLOAT


def test_the_confidence_is_close(single: onnx.ModelProto, half: onnx.ModelProto) -> None:
    for seed in range(3):
        frame = np.random.default_rng(seed).random((1, 1, 64, 48), dtype=np.float32)
        (expected,), (confidence,) = evaluate(single, frame), evaluate(half, frame)
        assert np.abs(confidence - expected).max() <= 0.02
        assert expected.std() > 1e-3
        assert not np.array_equal(confidence, expected)


def test_all_convolutions_and_products_are_half(
    single: onnx.ModelProto, half: onnx.ModelProto
) -> None:
    before, after = layer_precisions(single), layer_precisions(half)
    assert before.keys() == after.keys()
    operators = count_operators(single)
    assert len(before) == operators["Conv"] + operators["MatMul"] > 60
    assert set(before.values()) == {"fp32"}
    assert set(after.values()) == {"fp16"}


def test_statistics_are_single(half: onnx.ModelProto) -> None:
    kinds = types(half)
    makers = {name: entry for entry in half.graph.node for name in entry.output}
    seen: dict[str, int] = {}
    for entry in half.graph.node:
        if entry.op_type in ("ReduceMean", "Softmax", "Sigmoid", "Sqrt"):
            seen[entry.op_type] = seen.get(entry.op_type, 0) + 1
            assert kinds[entry.input[0]] == kinds[entry.output[0]] == FLOAT, entry.name
        if entry.op_type == "ReduceMean":  # so is all that stands in front of it
            maker = makers[entry.input[0]]
            while maker.op_type in ("Mul", "Sub", "Add", "Reshape", "ReduceMean"):
                assert kinds[maker.output[0]] == FLOAT
                maker = makers[maker.input[0]]
            assert maker.op_type == "Cast"
    norms = 48  # of LRRNet's 49, all but the reconstruction's
    # Mean and variance, each first along the rows, then over them, then over a group's channels.
    assert seen == {"ReduceMean": 6 * norms, "Sqrt": norms, "Softmax": 1, "Sigmoid": 1}


def test_activations_between_convolutions_are_half(half: onnx.ModelProto) -> None:
    kinds = types(half)
    for entry in half.graph.node:
        if entry.op_type in ("Relu", "Concat", "Resize"):
            assert kinds[entry.output[0]] == HALF, entry.name


def test_nothing_is_cast_twice(half: onnx.ModelProto) -> None:
    kinds = types(half)
    casts = [entry for entry in half.graph.node if entry.op_type == "Cast"]
    read = [(entry.input[0], kinds[entry.output[0]]) for entry in casts]
    assert len(set(read)) == len(read)
    assert all(kinds[name] != kind for name, kind in read)
    constants = {tensor.name for tensor in half.graph.initializer}
    assert not [name for name, _ in read if name in constants]  # cast once, before shipping
    used = {name for entry in half.graph.node for name in entry.input}
    assert constants <= used


def test_weights_are_stored_as_half(single: onnx.ModelProto, half: onnx.ModelProto) -> None:
    assert half.ByteSize() < 0.6 * single.ByteSize()
    stored = {tensor.name: tensor for tensor in half.graph.initializer}
    for entry in half.graph.node:
        if entry.op_type == "Conv":
            assert stored[entry.input[1]].data_type == stored[entry.input[2]].data_type == HALF


def test_the_original_is_untouched(single: onnx.ModelProto) -> None:
    before = single.SerializeToString()
    to_fp16(single)
    assert single.SerializeToString() == before


# --- hand-made graphs -----------------------------------------------------------------------------


def test_a_value_read_twice_by_one_node_is_cast_once() -> None:
    # Mul is no statistic here, so it computes in FP16 and casts the frame itself.
    model = converted(build([node("Mul", "x x", "m"), conv("y", data="m")]))
    assert count_operators(model)["Cast"] == 2  # the frame, and the output
    product = next(entry for entry in model.graph.node if entry.op_type == "Mul")
    assert product.input[0] == product.input[1] != "x"


def test_a_square_in_front_of_a_mean_is_cast_once() -> None:
    nodes = [
        conv("c"),
        node("Mul", "c c", "m"),
        node("ReduceMean", "m", "r", axes=[2, 3]),
        node("Add", "c r", "y"),
    ]
    model = converted(build(nodes))
    assert count_operators(model)["Cast"] == 4  # x, c to FP32, r to FP16, y
    kinds = types(model)
    product = next(entry for entry in model.graph.node if entry.op_type == "Mul")
    assert product.input[0] == product.input[1]
    assert kinds[product.input[0]] == kinds[product.output[0]] == FLOAT


def test_large_squares_do_not_overflow() -> None:
    # Values of 1000 fit into FP16, their squares do not.
    nodes = [
        conv("c"),
        node("Mul", "c c", "m"),
        node("ReduceMean", "m", "r", axes=[2, 3]),
        node("Sqrt", "r", "y"),
    ]
    model = build(nodes, {"y": [1, 4, 1, 1]})
    x = 200 * random((1, 3, 6, 6), 9)
    (expected,), (found,) = evaluate(model, x), evaluate(to_fp16(model), x)
    assert expected.max() ** 2 > 65504 / 2
    np.testing.assert_allclose(found, expected, rtol=0.01)


def test_what_reads_only_statistics_stays_single() -> None:
    nodes = [
        conv("c"),
        node("ReduceMean", "c", "r", axes=[2, 3]),
        node("Add", "r r", "s"),
        node("Mul", "c s", "y"),
    ]
    kinds = types(converted(build(nodes)))
    assert kinds["r"] == kinds["s"] == FLOAT
    assert kinds["c"] == HALF


def test_nodes_without_names() -> None:
    nodes = [conv("c"), node("Relu", "c", "r"), node("Sigmoid", "r", "y")]
    for entry in nodes:
        entry.ClearField("name")
    kinds = types(converted(build(nodes)))
    assert kinds["c"] == kinds["r"] == HALF
    assert kinds["y"] == FLOAT


def test_an_output_that_others_read() -> None:
    nodes = [conv("c"), node("Relu", "c", "y")]
    shapes = dict.fromkeys(("c", "y"), (1, 4, 6, 6))
    model = converted(build(nodes, shapes))
    assert types(model)["c"] == FLOAT


def test_an_output_that_statistics_read() -> None:
    nodes = [conv("c"), node("Sigmoid", "c", "y")]
    converted(build(nodes, dict.fromkeys(("c", "y"), (1, 4, 6, 6))))


def test_integers_stay_integers() -> None:
    nodes = [conv("c"), node("Reshape", "c shape", "y")]
    model = converted(build(nodes, {"y": [1, 4, 36]}))
    assert types(model)["shape"] == TensorProto.INT64


def test_the_scales_of_a_resize_stay_single() -> None:
    resize = helper.make_node(
        "Resize", ["c", "", "scales"], ["y"], name="resize", mode="nearest",
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip
    model = converted(build([conv("c"), resize], {"y": [1, 4, 12, 12]}))
    assert types(model)["scales"] == FLOAT


def test_constants_shared_by_both_types() -> None:
    nodes = [
        conv("c"),
        node("ReduceMean", "c", "r", axes=[2, 3], keepdims=0),
        node("Add", "r bias", "s"),
        node("Unsqueeze", "s axes", "u"),
        conv("d", data="c", weight="second_weight"),
        node("Add", "u d", "y"),
    ]
    model = converted(build(nodes))
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert stored["bias"] == FLOAT and HALF in stored.values()


# --- layer_precisions -----------------------------------------------------------------------------


def test_layer_precisions_tells_them_apart() -> None:
    nodes = [conv("c"), node("Relu", "c", "r"), conv("y", data="r", weight="second_weight")]
    model = build(nodes)
    assert layer_precisions(model) == {"Conv_c": "fp32", "Conv_y": "fp32"}
    assert layer_precisions(to_fp16(model)) == {"Conv_c": "fp16", "Conv_y": "fp16"}


def test_layer_precisions_of_a_mixed_graph() -> None:
    second = CONSTANTS["second_weight"].astype(np.float16)
    nodes = [
        conv("c"),
        helper.make_node("Cast", ["c"], ["h"], name="cast", to=HALF),
        helper.make_node("Conv", ["h", "w"], ["d"], name="second"),
        helper.make_node("Cast", ["d"], ["y"], name="back", to=FLOAT),
    ]
    model = build(nodes)
    model.graph.initializer.append(numpy_helper.from_array(second, "w"))
    assert layer_precisions(model) == {"Conv_c": "fp32", "second": "fp16"}


def test_layer_precisions_of_int8() -> None:
    nodes = [conv("c"), node("Relu", "c", "r"), conv("y", data="r", weight="second_weight")]
    model = to_int8(build(nodes), {"x": 3.0, "r": 3.0}, ["Conv_y"])
    assert layer_precisions(model) == {"Conv_c": "fp32", "Conv_y": "int8"}


# --- a real builder -------------------------------------------------------------------------------


def convolutions(model: onnx.ModelProto) -> dict[str, str]:
    """Build a plan; gives the type that each convolution was parsed with, by name."""
    parsed = Parsed(model)
    trt, network = parsed.trt, parsed.network
    assert (network.num_inputs, network.num_outputs) == (1, 1)
    shape = [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
    assert list(network.get_input(0).shape) == shape
    assert network.get_input(0).dtype == network.get_output(0).dtype == trt.float32
    plan = parsed.build()
    assert plan is not None and plan.nbytes > 0.9 * model.ByteSize()
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    names = {trt.float32: "fp32", trt.float16: "fp16"}
    return {
        layer.name: names[layer.get_output(0).dtype]
        for layer in layers
        if layer.type == trt.LayerType.CONVOLUTION
    }


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_builds_the_graph(
    precision: str, single: onnx.ModelProto, half: onnx.ModelProto
) -> None:
    """Strong typing finds a wrong cast, and the builder needs no GPU for it."""
    model = single if precision == "fp32" else half
    found = convolutions(model)
    assert len(found) == count_operators(model)["Conv"]
    assert set(found.values()) == {precision}


@pytest.mark.parametrize("islands", [["c"], ["d"], ["y"], ["c", "y"], ["c", "d", "y"]])
def test_tensorrt_builds_islands(islands: Sequence[str]) -> None:
    model = to_fp16(build(CHAIN), islands=[f"Conv_{name}" for name in islands])
    expected = {f"Conv_{name}": "fp32" if name in islands else "fp16" for name in ("c", "d", "y")}
    assert convolutions(model) == expected == layer_precisions(model)
