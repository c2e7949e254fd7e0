"""Spectra of a clip's three unfoldings: nuclear norms, and polar factors as their gradients.

With G = U U^T on the shorter side, the smoothed nuclear norm is the sum of (eigenvalue + s^2)^(1/2)
and its gradient (G + s^2 I)^(-1/2) U: the polar factor of U where singular values are far above s.
No derivative here divides by the distance of two eigenvalues, so equal ones do no harm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..solvers.roots import decompose

# Root mean square, of full scale, that a clip is taken to have at least: what a camera that hangs
# shows must not be blown up to something.
FAINTEST = 1e-3


def longer_sides(clip: Tensor) -> tuple[int, int, int]:
    """Of the unfoldings of (N, T, H, W) by frames, rows and columns."""
    _, frames, height, width = (int(side) for side in clip.shape)
    sides = (frames, height * width), (height, frames * width), (width, frames * height)
    first, second, third = (max(pair) for pair in sides)
    return first, second, third


def measure_power(clip: Tensor) -> Tensor:
    """The square of the Frobenius norm, floored, (N, 1, 1)."""
    count = math.prod(int(side) for side in clip.shape[1:])
    # A mean, not a sum, is what lowering a graph to FP16 keeps in FP32.
    mean = (clip * clip).mean(dim=(2, 3)).mean(dim=1, keepdim=True)[..., None]
    return mean.clamp(min=FAINTEST**2) * count


def make_grams(clip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U U^T of the unfoldings by frames, rows and columns.

    Args:
        clip: (N, T, H, W).

    Returns:
        (N, T, T), (N, H, H), (N, W, W).
    """
    flat = _flatten(clip)
    by_rows = (clip @ clip.transpose(2, 3)).sum(dim=1)
    by_columns = (clip.transpose(2, 3) @ clip).sum(dim=1)
    return flat @ flat.transpose(1, 2), by_rows, by_columns


def find_polars(
    clip: Tensor, *, smoothing: float, inverse_root: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the three smoothed nuclear norms, folded back to clips.

    Each is scaled by the root of its unfolding's longer side, so that the root mean square of its
    numbers is 1 at most, whatever the size of the clip.

    Args:
        clip: (N, T, H, W).
        smoothing: s over the clip's Frobenius norm.
        inverse_root: G -> G^(-1/2) for eigenvalues from smoothing^2 to 1 + smoothing^2.

    Returns:
        (N, T, H, W) each: by frames, rows and columns.
    """
    batch, frames, height, width = (int(side) for side in clip.shape)
    power = measure_power(clip)
    first, second, third = (
        inverse_root(gram / power + _scaled_identity(gram, smoothing**2))
        * (math.sqrt(longer) / power.sqrt())
        for gram, longer in zip(make_grams(clip), longer_sides(clip), strict=True)
    )
    by_frames = (first @ _flatten(clip)).reshape(batch, frames, height, width)
    return by_frames, second[:, None] @ clip, clip @ third[:, None]


def _flatten(clip: Tensor) -> Tensor:
    """(N, T, H W), of sides that a trace takes for constants."""
    batch, frames, height, width = (int(side) for side in clip.shape)
    return clip.reshape(batch, frames, height * width)


def _scaled_identity(like: Tensor, scale: float) -> Tensor:
    # Made in numpy, so that a trace holds its values and not its making.
    return torch.from_numpy(scale * np.eye(int(like.shape[-1]))).to(like)


def nuclear_norms(clip: Tensor, *, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """The three smoothed nuclear norms, (N,) each.

    Args:
        clip: (N, T, H, W). Gram matrices are of its type, eigenvalues in float64: a smoothing of
            0.01 hides float32's rounding.
        smoothing: s over the clip's Frobenius norm, as a constant.
    """
    added = smoothing**2 * measure_power(clip).detach()
    first, second, third = (_root_trace(gram, added[:, 0, 0]) for gram in make_grams(clip))
    return first, second, third


def _root_trace(gram: Tensor, added: Tensor) -> Tensor:
    """Sum of (eigenvalue + added)^(1/2), (N,)."""
    values: Tensor = _RootTrace.apply(gram, added)  # type: ignore[no-untyped-call]
    return values


class _RootTrace(torch.autograd.Function):
    """trace((G + a I)^(1/2)), whose gradient is (G + a I)^(-1/2) / 2."""

    @staticmethod
    def forward(ctx: Any, gram: Tensor, added: Tensor) -> Tensor:
        values, vectors = decompose(gram)
        roots = (values.clamp(min=0.0) + added[:, None]).sqrt()
        ctx.save_for_backward(roots, vectors)
        return roots.sum(dim=-1).to(gram.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        roots, vectors = ctx.saved_tensors
        inverse = ((vectors / roots[:, None, :]) @ vectors.mT).to(gradient.dtype)
        return 0.5 * gradient[:, None, None] * inverse, None
