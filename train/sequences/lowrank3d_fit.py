"""The unsupervised 3-D CNN low-rank tensor model as published: a network fitted to one sequence.

A stack of factor products goes through two 3-D convolutions and a linear map over time; what comes
out is the background B of a block of frames X, for which the nuclear norms of the three unfoldings
of B, the L1 norm of X - B and the smoothness of the factors are minimised together. What stands in
X - B is target. No labels, no other sequence, nothing kept for the next one.

The idea is that of HLRTF (Luo et al., CVPR 2022) and its published infrared descendant. Mended
against the latter's released script:

- the stack of products is permuted, so that its frame t is the video's; the script re-reads its
  memory in another order, and the low rank was of nothing in the video;
- the smoothness of rows, columns and time is part of the loss; the script tests for it where its
  counter has run out, and adds none;
- the iterate of the least loss is kept, not the last: Adam at the script's rate of 0.1 jumps;
- a rate of 0.03 in place of 0.1;
- the L1 term weighs c * (sum over k of 1 / sqrt(longer side of unfolding k)), which is theory's
  weight for c = 1, in place of 0.2, which wants B = X; c = 3 as for temporal-rpca;
- frames are registered onto the middle one of their block, so that the background's rank is low
  where the camera moves, and each background is moved back onto its own frame;
- pixels that registration did not see are left out of the L1 term alone. The script takes every
  dark pixel (value 0) for missing, and zeroes it in the nuclear norms, which raises their ranks;
- targets are thresholded frame by frame at a number of deviations of the difference weighed by the
  frame's top-hat, not at half of the largest difference of all frames, behind which one hot pixel
  hides every dimmer target;
- everything random follows from one seed; sizes and numbers of frames are those of the sequence;
- a smoothed nuclear norm (its Gram matrix plus (0.01 of the norm)^2) has a gradient everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..loop import TrainingError
from .spectral import longer_sides, nuclear_norms

SMOOTHING = 0.01  # of the nuclear norms, see `spectral`
LEAST_FRAMES = 8  # fewer hold no background that a target moves over
KERNEL = 3
SLOPE = 0.01  # of the leaky rectifier


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What decides a fit, beside the frames.

    Attributes:
        block: frames that are fitted together, at most.
        iterations: of Adam, all frames of the block in each.
        learning_rate: of Adam.
        sparsity: weight of the L1 term over theory's.
        smoothness: weight of the mean absolute differences of rows, columns and time, over the
            number of pixels.
        shrink: width of a frame over the rank of its factors.
        seed: of the initial factors and weights.
    """

    block: int = 80
    iterations: int = 300
    learning_rate: float = 0.03
    sparsity: float = 3.0
    smoothness: float = 1e-4
    shrink: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.block < 2 * LEAST_FRAMES:  # as blocks are evened out, one may have half of it
            raise ValueError(f"block is {self.block}, expected {2 * LEAST_FRAMES} frames or more")
        for name in ("iterations", "shrink"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")
        for name in ("learning_rate", "sparsity"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")
        if not 0.0 <= self.smoothness < math.inf:
            raise ValueError(f"smoothness is {self.smoothness}, expected 0 or more")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, expected 0 or more")


class LowRankBackground(nn.Module):
    """The background of a block of frames out of factors: a network without an input.

    Args:
        shape: (T, H, W).
        shrink: W over the rank of the factors.
    """

    def __init__(self, shape: tuple[int, int, int], *, shrink: int) -> None:
        super().__init__()
        frames, height, width = shape
        rank = max(1, width // shrink)
        bound = 1.0 / math.sqrt(frames)
        self.rows = nn.Parameter(torch.empty(frames, height, rank).uniform_(-bound, bound))
        self.columns = nn.Parameter(torch.empty(frames, rank, width).uniform_(-bound, bound))
        self.first = nn.Conv3d(1, 1, KERNEL, padding=1)
        self.norm = nn.BatchNorm3d(1)
        self.second = nn.Conv3d(1, 1, KERNEL, padding=1)
        self.mixing = nn.Linear(frames, frames, bias=False)

    def arrange(self, products: Tensor) -> Tensor:
        """(T, H, W), a factor product a frame, as what the convolutions read: (H, W, T)."""
        return products.permute(1, 2, 0)

    def forward(self) -> Tensor:
        """The background, (T, H, W)."""
        stack = self.arrange(self.rows @ self.columns)[None, None]
        hidden = nn.functional.leaky_relu(self.norm(self.first(stack)), SLOPE)
        background: Tensor = self.mixing(self.second(hidden))[0, 0].permute(2, 0, 1)
        return background

    def roughness(self) -> Tensor:
        """Mean absolute differences of the factors' rows and columns and of the map over time."""
        rows = (self.rows[:, 1:] - self.rows[:, :-1]).abs().mean()
        columns = (self.columns[:, :, 1:] - self.columns[:, :, :-1]).abs().mean()
        time = (self.mixing.weight[1:] - self.mixing.weight[:-1]).abs().mean()
        return rows + columns + time


@dataclass(frozen=True, slots=True)
class Losses:
    """The loss of an iterate and its terms, each over the number of pixels.

    Attributes:
        nuclear: sum of the nuclear norms.
        sparse: L1 term.
        smooth: smoothness term.
    """

    nuclear: float
    sparse: float
    smooth: float

    @property
    def whole(self) -> float:
        """What is minimised."""
        return self.nuclear + self.sparse + self.smooth


class Fit:
    """The fit of one block, an iteration at a time.

    Attributes:
        background: the best so far, (T, H, W); None before the first iteration.
        best: its loss.
    """

    def __init__(
        self,
        frames: Tensor,
        seen: Tensor,
        options: FitOptions,
        network: LowRankBackground | None = None,
    ) -> None:
        """Begin.

        Args:
            frames: (T, H, W) float32 in 0..1, registered.
            seen: (T, H, W) float32, 1 where a frame saw what stands there, else 0.
            options: what decides the outcome.
            network: fresh, of the frames' shape; None makes one from the seed.
        """
        count, height, width = (int(side) for side in frames.shape)
        self.frames, self.seen, self.options = frames, seen, options
        if network is None:
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(options.seed)
                network = LowRankBackground((count, height, width), shrink=options.shrink)
        self.network = network.to(frames.device).train()
        self._optimiser = torch.optim.Adam(network.parameters(), lr=options.learning_rate)
        theory = sum(1.0 / math.sqrt(side) for side in longer_sides(frames[None]))
        self.weight = options.sparsity * theory
        self.best = math.inf
        self.background: Tensor | None = None

    def __iter__(self) -> Iterator[Losses]:
        """Iterate to the end of the options' iterations.

        Raises:
            TrainingError: the loss is not finite.
        """
        for number in range(self.options.iterations):
            background = self.network()
            terms = self._terms(background)
            losses = Losses(*(float(term.detach()) for term in terms))
            if not math.isfinite(losses.whole):
                raise TrainingError(
                    f"the loss is {losses.whole} in iteration {number + 1}; lower "
                    "--set learning_rate"
                )
            if losses.whole < self.best:
                self.keep(losses.whole, background.detach())
            self._optimiser.zero_grad(set_to_none=True)
            sum(terms[1:], terms[0]).backward()  # type: ignore[no-untyped-call]
            self._optimiser.step()
            yield losses

    def keep(self, loss: float, background: Tensor) -> None:
        """Remember an iterate that is better than all before it."""
        self.best, self.background = loss, background

    def _terms(self, background: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count = background.numel()
        norms = nuclear_norms(background[None], smoothing=SMOOTHING)
        rest = ((background - self.frames) * self.seen).abs().sum()
        smooth = self.options.smoothness * self.network.roughness()
        return sum(norms[1:], norms[0])[0] / count, self.weight * rest / count, smooth
