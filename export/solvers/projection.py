"""Block power projection: the leading subspace of a matrix without a decomposition."""

from __future__ import annotations

from torch import Tensor

from .minimax import NEWTON_SCHULZ
from .thresholding import CUSHION, TINY, Steps, bound_norm, multiply_out


def orthonormalise(block: Tensor, steps: Steps) -> Tensor:
    """The nearest block with orthonormal columns: its polar factor.

    Directions weaker than the steps' `lowest` stay shorter than 1.

    Args:
        block: (..., n, r), n at least r.
        steps: of the iteration; its form does not matter.
    """
    lengths = (block * block).sum(dim=-2, keepdim=True).sqrt()
    scaled = block / lengths.clamp(min=TINY)
    factor = scaled / (bound_norm(scaled) * CUSHION["half"])
    for step in (*steps.coefficients, NEWTON_SCHULZ):
        factor = multiply_out(factor, step)
    return factor


def project(matrix: Tensor, block: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
    """Project the rows of a matrix on a subspace, after one power step of the subspace.

    Args:
        matrix: (..., m, n).
        block: (..., n, r): the basis of the last time, so that every call comes nearer, or any to
            start with.
        steps: that orthonormalise the basis.

    Returns:
        The matrix of rank r, (..., m, n), and the basis of its rows, (..., n, r).
    """
    basis = orthonormalise(matrix.transpose(-2, -1) @ (matrix @ block), steps)
    return (matrix @ basis) @ basis.transpose(-2, -1), basis
