from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irstd.runtime.components import connect
from irstd.train.augment import cut_window, dihedral, draw_fit, draw_zoom, fit_mask, fit_square

FloatMap = npt.NDArray[np.float32]
Zoom = tuple[float, float]

PLAIN: Zoom = (1.0, 1.0)


def numbered(height: int, width: int) -> FloatMap:
    """A frame whose every pixel says where it was; nothing may write to it."""
    frame = np.arange(height * width, dtype=np.float32).reshape(height, width)
    frame.flags.writeable = False
    return frame


def mask_with(height: int, width: int, *pixels: tuple[int, int]) -> FloatMap:
    mask = np.zeros((height, width), np.float32)
    for pixel in pixels:
        mask[pixel] = 1
    mask.flags.writeable = False
    return mask


def crop(
    frame: FloatMap,
    mask: FloatMap,
    side: int,
    *,
    zoom: Zoom = PLAIN,
    share: float = 1.0,
    seed: int = 0,
) -> tuple[FloatMap, FloatMap]:
    rng = np.random.default_rng(seed)
    cut = cut_window(frame, mask, side=side, zoom=zoom, target_share=share, rng=rng)
    return fit_square(cut[0], side), fit_square(cut[1], side)


def corners(
    frame: FloatMap, mask: FloatMap, side: int, *, zoom: Zoom = PLAIN, share: float = 1.0
) -> set[tuple[int, int]]:
    """Every place that the window was cut from in many draws."""
    width, rng = frame.shape[1], np.random.default_rng(0)
    found = set()
    for _ in range(400):
        window, _ = cut_window(frame, mask, side=side, zoom=zoom, target_share=share, rng=rng)
        found.add(divmod(int(window[0, 0]), width))
    return found


# --- cut_window: where ----------------------------------------------------------------------------


@st.composite
def scenes(draw: st.DrawFn) -> tuple[int, int, tuple[int, int]]:
    """The size of a frame and a place in it, often at its border."""
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    row = draw(st.sampled_from([0, height - 1]) | st.integers(0, height - 1))
    column = draw(st.sampled_from([0, width - 1]) | st.integers(0, width - 1))
    return height, width, (row, column)


@settings(deadline=None)
@given(scenes(), st.integers(1, 24), st.integers(0, 2**32 - 1))
def test_the_crop_holds_the_target_wherever_it_lies(
    scene: tuple[int, int, tuple[int, int]], side: int, seed: int
) -> None:
    height, width, pixel = scene
    side = min(side, height, width)
    frame, mask = crop(numbered(height, width), mask_with(height, width, pixel), side, seed=seed)
    assert frame.shape == mask.shape == (side, side)
    assert mask.sum() == 1
    # Both were cut from the same place.
    row, column = np.argwhere(mask)[0]
    assert divmod(int(frame[row, column]), width) == pixel


@settings(deadline=None)
@given(
    scenes(),
    st.integers(1, 24),
    st.tuples(st.floats(0.5, 4.0), st.floats(0.5, 4.0)),
    st.integers(0, 2**32 - 1),
)
def test_an_enlarged_window_holds_it_too(
    scene: tuple[int, int, tuple[int, int]], side: int, zoom: Zoom, seed: int
) -> None:
    height, width, pixel = scene
    whole, label = numbered(height, width), mask_with(height, width, pixel)
    frame, mask = crop(whole, label, side, zoom=zoom, seed=seed)
    assert frame.shape == mask.shape == (side, side)
    assert frame.dtype == mask.dtype == np.float32
    assert 0 < mask.max() and mask.min() >= 0 and mask.max() <= 1
    assert frame.min() >= 0 and frame.max() <= height * width - 1


def test_every_crop_that_holds_the_target_occurs() -> None:
    frame, mask = numbered(9, 7), mask_with(9, 7, (4, 3))
    expected = {(top, left) for top in (2, 3, 4) for left in (1, 2, 3)}
    assert corners(frame, mask, 3) == expected


def test_every_enlarged_window_that_holds_the_target_occurs() -> None:
    # Windows of 2 rows and 3 columns.
    frame, mask = numbered(9, 7), mask_with(9, 7, (4, 3))
    expected = {(top, left) for top in (3, 4) for left in (1, 2, 3)}
    assert corners(frame, mask, 6, zoom=(3.0, 2.0)) == expected


@pytest.mark.parametrize("pixel", [(0, 0), (0, 6), (8, 0), (8, 6)])
def test_a_target_in_the_corner_leaves_one_crop(pixel: tuple[int, int]) -> None:
    mask = mask_with(9, 7, pixel)
    expected = (min(pixel[0], 9 - 3), min(pixel[1], 7 - 3))
    assert corners(numbered(9, 7), mask, 3) >= {expected}
    assert all(
        top <= pixel[0] < top + 3 and left <= pixel[1] < left + 3
        for top, left in corners(numbered(9, 7), mask, 3)
    )


