import numpy as np
import pytest
import torch

from irstd.export.unroll import measure_swap, tell_cost, unroll, unroll_measured
from irstd.train.checkpoint import load_into, read_weights
from irstd.train.sequences.lowrank3d import (
    FRAMES,
    SPARSITY,
    STEPS,
    LowRank3d,
    ProximalNet,
    measure_loss,
)
from irstd.train.zoo import find_model

pytestmark = pytest.mark.usefixtures("one_thread")


def clip_with_target(size=40, seed=0):
    """A still textured background with noise, over which a spot moves by a pixel a frame."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    still = 0.4 + 0.2 * np.sin(9 * rows) * np.cos(7 * columns) + 0.05 * rng.random((size, size))
    clip = still[None] + 0.004 * rng.normal(size=(FRAMES, size, size))
    for number in range(FRAMES):
        clip[number, 20:22, 10 + number : 12 + number] += 0.3
    return torch.from_numpy(clip.astype(np.float32))[None]


@pytest.fixture(scope="module")
def shipped():
    network = LowRank3d().eval()
    load_into(network, read_weights(find_model("lowrank3d").weights).tensors, name="lowrank3d")
    return network


def test_a_fresh_prox_adds_nothing():
    with torch.no_grad():
        gained = ProximalNet()(torch.rand(1, 8, 9, 9), torch.rand(1, 8, 9, 9))
    assert gained.shape == (1, 8, 9, 9)
    assert float(gained.abs().max()) == 0.0


def test_a_step_by_hand():
    """Of a clip whose unfoldings' polar factors are known: all singular values are alike."""
    torch.manual_seed(0)
    step = LowRank3d().steps[0].double()
    basis = torch.linalg.qr(torch.randn(8, 8).double())[0]
    clip = basis.reshape(1, 8, 8, 1).expand(1, 8, 8, 8).clone()
    background = 0.5 * clip
    algebra = LowRank3d().algebra
    for parameter in step.parameters():
        parameter.requires_grad_(False)
    after = step(background, clip, torch.zeros(1, 1, 8, 8).double(), algebra)
    # Unfolded by columns all rows are one vector: rank 1. By frames and by rows the factor is the
    # clip over root 8. Longer sides are 64; smoothing is 0.01 of the Frobenius norm.
    power = float((background**2).sum())
    rate = float(step.rate.exp())
    expected = background + rate * float(step.sparse.exp()) * (
        (0.5 * clip) / float(step.width.exp())
    ).clamp(-1, 1)
    for axis in (1, 2, 3):
        unfolded = background.movedim(axis, 1).flatten(2)
        left, values, right = torch.linalg.svd(unfolded, full_matrices=False)
        smoothed = values / (values**2 + 1e-4 * power).sqrt()
        polar = (left * smoothed[:, None]) @ right
        expected = expected - rate * 8.0 * polar.reshape(background.movedim(axis, 1).shape).movedim(
            1, axis
        )
    torch.testing.assert_close(after, expected, atol=1e-6, rtol=0)


def test_the_loss_by_hand():
    """A still clip that is its own background: nothing sparse, and a rank-1 tenth of it left."""
    clip = torch.ones(1, FRAMES, 4, 4)
    terms = measure_loss(clip, clip)
    assert float(terms.sparse) == 0.0
    # 0.1 everywhere: each unfolding has one singular value, 0.1 * root 128; sides 16, 32, 32.
    norm = 0.1 * 128**0.5
    expected = norm * (16**0.5 + 2 * 32**0.5) / 128
    # Besides, each of the other values counts as the smoothing, 0.01 of the norm.
    others = 0.01 * norm * (7 * 16**0.5 + 2 * 3 * 32**0.5) / 128
    assert float(terms.nuclear) == pytest.approx(expected + others, rel=1e-3)
    moved = measure_loss(clip, clip - 0.1)
    assert float(moved.sparse) == pytest.approx(3 * SPARSITY * 0.1, rel=1e-5)


def test_steps_lower_the_loss_before_anything_is_learned():
    clip, network = clip_with_target(), LowRank3d()
    start = clip.mean(dim=1, keepdim=True).expand_as(clip)
    first = start + network.share.detach().sigmoid() * (clip - start)
    with torch.no_grad():
        after = network.find_background(clip)
    losses = [float(measure_loss(clip, one).whole) for one in (first, after)]
    assert losses[1] < losses[0]


def test_a_gradient_reaches_all_that_is_learned():
    network = LowRank3d()
    for step in network.steps:
        torch.nn.init.normal_(step.prox.second.weight, std=1e-3)
    clip = clip_with_target()
    measure_loss(clip, network.find_background(clip)).whole.backward()
    still = [name for name, one in network.named_parameters() if not one.grad.abs().sum() > 0]
    assert not still


def test_the_fixed_twin_says_what_the_exact_steps_say(shipped):
    twin = unroll(shipped, iterations=None)
    assert shipped.algebra is not twin.algebra
    cost = measure_swap(shipped, twin, [clip_with_target()])
    assert cost.final.iterations == STEPS
    assert cost.final.error < 1e-3
    assert cost.has_converged


def test_an_export_tells_what_the_twin_costs(shipped):
    said = []
    unrolling = unroll_measured(shipped, [clip_with_target()], iterations=None, say=said.append)
    assert unrolling.record is not None
    assert (unrolling.record.iterations, unrolling.record.frames) == (STEPS, 1)
    assert unrolling.record.target_error < 1e-3
    assert unrolling.half is None  # FP16 is made of the graph
    assert said[-1] == tell_cost(unrolling.cost)


def test_other_numbers_of_steps_are_refused(shipped):
    with pytest.raises(ValueError, match="LowRank3d has learned its steps; leave --iterations out"):
        unroll(shipped, iterations=5)


def test_the_moving_target_is_what_stands_out(shipped):
    _, logits = shipped(clip_with_target())
    row, column = np.unravel_index(int(logits.argmax()), logits.shape[2:])
    assert row in (20, 21)
    assert column in (17, 18)


@pytest.mark.parametrize("is_flat", [True, False])
def test_a_clip_without_change_has_no_target(shipped, is_flat):
    """All frames are one: a camera that hangs, or looks at nothing."""
    frame = torch.full((40, 40), 0.5) if is_flat else clip_with_target()[0, 0]
    _, logits = shipped(frame.expand(1, FRAMES, 40, 40).clone())
    assert bool(torch.isfinite(logits).all())
    assert float(logits.max()) < 0.0


def test_other_numbers_of_frames_are_refused(shipped):
    with pytest.raises(ValueError, match="the clip has 7 frames, lowrank3d takes 8"):
        shipped(torch.rand(1, 7, 16, 16))


def test_any_size(shipped):
    background, logits = shipped(torch.rand(2, FRAMES, 17, 30))
    assert background.shape == logits.shape == (2, 1, 17, 30)
