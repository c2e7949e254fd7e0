"""Moving scenes: what they promise of targets, camera and truth, and that they never change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from irstd.runtime.backdrop import paint
from irstd.runtime.components import connect
from irstd.train.moving import MovingOptions, MovingScene

SMALL = MovingOptions(size=(64, 48), frames=9, empty=0.0)
STILL = replace(SMALL, drift=0.0, jitter=0.0, defects=0, noise=(1e-4, 1e-4), bit_depths=(14,))
SEEDS = range(6)


def test_any_frame_in_any_order_is_the_same():
    first, second = (MovingScene(SMALL, (), seed=3, index=5) for _ in range(2))
    forwards = [first.frame(number) for number in range(4)]
    backwards = [second.frame(number) for number in reversed(range(4))][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(one.frame, other.frame)
        np.testing.assert_array_equal(one.mask, other.mask)
        assert (one.points, one.boxes, one.camera) == (other.points, other.boxes, other.camera)


@pytest.mark.parametrize("other", [{"seed": 4, "index": 5}, {"seed": 3, "index": 6}])
def test_another_number_is_another_scene(other):
    one = MovingScene(SMALL, (), seed=3, index=5).frame(0)
    assert not np.array_equal(one.frame, MovingScene(SMALL, (), **other).frame(0).frame)


@pytest.mark.parametrize(("depth", "kind"), [(8, np.uint8), (14, np.uint16)])
def test_levels_are_those_of_the_bit_depth(depth, kind):
    options = replace(SMALL, bit_depths=(depth,))
    frame = MovingScene(options, (), seed=0, index=1).frame(2).frame
    assert frame.shape == SMALL.size
    assert frame.dtype == kind
    assert frame.max() < 2**depth


@pytest.mark.parametrize("index", SEEDS)
def test_truth_belongs_together(index):
    scene = MovingScene(SMALL, (), seed=1, index=index)
    shown = scene.frame(SMALL.frames - 1)
    assert 1 <= len(shown.points) <= SMALL.targets
    labelled = np.zeros_like(shown.mask)
    for (row, column), (top, left, bottom, right) in zip(shown.points, shown.boxes, strict=True):
        assert top <= round(row) <= bottom and left <= round(column) <= right
        assert bottom - top <= 8 and right - left <= 8
        labelled[top : bottom + 1, left : right + 1] = True
    assert shown.mask.any() and not (shown.mask & ~labelled).any()
    assert connect(shown.mask).count <= len(shown.points)


def test_empty_scenes_have_no_truth():
    shown = MovingScene(replace(SMALL, empty=1.0), (), seed=1, index=0).frame(8)
    assert not shown.mask.any()
    assert shown.points == shown.boxes == ()


def test_targets_have_the_contrast_that_is_asked():
    """Against the same scene of another SCR: all but the targets is the same."""
    options = replace(STILL, targets=1)
    for index in SEEDS:
        low, high = (
            MovingScene(replace(options, scr=(scr, scr)), (), seed=2, index=index).frame(8)
            for scr in (1.0, 3.0)
        )
        assert low.points == high.points
        change = high.frame.astype(int) - low.frame.astype(int)
        assert not change[~_near(low.points, change.shape)].any()
        row, column = (round(side) for side in low.points[0])
        part = low.frame[max(row - 10, 0) : row + 11, max(column - 10, 0) : column + 11]
        # 2 more standard deviations, less what a place beside the pixel's centre loses.
        assert 0.3 * part.std() < change.max() < 2.6 * max(part.std(), 1.0) * 1.2


def _near(points, shape):
    rows, columns = np.indices(shape)
    return np.any([np.maximum(abs(rows - r), abs(columns - c)) <= 8.5 for r, c in points], axis=0)


def test_the_background_moves_as_the_camera_says():
    options = replace(STILL, drift=1.5, empty=1.0)
    for index in SEEDS:
        scene = MovingScene(options, (), seed=5, index=index)
        if scene._clouds is not None or scene._camera.zoom[-1] != 1.0:
            continue
        first, last = scene._view(0), scene._view(8)
        down, right = (round(by) for by in scene.camera(8))
        moved = np.roll(first, (down, right), axis=(0, 1))[16:-16, 16:-16]
        here = last[16:-16, 16:-16]
        still = first[16:-16, 16:-16]
        if max(abs(down), abs(right)) >= 2:
            assert abs(here - moved).mean() < 0.6 * abs(here - still).mean()
            return
    pytest.fail("no scene moved")


def test_real_backgrounds_are_drawn_where_they_are_large_enough():
    flat = np.full((200, 200), 0.5, np.float32)
    options = replace(STILL, real=1.0, empty=1.0)
    spans = []
    for backgrounds in ((flat,), (flat[:70],)):
        scenes = [MovingScene(options, backgrounds, seed=0, index=index) for index in range(8)]
        spans.append([np.median(abs(np.diff(one._background))) for one in scenes])
    assert max(spans[0]) == 0.0 < min(spans[1])


def test_backgrounds_stay_as_they_are():
    background = paint(np.random.default_rng(0), "sky", (160, 160))
    before = background.copy()
    MovingScene(replace(SMALL, real=1.0), (background,), seed=0, index=0).frame(3)
    np.testing.assert_array_equal(background, before)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": (16, 64)}, "16x64, expected at least 32x32"),
        ({"frames": 1}, "1 frames"),
        ({"targets": 0}, "up to 0 targets"),
        ({"scr": (0.0, 2.0)}, "scr is 0.0..2.0"),
        ({"speed": (2.0, 1.0)}, "speed is 2.0..1.0"),
        ({"noise": (0.1, float("inf"))}, "noise is 0.1..inf"),
        ({"empty": 1.5}, "empty is 1.5"),
        ({"real": -0.1}, "real is -0.1"),
    ],
)
def test_bad_options(change, said):
    with pytest.raises(ValueError, match=said):
        replace(SMALL, **change)


def test_bad_numbers():
    with pytest.raises(ValueError, match="seed is -1 and index 0, expected 0 or more"):
        MovingScene(SMALL, (), seed=-1, index=0)
    scene = MovingScene(SMALL, (), seed=0, index=0)
    for number in (-1, 9):
        with pytest.raises(ValueError, match=f"frame is {number}, expected 0 to 8"):
            scene.frame(number)
