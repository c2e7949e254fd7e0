"""Bias correction: what rounding shifts maps by, by hand, and graphs that take it back."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from irstd.calibration.bias import find_shifts, take_back
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
    node,
    random,
)

pytestmark = pytest.mark.usefixtures("one_thread")
FRAMES = [np.random.default_rng(seed).random((1, 1, *SIDES), np.float32) for seed in range(3)]


def run(model, frame, *names):
    """Values of a graph without optimisation, as it is written."""
    exposed = copied(model)
    for name in names:
        exposed.graph.output.add().name = name
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        exposed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(list(names), {"frame": frame})


def single(weight, bias):
    """One 1x1 convolution whose map nothing changes but an identity."""
    constants = {"layer.weight": np.float32(weight).reshape(-1, 1, 1, 1)}
    if bias is not None:
        constants["layer.bias"] = np.float32(bias)
    return graph_of(
        [conv("layer", "frame", "map", bias=bias is not None), node("Neg", "map", "confidence")],
        constants,
    )


@pytest.mark.parametrize("bias", [None, [0.25, -3.0]])
def test_shift_by_hand(bias):
    # A step is 1/127: 0.3 is 38.1 steps and becomes 38. Weights alone in their channel are exact.
    frame = np.full((1, 1, *SIDES), 0.3, np.float32)
    shifts = find_shifts(single([0.5, -2.0], bias), {"frame": 1.0}, ["layer"], [frame])
    lost = 0.3 - 38 / 127
    np.testing.assert_allclose(shifts["layer"], [0.5 * lost, -2.0 * lost], atol=1e-6)


def test_shift_of_rounded_weights_by_hand():
    # Weights 1 and 0.3 of one channel: the second becomes 38/127 of the first. Ones are exact.
    weight = np.float32([[1.0, 0.3]]).reshape(1, 1, 1, 2)
    model = graph_of(
        [conv("layer", "frame", "map"), node("Neg", "map", "confidence")],
        {"layer.weight": weight, "layer.bias": np.zeros(1, np.float32)},
    )
    shifts = find_shifts(model, {"frame": 1.0}, ["layer"], [np.ones((1, 1, *SIDES), np.float32)])
    np.testing.assert_allclose(shifts["layer"], [0.3 - 38 / 127], atol=1e-6)


def test_frames_count_alike():
    model = single([1.0], None)
    grey = [np.full((1, 1, *SIDES), value, np.float32) for value in (0.3, 0.5)]
    alone = [find_shifts(model, {"frame": 1.0}, ["layer"], [one])["layer"] for one in grey]
    both = find_shifts(model, {"frame": 1.0}, ["layer"], grey)["layer"]
    np.testing.assert_allclose(both, np.mean(alone, axis=0), atol=1e-7)


@pytest.mark.parametrize("chosen", CHOICES, ids="+".join)
def test_a_layer_is_measured_on_exact_values_whatever_else_is_rounded(chosen):
    every = find_shifts(NET, RANGES, ALL, FRAMES)
    some = find_shifts(NET, RANGES, chosen, FRAMES)
    assert set(every) == set(ALL)
    assert set(some) == set(chosen)
    for name in chosen:
        np.testing.assert_allclose(some[name], every[name], atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "made"),
    [("first", "a"), ("second", "b"), ("narrow", "d"), ("apart", "e"), ("head", "logits")],
)
def test_what_is_taken_back_is_what_was_lost(layer, made):
    shifts = find_shifts(NET, RANGES, [layer], FRAMES)
    rounded = to_int8(NET, RANGES, [layer])
    corrected = take_back(rounded, shifts)

    def lost(model):
        maps = [run(NET, one, made)[0] - run(model, one, made)[0] for one in FRAMES]
        return np.mean(maps, axis=(0, 1, 3, 4))

    assert np.abs(lost(rounded)).max() > 1e-4
    np.testing.assert_allclose(lost(corrected), 0.0, atol=2e-6)


def test_a_corrected_graph_is_one_that_tensorrt_reads():
    corrected = take_back(to_int8(NET, RANGES, ALL), find_shifts(NET, RANGES, ALL, FRAMES))
    check_graph(corrected)
    constants = constants_of(corrected)
    biases = {one.name: one.input[2] for one in corrected.graph.node if one.op_type == "Conv"}
    assert set(biases) == set(ALL)  # also of the one that had none
    assert all(constants[name].dtype == np.float32 for name in biases.values())
    assert "first.bias" not in constants  # nothing reads it any more


@pytest.mark.parametrize("shared", ["first.bias", "second_bias"])  # the second is what we call one
def test_a_shared_bias_is_changed_for_one_layer_only(shared):
    model = graph_of(
        [
            conv("first", "frame", "a"),
            node("Relu", "a", "b"),
            conv("second", "b", "c"),
            node("Neg", "c", "confidence"),
        ],
        {
            "first.weight": random(1, 1, 1, 1),
            "second.weight": random(1, 1, 1, 1),
            "first.bias": np.zeros(1, np.float32),
            shared: np.ones(1, np.float32),
        },
    )
    for place in (0, 2):
        del model.graph.node[place].input[2:]
        model.graph.node[place].input.append(shared)
    corrected = take_back(model, {"second": np.float32([0.5])})
    constants = constants_of(corrected)
    layers = [one for one in corrected.graph.node if one.op_type == "Conv"]
    biases = {one.name: constants[one.input[2]] for one in layers}
    assert biases == {"first": np.float32([1.0]), "second": np.float32([1.5])}
    assert model.graph.node[2].input[2] == shared  # what came stays as it was


def test_nothing_to_take_back():
    assert take_back(NET, {}) == NET


def test_no_layers_lose_nothing():
    assert find_shifts(NET, RANGES, [], FRAMES) == {}


def test_no_frames_are_refused():
    with pytest.raises(ValueError, match="no frames to compare"):
        find_shifts(NET, RANGES, ALL, [])


def test_a_layer_without_range_is_refused():
    with pytest.raises(ValueError, match="the input 'deep' of narrow has the range 0.0"):
        find_shifts(NET, {"deep": 0.0}, ["narrow"], FRAMES)


@settings(max_examples=20, deadline=None)
@given(
    weight=st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=5).filter(
        lambda values: max(map(abs, values)) > 1e-3
    ),
    level=st.floats(0, 1, width=32),
)
def test_the_shift_of_a_flat_frame_is_weight_times_what_its_level_lost(weight, level):
    steps = np.float64(level) * 127
    assume(abs(steps % 1 - 0.5) > 1e-3)  # a tie falls as FP32 has it
    frame = np.full((1, 1, *SIDES), level, np.float32)
    shifts = find_shifts(single(weight, None), {"frame": 1.0}, ["layer"], [frame])["layer"]
    lost = level - np.round(steps) / 127
    np.testing.assert_allclose(shifts, np.float64(weight) * lost, atol=1e-5)
