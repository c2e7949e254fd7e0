"""Thresholding of tensors by their Fourier slices (t-SVD), of nothing but matrix products."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from .constants import constant
from .projection import orthonormalise
from .thresholding import TINY, Steps, threshold_singular_values
from .transforms import embed, extract, half_dft, inverse_half_dft

SQUARINGS = 6  # of the Gram matrix: a gap of 5 % between singular values becomes 1 : 500


def threshold_tensor(tensor: Tensor, threshold: Tensor, steps: Steps, *, kept: int) -> Tensor:
    """Threshold each frequency along the last axis, but for its `kept` largest values.

    With kept = 0 this is the proximal point of the tensor nuclear norm (Lu et al., TPAMI 2020),
    else of its partial sum (Zhang and Peng, Remote Sensing 2019).

    Args:
        tensor: (N, m, n, p) float32.
        threshold: (N, 1, 1, 1), positive.
        steps: of the thresholding.
        kept: singular values of each frequency that stay as they are.
    """
    real, imaginary = half_dft(tensor, axis=-1)
    slices = embed(real.movedim(3, 1), imaginary.movedim(3, 1))
    leading = None if not kept else _leading(slices, kept)
    rest = slices if leading is None else slices - leading
    shrunk = threshold_singular_values(rest, threshold, steps)
    real, imaginary = extract(shrunk if leading is None else shrunk + leading)
    return inverse_half_dft(
        real.movedim(1, 3), imaginary.movedim(1, 3), axis=-1, length=int(tensor.shape[-1])
    )


def _leading(slices: Tensor, kept: int) -> Tensor:
    """The part of embedded slices that belongs to the largest singular values."""
    power = slices.transpose(-2, -1) @ slices
    for _ in range(SQUARINGS):
        size = (power * power).sum(dim=(-2, -1), keepdim=True).sqrt()
        power = power / size.clamp(min=TINY)
        power = power @ power
    # Any block meets the subspace unless it is made not to; the embedding doubles the width.
    start = np.random.default_rng(0).standard_normal((int(power.shape[-1]), 2 * kept))
    basis = orthonormalise(power @ constant(start, power), LEADING)
    return (slices @ basis) @ basis.transpose(-2, -1)


LEADING = Steps(lowest=0.001)