def test_share_zero_and_no_target_cut_anywhere() -> None:
    frame = numbered(5, 4)
    everywhere = {(top, left) for top in range(3) for left in range(2)}
    assert corners(frame, mask_with(5, 4, (0, 0)), 3, share=0.0) == everywhere
    assert corners(frame, mask_with(5, 4), 3) == everywhere


def test_target_share_is_a_probability() -> None:
    # One pixel in 50x50 is in a random 2x2 crop about once in 600 draws.
    frame, mask, rng = numbered(50, 50), mask_with(50, 50, (25, 25)), np.random.default_rng(1)
    hits = sum(
        bool(cut_window(frame, mask, side=2, zoom=PLAIN, target_share=0.25, rng=rng)[1].any())
        for _ in range(2000)
    )
    assert 0.2 * 2000 < hits < 0.3 * 2000


def test_every_target_is_chosen() -> None:
    mask = mask_with(30, 30, (2, 2), (27, 5), (14, 28))
    seen = {int(crop(numbered(30, 30), mask, 1, seed=seed)[0][0, 0]) for seed in range(60)}
    assert seen == {2 * 30 + 2, 27 * 30 + 5, 14 * 30 + 28}


def test_soft_edges_are_no_target() -> None:
    mask = np.full((8, 8), 0.5, np.float32)
    mask[6, 1] = 0.6
    assert all(crop(numbered(8, 8), mask, 1, seed=seed)[1][0, 0] > 0.5 for seed in range(20))


def test_the_whole_frame_is_the_largest_crop() -> None:
    frame, mask = numbered(6, 6), mask_with(6, 6, (5, 0))
    frame_crop, mask_crop = crop(frame, mask, 6)
    np.testing.assert_array_equal(frame_crop, frame)
    np.testing.assert_array_equal(mask_crop, mask)


def test_the_same_seed_cuts_the_same_crop() -> None:
    frame, mask = numbered(40, 40), mask_with(40, 40, (3, 30), (20, 20))
    for seed in range(5):
        first, second = (
            crop(frame, mask, 8, zoom=(1.3, 1.2), share=0.5, seed=seed) for _ in range(2)
        )
        np.testing.assert_array_equal(first, second)


# --- fit_mask -------------------------------------------------------------------------------------


def test_a_mask_enlarged_twice_keeps_its_pixels() -> None:
    mask = mask_with(4, 4, (0, 1), (1, 1), (1, 2), (3, 3))
    np.testing.assert_array_equal(fit_mask(mask, 8), mask.repeat(2, axis=0).repeat(2, axis=1))


def test_a_mask_as_it_is() -> None:
    mask = mask_with(4, 4, (0, 1), (2, 2))
    np.testing.assert_array_equal(fit_mask(mask, 4), mask)
    assert fit_mask(np.zeros((4, 4), np.float32), 2).sum() == 0


def test_a_target_smaller_than_a_pixel_does_not_vanish() -> None:
    # Halved, it covers a quarter of one pixel.
    halved = fit_mask(mask_with(4, 4, (3, 3)), 2)
    np.testing.assert_array_equal(halved, [[0, 0], [0, 1]])


def test_beside_a_large_target_half_a_pixel_is_none() -> None:
    # Halved, the columns are covered whole, whole and half.
    mask = np.zeros((8, 8), np.float32)
    mask[:, :5] = 1
    np.testing.assert_array_equal(fit_mask(mask, 4), np.float32([[1, 1, 0, 0]] * 4))


@pytest.mark.parametrize("side", [5, 7, 9, 12, 19])
def test_no_target_vanishes_at_any_scale(side: int) -> None:
    for row in range(1, 11, 3):
        for column in range(1, 11, 3):
            fitted = fit_mask(mask_with(12, 12, (row, column)), side)
            assert set(np.unique(fitted)) == {0, 1}
            assert connect(fitted > 0).count == 1


# --- fit_square -----------------------------------------------------------------------------------

RAMP = np.float32([[0, 4], [8, 12]])
# Enlarged twice, the pixels' centres lie at -1/4, 1/4, 3/4 and 5/4 of a pixel; what lies beyond
# the outermost centres repeats them.
ENLARGED = np.float32([[0, 1, 3, 4], [2, 3, 5, 6], [6, 7, 9, 10], [8, 9, 11, 12]])


@pytest.mark.parametrize(("side", "zoom"), [(4, (2.0, 2.0)), (4, PLAIN)])
def test_a_ramp_enlarged_by_hand(side: int, zoom: Zoom) -> None:
    # At zoom 1 the window of 4x4 is more than the frame has, so it is enlarged likewise.
    frame, mask = crop(RAMP, mask_with(2, 2, (0, 1)), side, zoom=zoom)
    np.testing.assert_array_equal(frame, ENLARGED)
    across = np.float32([0, 0.25, 0.75, 1])
    np.testing.assert_array_equal(mask, np.outer(1 - across, across))


