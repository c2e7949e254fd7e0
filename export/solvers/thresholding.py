"""Singular value thresholding of nothing but matrix products, by two sign iterations.

With the polar factors D = W H, thresholding is W (H - t I)_+ (Cai and Osher, Fast Singular Value
Thresholding without Singular Value Decomposition, 2013), and (A)_+ = (A + A sign(A)) / 2. Polar
factor and matrix sign are both limits of an odd polynomial step, see `minimax`.

The forms give the same answer. The Gram form works on D^T D, a matrix of the short side only, up
to its last step, and needs true FP32: squaring halves the digits. The quick form is the Gram form
without that last step, which meets D again to repair what squaring has cost, and ends its
iterations at QUICK: 0.2 % of error for half the arithmetic, and all that solvers need, whose next
step sees what this one left. The rectangular form never squares and stands TF32,
at two to three times the arithmetic of the Gram form. The half form is the rectangular one with its
products in FP16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from .coefficients import STEPS
from .constants import identity
from .minimax import NEWTON_SCHULZ, keep_until

Form: TypeAlias = Literal["gram", "quick", "rectangular", "half"]

# The bound of the largest singular value is met to rounding by a matrix of rank 1; a step fed
# above 1 would diverge.
CUSHION: dict[Form, float] = {"gram": 1.001, "quick": 1.001, "rectangular": 1.001, "half": 1.01}
# Added to the scaled Gram matrix, so that rounding leaves no negative eigenvalue, which the steps
# would blow up.
JITTER = 1e-6
MARGIN = 0.98  # in front of the sign steps, which one eigenvalue beyond 1 would blow up
TINY = 1e-20  # in place of the norm of a matrix of zeros
QUICK = 1e-3  # of |1 - x|, at which the quick form ends
# Newton-Schulz steps behind a sequence that already ends in one.
SAFE_STEPS: dict[Form, int] = {"gram": 1, "rectangular": 1, "half": 3}


@dataclass(frozen=True, slots=True)
class Steps:
    """How many steps of what coefficients a thresholding takes.

    Attributes:
        lowest: smallest singular value over the largest that the polar steps bring to 1; those
            below stay below their value, so whatever is under the threshold is still removed.
        form: of the iteration.
    """

    lowest: float
    form: Form = "gram"

    def __post_init__(self) -> None:
        if self.lowest not in STEPS:
            known = ", ".join(str(value) for value in STEPS)
            raise ValueError(f"lowest is {self.lowest}, expected one of {known}")

    @property
    def coefficients(self) -> tuple[tuple[float, float, float], ...]:
        """Of every step; the polar factor and the sign take the same."""
        if self.form == "quick":
            return keep_until(STEPS[self.lowest], lowest=self.lowest, error=QUICK)
        return (*STEPS[self.lowest], *(NEWTON_SCHULZ,) * SAFE_STEPS[self.form])

    @property
    def name(self) -> str:
        """What a manifest calls them."""
        return f"minimax-quintic-{self.lowest:g}"


def choose_lowest(ratio: float) -> float:
    """The largest known `lowest` that is no larger than a ratio of threshold and norm.

    Example:
        >>> choose_lowest(0.05), choose_lowest(0.9), choose_lowest(1e-9)
        (0.03, 0.3, 0.001)
    """
    return max((lowest for lowest in STEPS if lowest <= ratio), default=min(STEPS))


def bound_norm(matrix: Tensor) -> Tensor:
    """A guaranteed upper bound of the largest singular value, near it: (sum of s^16)^(1/16).

    Args:
        matrix: (..., m, n).

    Returns:
        (..., 1, 1), at least a tiny number; at most min(m, n)^(1/16) times the norm.
    """
    rows, columns = matrix.shape[-2:]
    turned = matrix if rows >= columns else matrix.transpose(-2, -1)
    gram, frobenius = _scaled_gram(turned)
    return frobenius * _schatten(gram)


def _root_of_squares(matrix: Tensor) -> Tensor:
    # A mean, not a sum, is what lowering a graph to FP16 keeps in FP32.
    count = int(matrix.shape[-2]) * int(matrix.shape[-1])
    mean = (matrix * matrix).mean(dim=(-2, -1), keepdim=True)
    return (mean * count).sqrt().clamp(min=TINY)


def _scaled_gram(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """D^T D over the square of the Frobenius norm, and that norm."""
    # Unscaled, the 16th powers that follow would leave float32's range; twice, as would a square.
    frobenius = _root_of_squares(matrix)
    return matrix.transpose(-2, -1) @ matrix / frobenius / frobenius, frobenius


def _schatten(gram: Tensor) -> Tensor:
    """(sum of s^16)^(1/16) of D, from D^T D; at least TINY."""
    squared = gram @ gram
    return _root_of_squares(squared @ squared).sqrt().sqrt().sqrt().clamp(min=TINY)


def threshold_singular_values(matrix: Tensor, threshold: Tensor, steps: Steps) -> Tensor:
    """Subtract a threshold from every singular value; those below become 0.

    Args:
        matrix: (..., m, n) float32.
        threshold: (..., 1, 1), positive.
        steps: how exactly.

    Returns:
        (..., m, n): the proximal point of threshold * nuclear norm.
    """
    if matrix.shape[-2] < matrix.shape[-1]:
        return threshold_singular_values(matrix.transpose(-2, -1), threshold, steps).transpose(
            -2, -1
        )
    if steps.form in ("gram", "quick"):
        return _threshold_gram(matrix, threshold, steps)
    return _threshold_rectangular(matrix, threshold, steps)


def _threshold_gram(matrix: Tensor, threshold: Tensor, steps: Steps) -> Tensor:
    gram, frobenius = _scaled_gram(matrix)
    # Never under what keeps the steps from diverging, never over the Frobenius norm.
    factor = _schatten(gram) * CUSHION[steps.form]
    gram, scale = gram / (factor * factor), frobenius * factor
    if steps.form == "quick":
        inverse = inverse_root(gram, steps.coefficients)
        size = _symmetric(gram @ inverse)
        return matrix @ (inverse @ _positive_part(size, threshold / scale, steps))
    scaled = matrix / scale
    # The last step works on the matrix itself and repairs what squaring has cost.
    polar = multiply_out(scaled @ inverse_root(gram, STEPS[steps.lowest][:-1]), NEWTON_SCHULZ)
    size = _symmetric(polar.transpose(-2, -1) @ scaled)
    return scale * (polar @ _positive_part(size, threshold / scale, steps))


def inverse_root(gram: Tensor, coefficients: Sequence[tuple[float, float, float]]) -> Tensor:
    """G to the power of -1/2, as far as the polar steps reach.

    Args:
        gram: (..., n, n), symmetric, eigenvalues in 0..1.
        coefficients: (a, b, c) of each step.

    What is left of G is carried along as P R P, which keeps it positive where rounding would make
    the cheaper coupled products (Higham, Functions of Matrices, 2008, ch. 6) diverge.
    """
    unit = identity(gram)
    rest = gram + JITTER * unit
    (a, b, c), *later = coefficients
    bent = b * rest + c * (rest @ rest)
    inverse = a * unit + bent
    for step in later:
        half = a * rest + rest @ bent
        rest = _symmetric(a * half + half @ bent)
        a, b, c = step
        bent = b * rest + c * (rest @ rest)
        inverse = a * inverse + inverse @ bent
    return inverse


def _threshold_rectangular(matrix: Tensor, threshold: Tensor, steps: Steps) -> Tensor:
    scale = bound_norm(matrix) * CUSHION[steps.form]
    scaled, limit = matrix / scale, threshold / scale
    if steps.form == "half":
        # The norm and the sums around this stay in FP32; the graph gets casts just here.
        scaled, limit = scaled.half(), limit.half()
    factor = scaled
    for step in steps.coefficients:
        factor = multiply_out(factor, step)
    kept = _positive_part(_symmetric(factor.transpose(-2, -1) @ scaled), limit, steps)
    thresholded = factor @ kept
    return scale * (thresholded.float() if steps.form == "half" else thresholded)


def multiply_out(matrix: Tensor, step: tuple[float, float, float]) -> Tensor:
    """X -> a X + X (b R + c R^2), R = X^T X."""
    a, b, c = step
    gram = matrix.transpose(-2, -1) @ matrix
    return a * matrix + matrix @ (b * gram + c * (gram @ gram))


def _positive_part(size: Tensor, threshold: Tensor, steps: Steps) -> Tensor:
    """(H - t I)_+ of a symmetric H with eigenvalues in 0..1."""
    # Above the norm everything goes; a larger threshold would take the steps beyond 1.
    shifted = size - threshold.clamp(max=1.0) * identity(size)
    # Rounding leaves H eigenvalues a little below 0 and above 1; the sign has no need of scale.
    sign = shifted * MARGIN
    for a, b, c in steps.coefficients:
        square = sign @ sign
        sign = a * sign + sign @ (b * square + c * (square @ square))
    return 0.5 * (shifted + shifted @ sign)


def _symmetric(matrix: Tensor) -> Tensor:
    return 0.5 * (matrix + matrix.transpose(-2, -1))
