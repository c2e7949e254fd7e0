from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irstd.train.augment import dihedral, target_aware_crop

FloatMap = npt.NDArray[np.float32]


def numbered(height: int, width: int) -> FloatMap:
    """A frame whose every pixel says where it was."""
    return np.arange(height * width, dtype=np.float32).reshape(height, width)


def mask_with(height: int, width: int, *pixels: tuple[int, int]) -> FloatMap:
    mask = np.zeros((height, width), np.float32)
    for pixel in pixels:
        mask[pixel] = 1
    return mask


def crop(
    frame: FloatMap, mask: FloatMap, side: int, *, share: float = 1.0, seed: int = 0
) -> tuple[FloatMap, FloatMap]:
    rng = np.random.default_rng(seed)
    return target_aware_crop(frame, mask, side=side, target_share=share, rng=rng)


def corners(frame: FloatMap, mask: FloatMap, side: int, share: float) -> set[tuple[int, int]]:
    """Every place the crop was cut from in many draws."""
    width, rng = frame.shape[1], np.random.default_rng(0)
    found = set()
    for _ in range(400):
        window, _ = target_aware_crop(frame, mask, side=side, target_share=share, rng=rng)
        found.add(divmod(int(window[0, 0]), width))
    return found


# --- target_aware_crop ----------------------------------------------------------------------------


@st.composite
def scenes(draw: st.DrawFn) -> tuple[int, int, int, tuple[int, int]]:
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    side = draw(st.integers(1, min(height, width)))
    row = draw(st.sampled_from([0, height - 1]) | st.integers(0, height - 1))
    column = draw(st.sampled_from([0, width - 1]) | st.integers(0, width - 1))
    return height, width, side, (row, column)


@given(scenes(), st.integers(0, 2**32 - 1))
def test_the_crop_holds_the_target_wherever_it_lies(
    scene: tuple[int, int, int, tuple[int, int]], seed: int
) -> None:
    height, width, side, pixel = scene
    frame, mask = numbered(height, width), mask_with(height, width, pixel)
    frame_crop, mask_crop = crop(frame, mask, side, seed=seed)
    assert frame_crop.shape == mask_crop.shape == (side, side)
    assert mask_crop.sum() == 1
    # Both were cut from the same place.
    row, column = np.argwhere(mask_crop)[0]
    assert divmod(int(frame_crop[row, column]), width) == pixel


def test_every_crop_that_holds_the_target_occurs() -> None:
    frame, mask = numbered(9, 7), mask_with(9, 7, (4, 3))
    expected = {(top, left) for top in (2, 3, 4) for left in (1, 2, 3)}
    assert corners(frame, mask, 3, 1.0) == expected


@pytest.mark.parametrize("pixel", [(0, 0), (0, 6), (8, 0), (8, 6)])
def test_a_target_in_the_corner_leaves_one_crop(pixel: tuple[int, int]) -> None:
    frame, mask = numbered(9, 7), mask_with(9, 7, pixel)
    expected = (min(pixel[0], 9 - 3), min(pixel[1], 7 - 3))
    assert corners(frame, mask, 3, 1.0) >= {expected}
    assert all(
        top <= pixel[0] < top + 3 and left <= pixel[1] < left + 3
        for top, left in corners(frame, mask, 3, 1.0)
    )


def test_share_zero_and_no_target_cut_anywhere() -> None:
    frame = numbered(5, 4)
    everywhere = {(top, left) for top in range(3) for left in range(2)}
    assert corners(frame, mask_with(5, 4, (0, 0)), 3, 0.0) == everywhere
    assert corners(frame, mask_with(5, 4), 3, 1.0) == everywhere


def test_target_share_is_a_probability() -> None:
    # One pixel in 50x50 is in a random 2x2 crop about once in 600 draws.
    frame, mask, rng = numbered(50, 50), mask_with(50, 50, (25, 25)), np.random.default_rng(1)
    hits = sum(
        bool(target_aware_crop(frame, mask, side=2, target_share=0.25, rng=rng)[1].any())
        for _ in range(2000)
    )
    assert 0.2 * 2000 < hits < 0.3 * 2000


def test_every_target_is_chosen() -> None:
    mask = mask_with(30, 30, (2, 2), (27, 5), (14, 28))
    seen = {
        tuple(np.argwhere(crop(numbered(30, 30), mask, 1, seed=seed)[1])[0].tolist())
        and int(crop(numbered(30, 30), mask, 1, seed=seed)[0][0, 0])
        for seed in range(60)
    }
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


@pytest.mark.parametrize(("height", "width"), [(8, 20), (20, 8)])
def test_a_crop_larger_than_the_frame(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"crop is 9x9, larger than the frame of {height}x{width}"):
        crop(numbered(height, width), mask_with(height, width), 9)


def test_the_same_seed_cuts_the_same_crop() -> None:
    frame, mask = numbered(40, 40), mask_with(40, 40, (3, 30), (20, 20))
    for seed in range(5):
        first, second = (crop(frame, mask, 8, share=0.5, seed=seed) for _ in range(2))
        np.testing.assert_array_equal(first[0], second[0])


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


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_frame_and_mask_turn_alike(height: int, width: int, seed: int) -> None:
    frame = numbered(height, width)
    mask = (frame % 3 == 0).astype(np.float32)
    before = frame.copy()
    turned, turned_mask = dihedral(frame, mask, rng=np.random.default_rng(seed))
    np.testing.assert_array_equal(turned_mask, (turned % 3 == 0).astype(np.float32))
    assert sorted(turned.ravel()) == sorted(frame.ravel())
    assert turned.shape in {(height, width), (width, height)}
    assert turned.dtype == np.float32 and turned.flags.c_contiguous
    np.testing.assert_array_equal(frame, before)
