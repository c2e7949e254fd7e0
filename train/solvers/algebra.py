"""The linear algebra of the solvers: what it must offer, and the exact kind, by SVD and FFT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from .roots import find_inverse_root


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """Square patches on a regular grid over a frame.

    Attributes:
        size: side of a patch, pixels.
        step: from one patch to the next, pixels; divides `size`.
    """

    size: int
    step: int

    def __post_init__(self) -> None:
        if self.step < 1 or self.size < self.step or self.size % self.step:
            raise ValueError(
                f"patches of {self.size} pixels with a step of {self.step}; expected a step of at "
                "least 1 that divides the patch"
            )

    def padded(self, side: int) -> int:
        """The side of a frame once patches cover it: the next multiple of the step."""
        return -(-side // self.step) * self.step

    def check(self, height: int, width: int) -> None:
        """Refuse a frame that is smaller than a patch.

        Raises:
            ValueError: it is; the text names both sizes.
        """
        if min(height, width) < self.size:
            raise ValueError(
                f"the frame is {height}x{width}, smaller than a patch of {self.size}x{self.size}; "
                f"use a size of at least {self.size}x{self.size}"
            )


class Algebra(Protocol):
    """What a solver computes with; matrices are (..., m, n)."""

    def bound_norm(self, matrix: Tensor) -> Tensor:
        """The largest singular value, or a bound just above it, (..., 1, 1)."""

    def threshold_matrix(self, matrix: Tensor, threshold: Tensor, *, ratio: float) -> Tensor:
        """Subtract a threshold (..., 1, 1) from the singular values, those below become 0.

        Args:
            matrix: to be thresholded.
            threshold: positive.
            ratio: of the threshold and the largest singular value, as small as it may be; an exact
                algebra needs no hint.
        """

    def threshold_tensor(
        self, tensor: Tensor, threshold: Tensor, *, kept: int, ratio: float = 0.0
    ) -> Tensor:
        """Threshold each frequency along the last axis, but for its `kept` largest values.

        Args:
            tensor: (N, m, n, p).
            threshold: (N, 1, 1, 1), positive.
            kept: singular values of each frequency that stay as they are.
            ratio: as in `threshold_matrix`.
        """

    def inverse_root(self, gram: Tensor, *, lowest: float) -> Tensor:
        """G^(-1/2) of symmetric matrices (..., n, n).

        Args:
            gram: with eigenvalues from lowest^2 to 1 + lowest^2.
            lowest: of their roots; an exact algebra needs no hint.
        """

    def project(self, matrix: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest matrix of a rank, and a basis of its rows.

        Args:
            matrix: (..., m, n).
            block: (..., n, r): the basis of the last time, or any to start with.
        """

    def cut_patches(self, frame: Tensor, grid: PatchGrid) -> Tensor:
        """(N, 1, H, W), sides multiples of the step, to the patch image (N, size^2, patches)."""

    def merge_patches(self, patches: Tensor, shape: tuple[int, int], grid: PatchGrid) -> Tensor:
        """The patch image back to (N, 1, H, W): each pixel the mean of its patches."""


class ExactAlgebra:
    """The textbook: singular value decompositions, Fourier transforms, gathered patches."""

    def bound_norm(self, matrix: Tensor) -> Tensor:
        """The largest singular value."""
        norm: Tensor = torch.linalg.matrix_norm(matrix, ord=2, keepdim=True)
        return norm.clamp(min=torch.finfo(matrix.dtype).tiny)

    def threshold_matrix(self, matrix: Tensor, threshold: Tensor, *, ratio: float) -> Tensor:
        """By singular value decomposition."""
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        kept = (values - threshold[..., 0]).clamp(min=0)
        thresholded: Tensor = (left * kept[..., None, :]) @ right
        return thresholded

    def threshold_tensor(
        self, tensor: Tensor, threshold: Tensor, *, kept: int, ratio: float = 0.0
    ) -> Tensor:
        """By Fourier transform and a decomposition of every frequency."""
        slices = torch.fft.fft(tensor, dim=-1).movedim(-1, 1)
        left, values, right = torch.linalg.svd(slices, full_matrices=False)
        shrunk = (values - threshold[..., 0]).clamp(min=0)
        shrunk[..., :kept] = values[..., :kept]
        merged = (left * shrunk[..., None, :]) @ right
        back: Tensor = torch.fft.ifft(merged.movedim(1, -1), dim=-1).real
        return back

    def inverse_root(self, gram: Tensor, *, lowest: float) -> Tensor:
        """By eigenvalues, with an exact gradient."""
        return find_inverse_root(gram)

    def project(self, matrix: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
        """By singular value decomposition, whatever the block but its width."""
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        rank = block.shape[-1]
        nearest = (left[..., :rank] * values[..., None, :rank]) @ right[..., :rank, :]
        return nearest, right[..., :rank, :].mT

    def cut_patches(self, frame: Tensor, grid: PatchGrid) -> Tensor:
        """By torch's unfold."""
        return F.unfold(frame, grid.size, stride=grid.step)

    def merge_patches(self, patches: Tensor, shape: tuple[int, int], grid: PatchGrid) -> Tensor:
        """By torch's fold."""
        summed = F.fold(patches, shape, grid.size, stride=grid.step)
        return summed / F.fold(torch.ones_like(patches), shape, grid.size, stride=grid.step)


EXACT = ExactAlgebra()
