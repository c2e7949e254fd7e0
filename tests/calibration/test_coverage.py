import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from irstd.calibration.coverage import GROUPS, WEIGHTS, choose_spread, describe, standardise
from irstd.runtime.frame import FrameContract, prepare

CONTRACT = FrameContract(32, 32, normalisation="full-scale")
points = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 20), st.just(3)), elements=st.integers(-9, 9)
)


def line(*places):
    return np.array(places, np.float64)[:, None]


def none(count):
    return np.zeros(count, np.bool_)


# --- features -------------------------------------------------------------------------------------


def features(frame):
    return describe(frame, prepare(frame, CONTRACT), bit_depth=8)


def test_features_of_a_frame_that_a_person_can_compute():
    frame = np.full((32, 32), 51, np.uint8)  # a fifth of the scale
    frame[:16, :16] = 102
    found = features(frame)
    assert found.shape == (28,) == (sum(GROUPS),)
    assert found[:4] == pytest.approx([0.2, 0.2, 0.4, 0.4])  # as the network sees it
    assert found[4:8] == pytest.approx([0.2, 0.2, 0.4, 0.4])  # counts over the scale
    # 16 of 31 x 32 differences along each axis are a fifth of the scale.
    assert np.exp(found[9]) == pytest.approx(np.sqrt(2 * 16 * 0.04 / (31 * 32)) + 1e-4, rel=1e-5)
    thumbnail = np.full((4, 4), 0.2)
    thumbnail[:2, :2] = 0.4
    assert found[12:].reshape(4, 4) == pytest.approx(thumbnail)


def test_spots_are_counted_and_measured_over_their_ring():
    frame = np.full((32, 32), 51, np.uint8)
    none_there = features(frame)[10:12]
    assert none_there == pytest.approx([np.log(1e-4), 0.0])
    frame[8, 8] = frame[24, 20] = 255
    height, count = np.exp(features(frame)[10:12])
    assert height == pytest.approx(0.8 + 1e-4, rel=1e-6)
    assert count == pytest.approx(3.0)


def test_noise_is_clutter_and_a_slope_is_little():
    rng = np.random.default_rng(0)
    slope = np.arange(32, dtype=np.uint8)[:, None] + np.zeros(32, np.uint8)
    noisy = rng.integers(0, 32, (32, 32)).astype(np.uint8)
    assert features(slope)[8] == pytest.approx(np.log(1e-4), abs=0.01)
    assert features(noisy)[8] > features(slope)[8] + 5
    assert features(noisy)[9] > features(slope)[9] + 2


def test_raw_range_tells_what_the_stretch_hides():
    contract = FrameContract(32, 32, bit_depth=14)
    frame = np.random.default_rng(0).integers(100, 200, (32, 32)).astype(np.uint16)
    found = [
        describe(one, prepare(one, contract), bit_depth=14)
        for one in (frame, frame + np.uint16(5000))
    ]
    assert found[0][:4] == pytest.approx(found[1][:4])
    assert found[1][4:8] - found[0][4:8] == pytest.approx(5000 / 16383)


def test_standardised_features_have_their_groups_weight():
    assert [round(float(w), 3) for w in np.unique(WEIGHTS)] == [0.25, 0.5, 0.707]
    raw = np.zeros((4, 28))
    raw[:, 0] = 1, 1, 3, 3  # mean 2, spread 1
    raw[:, 1] = 7  # constant: says nothing
    raw[:, 2] = 0.1 + np.array([0, 1e-17, 0, 0])
    found = standardise(raw)
    assert found[:, 0].tolist() == [-0.5, -0.5, 0.5, 0.5]
    assert not found[:, 1:].any()


@given(st.permutations(range(9)))
def test_standardising_does_not_know_the_order(order):
    raw = np.random.default_rng(3).normal(size=(9, 28))
    assert np.array_equal(standardise(raw)[list(order)], standardise(raw[list(order)]))


# --- choice ---------------------------------------------------------------------------------------


def test_choice_starts_at_the_mean_and_takes_the_farthest():
    assert choose_spread(line(-5, -1, 0.5, 4, 7), none(5), most=4) == [2, 4, 0, 3]


def test_of_equal_points_the_first_is_taken():
    assert choose_spread(line(0, 0, 3, -3), none(4), most=4) == [0, 2, 3, 1]


def test_all_are_taken_where_there_are_no_more():
    assert sorted(choose_spread(line(1, 2, 3), none(3), most=32)) == [0, 1, 2]


def test_half_are_preferred_ones():
    preferred = np.array([False, True, True, True, False, False])
    # The first two of four are of 1, 2, 3: the nearest to 0, then the farthest from it.
    assert choose_spread(line(0, 1, 2, 3, 50, -50), preferred, most=4) == [1, 3, 5, 4]


@given(points, st.integers(1, 24), st.data())
def test_choice(places, most, data):
    count = len(places)
    preferred = data.draw(hnp.arrays(np.bool_, count))
    chosen = choose_spread(places, preferred, most=most)
    assert len(set(chosen)) == len(chosen) == min(most, count)
    assert 2 * preferred[chosen].sum() >= min(len(chosen), 2 * preferred.sum())
    assert chosen == choose_spread(places, preferred, most=most)


@given(points, st.integers(1, 24))
def test_no_point_is_farther_from_the_chosen_than_they_are_from_each_other(places, most):
    chosen = choose_spread(places, none(len(places)), most=most)
    between = np.linalg.norm(places[:, None] - places[chosen], axis=2)
    apart = np.linalg.norm(places[chosen][:, None] - places[chosen], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert between.min(axis=1).max() <= apart.min()
