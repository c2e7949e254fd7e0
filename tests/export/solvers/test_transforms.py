import numpy as np
import pytest
import scipy.fft
import torch

from irstd.export.solvers.transforms import (
    dct,
    dft,
    dft_matrices,
    embed,
    extract,
    half_dft,
    inverse_dct,
    inverse_dft,
    inverse_half_dft,
)

SHAPE = (3, 7, 8)


def pair(random):
    return torch.from_numpy(random.standard_normal((2, *SHAPE)))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_fourier_forward_and_back(random, axis):
    real, imaginary = pair(random)
    wanted = np.fft.fft(real.numpy() + 1j * imaginary.numpy(), axis=axis)
    found = dft(real, imaginary, axis=axis)
    assert np.allclose(found[0], wanted.real) and np.allclose(found[1], wanted.imag)
    back = inverse_dft(*found, axis=axis)
    assert np.allclose(back[0], real) and np.allclose(back[1], imaginary)
    alone = dft(real, axis=axis)
    assert np.allclose(
        alone[0].numpy() + 1j * alone[1].numpy(), np.fft.fft(real.numpy(), axis=axis)
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_half_of_the_frequencies_is_enough_for_real_values(random, axis):
    real = pair(random)[0]
    found = half_dft(real, axis=axis)
    wanted = np.fft.rfft(real.numpy(), axis=axis)
    assert np.allclose(found[0].numpy() + 1j * found[1].numpy(), wanted)
    assert np.allclose(inverse_half_dft(*found, axis=axis, length=SHAPE[axis]), real)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_cosines_forward_and_back(random, axis):
    real = pair(random)[0]
    found = dct(real, axis=axis)
    assert np.allclose(found, scipy.fft.dct(real.numpy(), axis=axis, norm="ortho"))
    assert np.allclose(inverse_dct(found, axis=axis), real)


def test_long_transforms_keep_their_digits():
    cosines, _ = dft_matrices(1024)
    assert cosines[512, 1023] == 1.0 - 2.0 * (1023 % 2)


def test_the_embedding_is_an_algebra(random):
    first, second = (torch.from_numpy(random.standard_normal((2, 4, 4))) for _ in range(2))
    product = (first[0] + 1j * first[1]) @ (second[0] + 1j * second[1])
    found = extract(embed(*first) @ embed(*second))
    assert torch.allclose(found[0], product.real) and torch.allclose(found[1], product.imag)
    values = torch.linalg.svdvals(embed(*first))
    assert torch.allclose(values[::2], torch.linalg.svdvals(first[0] + 1j * first[1]))
    assert torch.allclose(values[::2], values[1::2])
