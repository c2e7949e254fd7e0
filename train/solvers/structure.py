"""The structure tensor of an image: where it has edges, where corners."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .borders import extend


def structure_tensor(images: Tensor, *, smooth: float, window: float) -> tuple[Tensor, Tensor]:
    """Eigenvalues of J = G_window * (grad I grad I^T), I smoothed, at every pixel.

    Weickert, Anisotropic Diffusion in Image Processing, 1998, ch. 2. Derivatives are central
    differences; beyond the border the edge is repeated.

    Args:
        images: (N, 1, H, W).
        smooth: standard deviation of the Gaussian in front of the derivatives, pixels.
        window: of the one behind, pixels.

    Returns:
        The larger and the smaller eigenvalue, (N, 1, H, W) each.
    """
    smoothed = blur(images, smooth)
    wide = extend(smoothed, before=(1, 1), after=(1, 1))
    rows = 0.5 * (wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1])
    columns = 0.5 * (wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2])
    first, second = blur(rows * rows, window), blur(columns * columns, window)
    mixed = blur(rows * columns, window)
    half = 0.5 * (first + second)
    difference = 0.5 * (first - second)
    root = (difference * difference + mixed * mixed).sqrt()
    return half + root, F.relu(half - root)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Convolve (N, 1, H, W) with a Gaussian, cut off at three standard deviations."""
    radius = math.ceil(3.0 * sigma)
    weights = [math.exp(-0.5 * (place / sigma) ** 2) for place in range(-radius, radius + 1)]
    row = torch.tensor(weights, dtype=images.dtype, device=images.device) / math.fsum(weights)
    wide = extend(images, before=(radius, radius), after=(radius, radius))
    return F.conv2d(F.conv2d(wide, row.reshape(1, 1, -1, 1)), row.reshape(1, 1, 1, -1))


def stretch(values: Tensor, *, least: float = 1e-12) -> Tensor:
    """Map each image of (N, 1, H, W) to 0..1; a constant one to 0.

    Args:
        values: any range.
        least: that they are divided by: what differs by less does not reach 1.
    """
    low, high = values.amin(dim=(2, 3), keepdim=True), values.amax(dim=(2, 3), keepdim=True)
    return (values - low) / (high - low).clamp(min=least)
