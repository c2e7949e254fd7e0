from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irstd.train.symbols import burn_in

FloatMap = npt.NDArray[np.float32]
seeds = st.integers(0, 2**32 - 1)


def burnt(count: int = 300) -> list[FloatMap]:
    rng = np.random.default_rng(4)
    frame, mask = np.full((64, 64), 0.5, np.float32), np.zeros((64, 64), np.float32)
    return [burn_in(frame, mask, rng=rng) for _ in range(count)]


def test_symbols_have_one_value_each() -> None:
    values = []
    for frame in burnt():
        assert frame.shape == (64, 64) and frame.dtype == np.float32
        drawn = np.unique(frame[frame != 0.5])
        assert len(drawn) <= 1
        values.extend(drawn.tolist())
    between = [value for value in values if value not in (0, 1)]
    assert all(0.7 <= value < 1 for value in between)
    # Black, white and grey equally often.
    for count in (len(between), values.count(0), values.count(1)):
        assert count / len(values) == pytest.approx(1 / 3, abs=0.1)
    assert len(values) > 0.9 * 300


def is_reticle(drawn: npt.NDArray[np.bool_]) -> bool:
    """Whether the two fullest rows and the two fullest columns hold all of it."""
    rest = drawn.copy()
    rest[np.argsort(drawn.sum(axis=1))[-2:]] = False
    rest[:, np.argsort(drawn.sum(axis=0))[-2:]] = False
    return not rest.any()


def test_text_and_reticles_are_drawn() -> None:
    drawn = [frame != 0.5 for frame in burnt() if (frame != 0.5).any()]
    # Three in ten, and some text that the border cuts off.
    assert np.mean([is_reticle(one) for one in drawn]) == pytest.approx(0.38, abs=0.1)
    assert 200 < max(one.sum() for one in drawn) < 500


@settings(deadline=None, max_examples=60)
@given(seeds)
def test_labelled_pixels_keep_their_values(seed: int) -> None:
    frame = np.random.default_rng(0).random((64, 64), np.float32)
    mask = np.zeros((64, 64), np.float32)
    mask[10:54, 10:54] = 1
    mask[10, 10:54] = 0.2  # soft borders are labelled too
    marked = burn_in(frame, mask, rng=np.random.default_rng(seed))
    assert marked is not frame
    assert (marked == frame)[mask > 0].all()
