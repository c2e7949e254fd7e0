"""PSTNN: partial sum of the tensor nuclear norm of a patch tensor (Remote Sensing 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from .algebra import PatchGrid
from .borders import sides
from .patch_frames import cut_tensor, merge_tensor
from .solver import Solver, relative, shrink
from .structure import stretch, structure_tensor

GREY = 255.0  # the published constants are for grey levels
SOFTENER = 0.01  # in the denominators of the weights, as published
# Of the first threshold and the largest singular value that is not kept, as low as on real frames.
RATIO = 0.07


@dataclass(frozen=True, slots=True)
class PstnnOptions:
    """What the solver is tuned by.

    Attributes:
        grid: of the patches.
        strength: of the sparse term, over the root of the tensor's size.
        kept: singular values of each frequency that cost nothing. Published: as many as exceed a
            tenth of the largest in the patch image, which depends on the frame; a graph has one.
        penalty: mu of the first step.
        growth: of the penalty, a step; published 1.05, for hundreds of steps.
    """

    grid: PatchGrid = PatchGrid(40, 40)
    strength: float = 0.7
    kept: int = 1
    penalty: float = 2e-3
    growth: float = 1.3

    def __post_init__(self) -> None:
        if not 1.0 < self.growth <= 2.0:
            raise ValueError(
                f"growth is {self.growth}, expected above 1, or it never comes to rest, and at "
                "most 2, or it rests far from the answer"
            )
        if not 0 <= self.kept < self.grid.size:
            raise ValueError(f"kept is {self.kept}, expected 0 to {self.grid.size - 1}")


@dataclass(frozen=True, slots=True)
class PstnnState:
    """A step of the solver; tensors are (N, rows, columns, patches).

    Attributes:
        frame: as given.
        data: the patch tensor D, in grey levels.
        prior: where targets may be, 0..1.
        low_rank: B.
        sparse: T.
        weights: W, 1 in the first step.
        dual: Y / mu.
    """

    frame: Tensor
    data: Tensor
    prior: Tensor
    low_rank: Tensor
    sparse: Tensor
    weights: Tensor
    dual: Tensor


class Pstnn(Solver[PstnnState]):
    """min ||B||_PSTNN + lam ||W * T||_1 with B + T = D, weights W and a prior against edges.

    Deviations from the paper: a fixed number of free singular values and a faster growth of the
    penalty (see `PstnnOptions`); a prior of 0 becomes 0.01, a finite weight.

    Shape:
        (N, 1, H, W) in 0..1, sides of at least a patch -> background, target logits, both of it.
    """

    steps = 15
    limit = 200
    tolerance = 1e-5
    sigmas = 5.0

    def __init__(self, options: PstnnOptions | None = None) -> None:
        super().__init__()
        self.options = options or PstnnOptions()

    def start(self, frame: Tensor) -> PstnnState:
        """D and the prior; nothing is known of background and target."""
        larger, smaller = structure_tensor(frame, smooth=1.0, window=1.5)
        corner = larger * smaller / (larger + smaller).clamp(min=1e-20)
        data = self._cut(frame * GREY)
        prior = self._cut(stretch(corner * larger)) + SOFTENER
        nothing = data * 0.0
        return PstnnState(frame, data, prior, nothing, nothing, nothing + 1.0, nothing)

    def step(self, state: PstnnState, number: int) -> PstnnState:
        """Background, target, dual."""
        options = self.options
        mu = options.penalty * options.growth**number
        threshold = state.data[:, :1, :1, :1] * 0.0 + 1.0 / mu
        low_rank = self.algebra.threshold_tensor(
            state.data - state.sparse + state.dual,
            threshold,
            kept=options.kept,
            ratio=RATIO * options.growth**-number,
        )
        rest = state.data - low_rank + state.dual
        sparse = F.relu(shrink(rest, state.weights * (self._lam(state) / mu)))
        dual = (rest - sparse) / options.growth
        weights = max(options.kept, 1) / ((sparse + SOFTENER) * state.prior)
        return PstnnState(state.frame, state.data, state.prior, low_rank, sparse, weights, dual)

    def _lam(self, state: PstnnState) -> float:
        return self.options.strength / math.sqrt(self.options.grid.size * state.data.shape[3])

    def change(self, state: PstnnState) -> Tensor:
        """What background and target leave of the data."""
        return relative(state.data - state.low_rank - state.sparse, state.data)

    def target(self, state: PstnnState) -> Tensor:
        """The sparse part as an image, 0..1."""
        shape, grid = sides(state.frame), self.options.grid
        return merge_tensor(self.algebra, state.sparse, shape, grid) / GREY

    def _cut(self, image: Tensor) -> Tensor:
        return cut_tensor(self.algebra, image, self.options.grid)
