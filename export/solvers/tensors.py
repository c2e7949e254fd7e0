"""Thresholding of tensors by their Fourier slices (t-SVD), of nothing but matrix products."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .constants import constant
from .thresholding import TINY, Steps, threshold_singular_values
from .transforms import embed, extract, half_dft, inverse_half_dft

SQUARINGS = 6  # of the Gram matrix: a gap of 5 % between singular values becomes 1 : 500
UNSCALED = 2  # of them in a row stay in float32's range


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
    slices = embed(real.permute(0, 3, 1, 2), imaginary.permute(0, 3, 1, 2))
    leading = None if not kept else _leading(slices, kept)
    rest = slices if leading is None else slices - leading
    shrunk = threshold_singular_values(rest, threshold, steps)
    real, imaginary = extract(shrunk if leading is None else shrunk + leading)
    length = int(tensor.shape[-1])
    real, imaginary = real.permute(0, 2, 3, 1), imaginary.permute(0, 2, 3, 1)
    return inverse_half_dft(real, imaginary, axis=-1, length=length)


def _leading(slices: Tensor, kept: int) -> Tensor:
    """The part of embedded slices that belongs to the largest singular values."""
    leading = _strongest(slices)
    for _ in range(kept - 1):
        leading = leading + _strongest(slices - leading)
    return leading


def _strongest(slices: Tensor) -> Tensor:
    """The part of embedded slices that belongs to the largest singular value, there twice."""
    power = slices.transpose(-2, -1) @ slices
    for number in range(SQUARINGS):
        if number % UNSCALED == 0:
            size = (power * power).sum(dim=(-2, -1), keepdim=True).sqrt()
            power = power / size.clamp(min=TINY)
        power = power @ power
    width = int(power.shape[-1])
    # Any vector meets the subspace unless it is made not to.
    start = np.random.default_rng(0).standard_normal((width, 1))
    vector = power @ constant(start, power)
    vector = vector / (vector * vector).sum(dim=-2, keepdim=True).sqrt().clamp(min=TINY)
    upper, lower = vector[..., : width // 2, :], vector[..., width // 2 :, :]
    # The other of the pair is i times the vector, and so orthogonal to it.
    basis = torch.cat([vector, torch.cat([-lower, upper], dim=-2)], dim=-1)
    return (slices @ basis) @ basis.transpose(-2, -1)
