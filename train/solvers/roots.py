"""The inverse square root of a matrix, with a gradient that equal eigenvalues do not spoil."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def find_inverse_root(gram: Tensor) -> Tensor:
    """G^(-1/2) of symmetric positive definite matrices, (..., n, n), by eigenvalues in float64.

    The gradient is the exact one: in the eigenvectors' basis the divided differences of x^(-1/2),
    which are -1 / (a b (a + b)), a and b the roots of two eigenvalues (Higham, Functions of
    Matrices, 2008, ch. 3). That of a decomposition would divide by the distance of eigenvalues.

    Example:
        >>> find_inverse_root(torch.diag(torch.tensor([4.0, 0.25]))).diag()
        tensor([0.5000, 2.0000])
    """
    root: Tensor = _InverseRoot.apply(gram)  # type: ignore[no-untyped-call]
    return root


def decompose(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors in float64; of what is not finite, not numbers.

    A loss then is no number, which whoever trains looks for; the decomposition itself would fail.
    """
    wide = gram.double()
    if not bool(torch.isfinite(wide).all()):
        return torch.full_like(wide[..., 0], torch.nan), torch.full_like(wide, torch.nan)
    values, vectors = torch.linalg.eigh(wide)
    return values, vectors


class _InverseRoot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gram: Tensor) -> Tensor:
        values, vectors = decompose(gram)
        roots = values.clamp(min=torch.finfo(torch.float32).tiny).sqrt()
        ctx.save_for_backward(roots, vectors)
        return ((vectors / roots[..., None, :]) @ vectors.mT).to(gram.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        roots, vectors = ctx.saved_tensors
        first, second = roots[..., :, None], roots[..., None, :]
        turned = vectors.mT @ gradient.double() @ vectors / (first * second * (first + second))
        back = vectors @ turned @ vectors.mT
        found: Tensor = (-0.5 * (back + back.mT)).to(gradient.dtype)
        return found
