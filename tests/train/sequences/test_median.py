import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irstd.train.sequences.median import MedianDifference, median
from irstd.train.sequences.saliency import to_wide_logits, weigh
from irstd.train.solvers.solver import to_logits


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([1, 3, 5, 7, 9, 11]), st.integers(0, 99))
def test_the_median_is_numpys(count, seed):
    values = np.random.default_rng(seed).integers(0, 6, (count, 7)).astype(np.float32)
    found = median([torch.from_numpy(value) for value in values])
    np.testing.assert_array_equal(found.numpy(), np.median(values, axis=0))


@pytest.mark.parametrize("count", [2, 8])
def test_an_even_number_has_no_median_among_it(count):
    with pytest.raises(ValueError, match=f"median of {count} frames"):
        median([torch.zeros(1)] * count)


def test_new_and_narrow_by_hand():
    frame = torch.zeros(1, 1, 20, 20)
    frame[..., 5, 5] = 0.9  # new and narrow
    frame[..., 12, 5] = 0.9  # narrow, but it was there before
    frame[..., 3:19, 11:19] = 0.9  # new, but wide
    residual = frame.clone()
    residual[..., 12, 5] = 0.0
    residual[..., 5, 5] = 0.4
    weighed = weigh(residual, frame)
    assert float(weighed[0, 0, 5, 5]) == pytest.approx(3600.0)  # 40 % times 90 %
    weighed[0, 0, 5, 5] = 0.0
    assert float(weighed.abs().max()) == 0.0


def test_a_target_that_comes_stands_out_and_dark_ones_do_not():
    clip = torch.full((1, 9, 32, 32), 0.5)
    clip[0, :, 20, 8] = 0.9  # always there
    clip[0, -1, 10, 12] = 0.8
    clip[0, -1, 25, 25] = 0.1
    network = MedianDifference()
    network.sigmas = 10.0  # a frame of 32x32 pixels has no target of 55 deviations
    background, logits = network(clip)
    assert float(background[0, 0, 10, 12]) == 0.5
    assert [tuple(place) for place in (logits[0, 0] > 0).nonzero().tolist()] == [(10, 12)]


def test_a_constant_clip_has_no_target():
    _, logits = MedianDifference()(torch.full((1, 9, 16, 16), 0.3))
    assert float(logits.max()) < -15.0


def test_the_confidence_is_a_half_at_so_many_deviations_and_never_saturates():
    target = torch.zeros(1, 1, 100, 100)
    target[0, 0, 0, 0] = 1.0  # z = 99.995 of 10000 pixels
    target[0, 0, 0, 1] = 0.5
    logits = to_wide_logits(target, sigmas=50.0)
    z = to_logits(target, sigmas=0.0)
    expected = z[0, 0, 0, :2] ** 2 / (z[0, 0, 0, :2] ** 2 + 50.0**2)
    torch.testing.assert_close(logits.sigmoid()[0, 0, 0, :2], expected)
    assert float(logits.sigmoid().max()) < 0.95
