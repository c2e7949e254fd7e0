import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irstd.calibration.ranges import BINS, METHODS, Observation, estimate, find_largest, observe
from irstd.tests.calibration.ranges_graphs import (
    LOG,
    MIDDLE,
    SHAPE,
    STEPS,
    frame,
    graph_of,
    look,
    row,
)

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
