"""IPI: robust PCA of the infrared patch image (TIP 2013, doi 10.1109/TIP.2013.2281420)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from .algebra import PatchGrid
from .borders import sides
from .patch_frames import cut_frame, merge_frame
from .solver import Solver, relative, shrink

RATIO = 1.0  # what is thresholded has about the norm of D, in the first step up to twice


@dataclass(frozen=True, slots=True)
class IpiOptions:
    """What the solver is tuned by.

    Attributes:
        grid: of the patches.
        lam: weight of the sparse term against the nuclear norm. The published code takes one over
            the root of the image's longer side, 0.062 at 256, where theory has one over the root
            of the patch image's; the former is three times cleaner.
        growth: of the penalty, a step.
    """

    grid: PatchGrid = PatchGrid(50, 10)
    lam: float = 0.062
    growth: float = 1.5

    def __post_init__(self) -> None:
        if not self.lam > 0.0:
            raise ValueError(f"lam is {self.lam}, expected more than 0")
        if not 1.0 < self.growth <= 2.0:
            raise ValueError(
                f"growth is {self.growth}, expected above 1, or it never comes to rest, and at "
                "most 2, or it rests far from the answer"
            )


# Two fifths as many patches. The largest weight that on frames of the training lists of SIRST and
# NUDT-SIRST misses no target.
FAST = IpiOptions(PatchGrid(48, 16), lam=0.07)


@dataclass(frozen=True, slots=True)
class IpiState:
    """A step of the solver; patch images are (N, pixels of a patch, patches).

    Attributes:
        frame: as given.
        data: the patch image D of the frame less its mean.
        norm: of D, (N, 1, 1).
        low_rank: B.
        sparse: T.
        dual: Y / mu.
    """

    frame: Tensor
    data: Tensor
    norm: Tensor
    low_rank: Tensor
    sparse: Tensor
    dual: Tensor


class Ipi(Solver[IpiState]):
    """min ||B||_* + lam ||T||_1 with B + T = D, by the inexact augmented Lagrangian method.

    Deviations from the paper: the Lagrangian method (Lin et al., arXiv 1009.5055) in place of the
    accelerated proximal gradient, as it needs a third of the steps; the mean of the frame is
    taken away first, for digits; where patches overlap, their mean and not their median is taken.

    Shape:
        (N, 1, H, W) in 0..1, sides of at least a patch -> background, target logits, both of it.
    """

    steps = 20
    limit = 100
    tolerance = 1e-7
    sigmas = 5.0
    first = 1.25  # mu times the norm of D in the first step

    def __init__(self, options: IpiOptions | None = None) -> None:
        super().__init__()
        self.options = options or IpiOptions()

    def start(self, frame: Tensor) -> IpiState:
        """D, and the dual that the method starts with."""
        grid, lam = self.options.grid, self.options.lam
        centred = frame - frame.mean(dim=(2, 3), keepdim=True)
        data = cut_frame(self.algebra, centred, grid)
        norm = self.algebra.bound_norm(data)
        largest = data.abs().amax(dim=(1, 2), keepdim=True)
        dual = data * (norm / self.first / norm.maximum(largest / lam))
        nothing = data * 0.0
        return IpiState(frame, data, norm, nothing, nothing, dual)

    def step(self, state: IpiState, number: int) -> IpiState:
        """Sparse part, low-rank part, dual."""
        penalty = self.first * self.options.growth**number
        threshold = state.norm / penalty
        sparse = shrink(state.data - state.low_rank + state.dual, self.options.lam * threshold)
        low_rank = self.algebra.threshold_matrix(
            state.data - sparse + state.dual, threshold, ratio=RATIO / penalty
        )
        rest = state.data - low_rank - sparse
        dual = (state.dual + rest) / self.options.growth
        return IpiState(state.frame, state.data, state.norm, low_rank, sparse, dual)

    def change(self, state: IpiState) -> Tensor:
        """What background and target leave of the data."""
        return relative(state.data - state.low_rank - state.sparse, state.data)

    def target(self, state: IpiState) -> Tensor:
        """The sparse part as an image, bright targets only."""
        grid = self.options.grid
        return F.relu(merge_frame(self.algebra, state.sparse, sides(state.frame), grid))


class FastIpi(Ipi):
    """IPI by `FAST`: the same solver on fewer patches, a fourteenth of the arithmetic."""

    steps = 17

    def __init__(self) -> None:
        super().__init__(FAST)