def test_a_frame_is_enlarged_in_the_direction_in_which_it_is_too_small() -> None:
    frame, _ = crop(numbered(2, 9), mask_with(2, 9), 4)
    first = frame[0, 0]
    np.testing.assert_array_equal(frame[0], first + np.arange(4))  # the columns as they were
    np.testing.assert_array_equal(frame[:, 0], first + np.float32([0, 2.25, 6.75, 9]))


def test_halving_takes_means_of_two_by_two() -> None:
    frame = numbered(4, 4)
    halved, mask = crop(frame, mask_with(4, 4, (3, 3)), 2, zoom=(0.5, 0.5))
    np.testing.assert_array_equal(halved, frame.reshape(2, 2, 2, 2).mean(axis=(1, 3)))
    np.testing.assert_array_equal(mask, [[0, 0], [0, 0.25]])


def test_rows_and_columns_have_a_zoom_each() -> None:
    # Twice as many rows from a window of 2x4.
    frame, _ = crop(numbered(2, 4), mask_with(2, 4), 4, zoom=(2.0, 1.0))
    np.testing.assert_array_equal(frame, np.add.outer(np.float32([0, 1, 3, 4]), np.arange(4)))


@pytest.mark.parametrize("zoom", [PLAIN, (1.5, 1.4), (0.6, 0.7)])
def test_mask_and_frame_are_cut_and_fitted_alike(zoom: Zoom) -> None:
    image = np.random.default_rng(0).random((40, 30), dtype=np.float32)
    for seed in range(10):
        frame, mask = crop(image, image, 12, zoom=zoom, seed=seed)
        np.testing.assert_array_equal(frame, mask)


# --- draw_fit -------------------------------------------------------------------------------------


def test_part_of_a_fit_keeps_the_sides_alike() -> None:
    rng = np.random.default_rng(0)
    drawn = np.log([draw_fit((4.0, 2.0), rng) for _ in range(2000)])
    np.testing.assert_allclose(drawn[:, 0], 2.0 * drawn[:, 1])
    part = drawn[:, 1] / np.log(2.0)
    assert 0.0 <= part.min() < 0.01 and 0.99 < part.max() <= 1.0
    assert part.mean() == pytest.approx(0.5, abs=0.03)


# --- draw_zoom ------------------------------------------------------------------------------------


def many_zooms(spread: float) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(0)
    return np.array([draw_zoom(spread, rng) for _ in range(4000)])


@pytest.mark.parametrize("spread", [1.05, 1.6, 4.0])
def test_zooms_fill_their_range(spread: float) -> None:
    zooms = many_zooms(spread)
    assert 1 / spread <= zooms.min() and zooms.max() <= spread
    assert zooms.min() < spread**-0.9 and zooms.max() > spread**0.9


@pytest.mark.parametrize("spread", [1.6, 4.0])
def test_zooms_are_log_uniform(spread: float) -> None:
    position = np.log(many_zooms(spread)).mean(axis=1) / np.log(spread)
    quarters = np.histogram(position, bins=4, range=(-1, 1))[0]
    assert position.mean() == pytest.approx(0, abs=0.05)
    assert (np.abs(quarters / len(position) - 0.25) < 0.06).all()


@pytest.mark.parametrize("spread", [1.05, 1.6, 4.0])
def test_rows_and_columns_are_fifteen_percent_apart_at_most(spread: float) -> None:
    rows, columns = many_zooms(spread).T
    apart = np.maximum(rows / columns, columns / rows)
    assert apart.max() <= min(1.15, spread) * (1 + 1e-9)
    assert apart.max() > 1 + 0.9 * (min(1.15, spread) - 1)


def test_spread_one_is_no_zoom() -> None:
    assert (many_zooms(1.0) == 1.0).all()


# --- dihedral -------------------------------------------------------------------------------------


def test_all_eight_variants_occur_equally_often() -> None:
    frame, rng = numbered(3, 3), np.random.default_rng(2)
    expected = {
        variant.tobytes()
        for image in (frame, frame.T)
        for variant in (image, image[::-1], image[:, ::-1], image[::-1, ::-1])
    }
    assert len(expected) == 8
    counts = dict.fromkeys(expected, 0)
    for _ in range(1600):
        counts[dihedral(frame, frame, rng=rng)[0].tobytes()] += 1
    assert all(150 < count < 250 for count in counts.values())


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_frame_and_mask_turn_alike(height: int, width: int, seed: int) -> None:
    frame = numbered(height, width)
    mask = (frame % 3 == 0).astype(np.float32)
    turned, turned_mask = dihedral(frame, mask, rng=np.random.default_rng(seed))
    np.testing.assert_array_equal(turned_mask, (turned % 3 == 0).astype(np.float32))
    assert sorted(turned.ravel()) == sorted(frame.ravel())
    assert turned.shape in {(height, width), (width, height)}
    assert turned.dtype == np.float32 and turned.flags.c_contiguous
