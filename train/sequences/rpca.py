"""Robust PCA of a clip: frames in a row are nearly one background; what moves over it is sparse."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ..solvers.borders import sides
from ..solvers.solver import Solver, relative, shrink
from .saliency import newest, to_wide_logits, weigh

RATIO = 0.5  # what is thresholded has at most about twice the norm of the data
# Part of the mean over time that the solver does not see. All of it would take a rank from the
# data, and singular values of 0 are what the Gram form of thresholding cannot stand in float32;
# without any, the still scene's singular value would leave no digits for the rest.
REMOVED_MEAN = 0.9
# No finer thresholding is asked for: in float32 the Gram matrix of so many pixels, where all frames
# are alike, has eigenvalues of -2e-6, which the steps for smaller ratios blow up.
SMALLEST_RATIO = 0.03
FIRST = 1.25  # penalty times the norm of the data in the first step


@dataclass(frozen=True, slots=True)
class ClipOptions:
    """What the solvers are tuned by.

    Attributes:
        weight: of the sparse term; 1 is theory's lam = 1 / sqrt(larger side), 3 is cleaner.
        growth: of the penalty, a step.
    """

    weight: float = 3.0
    growth: float = 1.5

    def __post_init__(self) -> None:
        if not self.weight > 0.0:
            raise ValueError(f"weight is {self.weight}, expected more than 0")
        if not 1.0 < self.growth <= 2.0:
            raise ValueError(
                f"growth is {self.growth}, expected above 1, or it never comes to rest, and at "
                "most 2, or it rests far from the answer"
            )


@dataclass(frozen=True, slots=True)
class ClipState:
    """A step of a solver; `data`, `low_rank`, `sparse`, `dual` share one shape.

    Attributes:
        clip: as given, (N, T, H, W).
        data: the clip less most of its mean over time, as the solver arranges it.
        norm: of the data.
        low_rank: background.
        sparse: targets.
        dual: Y / mu.
    """

    clip: Tensor
    data: Tensor
    norm: Tensor
    low_rank: Tensor
    sparse: Tensor
    dual: Tensor


class ClipSolver(Solver[ClipState]):
    """min ||B||_* + lam ||T||_1 with B + T = D, by the inexact augmented Lagrangian method.

    Lin et al., arXiv 1009.5055. Most of the mean over time is taken away first; it is background.

    A child says how a clip becomes D and which norm it is.

    Shape:
        (N, T, H, W) in 0..1, newest frame last -> background, target logits, (N, 1, H, W).
    """

    steps = 20
    limit = 100
    tolerance = 1e-7
    sigmas = 90.0

    def __init__(self, options: ClipOptions | None = None) -> None:
        super().__init__()
        self.options = options or ClipOptions()

    @abstractmethod
    def arrange(self, clip: Tensor) -> Tensor:
        """(N, T, H, W) as the solver's D."""

    @abstractmethod
    def restore(self, sparse: Tensor, clip: Tensor) -> Tensor:
        """The newest frame's part of what has the shape of D, (N, 1, H, W)."""

    @abstractmethod
    def bound(self, data: Tensor) -> Tensor:
        """The norm of D, or a bound above it, with the dimensions of D."""

    @abstractmethod
    def threshold(self, data: Tensor, threshold: Tensor, *, ratio: float) -> Tensor:
        """The proximal point of threshold * norm."""

    def lam(self, clip: Tensor) -> float:
        """Weight of the sparse term for the clip's size."""
        height, width = sides(clip)
        return self.options.weight / math.sqrt(height * width)

    def start(self, clip: Tensor) -> ClipState:
        """D, and the dual that the method starts with."""
        data = self.arrange(clip - REMOVED_MEAN * clip.mean(dim=1, keepdim=True))
        norm = self.bound(data)
        largest = data.abs().amax(dim=tuple(range(1, data.dim())), keepdim=True)
        dual = data * (norm / FIRST / norm.maximum(largest / self.lam(clip)))
        nothing = data * 0.0
        return ClipState(clip, data, norm, nothing, nothing, dual)

    def step(self, state: ClipState, number: int) -> ClipState:
        """Sparse part, low-rank part, dual."""
        penalty = FIRST * self.options.growth**number
        threshold = state.norm / penalty
        raised = state.data + state.dual
        sparse = shrink(raised - state.low_rank, self.lam(state.clip) * threshold)
        rest = raised - sparse
        ratio = max(RATIO / penalty, SMALLEST_RATIO)
        low_rank = self.threshold(rest, threshold, ratio=ratio)
        dual = (rest - low_rank) / self.options.growth
        return ClipState(state.clip, state.data, state.norm, low_rank, sparse, dual)

    def change(self, state: ClipState) -> Tensor:
        """What background and target leave of the data."""
        return relative(state.data - state.low_rank - state.sparse, state.data)

    def target(self, state: ClipState) -> Tensor:
        """The sparse part of the newest frame, weighed by the top-hat; bright targets only."""
        return weigh(self.restore(state.sparse, state.clip), newest(state.clip))

    def logits(self, target: Tensor) -> Tensor:
        """By the logarithm, as targets stand out of a sparse image by tens of deviations."""
        return to_wide_logits(target, sigmas=self.sigmas)


class TemporalRpca(ClipSolver):
    """The data is a matrix with a column a frame: registered frames span few dimensions."""

    steps = 12

    def arrange(self, clip: Tensor) -> Tensor:
        """(N, T, H W); which side is called rows changes nothing."""
        batch, frames, height, width = (int(side) for side in clip.shape)
        return clip.reshape(batch, frames, height * width)

    def restore(self, sparse: Tensor, clip: Tensor) -> Tensor:
        """The last row as a frame."""
        height, width = sides(clip)
        return sparse[:, -1:].reshape(int(clip.shape[0]), 1, height, width)

    def bound(self, data: Tensor) -> Tensor:
        """The largest singular value."""
        return self.algebra.bound_norm(data)

    def threshold(self, data: Tensor, threshold: Tensor, *, ratio: float) -> Tensor:
        """Singular values less the threshold."""
        return self.algebra.threshold_matrix(data, threshold, ratio=ratio)


class TensorRpca(ClipSolver):
    """The data is a tensor of rows, frames and columns, its norm the tensor nuclear norm (t-SVD).

    Tensor robust PCA (Lu et al., TPAMI 2020) of the spatio-temporal tensor (Liu et al., TGRS 2020),
    turned so that the Fourier transform runs along a row: where registration errs by a part of a
    column, every frequency of the row turns by a phase, and its slice keeps rank one.
    """

    def arrange(self, clip: Tensor) -> Tensor:
        """(N, H, T, W)."""
        return clip.transpose(1, 2)

    def restore(self, sparse: Tensor, clip: Tensor) -> Tensor:
        """The last frame."""
        return sparse[:, :, -1:].transpose(1, 2)

    def bound(self, data: Tensor) -> Tensor:
        """A bound of the largest singular value of all Fourier slices, by Parseval's theorem."""
        batch, height, frames, width = (int(side) for side in data.shape)
        rows = data.transpose(1, 2).reshape(batch, frames, height * width)
        norm = self.algebra.bound_norm(rows)
        return norm[..., None] * math.sqrt(width)

    def threshold(self, data: Tensor, threshold: Tensor, *, ratio: float) -> Tensor:
        """Singular values of every Fourier slice less the threshold."""
        return self.algebra.threshold_tensor(data, threshold, kept=0, ratio=ratio)
