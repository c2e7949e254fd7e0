"""Fourier and cosine transforms as products with constant matrices; complex numbers as pairs."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ...train.models.fourier import Matrix, dft_matrices
from .constants import constant


def dft(real: Tensor, imaginary: Tensor | None = None, *, axis: int) -> tuple[Tensor, Tensor]:
    """The discrete Fourier transform along an axis: real and imaginary part.

    Args:
        real: of any shape.
        imaginary: of that shape; None for 0.
        axis: along which.
    """
    cosines, sines = dft_matrices(int(real.shape[axis]))
    if imaginary is None:
        return _along(real, cosines, axis), _along(real, -sines, axis)
    return (
        _along(real, cosines, axis) + _along(imaginary, sines, axis),
        _along(imaginary, cosines, axis) - _along(real, sines, axis),
    )


def inverse_dft(real: Tensor, imaginary: Tensor, *, axis: int) -> tuple[Tensor, Tensor]:
    """What `dft` makes this of: real and imaginary part."""
    length = int(real.shape[axis])
    cosines, sines = (matrix / length for matrix in dft_matrices(length))
    return (
        _along(real, cosines, axis) - _along(imaginary, sines, axis),
        _along(imaginary, cosines, axis) + _along(real, sines, axis),
    )


def half_dft(real: Tensor, *, axis: int) -> tuple[Tensor, Tensor]:
    """The first length // 2 + 1 frequencies; of real values the others are their mirror image."""
    length = int(real.shape[axis])
    cosines, sines = (matrix[:, : length // 2 + 1] for matrix in dft_matrices(length))
    return _along(real, cosines, axis), _along(real, -sines, axis)


def inverse_half_dft(real: Tensor, imaginary: Tensor, *, axis: int, length: int) -> Tensor:
    """The real values that `half_dft` makes this of, `length` of them along the axis."""
    cosines, sines = (matrix[: length // 2 + 1] / length for matrix in dft_matrices(length))
    counts = np.full((length // 2 + 1, 1), 2.0)
    counts[0] = 1.0
    if length % 2 == 0:
        counts[-1] = 1.0
    return _along(real, counts * cosines, axis) - _along(imaginary, counts * sines, axis)


def dct_matrix(length: int) -> Matrix:
    """The orthogonal cosine transform of the second kind, (place, frequency) float64."""
    places = np.arange(length)
    matrix = np.cos(np.outer(places + 0.5, places) * (math.pi / length)) * math.sqrt(2.0 / length)
    matrix[:, 0] *= math.sqrt(0.5)
    return matrix


def dct(values: Tensor, *, axis: int) -> Tensor:
    """The orthogonal cosine transform along an axis."""
    return _along(values, dct_matrix(int(values.shape[axis])), axis)


def inverse_dct(values: Tensor, *, axis: int) -> Tensor:
    """What `dct` makes this of."""
    return _along(values, dct_matrix(int(values.shape[axis])).T, axis)


def embed(real: Tensor, imaginary: Tensor) -> Tensor:
    """Write complex matrices (..., m, n) as real ones, [[Re, -Im], [Im, Re]], (..., 2m, 2n).

    Products and sums of embedded matrices are the embedded products and sums, and every singular
    value is there twice.
    """
    above = torch.cat([real, -imaginary], dim=-1)
    below = torch.cat([imaginary, real], dim=-1)
    return torch.cat([above, below], dim=-2)


def extract(embedded: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of an embedded matrix."""
    rows, columns = (side // 2 for side in embedded.shape[-2:])
    return embedded[..., :rows, :columns], embedded[..., rows:, :columns]


def _along(values: Tensor, matrix: Matrix, axis: int) -> Tensor:
    """Multiply the vectors along an axis with a constant matrix from the right."""
    # Counted from the front: the exporter writes negative axes down as they are.
    last, place = values.ndim - 1, axis % values.ndim
    return (values.movedim(place, last) @ constant(matrix, values)).movedim(last, place)
