"""A cheap relative of IPI: the patch image less its projection on few directions, thresholded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .algebra import PatchGrid
from .borders import extend, sides
from .solver import Solver, relative, shrink


@dataclass(frozen=True, slots=True)
class TruncatedOptions:
    """What the solver is tuned by.

    Attributes:
        grid: of the patches.
        rank: of the background.
        first: soft threshold of the first step, in mean absolute residuals.
        last: the same from half of the steps on.
    """

    grid: PatchGrid = PatchGrid(50, 10)
    rank: int = 32
    first: float = 10.0
    last: float = 5.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}, expected at least 1")
        if not 0.0 < self.last <= self.first:
            raise ValueError(f"thresholds go from {self.first} to {self.last}, expected downwards")


@dataclass(frozen=True, slots=True)
class TruncatedState:
    """A step of the solver; patch images are (N, pixels of a patch, patches).

    Attributes:
        frame: as given.
        data: the patch image D of the frame less its mean.
        basis: of the background's rows, (N, patches, rank).
        sparse: T.
        moved: T less that of the step before.
    """

    frame: Tensor
    data: Tensor
    basis: Tensor
    sparse: Tensor
    moved: Tensor


class IpiTruncated(Solver[TruncatedState]):
    """B is the best of a rank, T what soft thresholding leaves of D - B (Zhou and Tao, ICML 2011).

    Not in the zoo: on real frames its graph and its exact form find other targets, and neither is
    as clean as IPI's; `tests/solvers_study.py` has the table.

    Shape:
        (N, 1, H, W) in 0..1, sides of at least a patch -> background, target logits, both of it.
    """

    steps = 10
    limit = 200
    tolerance = 1e-3
    sigmas = 5.0

    def __init__(self, options: TruncatedOptions | None = None) -> None:
        super().__init__()
        self.options = options or TruncatedOptions()

    def start(self, frame: Tensor) -> TruncatedState:
        """D, and smooth waves over the patches for a basis."""
        grid = self.options.grid
        height, width = sides(frame)
        grid.check(height, width)
        centred = frame - frame.mean(dim=(2, 3), keepdim=True)
        padded = extend(centred, after=(grid.padded(height) - height, grid.padded(width) - width))
        data = self.algebra.cut_patches(padded, grid)
        patches = int(data.shape[2])
        places = np.outer(np.arange(patches) + 0.5, np.arange(min(self.options.rank, patches)))
        waves = torch.from_numpy(np.cos(places * (math.pi / patches))).to(data.dtype)
        nothing = data * 0.0
        return TruncatedState(frame, data, waves[None], nothing, nothing)

    def step(self, state: TruncatedState, number: int) -> TruncatedState:
        """Background by projection, target by a threshold that falls."""
        options = self.options
        low_rank, basis = self.algebra.project(state.data - state.sparse, state.basis)
        rest = state.data - low_rank
        share = min(1.0, number / max(1, self.steps // 2))
        factor = options.first + (options.last - options.first) * share
        sparse = shrink(rest, factor * rest.abs().mean(dim=(1, 2), keepdim=True))
        return TruncatedState(state.frame, state.data, basis, sparse, sparse - state.sparse)

    def change(self, state: TruncatedState) -> Tensor:
        """How far the target moved."""
        return relative(state.moved, state.data)

    def target(self, state: TruncatedState) -> Tensor:
        """The sparse part as an image, bright targets only."""
        grid = self.options.grid
        height, width = sides(state.frame)
        padded = (grid.padded(height), grid.padded(width))
        merged = self.algebra.merge_patches(state.sparse, padded, grid)
        return F.relu(merged[:, :, :height, :width])
