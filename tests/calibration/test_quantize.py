"""Q/DQ insertion: where the pairs stand, what they hold, and what the graph then computes."""

import logging

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from irstd.calibration.quantize import list_layers, to_int8
from irstd.export.lint import check_graph
from irstd.tests.calibration.quantize_graphs import (
    ALL,
    CHOICES,
    NET,
    RANGES,
    constants_of,
    conv,
    copied,
    graph_of,
    node,
    random,
)

pytestmark = pytest.mark.usefixtures("one_thread")
PAIR = ("QuantizeLinear", "DequantizeLinear")


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
