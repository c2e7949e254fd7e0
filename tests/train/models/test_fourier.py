import numpy as np
import pytest
import torch

from irstd.train.models.fourier import dft_matrices, inverse_spectrum, spectrum, to_polar
from irstd.train.models.spectral_filter import Attention, SpectralFilter

SIZES = [(4, 4), (8, 12), (5, 7), (12, 5), (32, 40)]


def values(size, *, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 3, *size)))


@pytest.mark.parametrize("size", SIZES)
def test_the_spectrum_is_numpys(size):
    x = values(size)
    real, imaginary = spectrum(x)
    expected = np.fft.fftshift(np.fft.rfft2(x.numpy(), norm="ortho"), axes=-2)
    np.testing.assert_allclose(real, expected.real, atol=1e-12)
    np.testing.assert_allclose(imaginary, expected.imag, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_the_inverse_is_numpys_also_of_what_no_real_values_have(size):
    shape = (2, 3, size[0], size[1] // 2 + 1)
    random = np.random.default_rng(1)
    real, imaginary = random.normal(size=shape), random.normal(size=shape)
    whole = np.fft.ifftshift(real + 1j * imaginary, axes=-2)
    expected = np.fft.irfft2(whole, s=size, norm="ortho")
    found = inverse_spectrum(torch.from_numpy(real), torch.from_numpy(imaginary), width=size[1])
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_there_and_back(size):
    x = values(size)
    torch.testing.assert_close(inverse_spectrum(*spectrum(x), width=size[1]), x)


def test_float32_loses_little_at_the_largest_size():
    x = torch.randn(1, 1, 64, 80, generator=torch.Generator().manual_seed(0))
    assert (inverse_spectrum(*spectrum(x), width=80) - x).abs().max() < 2e-5


def test_matrices_turn_whole_turns_exactly():
    cosines, sines = dft_matrices(1024)
    assert cosines[512, 512] == 1.0
    assert abs(sines[1023, 1]) == pytest.approx(abs(sines[1, 1]), abs=1e-15)


def test_amplitude_and_phase_by_hand():
    polar = to_polar(torch.tensor([3.0, 0.0]), torch.tensor([-4.0, 0.0]))
    torch.testing.assert_close(polar.amplitude, torch.tensor([5.0, 0.01]), atol=1e-4, rtol=0)
    torch.testing.assert_close(polar.cosine, torch.tensor([0.6, 0.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(polar.sine, torch.tensor([-0.8, 0.0]), atol=1e-4, rtol=0)


def test_attention_weighs_places():
    attention = Attention()
    weight = attention(torch.zeros(1, 4, 6, 6))
    assert weight.shape == (1, 1, 6, 6)
    assert 0.0 < weight.min() <= weight.max() < 1.0


def silence(branch):
    """Make a filter say nothing, whatever it sees."""
    for layer in branch:
        for one in layer.parameters():
            one.data.zero_()


def test_a_filter_that_says_nothing_leaves_the_phase():
    """Amplitude 1 at every frequency and the old phase: what comes back has a flat spectrum."""
    filtering = SpectralFilter(2).eval()
    silence(filtering.amplitude)
    silence(filtering.phase)
    filtering.amplitude[-2].bias.data.fill_(1.0)
    with torch.no_grad():
        for one in filtering.weigh_amplitude.parameters():
            one.zero_()
        filtering.weigh_amplitude.weigh[-1].bias.fill_(30.0)  # weight 1
        filtering.smooth.weight.zero_()
        filtering.smooth.bias.zero_()
        for channel in range(2):
            filtering.smooth.weight[channel, channel, 1, 1] = 1.0
        filtering.scale.zero_()
    x = torch.zeros(1, 2, 8, 8)
    x[:, :, 3, 5] = 100.0  # an impulse: amplitude alike everywhere, the phase says where it is
    said = filtering(x)[0, 0].detach()
    # An impulse of amplitude 1 at every frequency is sqrt(64) high, at the same place.
    assert said[3, 5] == pytest.approx(108.0, abs=0.1)
    said[3, 5] = 0.0
    assert said.abs().max() < 0.05
