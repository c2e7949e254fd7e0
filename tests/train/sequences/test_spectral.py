import numpy as np
import pytest
import torch

from irstd.train.sequences.spectral import (
    FAINTEST,
    find_polars,
    longer_sides,
    make_grams,
    measure_power,
    nuclear_norms,
)
from irstd.train.solvers.roots import find_inverse_root

SIDES = (3, 5, 4)  # frames, rows, columns


def random_clip(*, batch=2):
    return torch.from_numpy(np.random.default_rng(0).normal(size=(batch, *SIDES)))


def unfoldings(clip):
    """By frames, rows and columns: the side in question first, all else behind it."""
    return [clip.movedim(axis + 1, 1).flatten(2) for axis in range(3)]


def test_longer_sides():
    assert longer_sides(torch.zeros(1, 8, 256, 128)) == (256 * 128, 8 * 128, 8 * 256)
    assert longer_sides(torch.zeros(1, 30, 4, 5)) == (30, 150, 120)


def test_gram_matrices_are_those_of_the_unfoldings():
    clip = random_clip()
    for gram, unfolded in zip(make_grams(clip), unfoldings(clip), strict=True):
        torch.testing.assert_close(gram, unfolded @ unfolded.mT)


def test_power_by_hand():
    clip = torch.full((1, 2, 3, 4), 0.5)
    assert float(measure_power(clip)) == pytest.approx(6.0)  # 24 pixels of 0.25
    assert float(measure_power(clip * 0.0)) == pytest.approx(24 * FAINTEST**2)


def test_nuclear_norms_are_sums_of_singular_values():
    clip = random_clip()
    for norm, unfolded in zip(nuclear_norms(clip, smoothing=1e-6), unfoldings(clip), strict=True):
        torch.testing.assert_close(norm, torch.linalg.svdvals(unfolded).sum(dim=-1))


def test_smoothing_is_added_to_every_square():
    clip = random_clip(batch=1)
    added = 0.1**2 * float(measure_power(clip))
    for norm, unfolded in zip(nuclear_norms(clip, smoothing=0.1), unfoldings(clip), strict=True):
        expected = (torch.linalg.svdvals(unfolded) ** 2 + added).sqrt().sum()
        assert float(norm) == pytest.approx(float(expected))


def test_polar_factors_are_those_of_a_decomposition():
    clip = random_clip()
    found = find_polars(clip, smoothing=1e-6, inverse_root=find_inverse_root)
    sides = zip(unfoldings(clip), longer_sides(clip), strict=True)
    for axis, (unfolded, longer) in enumerate(sides):
        left, _, right = torch.linalg.svd(unfolded, full_matrices=False)
        polar = found[axis].movedim(axis + 1, 1).flatten(2)
        torch.testing.assert_close(polar, longer**0.5 * left @ right, atol=1e-5, rtol=0)


def test_polar_factors_are_the_gradients_of_the_norms():
    clip = random_clip(batch=1).requires_grad_()
    polars = find_polars(clip.detach(), smoothing=0.05, inverse_root=find_inverse_root)
    norms = nuclear_norms(clip, smoothing=0.05)
    for norm, polar, longer in zip(norms, polars, longer_sides(clip), strict=True):
        (gradient,) = torch.autograd.grad(norm.sum(), clip, retain_graph=True)
        torch.testing.assert_close(longer**0.5 * gradient, polar)


def test_equal_singular_values_have_a_gradient():
    """Where the gradient of a decomposition divides 0 by 0."""
    clip = torch.eye(3).repeat(1, 3, 1, 1).requires_grad_()
    sum(nuclear_norms(clip, smoothing=0.01)).sum().backward()
    assert bool(torch.isfinite(clip.grad).all())


def test_a_dark_clip_has_no_polar_factor():
    for polar in find_polars(
        torch.zeros(1, *SIDES), smoothing=0.01, inverse_root=find_inverse_root
    ):
        assert float(polar.abs().max()) == 0.0


def test_the_inverse_root_and_its_gradient():
    matrix = random_clip()[:, 0] @ random_clip()[:, 0].mT
    gram = (matrix + 0.1 * torch.eye(5)).requires_grad_()
    root = find_inverse_root(gram)
    torch.testing.assert_close(root @ gram @ root, torch.eye(5).double().expand(2, 5, 5))
    assert torch.autograd.gradcheck(lambda x: find_inverse_root(0.5 * (x + x.mT)), (gram,))


def test_the_inverse_root_where_eigenvalues_are_equal():
    gram = torch.eye(4).double().requires_grad_()
    find_inverse_root(gram).diagonal().sum().backward()
    torch.testing.assert_close(gram.grad, -0.5 * torch.eye(4).double())  # of x^(-1/2) at 1
