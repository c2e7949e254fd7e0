"""Q/DQ insertion: where the pairs stand, what they hold, and what the graph then computes."""

import logging
from itertools import pairwise

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional as F

from irstd.calibration.quantize import list_layers, to_int8
from irstd.export.lint import check_graph

pytestmark = pytest.mark.usefixtures("one_thread")
SIDES = (8, 10)
PAIR = ("QuantizeLinear", "DequantizeLinear")
RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def conv(name, source, output, *, bias=True, **attributes):
    inputs = [source, f"{name}.weight"] + ([f"{name}.bias"] if bias else [])
    return helper.make_node("Conv", inputs, [output], name=name, **attributes)


def node(kind, inputs, output):
    return helper.make_node(kind, inputs.split(), [output], name=f"{kind}_{output}")


def graph_of(nodes, constants, *, sides=SIDES, outputs=("confidence",), channels=1):
    graph = helper.make_graph(
        nodes,
        "hand-made",
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, (1, channels, *sides))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


# Two 3x3 convolutions with a residual sum; a 1x1 without bias and a depthwise one that read the
# same tensor as a subtraction of the background; a head.
NET = graph_of(
    [
        conv("first", "frame", "a", pads=[1, 1, 1, 1]),
        node("Relu", "a", "shallow"),
        conv("second", "shallow", "b", pads=[1, 1, 1, 1]),
        node("Add", "shallow b", "c"),
        node("Relu", "c", "deep"),
        conv("narrow", "deep", "d", bias=False),
        conv("apart", "deep", "e", pads=[1, 1, 1, 1], group=4),
        node("Relu", "e", "background"),
        node("Sub", "deep background", "f"),
        node("Add", "f d", "residual"),
        conv("head", "residual", "logits"),
        node("Sigmoid", "logits", "confidence"),
    ],
    {
        "first.weight": random(4, 1, 3, 3),
        "first.bias": random(4),
        "second.weight": 0.2 * random(4, 4, 3, 3),
        "second.bias": random(4),
        "narrow.weight": 0.3 * random(4, 4, 1, 1),
        "apart.weight": 0.2 * random(4, 1, 3, 3),
        "apart.bias": random(4),
        "head.weight": 0.3 * random(1, 4, 1, 1),
        "head.bias": random(1),
    },
)
ALL = ("first", "second", "narrow", "apart", "head")
RANGES = {"frame": 1.0, "shallow": 6.0, "deep": 9.0, "residual": 8.0}
FRAME = np.random.default_rng(1).random((1, 1, *SIDES), dtype=np.float32)


