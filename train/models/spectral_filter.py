"""Tridos in frequency (AGPF): amplitude and phase of a frame's features, changed where it helps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .fourier import GUARD, inverse_spectrum, spectrum, to_polar


class Attention(nn.Module):
    """A weight 0..1 for each place, from the mean and the largest of its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.Conv2d(2, 2, 3, padding=1, groups=2), nn.ReLU(inplace=True), nn.Conv2d(2, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 1, H, W)."""
        seen = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        weight: Tensor = self.weigh(seen).sigmoid()
        return weight


def _separable(inputs: int, outputs: int) -> nn.Sequential:
    """A 3x3 convolution of each channel, then one over channels."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, 1),
    )


class SpectralFilter(nn.Module):
    """Frames' features through their spectrum and back, one frame at a time.

    The amplitude is filtered and weighed as published. Of the phase, the published filter takes
    and gives the angle; here it takes cosine and sine and gives what is added to them, after which
    the pair is brought to length 1 again. No arcus tangent is needed, an angle has no seam, and a
    filter that says nothing leaves the phase as it was.

    Shape:
        (N, C, H, W) to the same shape.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.amplitude = _separable(channels, channels).append(nn.ReLU(inplace=True))
        self.weigh_amplitude = Attention()
        self.phase = _separable(3 * channels, 2 * channels)
        self.weigh_phase = Attention()
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Filter each channel's spectrum."""
        before = to_polar(*spectrum(x))
        amplitude = self.amplitude(before.amplitude)
        amplitude = amplitude * self.weigh_amplitude(amplitude)
        seen = [before.cosine, before.sine, amplitude - before.amplitude]
        moved = self.phase(torch.cat(seen, dim=1))
        moved = moved * self.weigh_phase(moved)
        across, along = moved[:, : x.shape[1]], moved[:, x.shape[1] :]
        cosine, sine = before.cosine + across, before.sine + along
        gain = amplitude / (cosine * cosine + sine * sine + GUARD).sqrt()
        back = inverse_spectrum(gain * cosine, gain * sine, width=int(x.shape[-1]))
        filtered: Tensor = self.smooth(F.relu(back.abs() + x)) + self.scale * x
        return filtered
