import math

import numpy as np
import pytest
import torch

from irstd.train.loop import TrainingError
from irstd.train.sequences.lowrank3d_fit import Fit, FitOptions, LowRankBackground

pytestmark = pytest.mark.usefixtures("one_thread")
FRAMES, SIZE = 8, 20


def frames_with_target(seed=0):
    """A smooth still scene with noise, and a spot that moves by a pixel a frame."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    still = 0.4 + 0.2 * np.sin(5 * rows) * np.cos(4 * columns)
    frames = still + 0.005 * rng.normal(size=(FRAMES, SIZE, SIZE))
    for number in range(FRAMES):
        frames[number, 9:11, 4 + number : 6 + number] += 0.3
    return torch.from_numpy(frames.astype(np.float32))


def run(options, *, seen=None, network=None):
    frames = frames_with_target()
    fit = Fit(frames, torch.ones_like(frames) if seen is None else seen, options, network)
    return fit, list(fit)


def test_the_stack_is_permuted_and_not_read_in_another_order():
    network = LowRankBackground((3, 4, 5), shrink=5)
    products = torch.arange(60.0).reshape(3, 4, 5)
    arranged = network.arrange(products)
    assert arranged.shape == (4, 5, 3)
    for number in range(3):
        assert torch.equal(arranged[:, :, number], products[number])


def test_the_number_of_parameters_is_the_scripts():
    network = LowRankBackground((80, 256, 256), shrink=5)
    assert sum(one.numel() for one in network.parameters()) == 2_095_418


def test_the_network_by_hand():
    """Convolutions that pass their middle on, a norm switched off, and the identity over time."""
    network = LowRankBackground((3, 4, 5), shrink=2).eval()
    with torch.no_grad():
        for convolution in (network.first, network.second):
            convolution.weight.zero_()
            convolution.weight[0, 0, 1, 1, 1] = 1.0
            convolution.bias.zero_()
        network.norm.running_var.fill_(1.0 - network.norm.eps)
        network.mixing.weight.copy_(torch.eye(3))
        products = network.rows @ network.columns
        expected = torch.where(products > 0, products, 0.01 * products)
        torch.testing.assert_close(network(), expected)


def test_roughness_is_of_rows_columns_and_time():
    network = LowRankBackground((2, 3, 4), shrink=2)
    with torch.no_grad():
        network.rows.copy_(torch.arange(3.0)[None, :, None].expand(2, 3, 2))
        network.columns.copy_(2.0 * torch.arange(4.0)[None, None].expand(2, 2, 4))
        network.mixing.weight.copy_(3.0 * torch.arange(2.0)[:, None].expand(2, 2))
    assert float(network.roughness().detach()) == pytest.approx(1.0 + 2.0 + 3.0)


def test_all_terms_of_the_loss_are_alive():
    _, plain = run(FitOptions(iterations=1, smoothness=0.0))
    _, smooth = run(FitOptions(iterations=1, smoothness=0.5))
    _, sparse = run(FitOptions(iterations=1, smoothness=0.0, sparsity=6.0))
    assert plain[0].smooth == 0.0
    assert smooth[0].smooth > 0.0
    assert plain[0].nuclear > 0.0
    assert smooth[0].nuclear == pytest.approx(plain[0].nuclear)
    assert sparse[0].sparse == pytest.approx(2.0 * plain[0].sparse, rel=1e-5)
    assert sparse[0].whole == pytest.approx(sparse[0].nuclear + sparse[0].sparse)


def test_the_target_is_what_the_background_leaves():
    fit, _ = run(FitOptions(iterations=150, learning_rate=0.03, sparsity=1.0))
    rest = frames_with_target() - fit.background
    for number in range(FRAMES):
        row, column = np.unravel_index(int(rest[number].argmax()), (SIZE, SIZE))
        assert row in (9, 10)
        assert column in (4 + number, 5 + number)


def test_the_best_iterate_is_kept():
    fit, losses = run(FitOptions(iterations=25, learning_rate=0.3))  # a rate that jumps
    values = [one.whole for one in losses]
    assert fit.best == min(values) < values[-1]
    assert fit.background.shape == (FRAMES, SIZE, SIZE)


def test_equal_seeds_give_equal_fits_and_leave_the_callers_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (run(FitOptions(iterations=3, seed=seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first.background, second.background)
    assert not torch.equal(first.background, other.background)
    assert torch.equal(torch.rand(1), expected)


def test_what_was_not_seen_counts_for_nothing():
    seen = torch.ones(FRAMES, SIZE, SIZE)
    seen[:, :, -3:] = 0.0
    dirty = frames_with_target()
    dirty[:, :, -3:] = 9.0
    options = FitOptions(iterations=3)
    clean = Fit(frames_with_target(), seen, options)
    soiled = Fit(dirty, seen, options)
    assert [one.whole for one in clean] == [one.whole for one in soiled]
    assert torch.equal(clean.background, soiled.background)


def test_constant_frames_fit_without_a_fault():
    frames = torch.full((FRAMES, SIZE, SIZE), 0.0)
    fit = Fit(frames, torch.ones_like(frames), FitOptions(iterations=5))
    assert all(math.isfinite(one.whole) for one in fit)


def test_a_loss_that_is_no_number_ends_the_fit():
    frames = frames_with_target()
    frames[0, 0, 0] = math.nan
    with pytest.raises(TrainingError, match="the loss is nan in iteration 1; lower --set"):
        list(Fit(frames, torch.ones_like(frames), FitOptions(iterations=2)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"block": 15}, "block is 15, expected 16 frames or more"),
        ({"iterations": 0}, "iterations is 0"),
        ({"shrink": 0}, "shrink is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"sparsity": math.inf}, "sparsity is inf"),
        ({"smoothness": -1.0}, "smoothness is -1.0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        FitOptions(**options)
