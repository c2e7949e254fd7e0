import numpy as np
import pytest
import torch

from irstd.export.unroll import measure_cost, unroll
from irstd.train.sequences.rpca import ClipOptions, TemporalRpca, TensorRpca

MODELS = [TemporalRpca, TensorRpca]


def clip_with_target(seed=0, size=48, frames=8):
    """A still textured background with noise, over which a spot moves by a pixel a frame."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    still = 0.4 + 0.2 * np.sin(9 * rows) * np.cos(7 * columns) + 0.05 * rng.random((size, size))
    clip = still[None] + 0.004 * rng.normal(size=(frames, size, size))
    for number in range(frames):
        clip[number, 20:22, 10 + number : 12 + number] += 0.3
    return torch.from_numpy(clip)[None]


def exact_rpca(data, lam, *, growth):
    """Robust PCA in float64, by numpy's decomposition, as Lin et al. write it."""
    norm = np.linalg.norm(data, 2)
    dual = data / max(norm, np.abs(data).max() / lam)
    mu, low = 1.25 / norm, np.zeros_like(data)
    for _ in range(60):
        rest = data - low + dual / mu
        sparse = np.sign(rest) * np.maximum(np.abs(rest) - lam / mu, 0)
        left, values, right = np.linalg.svd(data - sparse + dual / mu, full_matrices=False)
        low = (left * np.maximum(values - 1 / mu, 0)) @ right
        dual = dual + mu * (data - low - sparse)
        mu *= growth
    return sparse


def test_the_exact_solver_is_the_papers():
    clip = clip_with_target().double()
    solver = TemporalRpca()
    data = solver.arrange(clip - 0.9 * clip.mean(dim=1, keepdim=True))[0].numpy()
    expected = exact_rpca(data, 3 / 48, growth=1.5)
    state = solver.start(clip)
    for number in range(40):
        state = solver.step(state, number)
    np.testing.assert_allclose(state.sparse[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("build", MODELS)
def test_the_moving_target_is_all_that_is_found(build):
    solver = build()
    solver.sigmas = 10.0  # a frame of 48x48 pixels has no target of 90 deviations
    _, logits = solver(clip_with_target())
    places = (logits[0, 0] > 0).nonzero().tolist()
    assert places
    assert all(row in (20, 21) and column in (17, 18) for row, column in places)


@pytest.mark.parametrize("build", MODELS)
def test_the_unrolled_twin_says_what_the_exact_solver_says(build):
    solver = build()
    cost = measure_cost(solver, unroll(solver, iterations=None), [clip_with_target().float()])
    assert cost.final.iou == 1.0
    assert cost.final.error < 0.03


@pytest.mark.parametrize("build", MODELS)
def test_background_and_target_add_up_to_the_data(build):
    solver = build()
    state = solver.start(clip_with_target().double())
    for number in range(45):
        state = solver.step(state, number)
    assert float(solver.change(state)) < 1e-6


@pytest.mark.parametrize("build", MODELS)
@pytest.mark.parametrize("is_flat", [True, False])
def test_a_clip_without_change_has_no_target(build, is_flat):
    """All frames are one: a camera that hangs, or looks at nothing."""
    twin = unroll(build(), iterations=None)
    frame = torch.full((32, 32), 0.5) if is_flat else clip_with_target(size=32)[0, 0].float()
    _, logits = twin(frame.expand(1, 8, 32, 32).clone())
    assert bool(torch.isfinite(logits).all())
    assert float(logits.max()) < 0.0


@pytest.mark.parametrize(
    ("options", "said"), [({"weight": 0.0}, "weight is 0.0"), ({"growth": 1.0}, "growth is 1.0")]
)
def test_options_that_cannot_converge_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        ClipOptions(**options)
