"""Defects over time; those known by one frame are tested with the frames that `prepare` makes."""

import numpy as np
import pytest

from irstd.runtime.defects import repair_lasting


def background(count=3, level=0.25, shape=(8, 9)):
    return np.full((count, *shape), level, np.float32)


@pytest.mark.parametrize("place", [(0, 0), (0, 4), (7, 8), (3, 0), (4, 4)])
def test_what_has_stayed_comes_down_to_its_highest_neighbour(place):
    frames = background()
    frames[(slice(None), *place)] = (0.5, 1.0, 0.75)
    frames[-1, 1, 1] = frames[-1, 6, 7] = frames[-1, 4, 1] = frames[-1, 1, 4] = 0.3
    frames[-1, 3, 5] = 0.3
    repaired = repair_lasting(frames[-1], frames)
    expected = frames[-1].copy()
    expected[place] = 0.3  # each place has one such neighbour
    np.testing.assert_array_equal(repaired, expected)


def test_no_pixel_is_raised():
    """Where something brighter passes a hot pixel, that pixel stays as it is."""
    frames = background()
    frames[:, 4, 4] = 0.75
    frames[-1, 4, 3] = 1.0
    assert repair_lasting(frames[-1], frames)[4, 4] == 0.75


def test_a_point_that_moves_or_comes_is_spared():
    frames = background()
    for number, column in enumerate((3, 4, 4)):
        frames[number, 5, column] = 1.0
    frames[2, 2, 2] = 1.0
    newest = frames[-1]
    assert repair_lasting(newest, frames) is newest


@pytest.mark.parametrize(("height", "is_hot"), [(0.125, False), (0.15625, True)])
def test_an_eighth_of_the_range_is_not_enough_yet(height, is_hot):
    frames = background()
    frames[:, 4, 4] = 0.25 + height
    repaired = repair_lasting(frames[-1], frames)
    assert repaired[4, 4] == (0.25 if is_hot else 0.25 + height)


def test_two_hot_pixels_side_by_side_are_no_point():
    """The lesser one is not above all its neighbours; the other is, and comes down to it."""
    frames = background()
    frames[:, 4, 4:6] = (0.5, 1.0)
    repaired = repair_lasting(frames[-1], frames)
    assert repaired[4, 4:6].tolist() == [0.5, 0.5]


def test_dark_pixels_and_frames_stay_as_they_are():
    frames = background()
    frames[:, 4, 4] = 0.0
    frames[:, 2, 2] = 1.0
    before = frames.copy()
    assert repair_lasting(frames[-1], frames)[4, 4] == 0.0
    np.testing.assert_array_equal(frames, before)
