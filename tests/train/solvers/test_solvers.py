"""The exact solvers on small scenes, and what they refuse."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from irstd.runtime.frame import FrameContract, prepare
from irstd.runtime.scene import Scene, SceneOptions
from irstd.train.commands import train_command
from irstd.train.solvers.algebra import EXACT, PatchGrid
from irstd.train.solvers.borders import extend, mirror
from irstd.train.solvers.ipi import Ipi, IpiOptions
from irstd.train.solvers.ipi_truncated import IpiTruncated, TruncatedOptions
from irstd.train.solvers.mpcm import Mpcm, contrast_at
from irstd.train.solvers.pstnn import Pstnn, PstnnOptions
from irstd.train.solvers.ript import Ript, RiptOptions
from irstd.train.solvers.solver import ConvergenceError, shrink, to_logits
from irstd.train.solvers.structure import blur, stretch, structure_tensor
from irstd.train.solvers.top_hat import TopHat
from irstd.train.zoo import MODELS

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {
    "ipi": Ipi(IpiOptions(PatchGrid(16, 8))),
    "ipi-truncated": IpiTruncated(TruncatedOptions(PatchGrid(16, 8), rank=4)),
    "pstnn": Pstnn(PstnnOptions(PatchGrid(16, 16))),
    "ript": Ript(RiptOptions(PatchGrid(16, 8))),
}
FILTERS = {"top-hat": TopHat(), "mpcm": Mpcm()}


@pytest.fixture(scope="module")
def shot():
    options = SceneOptions(height=60, width=52, bit_depth=8, targets=1, scr=(25.0, 25.0), defects=0)
    scene = Scene(options, seed=0).frame(0)
    return torch.from_numpy(prepare(scene.frame, FrameContract(60, 52))), scene.mask


@pytest.mark.parametrize("name", [*SMALL, *FILTERS])
@torch.inference_mode()
def test_the_target_has_the_highest_confidence(name, shot):
    frame, mask = shot  # sides that no grid divides
    background, logits = {**SMALL, **FILTERS}[name](frame)
    assert background.shape == logits.shape == frame.shape
    assert mask.ravel()[int(logits.argmax())]
    assert float(logits.max()) > 0.0
    assert (logits[0, 0].numpy() > 0)[~mask].mean() < 0.02


@pytest.mark.parametrize("name", [*SMALL, *FILTERS])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@torch.inference_mode()
def test_a_constant_frame_has_no_target(name, level):
    background, logits = {**SMALL, **FILTERS}[name](torch.full((1, 1, 40, 40), level))
    assert torch.allclose(background, torch.full_like(background, level), atol=1e-5)
    assert torch.isfinite(logits).all() and (logits < 0.0).all()


@torch.inference_mode()
def test_the_fast_solver_has_few_patches_and_finds_the_target():
    options = SceneOptions(
        height=128, width=128, bit_depth=8, targets=1, scr=(25.0, 25.0), defects=0
    )
    shot = Scene(options, seed=1).frame(0)
    frame = torch.from_numpy(prepare(shot.frame, FrameContract(128, 128)))
    fast, whole = (MODELS[name].build() for name in ("ipi-fast", "ipi"))
    assert fast.start(frame).data.shape == (1, 48**2, 36)
    assert whole.start(frame).data.shape == (1, 50**2, 81)
    _, logits = fast(frame)
    assert shot.mask.ravel()[int(logits.argmax())]
    assert (logits[0, 0].numpy() > 0)[~shot.mask].mean() < 0.01


@pytest.mark.parametrize("name", SMALL)
def test_a_frame_smaller_than_a_patch(name):
    with pytest.raises(ValueError, match=r"15x40, smaller than a patch of 16x16; use a size of"):
        SMALL[name](torch.zeros(1, 1, 15, 40))


def test_splitting_adds_up_at_rest(shot):
    frame = shot[0].double()
    solver = SMALL["ipi"]
    state = solver.start(frame)
    for number in range(solver.solve(frame).steps):
        state = solver.step(state, number)
    assert float(solver.change(state)) <= solver.tolerance
    assert torch.allclose(state.low_rank + state.sparse, state.data, atol=1e-5)


def test_a_solver_that_does_not_rest_says_so(shot, monkeypatch):
    monkeypatch.setattr(Ipi, "limit", 3)
    with pytest.raises(ConvergenceError, match="has not come to rest after 3 steps: its change"):
        SMALL["ipi"].solve(shot[0])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: IpiOptions(growth=1.0), "growth is 1.0, expected above 1, or it never comes to"),
        (lambda: IpiOptions(growth=3.0), "at most 2"),
        (lambda: IpiOptions(lam=0.0), "lam is 0.0, expected more than 0"),
        (lambda: PstnnOptions(growth=0.9), "growth is 0.9"),
        (lambda: PstnnOptions(kept=40), "kept is 40, expected 0 to 39"),
        (lambda: RiptOptions(shrinking=1.0), "shrinking is 1.0"),
        (lambda: TruncatedOptions(rank=0), "rank is 0"),
        (lambda: TruncatedOptions(first=1.0), "thresholds go from 1.0 to 5.0"),
        (lambda: TopHat(radius=0), "radius is 0, expected at least 1 pixel"),
    ],
)
def test_options_that_cannot_be_meant(make, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        make()


# --- parts ----------------------------------------------------------------------------------------


def test_confidence_is_half_at_the_mean_and_so_many_deviations():
    target = torch.zeros(1, 1, 10, 10)
    target[0, 0, 4, 4] = 1.0
    mean, deviation = 0.01, float(np.sqrt(0.01 * 0.99))
    logits = to_logits(target, sigmas=5.0)
    assert float(logits[0, 0, 4, 4]) == pytest.approx((1.0 - mean) / deviation - 5.0, rel=1e-5)
    assert float(logits[0, 0, 0, 0]) == pytest.approx(-mean / deviation - 5.0, rel=1e-5)


@given(st.lists(st.floats(0.0, 1.0, width=32), min_size=4, max_size=4))
def test_confidence_keeps_the_order(values):
    target = torch.tensor(values).reshape(1, 1, 2, 2)
    logits = to_logits(target, sigmas=5.0).ravel()[target.ravel().argsort()]
    assert (logits.diff() >= 0.0).all()


def test_shrinking_by_hand():
    values = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0])
    assert shrink(values, 1.0).tolist() == [-1.0, 0.0, 0.0, 0.0, 1.0]


def test_exact_thresholds_by_hand():
    matrix = torch.diag_embed(torch.tensor([[4.0, 1.0]])).double()
    shrunk = EXACT.threshold_matrix(matrix, torch.full((1, 1, 1), 2.0).double(), ratio=0.0)
    assert torch.allclose(shrunk, torch.diag_embed(torch.tensor([[2.0, 0.0]])).double())
    nearest, basis = EXACT.project(matrix, torch.zeros(1, 2, 1))
    assert torch.allclose(nearest, torch.diag_embed(torch.tensor([[4.0, 0.0]])).double())
    assert basis.abs().ravel().tolist() == pytest.approx([1.0, 0.0])


def test_borders_by_hand():
    image = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert extend(image, before=(1, 0), after=(0, 1))[0, 0].tolist() == [
        [0, 1, 2, 2], [0, 1, 2, 2], [3, 4, 5, 5],
    ]  # fmt: skip
    wide = torch.nn.functional.pad(torch.rand(1, 2, 5, 6), (2, 2, 2, 2), mode="reflect")
    assert torch.equal(mirror(wide[:, :, 2:-2, 2:-2], 2), wide)


def test_the_structure_tensor_has_the_eigenvalues_of_numpy():
    images = torch.from_numpy(np.random.default_rng(0).random((1, 1, 20, 24)))
    larger, smaller = structure_tensor(images, smooth=1.0, window=1.5)
    smoothed = extend(blur(images, 1.0), before=(1, 1), after=(1, 1))[0, 0].numpy()
    rows, columns = np.gradient(smoothed)
    rows, columns = rows[1:-1, 1:-1], columns[1:-1, 1:-1]
    parts = [
        blur(torch.from_numpy(one)[None, None], 1.5)[0, 0].numpy()
        for one in (rows * rows, rows * columns, columns * columns)
    ]
    tensor = np.stack(parts[:2] + parts[1:], axis=-1).reshape(20, 24, 2, 2)
    values = np.linalg.eigvalsh(tensor)
    assert np.allclose(larger[0, 0], values[..., 1], atol=1e-12)
    assert np.allclose(smaller[0, 0], values[..., 0].clip(0.0), atol=1e-12)


def test_stretching_a_constant_gives_zero():
    assert not stretch(torch.full((1, 1, 3, 3), 0.7)).any()


def test_contrast_by_hand():
    frame = torch.zeros(1, 1, 15, 15)
    frame[0, 0, 6:9, 6:9] = 0.6
    contrast = contrast_at(frame, 3)
    assert float(contrast[0, 0, 7, 7]) == pytest.approx(0.36)
    assert float(contrast.max()) == float(contrast[0, 0, 7, 7])
    assert float(contrast[0, 0, 7, 1]) == 0.0


def test_a_top_hat_by_hand():
    frame = torch.full((1, 1, 15, 15), 0.2)
    frame[0, 0, 5, 5:8] = 0.9  # narrower than the window
    background, _ = TopHat(radius=3)(frame)
    assert torch.allclose(background, torch.full_like(background, 0.2))


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if not model.is_trained])
def test_nothing_can_be_trained(name, refused, tmp_path):
    ask = ("--model", name, "--data", tmp_path, "--output", tmp_path / "w.safetensors")
    assert f"{name} has no parameters, so there is nothing to train" in refused(train_command, *ask)
    assert not MODELS[name].build().state_dict()
