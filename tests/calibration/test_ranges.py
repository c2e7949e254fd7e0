"""Ranges: histograms that a person can count, and every way to make a range of one."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from irstd.calibration import ranges
from irstd.calibration.ranges import (
    BINS,
    METHODS,
    Observation,
    estimate,
    find_largest,
    observe,
)

SHAPE = (1, 1, 2, 3)
MIDDLE = BINS // 2  # the bin that starts at 0


def graph_of(*nodes, shape=SHAPE, **constants):
    """A graph from `frame` to `confidence`; each node is (operator, inputs, output)."""
    return helper.make_model(
        helper.make_graph(
            [helper.make_node(kind, inputs.split(), [output]) for kind, inputs, output in nodes],
            "hand-made",
            [helper.make_tensor_value_info("frame", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("confidence", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


# confidence = max(2 frame - 5, 0)
STEPS = graph_of(
    ("Mul", "frame two", "doubled"),
    ("Sub", "doubled five", "lowered"),
    ("Relu", "lowered", "confidence"),
    two=np.float32(2),
    five=np.float32(5),
)


def frame(*values, shape=SHAPE):
    return np.array(values, np.float32).reshape(shape)


def row(values):
    return np.array(values, np.float32).reshape(1, 1, 1, -1)


def look(*frames):
    """Observe the input alone, on frames without targets."""
    pairs = [(row(values), row(values)) for values in frames]
    return observe(STEPS, ["frame"], pairs, threads=1)["frame"]


def filled(observation):
    """Bin and count of every bin that is not empty; two frames are counted in each pair."""
    bins = np.flatnonzero(observation.counts)
    return {int(place) - MIDDLE: int(observation.counts[place]) // 2 for place in bins}


# --- histograms -----------------------------------------------------------------------------------


def test_a_histogram_by_hand():
    found = look([-4, -0.001, 0, 0.001, 3.9985, 4, 2, -2])  # 512 bins for each unit
    assert (found.edge, found.largest) == (4.0, 4.0)
    assert filled(found) == {-2048: 1, -1: 1, 0: 2, 2047: 2, 1024: 1, -1024: 1}


@pytest.mark.parametrize(
    ("largest", "edge"),
    [(3, 4), (4, 4), (np.nextafter(np.float32(4), np.float32(9)), 8), (-0.3, 0.5), (1e-20, 2**-66)],
)
def test_the_edge_is_the_next_power_of_two(largest, edge):
    found = look([largest, 0.0])
    assert found.edge == edge
    assert found.largest == abs(np.float32(largest))


def test_bins_join_when_the_edge_grows():
    # Bins of 1/2048, then of 1/512: four become one.
    found = look([1.0, 3 / 2048, 4 / 2048, -1 / 2048, -5 / 2048], [3.0])
    assert (found.edge, found.largest) == (4.0, 3.0)
    assert filled(found) == {511: 1, 0: 1, 1: 1, -1: 1, -2: 1, 1536: 1}


def test_the_order_of_frames_does_not_matter():
    small, large = [0.4, -0.3, 0.001], [100.0, -7.0, 0.02]
    first, second = look(small, large), look(large, small)
    assert np.array_equal(first.counts, second.counts)
    assert (first.edge, first.largest) == (second.edge, second.largest)


@pytest.mark.parametrize("tiny", [1e-3, 1e-6, 1e-30])
def test_frames_of_far_scales_join_beside_zero(tiny):
    found = look([tiny, -tiny], [1e6])
    assert found.counts[MIDDLE - 1] == found.counts[MIDDLE] == 2
    assert found.counts.sum() == 6


def test_a_frame_of_zeros_leaves_the_bins_of_others_narrow():
    found = look([0.0, 0.0], [0.01, 0.001])
    assert found.edge == 2**-6
    assert filled(found)[0] == 2


def test_parts_that_are_counted_at_once_join(monkeypatch):
    values = [0.1, -0.7, 0.3, 0.9, 1.0, -1.0, 0.0]  # 1.0 lies on the edge
    whole = look(values)
    monkeypatch.setattr(ranges, "CACHED", 3)
    assert np.array_equal(look(values).counts, whole.counts)
    assert whole.counts[-1] == whole.counts[0] == 2 and whole.counts.size == BINS


def test_values_below_every_scale_are_counted_beside_zero():
    found = look([1e-40, -1e-40, 0.0])
    assert found.counts[MIDDLE - 1 : MIDDLE + 1].sum() == found.counts.sum() == 6
    assert 0 < found.largest < 1e-39


floats = st.floats(-(2**20), 2**20, width=32, allow_subnormal=False)
frames_of_floats = st.lists(floats, min_size=1, max_size=20)


@given(first=frames_of_floats, second=frames_of_floats)
@example(
    first=[0.25 - 2**-26], second=[1.0]
)  # a sum with the edge would round it up, and once only
@example(first=[0.0], second=[2.0**-120])
def test_two_frames_count_like_one_that_holds_both(first, second):
    merged, whole = look(first, second), look(first + second)
    assert np.array_equal(merged.counts, whole.counts)
    assert (merged.edge, merged.largest) == (whole.edge, whole.largest)
    assert merged.counts.sum() == 2 * (len(first) + len(second))
    assert merged.edge / 2 < merged.largest <= merged.edge or merged.edge == ranges.SMALLEST_EDGE


@given(values=frames_of_floats)
def test_each_value_lies_in_its_bin(values):
    found = look(values)
    width = 2 * found.edge / BINS
    for place in filled(found):
        low, high = place * width, (place + 1) * width
        assert any(low <= value < high or value == found.edge == high for value in values)


# --- observe --------------------------------------------------------------------------------------


def test_inner_values_of_a_graph():
    seen = frame(1, 2, 3, 4, 5, 6)
    names = ["frame", "doubled", "lowered", "confidence"]
    found = observe(STEPS, names, [(seen, seen)], threads=1)
    assert list(found) == names
    assert {name: one.largest for name, one in found.items()} == {
        "frame": 6, "doubled": 12, "lowered": 7, "confidence": 7,
    }  # fmt: skip
    assert filled(found["confidence"]) == {0: 2, 256: 1, 768: 1, 1280: 1, 1792: 1}
    assert filled(found["lowered"]) == {
        -768: 1, -256: 1, 256: 1, 768: 1, 1280: 1, 1792: 1,
    }  # fmt: skip


def test_both_frames_of_a_pair_are_counted():
    found = observe(STEPS, ["frame"], [(frame(*[1] * 6), frame(*[-8] * 6))], threads=1)["frame"]
    assert found.largest == 8
    assert found.counts[0] == found.counts[MIDDLE + 256] == 6


def test_target_is_the_largest_value_that_targets_change():
    empty = frame(1, 1, 1, 1, 20, -30)
    # Changes of 8, -8, 0.5 (less than a tenth of the largest) and none.
    seen = frame(9, -7, 1, 1, 20.5, -30)
    found = observe(STEPS, ["frame", "confidence"], [(seen, empty)], threads=1)
    assert (found["frame"].target, found["frame"].largest) == (9, 30)
    # After the ReLU only 9 -> 13 is a change of a tenth; -7 is cut, 20.5 changes by 1 of 13.
    assert (found["confidence"].target, found["confidence"].largest) == (13, 36)


def test_target_may_be_negative():
    found = observe(STEPS, ["frame"], [(frame(0, 0, -9, 0, 0, 0), frame(*[0] * 6))], threads=1)
    assert found["frame"].target == 9


def test_target_is_the_largest_of_all_pairs():
    empty = frame(*[1] * 6)
    pairs = [(frame(1, 1, peak, 1, 1, 1), empty) for peak in (3, 5, 4)]
    assert observe(STEPS, ["frame"], pairs, threads=1)["frame"].target == 5


def test_no_target_where_nothing_changes():
    found = observe(STEPS, ["frame"], [(frame(*range(6)), frame(*range(6)))], threads=1)
    assert found["frame"].target == 0


def same(first, second):
    assert list(first) == list(second)
    for name, one in first.items():
        assert np.array_equal(one.counts, second[name].counts)
        for field in ("edge", "largest", "target"):
            assert getattr(one, field) == getattr(second[name], field)


@pytest.mark.parametrize(("most", "sessions"), [(6, 4), (11, 4), (12, 2), (18, 2), (24, 1)])
def test_groups_find_the_same(monkeypatch, most, sessions):
    rng = np.random.default_rng(0)
    pairs = [tuple(rng.normal(size=(2, *SHAPE)).astype(np.float32)) for _ in range(3)]
    names = ["confidence", "frame", "lowered", "doubled"]
    expected = observe(STEPS, names, pairs, threads=1)
    made = []
    expose = ranges._expose

    def count(graph, tensors, *, threads):
        made.append(tensors)
        return expose(graph, tensors, threads=threads)

    monkeypatch.setattr(ranges, "MOST_VALUES", most)
    monkeypatch.setattr(ranges, "_expose", count)
    same(observe(STEPS, names, pairs, threads=1), expected)
    assert len(made) == sessions
    assert [name for group in made for name in group] == names


def test_pairs_may_be_a_generator(monkeypatch):
    pairs = [(frame(*range(start, start + 6)), frame(*[1] * 6)) for start in range(3)]
    names = ["frame", "confidence"]
    expected = observe(STEPS, names, pairs, threads=1)
    monkeypatch.setattr(ranges, "MOST_VALUES", 6)  # gone through twice
    same(observe(STEPS, names, iter(pairs), threads=1), expected)


def test_a_tensor_that_is_named_twice_is_counted_once():
    pair = (frame(*range(6)), frame(*range(6)))
    names = ["doubled", "frame", "doubled", "frame"]
    found = observe(STEPS, names, [pair], threads=1)
    same(found, observe(STEPS, ["doubled", "frame"], [pair], threads=1))


def test_the_graph_stays_as_it_is():
    before = STEPS.SerializeToString()
    observe(STEPS, ["doubled"], [(frame(*range(6)), frame(*range(6)))], threads=1)
    assert STEPS.SerializeToString() == before


def test_threads_are_found_when_none_are_named():
    pair = (frame(*range(6)), frame(*range(6)))
    same(
        observe(STEPS, ["doubled"], [pair]),
        observe(STEPS, ["doubled"], [pair], threads=1),
    )


@pytest.mark.parametrize("pairs", [[], iter([])])
def test_without_pairs_nothing_is_observed(pairs):
    with pytest.raises(ValueError, match="there are no frames to observe"):
        observe(STEPS, ["frame"], pairs, threads=1)


@pytest.mark.parametrize("name", ["nothing", "two"])
def test_a_tensor_that_no_run_makes(name):
    with pytest.raises(ValueError, match=f"no value called '{name}'"):
        observe(STEPS, ["frame", name], [(frame(*range(6)), frame(*range(6)))], threads=1)


ROOT = graph_of(("Sqrt", "frame", "root"), ("Relu", "root", "confidence"))
LOG = graph_of(("Log", "frame", "log"), ("Relu", "log", "confidence"))


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize(("graph", "tensor", "bad"), [(ROOT, "root", -1), (LOG, "log", 0)])
def test_nan_and_infinity_are_refused_in_either_frame(graph, tensor, bad, turn):
    good, wrong = frame(*[1] * 6), frame(1, 1, 1, 1, bad, 1)
    pair = (wrong, good) if turn == 0 else (good, wrong)
    with pytest.raises(ValueError, match=f"{tensor} holds NaN or infinity"):
        observe(graph, [tensor], [(good, good), pair], threads=1)


# --- estimate -------------------------------------------------------------------------------------


def from_bins(bins, *, edge=1.0, target=0.0):
    """An observation out of counts by bin, counted from 0; largest is the end of the outermost."""
    counts = np.zeros(BINS, np.int64)
    for place, count in bins.items():
        counts[MIDDLE + place] = count
    outermost = max(place + 1 if place >= 0 else -place for place in bins)
    return Observation(counts, edge, edge * outermost / MIDDLE, target)


def estimated(observation, method):
    return estimate({"x": observation}, method)["x"]


def test_every_tensor_gets_its_range():
    observed = {"a": look([1.0, -3.0]), "b": look([0.25])}
    assert estimate(observed, "minmax") == {"a": 3.0, "b": 0.25}


def test_minmax_is_the_largest_value():
    assert estimated(look([0.1, -0.7, 0.3]), "minmax") == np.float32(0.7)


@pytest.mark.parametrize(
    ("bins", "expected"),
    [
        ({0: 99_999, 1000: 1}, 1 / 2048),  # one of 100,000 may go
        ({0: 99_998, 1000: 2}, 1001 / 2048),  # two may not
        ({0: 99_998, 1000: 1, -1501: 1}, 1001 / 2048),  # the larger of both signs goes
        ({-1: 50_000, 0: 49_999, -2048: 1}, 1 / 2048),
        ({700: 5}, 701 / 2048),
    ],
)
def test_percentile_clips_a_hundred_thousandth(bins, expected):
    assert estimated(from_bins(bins), "percentile") == expected
    assert estimated(from_bins(bins, edge=8.0), "percentile") == 8 * expected


def test_percentile_never_passes_the_largest_value():
    assert estimated(look([0.5001]), "percentile") == np.float32(0.5001)


def error_of(values, largest):
    """Mean squared error of symmetric 8-bit rounding."""
    step = largest / 127
    rounded = np.clip(np.round(values / step), -127, 127) * step
    return float(np.square(rounded - values).mean())


SAMPLES = {
    "normal": lambda rng, n: rng.normal(size=n),
    "relu": lambda rng, n: np.maximum(rng.normal(size=n), 0),
    "sparse relu": lambda rng, n: np.maximum(rng.normal(size=n) - 1.5, 0),
    "laplace": lambda rng, n: rng.laplace(size=n),
    "sparse laplace": lambda rng, n: np.maximum(rng.laplace(size=n) - 2, 0),
    "heavy tail": lambda rng, n: rng.standard_t(3, size=n),
    "hot pixel": lambda rng, n: np.append(rng.normal(size=n), 60.0),
    "one sign": lambda rng, n: -rng.lognormal(0, 1, size=n),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_mse_is_the_best_range_of_a_real_quantiser(kind):
    values = SAMPLES[kind](np.random.default_rng(1), 40_000).astype(np.float32).astype(np.float64)
    observation = look(values)
    found = estimated(observation, "mse")
    tried = observation.largest * np.geomspace(0.01, 1, 150)
    best = min(error_of(values, candidate) for candidate in tried)
    assert error_of(values, found) <= 1.03 * best
    assert 0 < found <= observation.largest


def test_mse_clips_heavy_tails_and_nothing_of_uniform_values():
    rng = np.random.default_rng(2)
    uniform = look(rng.uniform(-1, 1, 50_000))
    tail = look(rng.standard_t(2, 50_000))
    assert estimated(uniform, "mse") > 0.97 * uniform.largest
    assert estimated(tail, "mse") < 0.9 * tail.largest
    # One value in two thousand million is not worth the steps of all others.
    assert estimated(from_bins({0: 10**9, 1: 10**9, 2000: 1}), "mse") < 0.1


def test_zeros_of_a_relu_do_not_change_the_best_range():
    values = np.random.default_rng(3).normal(size=20_000)
    alone = estimated(look(values), "mse")
    assert estimated(look(np.append(values, np.zeros(10**6))), "mse") == pytest.approx(alone)


def test_zeros_beside_one_hot_pixel_do_not_tighten_the_range():
    # Four million values of some hundredths and one of 1: (1 - c)^2 + 4e6 (c / 127)^2 / 12 is
    # least at c = 0.046, where a step is narrower than a bin.
    bins = {place: 4 * 10**6 // 30 for place in range(20, 50)} | {2047: 1}
    for zeros in (0, 10**9):
        assert estimated(from_bins(bins | {0: zeros}), "mse") == pytest.approx(0.046, rel=0.03)


@given(
    target=st.floats(0, 2),
    bins=st.dictionaries(st.integers(-2048, 2047), st.integers(1, 10**6), min_size=1),
)
def test_target_is_mse_that_never_clips_a_target(target, bins):
    observation = from_bins(bins, target=target)
    found = estimated(observation, "target")
    assert found >= observation.target
    assert found == max(estimated(observation, "mse"), observation.target)


def test_target_keeps_a_dim_target_in_the_tail():
    rng = np.random.default_rng(4)
    clutter = row(np.append(rng.normal(size=60_000), 40.0))
    seen = clutter.copy()
    seen[..., 7] = 37.0
    observation = observe(STEPS, ["frame"], [(seen, clutter)], threads=1)["frame"]
    assert estimated(observation, "mse") < 37 == estimated(observation, "target")


@pytest.mark.parametrize("kind", ["normal", "sparse relu", "hot pixel"])
def test_entropy_stays_inside_what_was_seen(kind):
    observation = look(SAMPLES[kind](np.random.default_rng(5), 20_000))
    assert 0 < estimated(observation, "entropy") <= observation.largest


def test_entropy_of_few_values():
    assert 0 < estimated(look([0.7]), "entropy") <= np.float32(0.7)
    assert 0 < estimated(look([0.0, 0.0, -3.0]), "entropy") <= 3


@pytest.mark.parametrize("method", METHODS)
def test_silence_has_no_range(method):
    assert estimated(look([0.0, 0.0]), method) == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [-5.0, 1e-30, 3e30])
def test_one_value_is_its_own_range(method, value):
    assert estimated(look([value] * 4), method) == pytest.approx(abs(value), rel=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_no_method_passes_the_largest_value(method):
    observation = look(np.random.default_rng(6).normal(size=3000))
    assert 0 < estimated(observation, method) <= observation.largest


# --- find_largest ---------------------------------------------------------------------------------


def test_the_largest_of_every_value_by_hand():
    frames = [frame(1, 2, 3, 4, 5, 6), frame(-7, 0, 0, 0, 0, 1)]
    assert find_largest(STEPS, frames, threads=1) == {
        "frame": 7, "doubled": 14, "lowered": 19, "confidence": 7, "two": 2, "five": 5,
    }  # fmt: skip


def test_negative_constants_count_and_integers_do_not():
    graph = graph_of(
        ("Add", "frame offset", "moved"),
        ("Reshape", "moved sides", "confidence"),
        offset=np.array([-90, 1, 2], np.float32),
        sides=np.array(SHAPE, np.int64),
        unread=np.zeros((0,), np.float32),
    )
    found = find_largest(graph, [frame(*range(6))], threads=1)
    assert found == {"frame": 5, "moved": 90, "confidence": 90, "offset": 90}


def test_frames_may_be_a_generator():
    frames = (frame(*[value] * 6) for value in (1, -3, 2))
    assert find_largest(STEPS, frames, threads=1)["frame"] == 3


def test_infinity_has_no_largest_value():
    frames = [frame(*[1] * 6), frame(1, 1, 0, 1, 1, 1)]
    with pytest.raises(ValueError, match="log holds NaN or infinity"):
        find_largest(LOG, frames, threads=1)
