"""RIPT: reweighted infrared patch tensor (Dai and Wu, JSTARS 2017, arXiv 1606.01510)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from .algebra import Algebra, PatchGrid
from .borders import sides
from .patch_frames import cut_tensor, merge_tensor
from .solver import Solver, relative, shrink
from .structure import stretch, structure_tensor

GREY = 255.0  # the published constants are for grey levels
SOFTENER = 0.01  # in the denominator of the weights, as published
MODES = 3
# Of the first threshold and the norm of an unfolding on real frames. Later thresholds are smaller,
# but a finer thresholding leaves the target image as it is.
RATIO = 0.01


@dataclass(frozen=True, slots=True)
class RiptOptions:
    """What the solver is tuned by.

    Attributes:
        grid: of the patches.
        strength: of the sparse term, over the root of a patch's side.
        first: threshold of the first step over the standard deviation of the data.
        shrinking: of the threshold, a step.
    """

    grid: PatchGrid = PatchGrid(30, 10)
    strength: float = 1.0
    first: float = 5.0
    shrinking: float = 1.5

    def __post_init__(self) -> None:
        if not 1.0 < self.shrinking <= 2.0:
            raise ValueError(
                f"shrinking is {self.shrinking}, expected above 1, or it never comes to rest, and "
                "at most 2, or it rests far from the answer"
            )


@dataclass(frozen=True, slots=True)
class RiptState:
    """A step of the solver; tensors are (N, rows, columns, patches).

    Attributes:
        frame: as given.
        data: the patch tensor F, in grey levels.
        deviation: of the data, (N, 1, 1, 1).
        prior: what an edge weighs, 1 to e.
        low_rank: B_i, one a mode.
        sparse: T.
        weights: W, that of the edges alone in the first step.
        duals: Y_i * mu, one a mode.
    """

    frame: Tensor
    data: Tensor
    deviation: Tensor
    prior: Tensor
    low_rank: tuple[Tensor, Tensor, Tensor]
    sparse: Tensor
    weights: Tensor
    duals: tuple[Tensor, Tensor, Tensor]


class Ript(Solver[RiptState]):
    """min sum ||B_(i)||_* + lam ||W * T||_1 with B + T = F, over the three unfoldings of B.

    Deviations from the paper: lam = strength / sqrt(side of a patch) as the paper has it, where
    the code in circulation takes one over the number of patches; rest is told by what is left of
    the data, not by the number of target pixels; overlaps are merged by their mean.

    Shape:
        (N, 1, H, W) in 0..1, sides of at least a patch -> background, target logits, both of it.
    """

    steps = 12
    limit = 100
    tolerance = 1e-7
    sigmas = 5.0

    def __init__(self, options: RiptOptions | None = None) -> None:
        super().__init__()
        self.options = options or RiptOptions()

    def start(self, frame: Tensor) -> RiptState:
        """F less its mean, and what the edges weigh."""
        larger, smaller = structure_tensor(frame, smooth=1.0, window=1.5)
        prior = self._cut(stretch(larger - smaller).exp())
        data = self._cut((frame - frame.mean(dim=(2, 3), keepdim=True)) * GREY)
        deviation = (data * data).mean(dim=(1, 2, 3), keepdim=True).sqrt()
        nothing = data * 0.0
        three = (nothing, nothing, nothing)
        return RiptState(
            frame, data, deviation.clamp(min=1e-6), prior, three, nothing, prior, three
        )

    def step(self, state: RiptState, number: int) -> RiptState:
        """Background of every mode, target, duals."""
        options = self.options
        mu = state.deviation * (options.first * options.shrinking**-number)
        whole = state.data - state.sparse
        low_rank = [
            threshold_mode(self.algebra, whole + dual, mu, mode=mode)
            for mode, dual in enumerate(state.duals)
        ]
        rests = [
            state.data + dual - background
            for background, dual in zip(low_rank, state.duals, strict=True)
        ]
        lam = options.strength / options.grid.size**0.5
        mean = (rests[0] + rests[1] + rests[2]) / MODES
        sparse = shrink(F.relu(mean), state.weights * mu * (lam / MODES))
        duals = [(rest - sparse) / options.shrinking for rest in rests]
        return RiptState(
            state.frame,
            state.data,
            state.deviation,
            state.prior,
            (low_rank[0], low_rank[1], low_rank[2]),
            sparse,
            state.prior / (sparse + SOFTENER),
            (duals[0], duals[1], duals[2]),
        )

    def change(self, state: RiptState) -> Tensor:
        """What background and target leave of the data, mean of the modes."""
        mean = (state.low_rank[0] + state.low_rank[1] + state.low_rank[2]) / MODES
        return relative(state.data - mean - state.sparse, state.data)

    def target(self, state: RiptState) -> Tensor:
        """The sparse part as an image, 0..1."""
        shape, grid = sides(state.frame), self.options.grid
        return merge_tensor(self.algebra, state.sparse, shape, grid) / GREY

    def _cut(self, image: Tensor) -> Tensor:
        return cut_tensor(self.algebra, image, self.options.grid)


def threshold_mode(algebra: Algebra, tensor: Tensor, threshold: Tensor, *, mode: int) -> Tensor:
    """Threshold the singular values of an unfolding of (N, m, n, p): mode 0, 1 or 2."""
    turned = tensor.movedim(mode + 1, 1)
    shape = [int(side) for side in turned.shape]
    unfolded = turned.reshape(shape[0], shape[1], -1)
    thresholded = algebra.threshold_matrix(unfolded, threshold.reshape(-1, 1, 1), ratio=RATIO)
    return thresholded.reshape(shape).movedim(1, mode + 1)
