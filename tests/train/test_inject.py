from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from irstd.runtime.components import connect
from irstd.train.inject import (
    CLEARANCE,
    LARGEST_TRANSPLANT,
    MARGIN,
    SHARPEST,
    Transplant,
    collect_transplants,
    gaussian_target,
    inject_target,
    transplant_target,
)

FloatMap = npt.NDArray[np.float32]
seeds = st.integers(0, 2**32 - 1)


def transplanted(frame, mask, bank, rng):
    """A transplant wherever there is a place, however faint."""
    return transplant_target(frame, mask, bank, lowest_scr=0.0, rng=rng)


def constant(value: float, height: int = 64, width: int = 64) -> FloatMap:
    """A frame, or a mask, that nothing may write to."""
    frame = np.full((height, width), value, np.float32)
    frame.flags.writeable = False
    return frame


def noisy(mean: float, deviation: float, *, seed: int = 0) -> FloatMap:
    rng = np.random.default_rng(seed)
    frame = (mean + deviation * rng.standard_normal((64, 64))).clip(0, 1).astype(np.float32)
    frame.flags.writeable = False
    return frame


def mask_with(*places: tuple[int, int], side: int = 64) -> FloatMap:
    mask = np.zeros((side, side), np.float32)
    for place in places:
        mask[place] = 1
    mask.flags.writeable = False
    return mask


def rectangle(*, top: int, left: int, height: int, width: int) -> FloatMap:
    mask = np.zeros((64, 64), np.float32)
    mask[top : top + height, left : left + width] = 1
    return mask


# --- gaussian_target ------------------------------------------------------------------------------


def many_targets(largest: float) -> list[tuple[FloatMap, FloatMap]]:
    rng = np.random.default_rng(0)
    return [gaussian_target(largest=largest, rng=rng) for _ in range(300)]


