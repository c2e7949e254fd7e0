import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irstd.runtime.interpolation import move


def ramp(shape=(20, 24)):
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    return 2 * rows + 3 * columns


def test_no_shift_is_a_copy():
    frame = ramp()
    moved = move(frame, (0.0, 0.0), outside=np.zeros_like(frame))
    assert moved is not frame
    np.testing.assert_array_equal(moved, frame)


def test_whole_pixels_are_copied_and_the_rest_is_from_outside():
    frame, outside = ramp(), np.full((20, 24), -1, np.float32)
    moved = move(frame, (2.0, -3.0), outside=outside)
    np.testing.assert_array_equal(moved[2:, :-3], frame[:-2, 3:])
    assert (moved[:2] == -1).all()
    assert (moved[:, -3:] == -1).all()
    assert (outside == -1).all()


@given(st.floats(-30, 30), st.floats(-30, 30))
def test_a_slope_moves_by_any_shift(row, column):
    frame, outside = ramp(), np.full((20, 24), -1, np.float32)
    moved = move(frame, (row, column), outside=outside)
    rows, columns = np.mgrid[:20, :24]
    before = rows - row, columns - column
    inside = (before[0] >= 0) & (before[0] <= 19) & (before[1] >= 0) & (before[1] <= 23)
    assert (moved[~inside] == -1).all()
    deep = (
        (before[0] >= 1) & (before[0] <= 18) & (before[1] >= 1) & (before[1] <= 22)
    )  # the border is repeated, so a slope ends there
    np.testing.assert_allclose(moved[deep], (ramp() - 2 * row - 3 * column)[deep], atol=1e-3)


@pytest.mark.parametrize("shift", [(20.0, 0.0), (0.0, -24.0), (99.0, 99.0), (19.5, 0.0)])
def test_content_that_left_the_frame_leaves_what_is_outside(shift):
    outside = np.full((20, 24), 7, np.float32)
    np.testing.assert_array_equal(move(ramp(), shift, outside=outside), outside)
