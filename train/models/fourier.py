"""The two-dimensional Fourier transform of features, as products with constant matrices.

Of real values half of the columns says all. Rows are shifted, so that neighbouring rows hold
neighbouring frequencies and a convolution over the spectrum sees no seam at frequency 0; the shift
is a permutation of the constant matrix and costs nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Matrix: TypeAlias = npt.NDArray[np.float64]

# Of the squared amplitude: a frequency that is not there has no phase to divide by. Features are
# of order 1, and so are their spectra.
GUARD = 1e-4


@dataclass(frozen=True, slots=True)
class Polar:
    """A spectrum by amplitude and phase; the phase as a cosine and a sine, which know no seam.

    Attributes:
        amplitude: (N, C, H, W // 2 + 1), above 0.
        cosine: of the phase, likewise.
        sine: likewise.
    """

    amplitude: Tensor
    cosine: Tensor
    sine: Tensor


def dft_matrices(length: int) -> tuple[Matrix, Matrix]:
    """Cosines and sines of the discrete Fourier transform, both (length, length) float64."""
    places = np.arange(length)
    # Whole turns are taken out first, so that large products lose no digits.
    angles = np.outer(places, places) % length * (math.tau / length)
    return np.cos(angles), np.sin(angles)


def spectrum(x: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the orthonormal transform, rows shifted.

    Args:
        x: (N, C, H, W).

    Returns:
        (N, C, H, W // 2 + 1) each: `fftshift(rfft2(x, norm="ortho"), dim=-2)`.

    Example:
        >>> real, imaginary = spectrum(torch.ones(1, 1, 4, 6))
        >>> real[0, 0, :, 0].abs().round().tolist(), real.shape[-1]
        ([0.0, 0.0, 5.0, 0.0], 4)
    """
    height, width = (int(side) for side in x.shape[-2:])
    cosines, sines = (
        matrix[:, : width // 2 + 1] / math.sqrt(width) for matrix in dft_matrices(width)
    )
    real, imaginary = x @ _constant(cosines, x), x @ _constant(-sines, x)
    order = np.fft.fftshift(np.arange(height))
    along, across = (
        _constant(matrix[order] / math.sqrt(height), x) for matrix in dft_matrices(height)
    )
    return along @ real + across @ imaginary, along @ imaginary - across @ real


def inverse_spectrum(real: Tensor, imaginary: Tensor, *, width: int) -> Tensor:
    """What `spectrum` makes this of, `width` columns wide.

    Args:
        real: (N, C, H, width // 2 + 1).
        imaginary: likewise; what no real values have, is left out, as irfft2 does.
        width: columns.
    """
    height = int(real.shape[-2])
    order = np.fft.fftshift(np.arange(height))
    along, across = (
        _constant(matrix[:, order] / math.sqrt(height), real) for matrix in dft_matrices(height)
    )
    rows, turned = along @ real - across @ imaginary, along @ imaginary + across @ real
    counts = np.full((width // 2 + 1, 1), 2.0)  # the other half is the mirror image
    counts[0] = 1.0
    if width % 2 == 0:
        counts[-1] = 1.0
    cosines, sines = (
        _constant(counts * matrix[: width // 2 + 1] / math.sqrt(width), real)
        for matrix in dft_matrices(width)
    )
    return rows @ cosines - turned @ sines


def to_polar(real: Tensor, imaginary: Tensor) -> Polar:
    """Amplitude and phase; where there is nothing, the phase is (0, 0)."""
    amplitude = (real * real + imaginary * imaginary + GUARD).sqrt()
    return Polar(amplitude, real / amplitude, imaginary / amplitude)


def _constant(values: Matrix, like: Tensor) -> Tensor:
    """A constant of the type and on the device of another tensor."""
    constant: Tensor = torch.from_numpy(np.ascontiguousarray(values)).to(like)
    return constant
