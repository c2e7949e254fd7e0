from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from irstd.calibration.quantize import list_layers, to_int8
from irstd.export.graph import (
    count_flop,
    count_layer_flop,
    count_operators,
    fold_scales,
    lift_constants,
)
from irstd.export.precision import to_fp16
from irstd.export.trace import INPUT, trace
from irstd.train.models.lrrnet import LRRNet

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def traced() -> onnx.ModelProto:
    """LRRNet with scales far from 1, lifted but not folded."""
    torch.manual_seed(0)
    net = LRRNet()
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.add_(0.5 * noise if key.endswith("scale") else 0.02 * noise)
    model = trace(net, (32, 32))
    lift_constants(model)
    return model


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def evaluate(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # As written: nothing that ONNX Runtime would fold by itself.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x})


def random(shape: Sequence[int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


CONSTANTS = {
    "weight": random((4, 3, 3, 3), 1),
    "bias": random((4,), 2),
    "scale": random((1, 4, 1, 1), 3),
    "other_scale": random((1, 4, 1, 1), 4),
    "pixel_scale": random((1, 4, 6, 6), 5),
    "number": random((1, 1, 1, 1), 6),
    "vector": random((4,), 7).reshape(4, 1, 1),
}


def conv(output: str, *, bias: bool = True) -> onnx.NodeProto:
    inputs = ["x", "weight", "bias"] if bias else ["x", "weight"]
    return helper.make_node("Conv", inputs, [output], pads=[1, 1, 1, 1])


def mul(first: str, second: str, output: str) -> onnx.NodeProto:
    return helper.make_node("Mul", [first, second], [output])


def build(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str] = ("y",)) -> onnx.ModelProto:
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "hand-made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 6, 6])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 6, 6]) for name in outputs],
        [numpy_helper.from_array(CONSTANTS[name], name) for name in CONSTANTS if name in read],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def check_fold(model: onnx.ModelProto, *, folded: int) -> onnx.ModelProto:
    """Fold, count, and see that the function is the same."""
    x = random((1, 3, 6, 6), 8)
    before = evaluate(model, x)
    changed = copied(model)
    assert fold_scales(changed) == folded
    for ours, theirs in zip(evaluate(changed, x), before, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    if not folded:
        assert changed == model
    return changed


# --- fold_scales ----------------------------------------------------------------------------------


def test_a_scale_is_folded_into_weight_and_bias() -> None:
    model = check_fold(build([conv("c"), mul("c", "scale", "y")]), folded=1)
    assert count_operators(model) == {"Conv": 1}
    constants = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    scale = CONSTANTS["scale"]
    assert constants.keys() == {"weight", "bias"}
    np.testing.assert_allclose(constants["weight"], CONSTANTS["weight"] * scale.reshape(4, 1, 1, 1))
    np.testing.assert_allclose(constants["bias"], CONSTANTS["bias"] * scale.ravel())
    assert constants["weight"].dtype == np.float32


def test_a_scale_may_stand_first() -> None:
    check_fold(build([conv("c"), mul("scale", "c", "y")]), folded=1)


def test_a_convolution_without_bias() -> None:
    model = check_fold(build([conv("c", bias=False), mul("c", "scale", "y")]), folded=1)
    assert [entry.name for entry in model.graph.initializer] == ["weight"]


def test_what_follows_reads_the_folded_convolution() -> None:
    relu = helper.make_node("Relu", ["m"], ["y"])
    model = check_fold(build([conv("c"), mul("c", "scale", "m"), relu]), folded=1)
    assert count_operators(model) == {"Conv": 1, "Relu": 1}


def test_a_scale_that_others_read_stays_for_them() -> None:
    nodes = [conv("c"), mul("c", "scale", "m"), mul("m", "scale", "y")]
    model = check_fold(build(nodes), folded=1)
    assert "scale" in {entry.name for entry in model.graph.initializer}


@pytest.mark.parametrize("scale", ["pixel_scale", "number", "vector"])
def test_factors_of_another_shape_stay(scale: str) -> None:
    check_fold(build([conv("c"), mul("c", scale, "y")]), folded=0)


def test_a_convolution_that_others_read_stays() -> None:
    add = helper.make_node("Add", ["m", "c"], ["y"])
    check_fold(build([conv("c"), mul("c", "scale", "m"), add]), folded=0)


def test_a_convolution_that_is_an_output_stays() -> None:
    check_fold(build([conv("c"), mul("c", "scale", "y")], ["y", "c"]), folded=0)


def test_weights_that_two_convolutions_share_stay() -> None:
    nodes = [
        conv("c"),
        conv("d"),
        mul("c", "scale", "m"),
        helper.make_node("Add", ["m", "d"], ["y"]),
    ]
    check_fold(build(nodes), folded=0)


def test_two_scales_of_one_convolution_stay() -> None:
    nodes = [
        conv("c"),
        mul("c", "scale", "m"),
        mul("c", "other_scale", "n"),
        helper.make_node("Add", ["m", "n"], ["y"]),
    ]
    check_fold(build(nodes), folded=0)


def test_factors_behind_other_operators_stay() -> None:
    relu = helper.make_node("Relu", ["c"], ["r"])
    check_fold(build([conv("c"), relu, mul("r", "scale", "y")]), folded=0)


def test_products_of_two_maps_stay() -> None:
    check_fold(build([conv("c"), mul("c", "c", "y")]), folded=0)


def test_every_scale_of_lrrnet_is_folded(traced: onnx.ModelProto) -> None:
    model = copied(traced)
    scales = [entry.name for entry in traced.graph.initializer if entry.name.endswith("scale")]
    assert len(scales) == fold_scales(model) == 23
    before, after = count_operators(traced), count_operators(model)
    assert before["Mul"] - after["Mul"] == 23
    assert {name: count for name, count in after.items() if name != "Mul"} == {
        name: count for name, count in before.items() if name != "Mul"
    }
    assert not {entry.name for entry in model.graph.initializer} & set(scales)
    frame = np.random.default_rng(9).random((1, 1, 32, 32), dtype=np.float32)
    (expected,), (confidence,) = evaluate(traced, frame), evaluate(model, frame)
    np.testing.assert_allclose(confidence, expected, rtol=0, atol=1e-5)
    assert expected.std() > 1e-3


def test_folding_again_finds_nothing(traced: onnx.ModelProto) -> None:
    model = copied(traced)
    fold_scales(model)
    again = copied(model)
    assert fold_scales(again) == 0
    assert again == model


# --- count_operators and lift_constants -----------------------------------------------------------


def test_count_operators() -> None:
    relu = helper.make_node("Relu", ["m"], ["n"])
    model = build([conv("c"), mul("c", "c", "m"), relu, mul("n", "m", "y")])
    assert list(count_operators(model).items()) == [("Mul", 2), ("Conv", 1), ("Relu", 1)]


def test_constants_become_initializers() -> None:
    constant = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(
        CONSTANTS["scale"], "another_name"
    ))  # fmt: skip
    model = build([constant, conv("c"), mul("c", "k", "y")])
    x = random((1, 3, 6, 6), 8)
    before = evaluate(model, x)
    lift_constants(model)
    assert count_operators(model) == {"Conv": 1, "Mul": 1}
    lifted = next(entry for entry in model.graph.initializer if entry.name == "k")
    np.testing.assert_array_equal(numpy_helper.to_array(lifted), CONSTANTS["scale"])
    np.testing.assert_array_equal(evaluate(model, x), before)
    assert fold_scales(model) == 1  # now the scale is seen


def test_no_constant_node_is_left_of_lrrnet(traced: onnx.ModelProto) -> None:
    assert "Constant" not in count_operators(traced)
    onnx.checker.check_model(traced, full_check=True)
    assert [value.name for value in traced.graph.input] == [INPUT]


# --- count_flop -----------------------------------------------------------------------------------


def test_flop_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Conv2d(4, 8, 1, groups=2))

    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features = self.net(x)
            rows = features.reshape(1, 8, 64)
            return x, (rows @ rows.transpose(1, 2)).reshape(1, 1, 8, 8)

    model = trace(TwoHeads(), (16, 16))
    lift_constants(model)
    convolutions = 9 * 4 * 64 + 2 * 8 * 64
    product = 8 * 64 * 8
    assert count_flop(model) == 2 * (convolutions + product)


def test_flop_of_lrrnet_as_its_specification_says() -> None:
    model = trace(LRRNet(), (256, 256))
    lift_constants(model)
    # 23.30 GFLOP with the reconstruction head, which no export keeps: 16 x 9 at full resolution.
    assert count_flop(model) == pytest.approx(23.30e9 - 2 * 144 * 256**2, rel=2e-3)


def named(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    for node in nodes:
        node.name = f"{node.op_type}_{node.output[0]}"
    return list(nodes)


def test_flop_of_each_layer_by_hand() -> None:
    model = build(named([conv("c"), mul("c", "scale", "m"), conv("d"), mul("m", "d", "y")]))
    model.graph.node[2].attribute.append(helper.make_attribute("strides", [2, 2]))
    del model.graph.node[3:], model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("d", TensorProto.FLOAT, [1, 4, 3, 3]))
    expected = {"Conv_c": 2 * 27 * 4 * 36, "Conv_d": 2 * 27 * 4 * 9}
    assert count_layer_flop(model) == expected
    assert count_flop(model) == sum(expected.values())


def test_layers_without_a_name_count_each() -> None:
    model = build([conv("c"), conv("d"), mul("c", "d", "y")])
    assert count_flop(model) == 2 * 2 * 27 * 4 * 36


def test_flop_of_layers_add_up(traced: onnx.ModelProto) -> None:
    found = count_layer_flop(traced)
    operators = count_operators(traced)
    assert len(found) == operators["Conv"] + operators["MatMul"]
    assert min(found.values()) > 0
    assert sum(found.values()) == count_flop(traced)


def test_a_lower_precision_is_as_much_arithmetic(traced: onnx.ModelProto) -> None:
    expected = count_layer_flop(traced)
    layers = list_layers(traced)
    ranges = {node.input[0]: 1.0 for node in layers}
    assert count_layer_flop(to_int8(traced, ranges, [node.name for node in layers])) == expected
    assert count_layer_flop(to_fp16(traced)) == expected


def test_flop_of_dynamic_sizes() -> None:
    frame = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, "height", 8])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, "height", 8])
    kernel = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "k")
    node = helper.make_node("Conv", ["x", "k"], ["y"])
    model = helper.make_model(helper.make_graph([node], "g", [frame], [out], [kernel]))
    for count in (count_flop, count_layer_flop):
        with pytest.raises(ValueError, match="shape of y is not fixed"):
            count(model)
