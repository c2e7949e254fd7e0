"""Patches, projection, tensors, pyramid: each against an exact reference in float64."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irstd.export.solvers.fixed import FixedAlgebra
from irstd.export.solvers.patches import cut_patches, merge_patches
from irstd.export.solvers.projection import orthonormalise, project
from irstd.export.solvers.thresholding import Steps
from irstd.train.solvers.algebra import EXACT, PatchGrid
from irstd.train.solvers.pyramid import halve

pytestmark = pytest.mark.usefixtures("one_thread")


@settings(max_examples=25, deadline=None)
@given(
    step=st.integers(1, 5), across=st.integers(1, 4), rows=st.integers(0, 5),
    columns=st.integers(0, 5), batch=st.integers(1, 2),
)  # fmt: skip
def test_patches_are_those_of_unfold_and_merge_to_the_frame(step, across, rows, columns, batch):
    grid = PatchGrid(step * across, step)
    shape = (step * (across + rows), step * (across + columns))
    torch.manual_seed(0)
    frame = torch.rand(batch, 1, *shape)
    patches = cut_patches(frame, grid)
    assert torch.equal(patches, EXACT.cut_patches(frame, grid))
    assert torch.allclose(merge_patches(patches, shape, grid), frame, atol=1e-6)
    other = torch.rand(patches.shape, dtype=torch.float64)
    wanted = EXACT.merge_patches(other, shape, grid)
    assert torch.allclose(merge_patches(other, shape, grid), wanted, atol=1e-12)


def test_a_patch_merges_where_it_was_cut():
    grid = PatchGrid(4, 2)
    patches = torch.zeros(1, 16, 4)
    patches[0, 5, 3] = 4.0  # (1, 1) of the patch at (2, 2), which four patches show
    merged = merge_patches(patches, (6, 6), grid)
    assert merged[0, 0, 3, 3] == pytest.approx(1.0)
    assert float(merged.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize(("size", "step"), [(5, 2), (2, 4), (4, 0), (0, 0)])
def test_grids_that_blocks_cannot_make(size, step):
    with pytest.raises(ValueError, match="expected a step of at least 1 that divides the patch"):
        PatchGrid(size, step)


def low_rank(rank, noise):
    torch.manual_seed(1)
    matrix = torch.randn(2, 60, rank) @ torch.randn(2, rank, 40)
    return matrix + noise * torch.randn(2, 60, 40)


def test_power_steps_find_the_leading_subspace():
    matrix = low_rank(4, 0.01)
    wanted, _ = EXACT.project(matrix.double(), torch.zeros(2, 40, 4))
    block = torch.eye(40)[:, :4].expand(2, -1, -1)
    for _ in range(3):
        found, block = project(matrix, block, Steps(0.001))
    assert float((found - wanted).norm() / wanted.norm()) < 1e-3
    gram = block.transpose(1, 2) @ block
    assert torch.allclose(gram, torch.eye(4).expand(2, -1, -1), atol=1e-4)


def test_a_block_of_zeros_stays_one():
    assert not orthonormalise(torch.zeros(1, 9, 2), Steps(0.01)).any()


def tensor():
    """Smooth along the last axis, so that the frequencies differ in size."""
    torch.manual_seed(2)
    along = torch.linspace(0.0, 3.0, 9)
    waves = torch.stack([torch.cos(along * number) for number in range(4)])
    parts = [torch.randn(1, 16, 2) @ torch.randn(1, 2, 12) for _ in range(4)]
    smooth = sum(part[..., None] * wave for part, wave in zip(parts, waves, strict=True))
    return smooth + 0.05 * torch.randn(1, 16, 12, 9)


@pytest.mark.parametrize(("kept", "limit"), [(0, 2e-4), (1, 2e-2)])
@pytest.mark.parametrize("form", ["gram", "half"])
def test_tensors_are_thresholded_frequency_by_frequency(kept, limit, form):
    data, threshold = tensor(), torch.full((1, 1, 1, 1), 3.0)
    wanted = EXACT.threshold_tensor(data.double(), threshold.double(), kept=kept)
    found = FixedAlgebra(form).threshold_tensor(data, threshold, kept=kept)
    gap = float((found - wanted).norm() / wanted.norm())
    assert gap < (max(limit, 5e-3) if form == "half" else limit)


def test_tensor_by_hand():
    # One matrix repeated: all of it is in frequency 0, five times as large.
    data = torch.diag(torch.tensor([4.0, 1.0]))[None, :, :, None].expand(1, 2, 2, 5).contiguous()
    threshold = torch.full((1, 1, 1, 1), 10.0)
    for algebra in (EXACT, FixedAlgebra("gram")):
        shrunk = algebra.threshold_tensor(data, threshold, kept=0)
        assert torch.allclose(shrunk[0, :, :, 3], torch.diag(torch.tensor([2.0, 0.0])), atol=1e-3)
        free = algebra.threshold_tensor(data, threshold, kept=1)
        assert torch.allclose(free[0, :, :, 3], torch.diag(torch.tensor([4.0, 0.0])), atol=1e-3)


@pytest.mark.parametrize("shape", [(32, 40), (33, 41), (3, 3)])
def test_a_pyramid_is_that_of_opencv(random, shape):
    images = random.random((2, 3, *shape), np.float32)
    halved = halve(torch.from_numpy(images)).numpy()
    for found, image in zip(
        halved.reshape(6, *halved.shape[2:]), images.reshape(6, *shape), strict=True
    ):
        assert np.allclose(found, cv2.pyrDown(image), atol=5e-7)