def copied(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def constants_of(model):
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


def makers_of(model):
    return {name: one for one in model.graph.node for name in one.output}


def find(model, name):
    return next(one for one in model.graph.node if one.name == name)


def pair_in_front(model, name):
    """The nodes Q and DQ that make a value; None if it is made by something else."""
    makers = makers_of(model)
    last = makers.get(name)
    if last is None or last.op_type != "DequantizeLinear":
        return None
    return makers[last.input[0]], last


def evaluate(model, x, *names):
    """Values of a graph, computed as it is written."""
    exposed = copied(model)
    given = {value.name for value in model.graph.output}
    for name in names:
        if name not in given:
            info = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            exposed.graph.output.append(info)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        exposed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    wanted = names or [model.graph.output[0].name]
    return dict(zip(wanted, session.run(list(wanted), {"frame": x}), strict=True))


def rounded(values, largest):
    """Symmetric 8-bit rounding, with one largest value or one for each filter."""
    step = (np.asarray(largest, np.float32) / np.float32(127)).astype(np.float32)
    return np.clip(np.round(values / step), -127, 127) * step


def rounded_filters(weight):
    largest = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    return rounded(weight, np.where(largest > 0, largest, 1))


def convolve(x, weight, bias, one):
    """A Conv node in double precision."""
    kept = {entry.name: helper.get_attribute_value(entry) for entry in one.attribute}
    pads = kept.get("pads", [0, 0, 0, 0])
    result = F.conv2d(
        torch.from_numpy(np.asarray(x, np.float64)),
        torch.from_numpy(np.asarray(weight, np.float64)),
        None if bias is None else torch.from_numpy(np.asarray(bias, np.float64)),
        stride=kept.get("strides", 1),
        padding=pads[:2],
        dilation=kept.get("dilations", 1),
        groups=kept.get("group", 1),
    )
    return result.numpy()


# --- list_layers ----------------------------------------------------------------------------------


def test_layers_come_in_graph_order():
    assert [one.name for one in list_layers(NET)] == list(ALL)


def test_convolutions_that_cannot_be_quantised():
    model = graph_of(
        [
            node("Mul", "base base", "made.weight"),
            conv("first", "frame", "a"),
            conv("made", "a", "b"),  # its weights are computed
            conv("given", "picture", "c"),  # what it reads is constant
            node("Add", "b c", "d"),
            conv("last", "d", "confidence"),
            conv("behind", "confidence", "more"),  # reads what the graph gives
        ],
        {name: random(1, 1, 1, 1) for name in ("first.weight", "given.weight", "base", "picture")}
        | {name: random(1, 1, 1, 1) for name in ("last.weight", "behind.weight")}
        | {f"{name}.bias": random(1) for name in ("first", "made", "given", "last", "behind")},
        outputs=("confidence", "more"),
    )
    onnx.checker.check_model(model)
    assert [one.name for one in list_layers(model)] == ["first", "last"]
    with pytest.raises(ValueError, match="no quantisable convolution is called 'behind'"):
        to_int8(model, {"confidence": 1.0}, ["behind"])


# --- structure ------------------------------------------------------------------------------------

CHOICES = [
    ("first",), ("second",), ("narrow",), ("apart",), ("head",), ("first", "head"),
    ("narrow", "apart"), ("second", "narrow", "head"), ALL,
]  # fmt: skip


@pytest.fixture(scope="module", params=CHOICES, ids="+".join)
def choice(request):
    return request.param, to_int8(NET, RANGES, request.param)


def test_the_graph_is_one_that_every_tensorrt_reads(choice):
    _, model = choice
    check_graph(model)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert len({one.name for one in model.graph.node}) == len(model.graph.node)


def test_input_and_output_stay_what_they_are(choice):
    _, model = choice
    assert list(model.graph.input) == list(NET.graph.input)
    assert list(model.graph.output) == list(NET.graph.output)
    assert makers_of(model)["confidence"].op_type == "Sigmoid"


def test_chosen_convolutions_read_pairs_and_nothing_else_does(choice):
    layers, model = choice
    for before in NET.graph.node:
        after = find(model, before.name)
        assert after.op_type == before.op_type
        assert list(after.attribute) == list(before.attribute)
        assert list(after.output) == list(before.output)
        for place, name in enumerate(before.input):
            pair = pair_in_front(model, after.input[place])
            if before.name in layers and place < 2:
                assert pair is not None
                assert pair[0].input[0] == name
            else:
                assert after.input[place] == name  # biases, sums, subtractions, other convolutions


def test_there_is_one_pair_a_tensor_and_none_that_nobody_reads(choice):
    layers, model = choice
    read = [one for one in NET.graph.node if one.name in layers]
    tensors = sorted({name for one in read for name in one.input[:2]})
    for kind in PAIR:
        assert sum(one.op_type == kind for one in model.graph.node) == len(tensors)
    quantised = [one for one in model.graph.node if one.op_type == "QuantizeLinear"]
    assert sorted(one.input[0] for one in quantised) == tensors
    used = {name for one in model.graph.node for name in one.input}
    assert constants_of(model).keys() <= used


def test_pairs_hold_symmetric_int8(choice):
    layers, model = choice
    constants = constants_of(model)
    for before in NET.graph.node:
        if before.name not in layers:
            continue
        after = find(model, before.name)
        for place, name in enumerate(before.input[:2]):
            first, last = pair_in_front(model, after.input[place])
            assert list(first.input[1:]) == list(last.input[1:]) and len(first.input) == 3
            scale, zero = (constants[one] for one in first.input[1:])
            assert (scale.dtype, zero.dtype) == (np.float32, np.int8)
            assert scale.shape == zero.shape and not zero.any()
            if place == 0:
                assert scale.shape == ()
                np.testing.assert_allclose(scale, RANGES[name] / 127, rtol=1e-6)
                continue
            for one in (first, last):
                assert [(entry.name, entry.i) for entry in one.attribute] == [("axis", 0)]
            weight = constants[name]
            np.testing.assert_array_equal(weight, constants_of(NET)[name])
            assert scale.shape == weight.shape[:1]
            np.testing.assert_allclose(scale, np.abs(weight).max(axis=(1, 2, 3)) / 127, rtol=1e-6)


def test_nothing_is_rounded_between_a_convolution_and_what_follows(choice):
    _, model = choice
    made = {one.output[0] for one in model.graph.node if one.op_type == "Conv"}
    quantised = {one.input[0] for one in model.graph.node if one.op_type == "QuantizeLinear"}
    assert not made & quantised


def test_the_rest_of_the_constants_stays(choice):
    _, model = choice
    kept = constants_of(model)
    for name, value in constants_of(NET).items():
        np.testing.assert_array_equal(kept[name], value)


def test_the_graph_itself_is_not_touched():
    before = NET.SerializeToString()
    to_int8(NET, RANGES, ALL)
    assert NET.SerializeToString() == before


def test_no_layers_leave_an_equal_graph():
    model = to_int8(NET, RANGES, ())
    assert model == NET and model is not NET


def test_layers_may_come_as_a_set_and_ranges_may_hold_more():
    first = to_int8(NET, RANGES | {"elsewhere": 0.0}, {"head", "first"})
    second = to_int8(NET, RANGES, ["first", "head", "first"])
    assert first.SerializeToString() == second.SerializeToString()


def test_a_convolution_that_reads_a_convolution():
    model = graph_of(
        [conv("first", "frame", "a"), conv("second", "a", "confidence")],
        {"first.weight": random(2, 1, 1, 1), "first.bias": random(2)}
        | {"second.weight": random(1, 2, 1, 1), "second.bias": random(1)},
    )
    lowered = to_int8(model, {"frame": 1.0, "a": 2.0}, ["first", "second"])
    check_graph(lowered)
    assert pair_in_front(lowered, find(lowered, "second").input[0])[0].input[0] == "a"


def test_weights_that_two_convolutions_share():
    model = graph_of(
        [
            conv("first", "frame", "a"),
            helper.make_node("Conv", ["a", "first.weight", "first.bias"], ["b"], name="second"),
            node("Sigmoid", "b", "confidence"),
        ],
        {"first.weight": random(1, 1, 1, 1), "first.bias": random(1)},
    )
    ranges = {"frame": 1.0, "a": 2.0}
    both = to_int8(model, ranges, ["first", "second"])
    check_graph(both)
    assert find(both, "first").input[1] == find(both, "second").input[1] != "first.weight"
    one = to_int8(model, ranges, ["second"])
    check_graph(one)
    assert find(one, "first").input[1] == "first.weight" != find(one, "second").input[1]


def test_other_outputs_of_the_graph_stay_exact():
    model = graph_of(
        [
            conv("first", "frame", "a"),
            node("Relu", "a", "shallow"),
            conv("second", "shallow", "b"),
            node("Sigmoid", "b", "confidence"),
        ],
        {f"{name}.weight": random(1, 1, 1, 1) for name in ("first", "second")}
        | {f"{name}.bias": random(1) for name in ("first", "second")},
        outputs=("confidence", "b"),
    )
    lowered = to_int8(model, {"shallow": 1.0}, ["second"])
    assert makers_of(lowered)["b"].op_type == "Conv"


def test_nobody_is_warned_of_anything(caplog):
    with caplog.at_level(logging.WARNING):
        to_int8(NET, RANGES, ALL)
    assert not caplog.records


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nothing", "Relu_deep", ""])
def test_layers_that_are_no_convolutions(name):
    with pytest.raises(ValueError, match=f"no quantisable convolution is called '{name}'"):
        to_int8(NET, RANGES, ["first", name])


@pytest.mark.parametrize("value", [0.0, -1.0, np.inf, np.nan, 1e-38])
def test_ranges_without_a_scale(value):
    with pytest.raises(ValueError, match=f"'deep' of narrow has the range {value}, expected more"):
        to_int8(NET, RANGES | {"deep": value}, ["first", "narrow"])


def test_a_range_that_is_missing():
    with pytest.raises(ValueError, match="'residual' of head has the range 0.0.*not observed"):
        to_int8(NET, {"frame": 1.0}, ["first", "head"])


@pytest.mark.parametrize("name", ["frame_scale", "first.weight_scale", "frame_zero_point"])
def test_constants_that_have_the_name_of_a_scale(name):
    model = copied(NET)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(5), name))
    with pytest.raises(ValueError, match=f"constant '{name}' has a name of the pair of"):
        to_int8(model, RANGES, ["first"])
    check_graph(to_int8(model, RANGES, ["head"]))


