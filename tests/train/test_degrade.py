from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from irstd.train.degrade import blur, defects, finer_levels, gain_offset, gaussian, noise

FloatMap = npt.NDArray[np.float32]
Degradation = Callable[[FloatMap, np.random.Generator], FloatMap]

# Each at its strongest, and at strength 0.
STRONG: dict[str, Degradation] = {
    "gain_offset": lambda frame, rng: gain_offset(frame, strength=1.0, rng=rng),
    "blur": lambda frame, rng: blur(frame, sigma=2.0, rng=rng),
    "noise": lambda frame, rng: noise(frame, sigma=255.0, rng=rng),
    "defects": lambda frame, rng: defects(frame, share=1.0, rng=rng),
    "finer_levels": lambda frame, rng: finer_levels(frame, rng=rng),
}
OFF: dict[str, Degradation] = {
    "gain_offset": lambda frame, rng: gain_offset(frame, strength=0.0, rng=rng),
    "blur": lambda frame, rng: blur(frame, sigma=0.0, rng=rng),
    "noise": lambda frame, rng: noise(frame, sigma=0.0, rng=rng),
    "defects": lambda frame, rng: defects(frame, share=0.0, rng=rng),
}

strong = pytest.mark.parametrize("degrade", STRONG.values(), ids=STRONG)


def random_frame(height: int = 24, width: int = 40) -> FloatMap:
    """A frame that holds both ends of the range; nothing may write to it."""
    frame = np.random.default_rng(0).random((height, width), dtype=np.float32)
    frame.flat[:4] = (0, 1, 0, 1)
    frame.flags.writeable = False
    return frame


def constant(value: float, *, side: int = 64) -> FloatMap:
    return np.full((side, side), value, np.float32)


# --- what all have in common ----------------------------------------------------------------------


@strong
@pytest.mark.parametrize(
    "frame",
    [random_frame(), random_frame(3, 5), constant(0, side=9), constant(1, side=9)],
    ids=["random", "tiny", "black", "white"],
)
def test_frames_stay_frames(degrade: Degradation, frame: FloatMap) -> None:
    for seed in range(40):
        degraded = degrade(frame, np.random.default_rng(seed))
        assert degraded.shape == frame.shape
        assert degraded.dtype == np.float32
        # A blur sums up rounded weights.
        assert degraded.min() >= 0 and degraded.max() <= 1 + 1e-6


@strong
def test_they_do_something_and_not_always_the_same(degrade: Degradation) -> None:
    frame = random_frame()
    results = [degrade(frame, np.random.default_rng(seed)) for seed in range(8)]
    assert len({result.tobytes() for result in [frame, *results]}) == 9


