import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from irstd.runtime.components import connect


def labelled(mask):
    components = connect(mask)
    picture = np.zeros(mask.shape, int)
    picture[components.rows, components.columns] = components.labels + 1
    return components.count, picture


def assert_like_opencv(mask):
    count, ours = labelled(mask)
    expected, theirs = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    assert count == expected - 1
    pairs = set(zip(ours.ravel().tolist(), theirs.ravel().tolist(), strict=True))
    assert len(pairs) == len({ours for ours, _ in pairs}) == len({theirs for _, theirs in pairs})


@settings(max_examples=150, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24))))
def test_any_mask_is_labelled_as_by_opencv(mask):
    assert_like_opencv(mask)


@pytest.mark.parametrize("density", [0.001, 0.05, 0.3, 0.5, 0.7, 1.0])
def test_large_masks_of_every_density(density):
    assert_like_opencv(np.random.default_rng(0).random((200, 333)) < density)


def test_shapes_that_join_late():
    comb = np.zeros((40, 41), bool)
    comb[:, ::2] = True
    comb[-1] = True
    assert connect(comb).count == 1
    spiral = np.zeros((9, 9), bool)
    spiral[[0, 8]] = spiral[:, 8] = True
    spiral[2:9, 0] = spiral[2, 0:7] = spiral[2:7, 6] = spiral[6, 2:7] = True
    assert_like_opencv(spiral)


def test_the_right_border_does_not_touch_the_next_rows_left():
    mask = np.zeros((3, 4), bool)
    mask[0, 3] = mask[1, 0] = True
    assert connect(mask).count == 2


def test_corners_touch():
    assert connect(np.eye(5, dtype=bool)[::-1]).count == 1


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (4, 4)])
def test_nothing_gives_nothing(shape):
    components = connect(np.zeros(shape, bool))
    assert components.count == 0
    assert components.areas().size == 0
    assert components.centroids().shape == (0, 2)


def test_numbers_areas_sums_and_centroids_by_hand():
    mask = np.zeros((6, 8), bool)
    mask[0, 5] = True  # met first
    mask[1:3, 1:4] = True
    components = connect(mask)
    assert components.areas().tolist() == [1, 6]
    assert components.centroids().tolist() == [[0.0, 5.0], [1.5, 2.0]]
    assert components.sums(components.columns).tolist() == [5.0, 12.0]


def test_three_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"mask has shape \(1, 2, 3\)"):
        connect(np.zeros((1, 2, 3), bool))