def moments(shape: FloatMap) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Centroid, from the middle of the window, and standard deviations, the larger one last."""
    weights = shape.astype(np.float64) / shape.sum(dtype=np.float64)
    places = np.indices(shape.shape).reshape(2, -1) - 9.0
    centroid = places @ weights.ravel()
    away = places - centroid[:, None]
    spread = (away * weights.ravel()) @ away.T
    return centroid, np.sqrt(np.linalg.eigvalsh(spread))


def test_a_target_has_height_one_and_its_mask_a_third_of_it() -> None:
    for shape, mask in many_targets(2.5):
        assert shape.shape == mask.shape == (19, 19)
        assert shape.dtype == mask.dtype == np.float32
        assert shape.max() == 1 and shape.min() >= 0
        np.testing.assert_array_equal(mask, shape > 0.35)
        # It ends inside its window: what is cut off at the border cannot be seen.
        assert max(shape[0].max(), shape[-1].max(), shape[:, 0].max(), shape[:, -1].max()) < 0.01


def test_a_target_lies_between_the_pixels() -> None:
    centroids = np.array([moments(shape)[0] for shape, _ in many_targets(2.5)])
    assert np.abs(centroids).max() <= 0.51
    # Uniform over a pixel.
    assert centroids.std(axis=0) == pytest.approx(12**-0.5, rel=0.1)
    assert centroids.mean(axis=0) == pytest.approx(0, abs=0.06)


def test_sizes_of_targets() -> None:
    deviations = np.array([moments(shape)[1] for shape, _ in many_targets(2.5)])
    # A pixel averages over itself, here at three points in each direction.
    smallest, largest = (SHARPEST**2 + 2 / 27) ** 0.5, (2.5**2 + 2 / 27) ** 0.5
    assert 0.95 * smallest < deviations.min() < 1.1 * smallest
    assert 0.9 * largest < deviations.max() < 1.01 * largest
    ratio = deviations[:, 1] / deviations[:, 0]
    assert ratio.min() < 1.05 and 1.7 < ratio.max() < 2.01
    areas = [mask.sum() for _, mask in many_targets(2.5)]
    assert 1 <= min(areas) <= 4 and 25 < max(areas) < 45


def test_the_smallest_targets_are_round() -> None:
    for shape, _ in many_targets(SHARPEST):
        low, high = moments(shape)[1]
        assert high / low < 1.1


# --- inject_target --------------------------------------------------------------------------------


def inject(
    frame: FloatMap, mask: FloatMap, *, scr: tuple[float, float] = (8.0, 8.0), seed: int = 0
) -> tuple[FloatMap, FloatMap]:
    return inject_target(frame, mask, scr=scr, rng=np.random.default_rng(seed))


def test_the_signal_to_clutter_ratio_is_the_drawn_one() -> None:
    for seed in range(40):
        frame = noisy(0.4, 0.02, seed=seed)
        seen, mask = inject(frame, constant(0), seed=seed)
        assert mask.any()
        assert (seen - frame).max() / frame.std() == pytest.approx(8, rel=0.15)


def test_ratios_are_log_uniform() -> None:
    ratios = []
    for seed in range(300):
        frame = noisy(0.4, 0.02, seed=seed)
        ratios.append((inject(frame, constant(0), scr=(2, 12), seed=seed)[0] - frame).max() / 0.02)
    assert 2 * 0.85 < min(ratios) < 2.5 and 10 < max(ratios) < 12 * 1.15
    assert np.median(ratios) == pytest.approx(24**0.5, rel=0.15)


def test_a_flat_background_counts_as_one_grey_level() -> None:
    seen, _ = inject(constant(0.5), constant(0), scr=(4, 4))
    assert 255 * (seen.max() - 0.5) == pytest.approx(4, rel=1e-3)


def test_frame_and_mask_get_the_same_target() -> None:
    for seed in range(20):
        seen, mask = inject(constant(0.2), constant(0), scr=(12, 12), seed=seed)
        shape = (seen - 0.2) / (seen.max() - 0.2)
        np.testing.assert_array_equal(mask, shape > 0.35)
        assert seen.dtype == mask.dtype == np.float32


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 63), st.integers(0, 63)), max_size=3), seeds)
def test_what_is_labelled_is_left_alone(places: list[tuple[int, int]], seed: int) -> None:
    frame, mask = noisy(0.4, 0.05), mask_with(*places)
    seen, labelled = inject(frame, mask, seed=seed)
    near = ndimage.binary_dilation(mask > 0, np.ones((3, 3)), iterations=CLEARANCE)
    assert (seen == frame)[near].all() and (labelled == mask)[near].all()
    assert (labelled >= mask).all()


def test_bright_clutter_neither_leaves_the_range_nor_flattens_the_target() -> None:
    # Clutter of 0.1 asks for a height of 1.2; the mean of 0.4 leaves 0.65 of the scale.
    frame = np.where(np.indices((64, 64)).sum(axis=0) % 2, 0.5, 0.3).astype(np.float32)
    for seed in range(20):
        seen, _ = inject(frame, constant(0), scr=(12, 12), seed=seed)
        assert seen.max() <= 1 and seen.min() >= np.float32(0.3)
        assert 0.5 <= (seen - frame).max() < 0.66
        assert seen[frame < 0.4].max() < 0.96


@pytest.mark.parametrize("shape", [(18, 40), (40, 18)])
def test_a_frame_that_is_too_small_stays_as_it_is(shape: tuple[int, int]) -> None:
    frame, mask = constant(0.5, *shape), constant(0, *shape)
    seen, labelled = inject(frame, mask)
    assert seen is frame and labelled is mask
    assert inject(constant(0.5, 19, 19), constant(0, 19, 19))[1].any()  # the smallest that is not


def test_a_full_mask_leaves_no_place() -> None:
    frame, mask = constant(0.5), constant(1)
    for seed in range(10):
        seen, labelled = inject(frame, mask, seed=seed)
        assert seen is frame and labelled is mask


# --- collect_transplants --------------------------------------------------------------------------


def tilted_plane() -> FloatMap:
    rows, columns = np.indices((64, 64))
    return (0.2 + 0.004 * rows - 0.002 * columns).astype(np.float32)


def planted(*, row: float, column: float, sigma: float = 1.5, height: float = 0.4) -> FloatMap:
    """A point that optics spread, on nothing."""
    rows, columns = np.indices((64, 64))
    distance = (rows - row) ** 2 + (columns - column) ** 2
    return (height * np.exp(-0.5 * distance / sigma**2)).astype(np.float32)


@pytest.mark.parametrize("sigma", [0.6, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("place", [(30.0, 20.0), (40.3, 25.6)])
def test_a_planted_target_comes_back(sigma: float, place: tuple[float, float]) -> None:
    target = planted(row=place[0], column=place[1], sigma=sigma)
    mask = (target > 0.35 * target.max()).astype(np.float32)
    (taken,) = collect_transplants(tilted_plane() + target, mask)
    rows, columns = (
        slice(places.min() - MARGIN, places.max() + MARGIN + 1) for places in mask.nonzero()
    )
    np.testing.assert_array_equal(taken.mask, mask[rows, columns])
    assert taken.contrast.dtype == np.float32
    away = np.abs(taken.contrast - target[rows, columns])
    assert away[taken.mask > 0].max() < 0.02
    assert away.max() < 0.03  # faded: pasted elsewhere, it has no edge
    assert not taken.contrast[[0, -1]].any() and not taken.contrast[:, [0, -1]].any()


def test_every_target_of_a_frame_is_taken() -> None:
    tall = planted(row=15, column=15, height=0.5)
    small = planted(row=45, column=45, height=0.2)
    mask = ((tall > 0.2) | (small > 0.1)).astype(np.float32)
    first, second = collect_transplants(tilted_plane() + tall + small, mask)
    assert first.contrast.max() == pytest.approx(0.5, abs=0.02)
    assert second.contrast.max() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("top", [4, 58])
@pytest.mark.parametrize("left", [4, 58])
def test_targets_near_the_border_are_left_out(top: int, left: int) -> None:
    mask = rectangle(top=top, left=left, height=2, width=2)
    assert len(collect_transplants(tilted_plane(), mask)) == 1
    for axis, side in enumerate((top, left)):
        further_out = np.roll(mask, 1 if side > 32 else -1, axis)
        assert collect_transplants(tilted_plane(), further_out) == []


def test_targets_that_are_too_large_are_left_out() -> None:
    kept = rectangle(top=20, left=20, height=10, width=LARGEST_TRANSPLANT // 10)
    assert len(collect_transplants(tilted_plane(), kept)) == 1
    kept[19, 20] = 1
    assert collect_transplants(tilted_plane(), kept) == []


def test_a_neighbour_is_not_taken_along() -> None:
    # Faded towards the window's border, it would be a label without a target.
    mask = mask_with((30, 30), (30, 31), (33, 34), (33, 35))
    frame = tilted_plane() + 0.3 * mask
    for taken in collect_transplants(frame, mask):
        assert connect(taken.mask > 0).count == 1
        assert taken.contrast[taken.mask == 0].max() < 0.05


def test_soft_labels_and_empty_masks_give_nothing() -> None:
    assert collect_transplants(tilted_plane(), constant(0)) == []
    assert collect_transplants(tilted_plane(), 0.5 * mask_with((30, 30))) == []


# --- transplant_target ----------------------------------------------------------------------------


@pytest.fixture
def wedge() -> Transplant:
    """A target that tells its eight variants apart."""
    contrast = np.zeros((9, 11), np.float32)
    contrast[4, 4:7] = (0.3, 0.2, 0.1)
    contrast[3, 4] = 0.25
    return Transplant(contrast, (contrast > 0).astype(np.float32))


def variants(image: FloatMap) -> list[FloatMap]:
    turned = [np.rot90(image, quarters) for quarters in range(4)]
    return turned + [one[:, ::-1] for one in turned]


def cut(image: FloatMap) -> FloatMap:
    """What is not zero, and nothing around it."""
    rows, columns = (slice(places.min(), places.max() + 1) for places in image.nonzero())
    return image[rows, columns]


def test_a_transplant_is_turned_and_scaled(wedge: Transplant) -> None:
    rng, frame = np.random.default_rng(1), constant(0.5)
    shapes, heights = set(), []
    known = [cut(variant) for variant in variants(wedge.contrast)]
    for _ in range(200):
        seen, mask = transplanted(frame, constant(0), [wedge], rng)
        added = np.where(mask > 0, seen - frame, 0)
        np.testing.assert_array_equal(seen - frame, added)  # the mask goes with it
        heights.append(added.max() / 0.3)
        patch = cut(added) / heights[-1]
        (which,) = (
            number
            for number, variant in enumerate(known)
            if variant.shape == patch.shape and np.allclose(variant, patch, atol=1e-6)
        )
        shapes.add(which)
    assert shapes == set(range(8))
    assert 0.4 - 1e-6 <= min(heights) < 0.45 and 1.15 < max(heights) <= 1.2 + 1e-6


def test_every_transplant_is_drawn(wedge: Transplant) -> None:
    other = Transplant(2 * wedge.contrast, wedge.mask)
    rng = np.random.default_rng(2)
    heights = [
        float(transplanted(constant(0), constant(0), [wedge, other], rng)[0].max())
        for _ in range(100)
    ]
    assert min(heights) < 0.2 and max(heights) > 0.36


def test_transplants_lie_wherever_nothing_is_labelled_nearby() -> None:
    patch, rng = np.full((9, 9), 0.7, np.float32), np.random.default_rng(5)
    bank = [Transplant(patch, np.ones_like(patch))]
    frame, mask = constant(0.5, 32, 32), mask_with((18, 14), side=32)
    corners = set()
    for _ in range(4000):
        seen, labelled = transplanted(frame, mask, bank, rng)
        assert seen.max() <= 1 and labelled[18, 14] == 1
        if seen is not frame:
            corners.add(tuple(np.argwhere(seen > 0.5)[0].tolist()))
    near = CLEARANCE + 9  # rows or columns from a window's first to a label's
    assert corners == {
        (top, left)
        for top in range(24)
        for left in range(24)
        if not (-CLEARANCE <= 18 - top < near and -CLEARANCE <= 14 - left < near)
    }


def test_no_place_for_a_transplant(wedge: Transplant) -> None:
    rng = np.random.default_rng(3)
    full, small = (constant(0.5), constant(1)), (constant(0.5, 8, 30), constant(0, 8, 30))
    for frame, mask in (full, small):
        seen, labelled = transplanted(frame, mask, [wedge], rng)
        assert seen is frame and labelled is mask


# --- all ------------------------------------------------------------------------------------------


def test_the_same_seed_injects_the_same(wedge: Transplant) -> None:
    frame, mask = noisy(0.4, 0.05), constant(0)

    def draw(seed: int) -> list[bytes]:
        rng = np.random.default_rng(seed)
        injected, _ = inject_target(frame, mask, scr=(2, 12), rng=rng)
        pasted, _ = transplanted(frame, mask, [wedge], rng)
        return [one.tobytes() for one in (injected, pasted)]

    assert draw(6) == draw(6)
    assert all(first != second for first, second in zip(draw(6), draw(7), strict=True))


def test_a_transplant_that_would_drown_is_left_out() -> None:
    rng = np.random.default_rng(0)
    frame = np.float32(0.5) + np.float32(0.1) * rng.standard_normal((40, 40), np.float32)
    faint = Transplant(np.full((9, 9), 0.1, np.float32), np.ones((9, 9), np.float32))
    mask = np.zeros((40, 40), np.float32)
    for _ in range(20):
        _, drowned = transplant_target(frame, mask, [faint], lowest_scr=3.0, rng=rng)
        assert not drowned.any()
    assert transplant_target(frame, mask, [faint], lowest_scr=0.1, rng=rng)[1].any()
