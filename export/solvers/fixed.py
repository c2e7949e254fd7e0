"""The algebra of a fixed number of matrix products, in place of decompositions and transforms."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ...train.solvers.algebra import PatchGrid
from .coefficients import STEPS
from .patches import cut_patches, merge_patches
from .projection import project
from .tensors import threshold_tensor
from .thresholding import (
    Form,
    Steps,
    bound_norm,
    choose_lowest,
    inverse_root,
    threshold_singular_values,
)

SMALLEST = Steps(lowest=0.001)
HALF_LOWEST = 0.03
# Above the eigenvalues of regularised Gram matrices, which may be 1 + lowest^2 and rounding.
WIDEST = 1.002
ROOT = math.sqrt(WIDEST)
BASIS = Steps(lowest=0.01)  # what a block keeps beside its strongest direction


@dataclass(frozen=True, slots=True)
class FixedAlgebra:
    """Twins of `train.solvers.algebra.ExactAlgebra`, within float32's rounding and the steps'.

    Attributes:
        form: of the thresholding.
    """

    form: Form = "quick"

    @property
    def coefficients(self) -> str:
        """What a manifest calls the steps."""
        return "minimax-quintic"

    @property
    def inner_iterations(self) -> int:
        """The most steps of a thresholding; a large threshold takes fewer."""
        return len(self._steps(SMALLEST.lowest).coefficients)

    def bound_norm(self, matrix: Tensor) -> Tensor:
        """A bound just above the largest singular value."""
        return bound_norm(matrix)

    def threshold_matrix(self, matrix: Tensor, threshold: Tensor, *, ratio: float) -> Tensor:
        """By polar and sign steps, as few as the ratio allows."""
        return threshold_singular_values(matrix, threshold, self._steps(ratio))

    def threshold_tensor(
        self, tensor: Tensor, threshold: Tensor, *, kept: int, ratio: float = 0.0
    ) -> Tensor:
        """By constant Fourier matrices, and the steps on every frequency."""
        return threshold_tensor(tensor, threshold, self._steps(ratio), kept=kept)

    def inverse_root(self, gram: Tensor, *, lowest: float) -> Tensor:
        """By the polar steps that reach down to `lowest`; in FP32 whatever the form."""
        return inverse_root(gram / WIDEST, STEPS[choose_lowest(lowest)]) * (1.0 / ROOT)

    def _steps(self, ratio: float) -> Steps:
        # FP16 has no digits for the large gains that reach further down.
        lowest = max(choose_lowest(ratio), HALF_LOWEST if self.form == "half" else 0.0)
        return Steps(lowest, self.form)

    def project(self, matrix: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
        """By a power step of the block."""
        return project(matrix, block, BASIS)

    def cut_patches(self, frame: Tensor, grid: PatchGrid) -> Tensor:
        """By slices."""
        return cut_patches(frame, grid)

    def merge_patches(self, patches: Tensor, shape: tuple[int, int], grid: PatchGrid) -> Tensor:
        """By padded sums."""
        return merge_patches(patches, shape, grid)
