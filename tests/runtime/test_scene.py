from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irstd.runtime.backdrop import KINDS, paint, texture
from irstd.runtime.components import connect
from irstd.runtime.frame import check_frame
from irstd.runtime.interpolation import cut
from irstd.runtime.scene import BORDER, Scene, SceneOptions, point_spread

SMALL = SceneOptions(height=96, width=112, targets=2)


def test_the_same_seed_and_index_give_the_same_frame_in_any_order() -> None:
    one, other = Scene(SMALL, seed=5), Scene(SMALL, seed=5)
    later, first = one.frame(17), one.frame(3)
    assert np.array_equal(other.frame(3).frame, first.frame)
    assert np.array_equal(other.frame(17).mask, later.mask)
    assert other.frame(17).points == later.points
    assert not np.array_equal(Scene(SMALL, seed=8).frame(3).frame, first.frame)


def test_the_seed_picks_the_kind_in_turn() -> None:
    assert [Scene(SMALL, seed=seed).kind for seed in range(4)] == ["sky", "terrain", "sea", "sky"]


@settings(max_examples=20, deadline=None)
@given(
    height=st.integers(32, 90),
    width=st.integers(32, 90),
    bit_depth=st.integers(8, 16),
    targets=st.integers(0, 5),
    drift=st.floats(0.0, 4.0),
    noise=st.floats(0.0, 1.0),
    defects=st.integers(0, 10),
    seed=st.integers(0, 2**40),
    index=st.integers(0, 10**7),
)
def test_every_scene_is_a_frame_of_its_bit_depth_with_its_targets_inside(
    height: int,
    width: int,
    bit_depth: int,
    targets: int,
    drift: float,
    noise: float,
    defects: int,
    seed: int,
    index: int,
) -> None:
    options = SceneOptions(
        height=height,
        width=width,
        bit_depth=bit_depth,
        targets=targets,
        drift=drift,
        noise=noise,
        defects=defects,
    )
    shot = Scene(options, seed=seed).frame(index)
    check_frame(shot.frame, bit_depth)
    assert shot.frame.shape == shot.mask.shape == (height, width)
    assert len(shot.points) == targets
    assert shot.mask.any() == (targets > 0)
    for row, column in shot.points:
        assert BORDER <= row <= height - 1 - BORDER
        assert BORDER <= column <= width - 1 - BORDER


@pytest.mark.parametrize("seed", range(12))
def test_each_mask_is_one_component_about_its_point(seed: int) -> None:
    scene = Scene(SceneOptions(targets=1), seed=seed)
    for index in (0, 41, 1000):
        shot = scene.frame(index)
        parts = connect(shot.mask)
        assert parts.count == 1
        assert 1 <= parts.areas()[0] <= 49
        assert np.abs(parts.centroids()[0] - shot.points[0]).max() <= 0.5


@pytest.mark.parametrize("seed", range(6))
def test_targets_keep_apart_and_move_smoothly(seed: int) -> None:
    scene = Scene(SceneOptions(targets=4), seed=seed)
    paths = np.array([scene.frame(index).points for index in range(0, 256, 15)])
    gaps = np.linalg.norm(paths[:, :, None] - paths[:, None], axis=3)
    assert gaps[:, ~np.eye(4, dtype=bool)].min() > 12.0
    pair = np.array([scene.frame(40).points, scene.frame(41).points])
    assert np.linalg.norm(pair[1] - pair[0], axis=1).max() < 2.0 + 2 * 0.4 * math.sqrt(2.0)


@pytest.mark.parametrize("seed", range(9))
def test_targets_stand_out_by_their_scr(seed: int) -> None:
    """The same scene without targets differs by the targets alone."""
    options = {"noise": 0.004, "drift": 1.0, "defects": 0}
    scr = (8.0, 8.0)
    seen = Scene(SceneOptions(targets=1, scr=scr, **options), seed=seed).frame(9)
    empty = Scene(SceneOptions(targets=0, scr=scr, **options), seed=seed).frame(9).frame
    excess = seen.frame.astype(float) - empty
    row, column = (round(place) for place in seen.points[0])
    away = np.ones(empty.shape, bool)
    away[row - 8 : row + 9, column - 8 : column + 9] = False
    assert not excess[away].any()
    assert excess.argmax() in np.flatnonzero(seen.mask)
    around = empty[max(row - 10, 0) : row + 11, max(column - 10, 0) : column + 11]
    # A point between pixels shares its light: the brightest gets as little as 4/10 of a centred
    # one; the slow fluctuation takes another fifth, the bound on hard edges more.
    span = float(np.ptp(empty))
    assert excess.max() > min(0.35 * 0.8 * 8.0 * float(around.std()), 0.2 * span)
    assert excess.max() < 1.25 * 8.0 * max(float(around.std()), 0.01 * span)


def test_an_empty_scene_has_no_truth() -> None:
    shot = Scene(SceneOptions(targets=0), seed=0).frame(0)
    assert shot.points == ()
    assert not shot.mask.any()


@pytest.mark.parametrize("seed", range(3))
def test_raw_counts_lie_about_a_third_of_the_scale(seed: int) -> None:
    options = SceneOptions(bit_depth=14, defects=0)
    frame = Scene(options, seed=seed).frame(0).frame
    assert 0.25 * 16383 < np.median(frame) < 0.45 * 16383
    assert 300 < np.ptp(frame) < 5000
    display = Scene(SceneOptions(bit_depth=8, defects=0), seed=seed).frame(0).frame
    assert display.dtype == np.uint8
    assert np.ptp(display) > 80


