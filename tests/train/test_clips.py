"""Clips for training: the frames in the newest one's pixels, as near as the flight brings them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from irstd.runtime.clip import Clip
from irstd.runtime.frame import ClipContract, FrameContract, fit_geometry, prepare
from irstd.train import clips, moving
from irstd.train.clips import ClipSet, GeneratedClips, draw_clip, scene_options
from irstd.train.moving import MovingScene
from irstd.train.recipe import Recipe

CLIP = ClipContract(4, stride=2)
SIZE = (64, 64)


def scene(index, clip=CLIP, **changes):
    options = replace(scene_options(SIZE, clip), bit_depths=(14,), **changes)
    return MovingScene(options, (), seed=11, index=index)


@pytest.fixture
def plain(monkeypatch):
    """Without gaps, squeezed contrast, clouds, zoom, and errors of registration to speak of."""
    monkeypatch.setattr(moving, "CLOUDS", 0.0)
    monkeypatch.setattr(moving, "ZOOMING", 0.0)
    for name in ("GAPS", "SQUEEZED", "LOST"):
        monkeypatch.setattr(clips, name, 0.0)
    monkeypatch.setattr(clips, "REGISTRATION_ERROR", (1e-9, 1e-9))


def test_a_clip_is_what_the_flight_makes_of_the_same_frames(plain):
    """The same frames through `prepare` and `Clip`: equal up to the error of its registration."""
    near = 0
    for index in range(4):
        made = scene(index, empty=1.0, noise=(0.002, 0.002), defects=0)
        drawn = draw_clip(made, CLIP, np.random.default_rng(0)).frames
        contract = FrameContract(*SIZE, bit_depth=16, clip=CLIP)
        ring = Clip(CLIP)
        for number in range(made.options.frames - CLIP.span, made.options.frames):
            frame = made.frame(number).frame
            ring.add(prepare(frame, contract), fit_geometry(SIZE, contract))
        flown = ring.stack()[0]
        np.testing.assert_array_equal(drawn[-1], flown[-1])
        inside = np.s_[:, 12:-12, 12:-12]
        near += abs(drawn[inside] - flown[inside]).mean() < 0.01
    assert near >= 3  # one may show nothing that could be registered


def test_registered_frames_agree_better_than_raw_ones(plain):
    still = replace(CLIP, registration="none")
    better = []
    for index in range(6):
        made = scene(index, empty=1.0, noise=(0.002, 0.002))
        registered, raw = (
            draw_clip(made, clip, np.random.default_rng(0)).frames for clip in (CLIP, still)
        )
        apart = [abs(one[0] - one[-1])[8:-8, 8:-8].mean() for one in (registered, raw)]
        better.append(apart[0] <= apart[1] * 1.05)
    assert sum(better) >= 5  # a camera that stands still needs none


def generated(recipe):
    return ClipSet([GeneratedClips((), CLIP, recipe)], recipe)


def test_every_clip_follows_from_its_number(one_thread):
    first, second = (generated(Recipe(crop=32, seed=4)) for _ in range(2))
    for index in (7, 0):
        for one, other in zip(first[index], second[index], strict=True):
            np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[0][0], first[1][0])


def test_shapes_and_ranges():
    drawn = generated(Recipe(crop=32))
    for index in range(8):
        frames, mask = drawn[index]
        assert frames.shape == (4, 32, 32) and mask.shape == (1, 32, 32)
        assert frames.dtype == mask.dtype == np.float32
        assert np.isfinite(frames).all() and -0.5 < frames.min() and frames.max() < 1.5
        assert set(np.unique(mask)) <= {0.0, 1.0}


def test_missing_frames_make_the_clip_reach_further_back(monkeypatch):
    random = np.random.default_rng(0)
    monkeypatch.setattr(clips, "GAPS", 1.0)
    for _ in range(20):
        numbers = clips._choose_frames(10, CLIP, random)
        assert len(numbers) == CLIP.span and numbers[-1] == 9
        assert 2 <= np.diff(numbers).max() <= 1 + clips.LONGEST_GAP
    monkeypatch.setattr(clips, "GAPS", 0.0)
    assert clips._choose_frames(10, CLIP, random).tolist() == [3, 4, 5, 6, 7, 8, 9]


def test_errors_add_up_towards_the_oldest_frame(monkeypatch):
    monkeypatch.setattr(clips, "REGISTRATION_ERROR", (0.1, 0.1))
    monkeypatch.setattr(clips, "LOST", 0.0)
    made = scene(0)
    random = np.random.default_rng(0)
    drawn = [clips._registration_errors(made, np.arange(7), random) for _ in range(200)]
    spread = np.std(drawn, axis=0)
    assert spread[-1].max() == 0.0
    np.testing.assert_allclose(spread[0], 0.1 * np.sqrt(6), rtol=0.2)


def test_a_scene_that_is_too_short():
    made = scene(0, frames=6)
    with pytest.raises(ValueError, match="the scene has 6 frames, the clip needs 7"):
        draw_clip(made, CLIP, np.random.default_rng(0))
