from itertools import pairwise

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch.nn import functional as F

from irstd.calibration.quantize import to_int8
from irstd.export.lint import check_graph
from irstd.tests.calibration.quantize_graphs import (
    ALL,
    CHOICES,
    NET,
    RANGES,
    SIDES,
    constants_of,
    conv,
    copied,
    graph_of,
    random,
)

FRAME = np.random.default_rng(1).random((1, 1, *SIDES), dtype=np.float32)


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


@pytest.fixture(scope="module", params=CHOICES, ids="+".join)
def choice(request):
    return request.param, to_int8(NET, RANGES, request.param)


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
