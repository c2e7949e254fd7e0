from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irstd.runtime.components import connect
from irstd.runtime.contrast import Contrast, ContrastScores, signal_to_clutter

SHAPE = (64, 64)


def truth_at(*pixels: tuple[int, int]) -> np.ndarray:
    truth = np.zeros(SHAPE, bool)
    for pixel in pixels:
        truth[pixel] = True
    return truth


def checkerboard(step: float, level: float = 0.5) -> np.ndarray:
    """A background of mean `level` and standard deviation `step`."""
    signs = np.where(np.indices(SHAPE).sum(axis=0) % 2, 1, -1)
    return (level + step * signs).astype(np.float32)


def measure(frame: np.ndarray, confidence: np.ndarray, truth: np.ndarray) -> ContrastScores:
    contrast = Contrast()
    contrast.add(frame, confidence, truth)
    return contrast.result()


def test_hand_computed() -> None:
    truth = truth_at((30, 30), (30, 31))
    frame, confidence = checkerboard(0.125), checkerboard(0.03125, level=0.0625)
    frame[truth], confidence[truth] = 1.0, 0.9375
    scores = measure(frame, confidence, truth)
    assert scores.scr_in.median == pytest.approx(0.5 / 0.125)
    assert scores.scr_out.median == pytest.approx(0.875 / 0.03125)
    assert scores.scrg.median == pytest.approx(28 / 4)
    assert scores.bsf.median == pytest.approx(4.0)
    assert (scores.scrg.count, scores.bsf.count) == (1, 1)


def test_dark_targets_have_contrast() -> None:
    truth = truth_at((30, 30), (30, 31))
    frame = checkerboard(0.125)
    frame[truth] = 0.0
    assert signal_to_clutter(frame, truth, connect(truth)) == [pytest.approx(4.0)]


def test_every_target_counts_and_neighbours_are_no_clutter() -> None:
    """The last target counts, and a bright neighbour does not raise the clutter of a faint one."""
    truth = truth_at((30, 30), (30, 31), (36, 30), (36, 31))
    frame = checkerboard(0.125)
    frame[30, 30:32], frame[36, 30:32] = 0.75, 1.0
    scr = signal_to_clutter(frame, truth, connect(truth))
    assert scr == [pytest.approx(2.0), pytest.approx(4.0)]
    assert measure(frame, frame, truth).scr_in.median == pytest.approx(3.0)


def test_only_the_surroundings_count() -> None:
    truth = truth_at((10, 10), (10, 11))
    frame = checkerboard(0.125)
    frame[truth] = 1.0
    frame[31:, :] = 0.0  # 21 rows below the target, just outside
    assert signal_to_clutter(frame, truth, connect(truth)) == [pytest.approx(4.0, rel=1e-3)]
    frame[30, :] = 0.0
    assert signal_to_clutter(frame, truth, connect(truth))[0] < 3.9


@pytest.mark.parametrize("pixel", [(0, 0), (0, 63), (63, 0), (63, 63)])
def test_targets_on_the_border(pixel: tuple[int, int]) -> None:
    truth = truth_at(pixel)
    frame = checkerboard(0.125)
    frame[pixel] = 1.0
    assert signal_to_clutter(frame, truth, connect(truth)) == [pytest.approx(4.0, rel=0.01)]


def test_silent_background_is_infinite() -> None:
    truth = truth_at((30, 30), (30, 31))
    frame = checkerboard(0.125)
    frame[truth] = 1.0
    scores = measure(frame, truth.astype(np.float32), truth)
    for spread in (scores.scr_out, scores.scrg, scores.bsf):
        assert spread.median == math.inf
        assert (spread.count, spread.infinite, spread.undefined) == (1, 1, 0)
    # A constant that is no power of two deviates by exactly 0 too.
    assert measure(frame, np.full(SHAPE, 0.1, np.float32), truth).bsf.infinite == 1


def test_medians_survive_infinite_values() -> None:
    truth = truth_at((30, 30), (30, 31))
    frame = checkerboard(0.125)
    frame[truth] = 1.0
    contrast = Contrast()
    contrast.add(frame, frame, truth)
    contrast.add(frame, truth.astype(np.float32), truth)
    contrast.add(frame, frame, truth)
    scores = contrast.result()
    assert scores.scrg.median == pytest.approx(1.0)
    assert (scores.scrg.count, scores.scrg.infinite) == (3, 1)


def test_missed_target_in_silence_is_undefined() -> None:
    truth = truth_at((30, 30))
    silent = np.zeros(SHAPE, np.float32)
    scores = measure(checkerboard(0.125), silent, truth)
    assert (scores.scr_out.undefined, scores.scrg.undefined) == (1, 1)
    assert math.isnan(scores.scr_out.median)
    assert measure(silent, silent, truth).bsf.undefined == 1


def test_frame_without_target_counts_for_bsf_only() -> None:
    scores = measure(checkerboard(0.125), checkerboard(0.0625), truth_at())
    assert (scores.scr_in.count, scores.scrg.count) == (0, 0)
    assert math.isnan(scores.scrg.median)
    assert scores.bsf.median == pytest.approx(2.0)


def test_no_background_and_no_frames() -> None:
    everything = np.ones(SHAPE, bool)
    scores = measure(checkerboard(0.1), checkerboard(0.1), everything)
    assert (scores.scr_in.undefined, scores.bsf.undefined) == (1, 1)
    assert Contrast().result().bsf.count == 0


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.9), st.floats(-0.05, 0.05))
def test_ratios_ignore_gain_and_offset(seed: int, gain: float, offset: float) -> None:
    random = np.random.default_rng(seed)
    frame = random.random(SHAPE, np.float32)
    truth = truth_at((5, 5), (5, 6), (40, 50))
    scores = measure(frame, (frame * gain + offset).astype(np.float32), truth)
    assert scores.scrg.median == pytest.approx(1.0, rel=1e-3)
    assert scores.bsf.median == pytest.approx(1 / gain, rel=1e-3)


def test_refuses_other_types_sizes_and_nan() -> None:
    frame, truth = checkerboard(0.1), truth_at((3, 3))
    with pytest.raises(TypeError, match="truth is uint8, expected bool"):
        measure(frame, frame, truth.astype(np.uint8))
    with pytest.raises(ValueError, match=r"confidence \(8, 8\) .* expected the same"):
        measure(frame, np.zeros((8, 8), np.float32), truth)
    broken = frame.copy()
    broken[0, 0] = np.nan
    with pytest.raises(ValueError, match="frame holds NaN"):
        measure(broken, frame, truth)
    with pytest.raises(ValueError, match="confidence holds NaN"):
        measure(frame, broken, truth)