def test_ranges_of_layers_that_are_not_chosen_do_not_matter():
    check_graph(to_int8(NET, {"frame": 1.0, "deep": 0.0}, ["first"]))


# --- numbers --------------------------------------------------------------------------------------


def values_of(model, x):
    """Every value of the hand-made net, and its input."""
    names = [one.output[0] for one in NET.graph.node]
    return evaluate(model, x, *names) | {"frame": x}


def test_every_layer_computes_what_rounding_says(choice):
    layers, model = choice
    values, weights = values_of(model, FRAME), constants_of(NET)
    for one in NET.graph.node:
        if one.op_type != "Conv":
            continue
        x, weight = values[one.input[0]], weights[one.input[1]]
        bias = weights[one.input[2]] if len(one.input) > 2 else None
        if one.name in layers:
            x, weight = rounded(x, RANGES[one.input[0]]), rounded_filters(weight)
        expected = convolve(x, weight, bias, one)
        np.testing.assert_allclose(values[one.output[0]], expected, rtol=1e-5, atol=2e-5)
    # The same floats as in FP32 meet in sums and subtractions.
    np.testing.assert_array_equal(values["f"], values["deep"] - values["background"])
    np.testing.assert_array_equal(values["c"], values["shallow"] + values["b"])


def test_the_confidence_changes_a_little(choice):
    _, model = choice
    expected, found = evaluate(NET, FRAME)["confidence"], evaluate(model, FRAME)["confidence"]
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_values_beyond_the_range_are_clipped():
    model = graph_of(
        [conv("only", "frame", "confidence", bias=False)],
        {"only.weight": np.ones((1, 1, 1, 1), np.float32)},
        sides=(1, 6),
    )
    x = np.array([-9, -2.54, -0.01, 0.011, 1.0, 900], np.float32).reshape(1, 1, 1, 6)
    found = evaluate(to_int8(model, {"frame": 2.54}, ["only"]), x)["confidence"]
    # Steps of 0.02; -128 is below the range by a step, but saturation reaches it.
    np.testing.assert_allclose(found.ravel()[1:], [-2.54, 0, 0.02, 1.0, 2.54], atol=1e-6)
    assert found.ravel()[0] == pytest.approx(-2.56)


