import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irstd.calibration.pairs import inject_targets, remove_targets
from irstd.runtime.components import connect

DEPTHS = (8, 10, 12, 14, 16)


def dtype_of(bit_depth):
    return np.uint8 if bit_depth == 8 else np.uint16


@st.composite
def noisy_frames(draw):
    """(frame, bit depth): noise on some level, now and then at the end of the scale."""
    bit_depth = draw(st.sampled_from(DEPTHS))
    shape = draw(st.integers(8, 48)), draw(st.integers(8, 48))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    full_scale = 2**bit_depth - 1
    level, noise = draw(st.integers(0, full_scale)), draw(st.sampled_from([1, 10, full_scale]))
    values = rng.normal(level, noise, shape).clip(0, full_scale)
    return values.astype(dtype_of(bit_depth)), bit_depth


def around(mask, radius):
    """Pixels at most `radius` rows and columns away from the mask, counted one by one."""
    near = np.zeros_like(mask)
    for row, column in np.argwhere(mask):
        top, left = max(row - radius, 0), max(column - radius, 0)
        near[top : row + radius + 1, left : column + radius + 1] = True
    return near


# --- removal --------------------------------------------------------------------------------------


def slope(shape=(40, 50)):
    rows, columns = np.indices(shape)
    return (1000 + 20 * rows + 5 * columns).astype(np.uint16)


@pytest.mark.parametrize("place", [(20, 25), (5, 6), (33, 43)])
def test_a_target_on_a_slope_leaves_the_slope(place):
    background = slope()
    frame, mask = background.copy(), np.zeros((40, 50), np.bool_)
    row, column = place
    mask[row - 1 : row + 2, column - 1 : column + 2] = True
    frame[mask] += 3000
    frame[row - 3 : row + 4 : 6, column] += 800  # light beside the label, 2 pixels off
    assert np.array_equal(remove_targets(frame, mask), background)


def test_a_target_on_the_border_is_continued_from_inside():
    background = slope()
    frame, mask = background.copy(), np.zeros((40, 50), np.bool_)
    mask[0:3, 0:3] = True
    frame[mask] = 9000
    empty = remove_targets(frame, mask)
    # The corner lies outside of what its ring spans: held to the ring's range, 40 of 20 a row.
    assert np.abs(empty.astype(int) - background).max() <= 100
    assert np.array_equal(empty[5:], background[5:])


def test_two_targets_and_no_target():
    frame = np.full((30, 40), 80, np.uint8)
    mask = np.zeros(frame.shape, np.bool_)
    mask[4, 4], mask[20:23, 30:34] = True, True
    seen = frame.copy()
    seen[mask] = 255
    assert np.array_equal(remove_targets(seen, mask), frame)
    untouched = remove_targets(seen, np.zeros_like(mask))
    assert np.array_equal(untouched, seen) and untouched is not seen


def test_a_target_beside_another_takes_nothing_from_it():
    frame = np.full((30, 40), 80, np.uint8)
    mask = np.zeros(frame.shape, np.bool_)
    mask[15, 15] = mask[15, 21] = True  # rings reach into each other's halo
    frame[around(mask, 2)] = 255
    assert np.all(remove_targets(frame, mask) == 80)


def test_a_large_target_on_an_edge_is_filled_without_a_step():
    frame = np.full((60, 60), 20, np.uint8)
    frame[:, 30:] = 200
    mask = np.zeros(frame.shape, np.bool_)
    mask[25:35, 25:35] = True
    frame[mask] = 255
    filled = remove_targets(frame, mask)[25:35, 25:35].astype(int)
    assert 20 <= filled.min() and filled.max() <= 200
    assert np.all(np.diff(filled, axis=1) >= 0)


def test_a_mask_of_everything_is_refused():
    frame = np.full((16, 16), 5, np.uint8)
    mask = np.zeros(frame.shape, np.bool_)
    mask[2:14, 2:14] = True  # and the halo is the rest
    with pytest.raises(ValueError, match="labels 144 of 256 pixels as targets and leaves no backg"):
        remove_targets(frame, mask)


@settings(max_examples=60, deadline=None)
@given(noisy_frames(), st.data())
def test_removal_stays_near_the_label_and_in_range(drawn, data):
    frame, _ = drawn
    mask = np.zeros(frame.shape, np.bool_)
    for _ in range(data.draw(st.integers(1, 3))):
        row, column = (data.draw(st.integers(0, side - 1)) for side in frame.shape)
        mask[row : row + data.draw(st.integers(1, 2)), column] = True
    if around(mask, 2).all():
        return
    before = frame.copy()
    empty = remove_targets(frame, mask)
    assert empty.dtype == frame.dtype and np.array_equal(frame, before)
    far = ~around(mask, 2)
    assert np.array_equal(empty[far], frame[far])
    assert empty.min() >= frame[far].min() and empty.max() <= frame[far].max()
    # What stood in the hole does not matter.
    frame[~far] = frame[far].max()
    assert np.array_equal(remove_targets(frame, mask), empty)


# --- injection ------------------------------------------------------------------------------------


def test_scr_is_the_height_over_the_local_clutter():
    board = np.indices((96, 96)).sum(axis=0) % 2
    frame = (5000 + 20 * board).astype(np.uint16)  # standard deviation 10 everywhere
    added = inject_targets(frame, bit_depth=14).astype(int) - frame
    targets = connect(added > 5)
    assert 1 <= targets.count <= 6
    heights = [
        added[targets.rows[targets.labels == label], targets.columns[targets.labels == label]].max()
        for label in range(targets.count)
    ]
    assert all(29 <= height <= 201 for height in heights)
    assert added.min() == 0


def test_a_bright_target_stands_in_the_dark():
    frame = np.full((64, 128), 1000, np.uint16)
    frame[:, 64:] = 3000
    seen = inject_targets(frame, bit_depth=14)
    # Nine tenths of the way from 1000 to the frame's own top.
    assert 2800 <= seen[:, :64].max() <= 3000


def test_neither_a_hot_pixel_nor_an_edge_makes_a_giant():
    for column in range(20, 110, 10):
        frame = np.full((64, 128), 1000, np.uint16)
        frame[:, column:] = 3000
        frame[10:60:10, 5] = 16383
        added = inject_targets(frame, bit_depth=14).astype(int) - frame
        assert 1700 <= added.max() <= 2001


def test_number_and_places_vary_with_the_frame():
    rng = np.random.default_rng(5)
    counts = set()
    for _ in range(40):
        frame = rng.integers(100, 110, (96, 96)).astype(np.uint8)
        added = inject_targets(frame, bit_depth=8).astype(int) - frame
        counts.add(connect(added > 3).count)
    assert {1, 2, 3, 4} <= counts and max(counts) <= 6


@settings(max_examples=60, deadline=None)
@given(noisy_frames())
def test_injection_adds_little_and_stays_in_range(drawn):
    frame, bit_depth = drawn
    before = frame.copy()
    seen = inject_targets(frame, bit_depth=bit_depth)
    assert seen.dtype == frame.dtype and np.array_equal(frame, before)
    assert seen.max() <= 2**bit_depth - 1
    assert np.all(seen >= frame)
    assert np.count_nonzero(seen != frame) <= 6 * 15 * 15
    assert np.array_equal(seen, inject_targets(frame, bit_depth=bit_depth))


def test_a_target_shows_where_anything_can():
    for bit_depth in DEPTHS:
        frame = np.full((8, 8), 3, dtype_of(bit_depth))
        frame[4:] = 2**bit_depth - 1
        assert (inject_targets(frame, bit_depth=bit_depth) > frame).any()