@strong
def test_the_source_of_randomness_decides_everything(degrade: Degradation) -> None:
    first, second = (degrade(random_frame(), np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("degrade", OFF.values(), ids=OFF)
def test_strength_zero_changes_nothing(degrade: Degradation) -> None:
    for seed in range(20):
        degraded = degrade(random_frame(), np.random.default_rng(seed))
        np.testing.assert_array_equal(degraded, random_frame())


# --- gain_offset ----------------------------------------------------------------------------------


def test_gain_and_offset_lie_in_their_ranges() -> None:
    frame, rng = random_frame(), np.random.default_rng(1)
    gains, places = [], []
    for _ in range(1000):
        squeezed = gain_offset(frame, strength=0.6, rng=rng)
        low, high = float(squeezed.min()), float(squeezed.max())
        np.testing.assert_allclose(squeezed, frame * (high - low) + low, atol=1e-6)
        gains.append(high - low)
        places.append(low / (1 - (high - low)))
    assert 0.4 - 1e-6 <= min(gains) < 0.42 and 0.98 < max(gains) <= 1
    assert np.mean(gains) == pytest.approx(0.7, abs=0.02)
    # The squeezed range lies anywhere in the old one.
    assert min(places) < 0.05 and max(places) > 0.95
    assert np.median(places) == pytest.approx(0.5, abs=0.05)


# --- blur and gaussian ----------------------------------------------------------------------------


def point(*, row: int = 20, column: int = 20) -> FloatMap:
    frame = np.zeros((41, 41), np.float32)
    frame[row, column] = 1
    return frame


def variances(spread: FloatMap) -> tuple[float, float]:
    """Second moments along rows and columns of what a point at (20, 20) became."""
    along = (np.arange(41) - 20.0) ** 2
    return float(spread.sum(axis=1) @ along), float(spread.sum(axis=0) @ along)


@pytest.mark.parametrize("sigma", [0.0, 0.3, 0.7, 1.0, 1.6, 2.0])
@pytest.mark.parametrize("shape", [(24, 40), (3, 5), (1, 9)])
def test_gaussian_is_scipy_s(sigma: float, shape: tuple[int, int]) -> None:
    frame = random_frame(*shape)
    expected = ndimage.gaussian_filter(
        frame.astype(np.float64), max(sigma, 1e-3), mode="reflect", radius=6
    )
    np.testing.assert_allclose(gaussian(frame, sigma), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigma", [0.7, 1.0, 1.5, 2.0])
def test_a_point_widens_by_the_variance(sigma: float) -> None:
    # At sigma 2 the reach of six pixels cuts off 3 % of the variance.
    for variance in variances(gaussian(point(), sigma)):
        assert variance == pytest.approx(sigma**2, rel=0.035)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_a_blur_preserves_the_mean_also_at_the_border(sigma: float) -> None:
    for frame in (random_frame(), point(row=0, column=40), point(row=2, column=19)):
        assert gaussian(frame, sigma).mean() == pytest.approx(frame.mean(), rel=1e-5)


def test_a_blur_is_drawn_up_to_its_sigma() -> None:
    rng = np.random.default_rng(2)
    sigmas = np.sqrt([variances(blur(point(), sigma=1.5, rng=rng))[0] for _ in range(300)])
    assert sigmas.max() <= 1.5 and sigmas.max() > 1.4
    assert np.median(sigmas) == pytest.approx(0.75, abs=0.1)


# --- noise ----------------------------------------------------------------------------------------


def noise_parts(sigma: float, *, draws: int = 300) -> npt.NDArray[np.float64]:
    """Deviations in grey levels of the pixels in their columns, and of the columns' means."""
    rng, frame = np.random.default_rng(3), constant(0.5)
    parts = []
    for _ in range(draws):
        added = 255 * (noise(frame, sigma=sigma, rng=rng).astype(np.float64) - 0.5)
        columns = added.mean(axis=0)
        parts.append(((added - columns).std() * np.sqrt(64 / 63), columns.std()))
    return np.array(parts)


def test_noise_is_drawn_up_to_its_sigma_and_often_small() -> None:
    white, _ = noise_parts(20.0).T
    assert white.max() <= 20 * 1.03 and white.max() > 19
    # The square of a uniform number: half of the draws have less than a quarter.
    assert np.median(white) == pytest.approx(5, abs=1)


def test_half_of_the_noise_has_a_column_pattern() -> None:
    white, columns = noise_parts(20.0).T
    relative = columns / white
    # White noise alone leaves 1/8 of itself in the mean of 64 pixels; the pattern adds a third.
    patterned = relative > 0.22
    assert patterned.mean() == pytest.approx(0.5, abs=0.1)
    assert np.median(relative[~patterned]) == pytest.approx(1 / 8, rel=0.1)
    assert np.median(relative[patterned]) == pytest.approx((1 / 9 + 1 / 64) ** 0.5, rel=0.1)


def test_noise_has_no_mean_and_is_white() -> None:
    rng, frame = np.random.default_rng(4), constant(0.5)
    added = np.mean([noise(frame, sigma=20, rng=rng) - frame for _ in range(300)], axis=0)
    assert abs(added.mean()) < 0.01 * 20 / 255
    beside = np.corrcoef(added[:, :-1].ravel(), added[:, 1:].ravel())[0, 1]
    assert abs(beside) < 0.05


# --- defects --------------------------------------------------------------------------------------


def test_defects_are_few_and_dead_or_hot() -> None:
    rng, frame = np.random.default_rng(5), np.full((40, 50), 0.5, np.float32)
    counts, values = [], []
    for _ in range(400):
        marked = defects(frame, share=0.01, rng=rng)
        wrong = marked[marked != frame]
        counts.append(wrong.size)
        values.extend(wrong.tolist())
    assert max(counts) <= 20 and max(counts) >= 18 and min(counts) == 0
    assert np.mean(counts) == pytest.approx(10, abs=1)
    hot = np.array([value for value in values if value != 0])
    assert 0.7 <= hot.min() < 0.71 and 0.99 < hot.max() <= 1
    assert len(hot) / len(values) == pytest.approx(0.5, abs=0.05)


def test_defects_lie_anywhere() -> None:
    rng, frame = np.random.default_rng(6), constant(0.5, side=4)
    hits = sum((defects(frame, share=0.25, rng=rng) != frame).astype(int) for _ in range(400))
    assert hits.min() > 0.5 * hits.mean() and hits.max() < 1.5 * hits.mean()


def test_a_share_below_one_pixel_is_none() -> None:
    frame = random_frame()
    for seed in range(20):
        marked = defects(frame, share=0.9 / frame.size, rng=np.random.default_rng(seed))
        np.testing.assert_array_equal(marked, frame)


# --- finer_levels ---------------------------------------------------------------------------------


def test_finer_levels_round_to_the_old_ones() -> None:
    levels = np.arange(256).repeat(16).reshape(64, 64)
    frame = (levels / 255).astype(np.float32)
    filled = finer_levels(frame, rng=np.random.default_rng(7))
    added = 255 * (filled.astype(np.float64) - frame)
    assert np.abs(added).max() <= 0.5 + 1e-4
    np.testing.assert_array_equal(np.rint(255 * filled.astype(np.float64)), levels)
    assert len(np.unique(filled)) > 3000


def test_finer_levels_are_evenly_spread() -> None:
    frame = constant(0.5)
    added = 255 * (finer_levels(frame, rng=np.random.default_rng(8)) - frame)
    assert added.mean() == pytest.approx(0, abs=0.02)
    assert added.std() == pytest.approx(12**-0.5, rel=0.05)