def test_defects_stay_in_place() -> None:
    scene = Scene(SceneOptions(defects=6, targets=0), seed=1)
    frames = [scene.frame(index).frame for index in (0, 70)]
    places = [np.flatnonzero((frame == 0) | (frame > 0.75 * 16383)) for frame in frames]
    assert len(places[0]) == 6
    assert np.array_equal(*places)
    assert np.array_equal(*(frame.flat[places[0]] for frame in frames))


def test_the_background_drifts_without_a_jump() -> None:
    options = SceneOptions(targets=0, noise=0.0, defects=0, drift=0.5)
    scene = Scene(options, seed=4)
    frames = [scene.frame(index).frame.astype(float) for index in range(5)]
    steps = [np.abs(one - other).mean() for one, other in zip(frames, frames[1:], strict=False)]
    assert 0.0 < min(steps)
    assert max(steps) < 2.0 * min(steps)
    still = Scene(SceneOptions(targets=0, noise=0.0, defects=0, drift=0.0), seed=4)
    assert np.array_equal(still.frame(0).frame, still.frame(9).frame)


def test_noise_is_drawn_anew_in_each_frame_and_the_fixed_pattern_is_not() -> None:
    scene = Scene(SceneOptions(targets=0, drift=0.0, defects=0), seed=3)
    frames = np.stack([scene.frame(index).frame.astype(float) for index in range(40)])
    temporal = frames.std(axis=0).mean()
    assert temporal == pytest.approx(0.008 * scene._sensor.span, rel=0.1)
    columns = (frames.mean(axis=0) - scene._view(0)).mean(axis=0)
    assert columns.std() == pytest.approx(0.5 * 0.008 * scene._sensor.span, rel=0.3)


@given(row=st.floats(-0.5, 0.5), column=st.floats(-0.5, 0.5), sigma=st.floats(0.6, 1.6))
def test_the_point_spread_keeps_energy_and_place(row: float, column: float, sigma: float) -> None:
    spread = point_spread((row, column), sigma=sigma)
    assert spread.sum() == pytest.approx(1.0, abs=1e-4)
    offsets = np.arange(-7, 8)
    assert spread.sum(axis=1) @ offsets == pytest.approx(row, abs=1e-3)
    assert spread.sum(axis=0) @ offsets == pytest.approx(column, abs=1e-3)


def test_the_point_spread_by_hand() -> None:
    middle = math.erf(0.5 / math.sqrt(2.0))  # of a unit Gaussian within half a pixel
    assert point_spread((0.0, 0.0), sigma=1.0)[7, 7] == pytest.approx(middle**2)


def test_cut_at_whole_pixels_copies_and_keeps_a_slope_in_between() -> None:
    plane = np.add.outer(2.0 * np.arange(12), np.arange(14)).astype(np.float32)
    assert np.array_equal(cut(plane, (3.0, 4.0), (5, 6)), plane[3:8, 4:10])
    shifted = cut(plane, (3.25, 4.5), (5, 6))
    assert shifted == pytest.approx(plane[3:8, 4:10] + 2.0 * 0.25 + 0.5, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_backdrops_fill_0_to_1(kind: str) -> None:
    field = paint(np.random.default_rng(0), kind, (80, 120))
    assert field.shape == (80, 120)
    assert field.dtype == np.float32
    assert (field.min(), field.max()) == (0.0, 1.0)


def test_texture_falls_with_frequency_as_told() -> None:
    field = texture(np.random.default_rng(0), (256, 256), beta=2.0)
    assert (field.mean(), field.std()) == (pytest.approx(0.0, abs=1e-9), pytest.approx(1.0))
    power = np.abs(np.fft.fft2(field)) ** 2
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None])
    low = power[(frequency > 0.02) & (frequency < 0.03)].mean()
    high = power[(frequency > 0.2) & (frequency < 0.3)].mean()
    assert math.log10(low / high) == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"height": 31}, "scene is 31x256, expected at least 32x32 pixels"),
        ({"width": 8}, "scene is 256x8, expected at least 32x32 pixels"),
        ({"bit_depth": 7}, "bit depth is 7, expected 8 to 16"),
        ({"targets": -1}, "scene has -1 targets, expected 0 to 64"),
        ({"scr": (5.0, 2.0)}, r"SCR is \(5.0, 2.0\), expected \(lowest, highest\)"),
        ({"scr": (1.0, math.nan)}, "SCR is"),
        ({"drift": 9.0}, "drift is 9.0, expected 0 to 4 pixels per frame"),
        ({"noise": -0.1}, "noise is -0.1, expected 0 to 1 of the background's span"),
        ({"defects": 656}, "scene has 656 defects, expected 0 to 655"),
    ],
)
def test_wrong_options_are_told(options: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SceneOptions(**options)


def test_wrong_seed_and_index_are_told() -> None:
    with pytest.raises(ValueError, match="seed is -1, expected 0 or more"):
        Scene(SMALL, seed=-1)
    with pytest.raises(ValueError, match="frame index is -2, expected 0 or more"):
        Scene(SMALL, seed=0).frame(-2)