def test_a_filter_of_zeros_stays_zero():
    weight = random(3, 1, 3, 3)
    weight[1] = 0
    model = graph_of(
        [conv("only", "frame", "confidence")], {"only.weight": weight, "only.bias": random(3)}
    )
    lowered = to_int8(model, {"frame": 1.0}, ["only"])
    check_graph(lowered)
    found = evaluate(lowered, FRAME)["confidence"]
    expected = convolve(
        rounded(FRAME, 1.0), rounded_filters(weight), constants_of(model)["only.bias"],
        model.graph.node[0],
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


layers_of_any_kind = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31),
        "groups": st.sampled_from([1, 2, 4]),
        "kernel": st.sampled_from([1, 3]),
        "stride": st.sampled_from([1, 2]),
        "bias": st.booleans(),
        "clipped": st.sampled_from([0.5, 1.0, 1.5]),  # range over the largest value
        "scale": st.sampled_from([1e-3, 1.0, 300.0]),
    }
)


def single(options):
    """A graph of one convolution, its input and the range of it."""
    rng = np.random.default_rng(options["seed"])
    channels, kernel, groups = 4, options["kernel"], options["groups"]
    weight = rng.normal(size=(8, channels // groups, kernel, kernel)).astype(np.float32)
    weight *= rng.uniform(0.01, 3, size=(8, 1, 1, 1)).astype(np.float32)
    only = conv(
        "only", "frame", "confidence", bias=options["bias"], group=groups,
        pads=[kernel // 2] * 4, strides=[options["stride"]] * 2,
    )  # fmt: skip
    constants = {"only.weight": weight}
    if options["bias"]:
        constants["only.bias"] = rng.normal(size=8).astype(np.float32)
    x = (options["scale"] * rng.normal(size=(1, channels, 5, 6))).astype(np.float32)
    model = graph_of([only], constants, sides=(5, 6), channels=channels)
    return model, x, float(options["clipped"] * np.abs(x).max())


@settings(max_examples=40, deadline=None)
@given(layers_of_any_kind)
def test_any_convolution_computes_what_rounding_says(options):
    model, x, largest = single(options)
    constants, only = constants_of(model), model.graph.node[0]
    lowered = to_int8(model, {"frame": largest}, ["only"])
    check_graph(lowered)
    found = evaluate(lowered, x)["confidence"]
    step = np.float32(largest) / np.float32(127)
    seen = np.clip(np.round(x / step), -128, 127) * step
    filters = rounded_filters(constants["only.weight"])
    expected = convolve(seen, filters, constants.get("only.bias"), only)
    size = convolve(np.abs(seen), np.abs(filters), None, only) + 1
    assert (np.abs(found - expected) <= 1e-5 * size).all()


@settings(max_examples=40, deadline=None)
@given(layers_of_any_kind)
def test_the_error_is_no_larger_than_rounding_allows(options):
    model, x, largest = single(options)
    weight, only = constants_of(model)["only.weight"], model.graph.node[0]
    found = evaluate(to_int8(model, {"frame": largest}, ["only"]), x)["confidence"]
    exact = evaluate(model, x)["confidence"]
    # |ab - AB| <= |a - A| |b| + |A| |b - B|: half a step, and what is cut off the input.
    seen_error = largest / 127 / 2 + np.maximum(np.abs(x) - largest, 0)
    weight_error = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127 / 2
    reach = np.minimum(np.abs(x) + largest / 127, largest * 128 / 127)
    bound = convolve(seen_error, np.abs(weight), None, only)
    bound += convolve(reach, np.broadcast_to(weight_error, weight.shape), None, only)
    assert (np.abs(found - exact) <= 1.0001 * bound + 1e-6).all()


def test_more_layers_cost_more_on_the_whole():
    expected = evaluate(NET, FRAME)["confidence"]
    chains = [(), ("first",), ("first", "second"), ALL]
    models = [to_int8(NET, RANGES, layers) for layers in chains]
    errors = [np.abs(evaluate(model, FRAME)["confidence"] - expected).max() for model in models]
    assert errors[0] == 0
    assert all(one < 0.03 for one in errors)
    assert all(first != second for first, second in pairwise(errors))
