"""FP16 on a CPU: rounded behind every operator, as the graph says, and as a GPU would."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from irstd.calibration.quantize import list_layers, to_int8
from irstd.export.bundling import make_graph
from irstd.export.precision import emulate_fp16, layer_precisions, to_fp16
from irstd.runtime.clip import prepare_input
from irstd.runtime.engine_onnxruntime import OnnxRuntimeEngine
from irstd.runtime.errors import OutputError
from irstd.runtime.frame import FrameContract
from irstd.runtime.scene import Scene, SceneOptions
from irstd.train.checkpoint import load_into, read_weights
from irstd.train.zoo import MODELS

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (1, 1, 6, 6)
CONSTANTS = {
    "third": np.float32(1 / 3),
    "tenth": np.float32(0.1),
    "large": np.float32(1000),
    "small": np.float32(1e-5),
    "one": np.float32(1),
    # Sums of products of these and of sixteenths are exact in FP32, in whatever order.
    "kernel": np.float32([[[[-0.5, 0.125, 0.25], [1.375, 3, -0.25], [0.75, -2, 0.625]]]]),
}


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs.split(), [output], name=output, **attributes)


def conv(inputs, output):
    return node("Conv", inputs, output, pads=[1, 1, 1, 1])


def build(*nodes, kind=TensorProto.FLOAT):
    read = {name for entry in nodes for name in entry.input}
    graph = helper.make_graph(
        nodes,
        "hand-made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", kind, SHAPE)],
        [numpy_helper.from_array(CONSTANTS[name], name) for name in CONSTANTS if name in read],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def half(values):
    """What FP16 keeps of FP32; infinity beyond its end."""
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float32).astype(np.float16).astype(np.float32)


def random(seed=0):
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def convolve(x, kernel):
    """The sum of shifted frames, exact for the values used here."""
    wide = np.pad(x[0, 0], 1)
    shifted = [
        kernel[0, 0, row, column] * wide[row : row + 6, column : column + 6]
        for row in range(3)
        for column in range(3)
    ]
    return np.sum(shifted, axis=0, dtype=np.float32)[None, None]


@pytest.fixture(params=[False, True], ids=["as written", "optimised"])
def compute(request):
    """Run a graph; ONNX Runtime must round as written whether it may rewrite the graph or not."""

    def run(model, x):
        onnx.checker.check_model(model, full_check=True)
        engine = OnnxRuntimeEngine(model.SerializeToString(), threads=1, is_optimised=request.param)
        return engine.run(x)[None, None]

    return run


def emulated(*nodes, islands=()):
    return emulate_fp16(to_fp16(build(*nodes), islands=islands))


# --- every operator is rounded --------------------------------------------------------------------


def test_sums_and_products_are_rounded_one_by_one(compute):
    nodes = (node("Add", "x third", "s"), node("Mul", "s tenth", "p"), node("Sub", "p x", "y"))
    x = random()
    product = half(half(half(x) + half(1 / 3)) * half(0.1))
    expected = half(product - half(x))
    rounded_once = half((x + CONSTANTS["third"]) * CONSTANTS["tenth"] - x)
    assert not np.array_equal(expected, rounded_once)
    np.testing.assert_array_equal(compute(emulated(*nodes), x), expected)


def test_convolutions_are_rounded_though_something_could_be_fused_with_them(compute):
    nodes = (
        conv("x kernel", "a"), node("Relu", "a", "b"), conv("b kernel", "c"),
        node("Add", "c x", "d"), node("Mul", "d third", "y"),
    )  # fmt: skip
    x = np.random.default_rng(0).integers(-400, 400, SHAPE).astype(np.float32) / 16
    first = np.maximum(half(convolve(x, CONSTANTS["kernel"])), 0)
    second = half(half(convolve(first, CONSTANTS["kernel"])) + x)
    expected = half(second * half(1 / 3))
    assert not np.array_equal(second, convolve(first, CONSTANTS["kernel"]) + x)
    np.testing.assert_array_equal(compute(emulated(*nodes), x), expected)


def test_what_overflows_becomes_infinite_though_the_end_would_fit_again(compute):
    nodes = (
        node("Mul", "x large", "a"), node("Mul", "a large", "b"), node("Mul", "b small", "c"),
        node("Clip", "c third one", "y"),
    )  # fmt: skip
    x = np.linspace(0.01, 0.12, 36, dtype=np.float32).reshape(SHAPE)
    model = to_fp16(build(*nodes))
    squares = half(half(half(x) * 1000) * 1000)
    expected = np.clip(half(squares * half(1e-5)), half(1 / 3), 1)
    assert np.isinf(squares).any() and np.isfinite(squares).any()
    np.testing.assert_array_equal(compute(emulate_fp16(model), x), expected)
    # ONNX Runtime keeps FP32 between the operators of the same graph and sees nothing.
    assert (compute(model, x)[np.isinf(squares)] < 1).any()


def test_infinity_at_the_end_is_no_confidence(compute):
    nodes = (node("Mul", "x large", "a"), node("Mul", "a large", "y"))
    with pytest.raises(OutputError, match="NaN or infinity"):
        compute(emulated(*nodes), np.ones(SHAPE, np.float32))


def test_infinity_less_infinity_is_no_confidence_either(compute):
    nodes = (node("Mul", "x large", "a"), node("Mul", "a large", "b"), node("Sub", "b b", "y"))
    assert not compute(build(*nodes), np.ones(SHAPE, np.float32)).any()
    with pytest.raises(OutputError, match="NaN or infinity"):
        compute(emulated(*nodes), np.ones(SHAPE, np.float32))


def test_subnormal_values_keep_their_steps_and_vanish_below(compute):
    nodes = (node("Mul", "x small", "y"),)
    x = np.geomspace(1e-4, 1.0, 36, dtype=np.float32).reshape(SHAPE)
    expected = half(half(x) * half(1e-5))
    step = 2.0**-24
    assert (expected[0, 0, 0] == 0).all() and expected.max() < 2.0**-14
    np.testing.assert_array_equal(expected % step, 0)
    np.testing.assert_array_equal(compute(emulated(*nodes), x), expected)


def test_the_frame_is_rounded_before_anything_else(compute):
    x = random()
    np.testing.assert_array_equal(compute(emulated(node("Relu", "x", "y")), x), half(x.clip(0)))


def test_a_value_is_rounded_once_for_all_that_read_it(compute):
    nodes = (node("Mul", "x third", "a"), node("Add", "a a", "b"), node("Sub", "b a", "y"))
    model = emulated(*nodes)
    x = random()
    third = half(half(x) * half(1 / 3))
    np.testing.assert_array_equal(compute(model, x), half(half(2 * third) - third))
    casts = [entry for entry in model.graph.node if entry.op_type == "Cast"]
    # Frame, three results, and the cast back to FP32 that changes nothing any more.
    assert len(casts) == 2 * 4 + 1


def test_every_output_of_an_operator_is_rounded(compute):
    nodes = (
        node("Mul", "x third", "a"), helper.make_node("Split", ["a"], ["b", "c"], axis=3),
        node("Mul", "b third", "d"), node("Mul", "c tenth", "e"),
        node("Concat", "d e", "y", axis=3),
    )  # fmt: skip
    x = random()
    first = half(half(x) * half(1 / 3))
    expected = [half(first[..., :3] * half(1 / 3)), half(first[..., 3:] * half(0.1))]
    np.testing.assert_array_equal(compute(emulated(*nodes), x), np.concatenate(expected, axis=3))


# --- what is in FP32 stays exact ------------------------------------------------------------------


def test_islands_compute_in_fp32(compute):
    nodes = (node("Mul", "x large", "a"), node("Mul", "a large", "b"), node("Mul", "b small", "y"))
    x = random()
    product = x * CONSTANTS["large"] * CONSTANTS["large"] * CONSTANTS["small"]
    model = emulated(*nodes, islands={"a", "b", "y"})
    np.testing.assert_array_equal(compute(model, x), product)


def test_behind_an_island_fp16_goes_on(compute):
    nodes = (node("Mul", "x large", "a"), node("Mul", "a small", "b"), node("Add", "b third", "y"))
    x = random()
    inside = x * CONSTANTS["large"] * CONSTANTS["small"]
    expected = half(half(inside) + half(1 / 3))
    np.testing.assert_array_equal(compute(emulated(*nodes, islands={"a", "b"}), x), expected)


def test_behind_a_layer_in_fp32_nothing_is_rounded_until_the_next_layer(compute):
    nodes = (
        conv("x kernel", "a"), node("Mul", "a third", "b"), node("Add", "b x", "c"),
        conv("c kernel", "y"),
    )  # fmt: skip
    x = np.random.default_rng(0).integers(-400, 400, SHAPE).astype(np.float32) / 16
    between = convolve(x, CONSTANTS["kernel"]) * CONSTANTS["third"] + x
    model = emulate_fp16(to_fp16(build(*nodes), kept_layers={"a"}))
    expected = half(convolve(half(between), CONSTANTS["kernel"]))
    assert (half(between) != between).any()
    np.testing.assert_allclose(compute(model, x), expected, rtol=2.0**-10, atol=1e-5)
    kept = to_fp16(build(*nodes), kept_layers={"a", "y"})
    assert not any(kind == TensorProto.FLOAT16 for kind in kinds(kept).values())


def test_layers_without_a_name_of_the_graph_cannot_be_kept():
    with pytest.raises(ValueError, match="no node is called 'z'"):
        to_fp16(build(conv("x kernel", "y")), kept_layers={"z"})


def test_a_constant_of_both_precisions_is_rounded_in_one(compute):
    nodes = (node("Mul", "x third", "a"), node("Mul", "a third", "y"))
    x = random()
    expected = half(half(x * CONSTANTS["third"]) * half(1 / 3))
    np.testing.assert_array_equal(compute(emulated(*nodes, islands={"a"}), x), expected)


def test_a_sigmoid_and_the_output_stay_in_fp32(compute):
    nodes = (node("Mul", "x third", "a"), node("Sigmoid", "a", "y"))
    x = random()
    found = compute(emulated(*nodes), x)
    product = half(half(x) * half(1 / 3))
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-product)), rtol=1e-6)
    assert not np.array_equal(found, half(found))


# --- the form of the graph ------------------------------------------------------------------------


def kinds(model):
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def test_fp16_is_nowhere_but_between_two_casts():
    model = emulated(conv("x kernel", "a"), node("Relu", "a", "b"), node("Sigmoid", "b", "y"))
    found = kinds(model)
    makers = {name: entry.op_type for entry in model.graph.node for name in entry.output}
    halves = {name for name, kind in found.items() if kind == TensorProto.FLOAT16}
    readers = {e.op_type for e in model.graph.node if halves & {*e.input}}
    assert {makers[name] for name in halves} == readers == {"Cast"}
    assert {tensor.data_type for tensor in model.graph.initializer} == {TensorProto.FLOAT}


def test_input_and_output_are_those_of_the_graph():
    model = to_fp16(build(conv("x kernel", "a"), node("Relu", "a", "y")))
    result = emulate_fp16(model)
    assert list(result.graph.input) == list(model.graph.input)
    assert list(result.graph.output) == list(model.graph.output)
    names = [entry.name for entry in result.graph.node if entry.name]
    assert len(set(names)) == len(names)


def test_the_original_is_untouched():
    model = to_fp16(build(conv("x kernel", "a"), node("Relu", "a", "y")))
    before = model.SerializeToString()
    emulate_fp16(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_graph_without_fp16_comes_back_as_it_is(precision):
    model = build(conv("x kernel", "a"), node("Relu", "a", "y"))
    model = onnx.shape_inference.infer_shapes(model)
    if precision == "int8":
        model = to_int8(model, {"x": 3.0}, [entry.name for entry in list_layers(model)])
    result = emulate_fp16(model)
    assert result.SerializeToString() == model.SerializeToString()
    assert result is not model


# --- the zoo --------------------------------------------------------------------------------------

TRAINED = [name for name, one in MODELS.items() if one.is_trained and name != "lowrank3d"]


@pytest.mark.parametrize("name", TRAINED)
def test_a_network_of_the_zoo_moves_a_little(name, monkeypatch):
    monkeypatch.setattr("irstd.train.models.drpcanet.STAGES", 1)  # of six equal ones
    torch.manual_seed(0)
    network = MODELS[name].build().eval()
    if MODELS[name].weights.is_file():
        load_into(network, read_weights(MODELS[name].weights).tensors, name=name)
    clip = MODELS[name].clip
    length = clip.length if clip else 1
    graph = make_graph(network, (64, 64), frames=length)
    lowered = to_fp16(graph)
    written = emulate_fp16(lowered)
    onnx.checker.check_model(written, full_check=True)
    assert set(layer_precisions(written).values()) == {"fp32"}
    assert {name for entry in written.graph.node for name in entry.output} <= kinds(written).keys()
    scene = Scene(SceneOptions(height=32, width=32, bit_depth=8, scr=(20.0, 30.0)), seed=0)
    shown = [scene.frame(index).frame for index in range(clip.span if clip else 1)]
    frame = prepare_input(shown, FrameContract(64, 64, clip=clip))
    assert frame is not None
    answers = [
        OnnxRuntimeEngine(model.SerializeToString(), threads=1, is_optimised=False).run(frame)
        for model in (graph, written)
    ]
    change = np.abs(answers[1] - answers[0]).max()
    assert 1e-6 < change < 0.02
