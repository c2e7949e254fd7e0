from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from irstd.runtime.components import connect
from irstd.runtime.scoring import PointScorer, Scorer, Scores, match, match_boxes, match_masks

MASKS = hnp.arrays(bool, (12, 15))
PAIRS = st.tuples(MASKS, MASKS)
NO_POINTS = np.zeros((0, 2))


def mask(*squares: tuple[int, int, int], shape: tuple[int, int] = (32, 32)) -> np.ndarray:
    """Squares given by top, left and side."""
    drawn = np.zeros(shape, bool)
    for top, left, side in squares:
        drawn[top : top + side, left : left + side] = True
    return drawn


def score(*frames: tuple[np.ndarray, np.ndarray]) -> Scores:
    scorer = Scorer()
    for prediction, truth in frames:
        scorer.add(prediction, truth)
    return scorer.result()


def test_hand_counted_frames() -> None:
    # Frame 1: 9 true pixels, 9 predicted one column beside, 6 shared. Frame 2: 4 true pixels
    # missed, a false alarm of 4 pixels.
    scores = score(
        (mask((10, 11, 3)), mask((10, 10, 3))),
        (mask((20, 20, 2)), mask((2, 2, 2))),
    )
    assert scores.iou == 6 / 20
    assert scores.niou == (6 / 12 + 0) / 2
    assert scores.precision == scores.recall == 6 / 13
    assert scores.f1 == pytest.approx(2 * scores.iou / (1 + scores.iou))
    assert scores.pd == 0.5
    assert scores.fa_per_mpix == pytest.approx(4e6 / 2048)
    assert scores.false_alarms_per_frame == 0.5
    assert (scores.frames, scores.targets) == (2, 2)


def test_false_alarms_of_a_matched_area_count() -> None:
    """One hit of 9 pixels and ten false components of 9 pixels each: shared code reports Fa 0."""
    false = [(5 + 10 * (i // 5), 20 + 40 * (i % 5), 3) for i in range(10)]
    shape = (256, 256)
    scores = score((mask((100, 100, 3), *false, shape=shape), mask((100, 100, 3), shape=shape)))
    assert scores.pd == 1.0
    assert scores.fa_per_mpix == pytest.approx(1373.29, abs=0.01)
    assert scores.false_alarms_per_frame == 10


def test_last_target_counts() -> None:
    truth = mask((2, 2, 2), (10, 10, 2), (28, 28, 2))
    assert score((mask((28, 28, 2)), truth)).pd == pytest.approx(1 / 3)


@pytest.mark.parametrize(("shift", "pd"), [(2, 1.0), (3, 0.0)])
def test_distance_is_strict(shift: int, pd: float) -> None:
    scores = score((mask((10, 10 + shift, 1)), mask((10, 10, 1))))
    assert scores.pd == pd
    assert scores.fa_per_mpix == pytest.approx((1 - pd) * 1e6 / 1024)


def test_large_prediction_on_a_small_target_is_no_hit() -> None:
    truth, prediction = mask((10, 10, 3), shape=(256, 256)), mask((5, 5, 20), shape=(256, 256))
    scores = score((prediction, truth))
    assert scores.pd == 0.0
    assert scores.fa_per_mpix == pytest.approx(400e6 / 65536)


def test_corners_join_and_borders_count() -> None:
    diagonal = np.eye(8, dtype=bool)
    scores = score((diagonal, diagonal))
    assert (scores.targets, scores.pd, scores.fa_per_mpix) == (1, 1.0, 0.0)
    corner = mask((0, 0, 1), (31, 31, 1))
    assert score((corner, corner)).pd == 1.0


def test_frames_without_target_count_for_false_alarms() -> None:
    scores = score((mask((5, 5, 2)), mask()))
    assert math.isnan(scores.pd) and math.isnan(scores.recall)
    assert (scores.iou, scores.f1, scores.precision, scores.niou) == (0.0, 0.0, 0.0, 0.0)
    assert scores.fa_per_mpix == pytest.approx(4e6 / 1024)


def test_empty_on_empty() -> None:
    scores = score((mask(), mask()))
    assert scores.niou == 1.0
    assert (scores.fa_per_mpix, scores.false_alarms_per_frame) == (0.0, 0.0)
    undefined = (scores.iou, scores.precision, scores.recall, scores.f1, scores.pd)
    assert all(math.isnan(value) for value in undefined)


def test_no_frames() -> None:
    scores = Scorer().result()
    assert (scores.frames, scores.targets) == (0, 0)
    assert math.isnan(scores.niou) and math.isnan(scores.fa_per_mpix)
    assert math.isnan(scores.false_alarms_per_frame)


def test_all_equal() -> None:
    full = np.ones((8, 8), bool)
    assert score((full, full)).iou == 1.0
    assert score((full, ~full)).fa_per_mpix == 1e6


def test_frames_may_differ_in_size() -> None:
    small, large = mask((1, 1, 2), shape=(8, 8)), mask(shape=(16, 16))
    assert score((small, small), (large, large)).fa_per_mpix == 0.0


def test_refuses_what_is_no_mask() -> None:
    with pytest.raises(TypeError, match="prediction is float32, expected bool; threshold it"):
        Scorer().add(np.zeros((8, 8), np.float32), mask())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="truth is uint8"):
        Scorer().add(mask(), np.zeros((32, 32), np.uint8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(8, 8\) and truth \(32, 32\), expected the same"):
        Scorer().add(mask(shape=(8, 8)), mask())
    with pytest.raises(ValueError, match="expected the same"):
        Scorer().add(np.zeros((1, 8, 8), bool), np.zeros((1, 8, 8), bool))


@given(MASKS)
def test_perfect_prediction(truth: np.ndarray) -> None:
    scores = score((truth, truth))
    assert scores.fa_per_mpix == 0.0 and scores.niou == 1.0
    if truth.any():
        assert scores.iou == scores.f1 == scores.precision == scores.recall == 1.0
        # Centroids of ring-shaped components can coincide, so the found ones may be swapped, but
        # none is left over.
        assert scores.pd == 1.0


@given(PAIRS)
def test_pixel_scores_against_sets(pair: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, truth = (set(np.flatnonzero(side).tolist()) for side in pair)
    scores = score(pair)
    if prediction | truth:
        assert scores.iou == len(prediction & truth) / len(prediction | truth)
        assert scores.f1 == pytest.approx(2 * scores.iou / (1 + scores.iou))
    if truth:
        assert scores.recall == len(prediction & truth) / len(truth)


@given(PAIRS)
def test_every_unmatched_pixel_counts(pair: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, truth = pair
    components = connect(prediction)
    pairs = match(components.centroids(), connect(truth).centroids())
    matched = components.areas()[pairs[:, 0]].sum()
    expected = (np.count_nonzero(prediction) - matched) * 1e6 / truth.size
    assert score(pair).fa_per_mpix == pytest.approx(expected)


# Offsets that make every distance differ: with equal distances the scan order decides.
SPOTS = st.lists(
    st.tuples(st.floats(0, 20, allow_subnormal=False), st.floats(0, 20, allow_subnormal=False)),
    max_size=12,
)


def as_points(spots: list[tuple[float, float]]) -> np.ndarray:
    return np.array(spots, np.float64).reshape(-1, 2)


def brute_force(predicted: np.ndarray, truth: np.ndarray) -> list[tuple[int, int]]:
    """Take the nearest pair, strike it out, start over."""
    pairs: list[tuple[int, int]] = []
    while True:
        best: tuple[float, int, int] | None = None
        for i, (row, column) in enumerate(predicted.tolist()):
            for j, (true_row, true_column) in enumerate(truth.tolist()):
                if any(i == a or j == b for a, b in pairs):
                    continue
                gap = (row - true_row) ** 2 + (column - true_column) ** 2
                if gap < 9.0 and (best is None or gap < best[0]):
                    best = (gap, i, j)
        if best is None:
            return pairs
        pairs.append(best[1:])


@given(SPOTS, SPOTS)
@settings(max_examples=200)
def test_match_against_brute_force(
    predicted: list[tuple[float, float]], truth: list[tuple[float, float]]
) -> None:
    ours, theirs = as_points(predicted), as_points(truth)
    assert [tuple(pair) for pair in match(ours, theirs).tolist()] == brute_force(ours, theirs)


@given(st.integers(0, 2**32 - 1))
def test_pd_is_the_same_for_the_transposed_frame(seed: int) -> None:
    random = np.random.default_rng(seed)
    predicted, truth = random.uniform(0, 20, (12, 2)), random.uniform(0, 20, (10, 2))
    upright, turned = match(predicted, truth), match(predicted[:, ::-1], truth[:, ::-1])
    assert np.array_equal(upright, turned)
    assert np.array_equal(match(truth, predicted), upright[:, ::-1])


def test_nearest_pair_first() -> None:
    # In scan order the first prediction would take the only target that the second one can reach.
    predicted = np.array([[0.0, 0.0], [0.0, 4.0]])
    truth = np.array([[0.0, 2.5], [0.0, -2.0]])
    assert match(predicted, truth).tolist() == [[1, 0], [0, 1]]


def test_masks_are_matched_by_their_centroids() -> None:
    matched = match_masks(
        prediction=mask((5, 20, 2), (10, 12, 3)), truth=mask((10, 11, 3), (25, 25, 2))
    )
    assert (matched.components.count, matched.targets.count) == (2, 2)
    assert matched.pairs.tolist() == [[1, 0]]
    assert match_masks(mask(), mask()).pairs.shape == (0, 2)


def test_match_masks_refuses_what_is_no_mask() -> None:
    with pytest.raises(TypeError, match="truth is uint8"):
        match_masks(mask(), np.zeros((32, 32), np.uint8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected the same"):
        match_masks(mask(shape=(8, 8)), mask())


def test_one_to_one() -> None:
    predicted = np.array([[5.0, 5.0], [5.0, 5.5], [5.5, 5.0]])
    assert match(predicted, np.array([[5.0, 5.1]])).tolist() == [[0, 0]]
    assert len(match(predicted, predicted)) == 3


def test_equal_distances_go_by_order() -> None:
    predicted = np.array([[0.0, 0.0], [0.0, 2.0]])
    assert match(predicted, np.array([[0.0, 1.0]])).tolist() == [[0, 0]]


def test_match_with_nothing_and_other_distances() -> None:
    some = np.array([[1.0, 1.0]])
    assert match(NO_POINTS, some).shape == match(some, NO_POINTS).shape == (0, 2)
    assert match(some, some + 4).shape == (0, 2)
    assert match(some, some + 4, distance=6).tolist() == [[0, 0]]


def test_match_many() -> None:
    grid = np.stack(np.meshgrid(np.arange(20.0), np.arange(20.0)), axis=2).reshape(-1, 2) * 10
    assert len(match(grid + 0.4, grid)) == 400


@pytest.mark.parametrize("shape", [(3,), (2, 3), (0,), (1, 2, 2)])
def test_match_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(n, 2\)"):
        match(np.zeros(shape), NO_POINTS)


def test_match_refuses_nan() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        match(np.array([[np.nan, 1.0]]), NO_POINTS)


def test_point_scorer() -> None:
    scorer = PointScorer()
    scorer.add(np.array([[10.0, 10.5], [40.0, 40.0]]), ((10.0, 10.0),))
    scorer.add(NO_POINTS, ((1.0, 1.0), (9.0, 9.0)))
    scorer.add(np.array([[3.0, 3.0]], np.float32), ())
    scores = scorer.result()
    assert scores.pd == pytest.approx(1 / 3)
    assert scores.false_alarms_per_frame == pytest.approx(2 / 3)
    assert (scores.frames, scores.targets) == (3, 3)


def test_point_scorer_without_targets() -> None:
    scorer = PointScorer()
    assert math.isnan(scorer.result().false_alarms_per_frame)
    scorer.add(NO_POINTS, ())
    assert math.isnan(scorer.result().pd)
    assert scorer.result().false_alarms_per_frame == 0.0


def test_point_scorer_refuses_other_points() -> None:
    with pytest.raises(ValueError, match=r"expected \(n, 2\)"):
        PointScorer().add(NO_POINTS, ((1.0, 2.0, 3.0),))  # type: ignore[arg-type]


# --- boxes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "found"),
    [
        ((14.5, 20.0), 1),  # on the border
        ((14.6, 20.0), 0),
        ((4.5, 4.5), 1),  # a corner
        ((4.4, 4.5), 0),
    ],
)
def test_what_is_inside_finds_a_box(point: tuple[float, float], found: int) -> None:
    box = np.array([[4.5, 4.5, 14.5, 40.5]])
    assert len(match_boxes(np.array([point]), box)) == found


def test_what_is_near_finds_a_box_that_is_tight() -> None:
    box = np.array([[9.5, 9.5, 10.5, 10.5]])  # the pixel (10, 10)
    assert len(match_boxes(np.array([[12.9, 10.0]]), box)) == 1
    assert len(match_boxes(np.array([[13.0, 10.0]]), box)) == 0


def test_boxes_are_found_one_to_one_nearest_first() -> None:
    boxes = np.array([[0.0, 0, 20, 20], [8.0, 8, 28, 28]])  # centres (10, 10) and (18, 18)
    found = match_boxes(np.array([[15.0, 15.0], [16.0, 16.0], [17.0, 17.0]]), boxes)
    assert found.tolist() == [[2, 1], [0, 0]]


def test_match_boxes_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"boxes have shape \(1, 3\), expected \(n, 4\)"):
        match_boxes(NO_POINTS, np.zeros((1, 3)))
    with pytest.raises(ValueError, match="NaN or infinity"):
        match_boxes(NO_POINTS, np.full((1, 4), np.inf))


def test_point_scorer_with_boxes() -> None:
    scorer = PointScorer()
    scorer.add_boxes(np.array([[5.0, 5.0], [40.0, 40.0]]), [(0.0, 0.0, 10.0, 10.0)])
    scorer.add_boxes(NO_POINTS, [(0.0, 0.0, 10.0, 10.0)])
    scorer.add_boxes(NO_POINTS, [])
    result = scorer.result()
    assert (result.pd, result.frames, result.targets) == (0.5, 3, 2)
    assert result.false_alarms_per_frame == pytest.approx(1 / 3)
