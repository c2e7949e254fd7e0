"""The 3-D CNN low-rank tensor model in a form that can fly: unrolled descent with a learned prox.

What `lowrank3d_fit` finds for one sequence by hundreds of steps of Adam, K steps find for a clip:

    B <- B - eta_k (sum over m of w_km fold_m(polar(unfold_m(B - M))) + lam_k clip((B - X) / eps_k))
    B <- B + N_k(X - B, B - M)

The polar factors are the gradients of the nuclear norms of the three unfoldings, the clipped
difference that of a smoothed L1 norm, N_k two convolutions that stand for the network of the
published model. Steps, weights and N_k are learned over many clips by the loss of the fit itself,
without masks, and then frozen. The polar factors come of (G + s^2 I)^(-1/2) of Gram matrices, which
`export.unroll` gives fixed iterations.

Other than in the fit:

- M is most of the mean over time, as in temporal-rpca: what stands still is background, also where
  it is small and bright, which the unfoldings by rows and columns alone would call sparse;
- the nuclear norms count by the root of the longer side of their unfoldings, so that steps that
  were learned on small clips suit large ones;
- convolutions are 2-D with the frames as channels: a 3x3x3 convolution over T frames is one such,
  with a band of its weights filled. INT8 kernels of every TensorRT take them; the map over time is
  part of them; no normalisation is left to freeze.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..solvers.algebra import EXACT, Algebra
from .rpca import REMOVED_MEAN, ClipSolver
from .saliency import newest, to_wide_logits, weigh
from .spectral import find_polars, longer_sides, nuclear_norms

FRAMES = 8  # T, which the convolutions are as wide as
STEPS = 10  # K
HIDDEN = 32  # channels between the convolutions: four features of each frame
SMOOTHING = 0.01  # of the nuclear norms, over the Frobenius norm
SPARSITY = 3.0  # weight of the L1 term over theory's, as of temporal-rpca
RATE, WIDTH = 0.003, 0.01  # first eta * lam and eps, of full scale; later ones are smaller
FADING = 0.8  # of both, a step
START = 3.0  # logit of the clip's own part in B_0; the rest is its mean over time
GAIN = 10.0  # in front of the convolutions: differences of frames are small numbers
SLOPE = 0.1  # of the leaky rectifier


class ProximalNet(nn.Module):
    """What a step adds after the descent: two convolutions over all frames; nothing at first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2 * FRAMES, HIDDEN, 3, padding=1)
        self.second = nn.Conv2d(HIDDEN, FRAMES, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        if self.second.bias is not None:
            nn.init.zeros_(self.second.bias)

    def forward(self, rest: Tensor, changes: Tensor) -> Tensor:
        """X - B and B - M, (N, T, H, W) each, to what B gains."""
        hidden = self.first(torch.cat([rest, changes], dim=1) * GAIN)
        gained: Tensor = self.second(F.leaky_relu(hidden, SLOPE)) * (1.0 / GAIN)
        return gained


class DescentStep(nn.Module):
    """One step: descent of nuclear norms and L1 norm, then the learned prox.

    Everything learned is positive, so its logarithm is kept.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        lam = 3.0 * SPARSITY
        fading = FADING**number
        self.rate = nn.Parameter(torch.tensor(RATE / lam * fading).log())
        self.nuclear = nn.Parameter(torch.zeros(3))
        self.sparse = nn.Parameter(torch.tensor(lam).log())
        self.width = nn.Parameter(torch.tensor(WIDTH * fading).log())
        self.prox = ProximalNet()

    def forward(self, background: Tensor, clip: Tensor, mean: Tensor, algebra: Algebra) -> Tensor:
        """B after the step.

        Args:
            background: B, (N, T, H, W).
            clip: X, likewise.
            mean: M, (N, 1, H, W).
            algebra: of the inverse roots.
        """
        polars = find_polars(
            background - mean,
            smoothing=SMOOTHING,
            inverse_root=lambda gram: algebra.inverse_root(gram, lowest=SMOOTHING),
        )
        rates = self.rate.exp() * self.nuclear.exp()
        pull = self.rate.exp() * self.sparse.exp()
        rest = ((clip - background) / self.width.exp()).clamp(-1.0, 1.0)
        descended = background + pull * rest
        for place, polar in enumerate(polars):
            descended = descended - rates[place] * polar
        after: Tensor = descended + self.prox(clip - descended, descended - mean)
        return after


class LowRank3d(nn.Module):
    """Background of a registered clip by learned descent; what it leaves of the newest frame.

    Shape:
        (N, 8, H, W) in 0..1, newest frame last -> background, target logits, (N, 1, H, W).

    Attributes:
        algebra: what inverse roots are computed with; exact until `export.unroll` changes it.
    """

    sigmas = ClipSolver.sigmas

    def __init__(self) -> None:
        super().__init__()
        self.algebra: Algebra = EXACT
        self.share = nn.Parameter(torch.tensor(START))
        self.steps = nn.ModuleList(DescentStep(number) for number in range(STEPS))

    def find_background(self, clip: Tensor) -> Tensor:
        """B of all frames, (N, T, H, W).

        Raises:
            ValueError: the clip has another number of frames.
        """
        if clip.shape[1] != FRAMES:
            raise ValueError(
                f"the clip has {clip.shape[1]} frames, lowrank3d takes {FRAMES}; its convolutions "
                "are as wide"
            )
        mean = clip.mean(dim=1, keepdim=True)
        background = mean + self.share.sigmoid() * (clip - mean)
        for step in self.steps:
            background = step(background, clip, REMOVED_MEAN * mean, self.algebra)
        return background

    def forward(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """The newest frame's background, and logits of what stands above it."""
        background = newest(self.find_background(clip))
        frame = newest(clip)
        target = weigh(frame - background, frame)
        return background, to_wide_logits(target, sigmas=self.sigmas)


@dataclass(frozen=True, slots=True)
class Terms:
    """The unsupervised loss of a background, by its terms, means over pixels and clips.

    Attributes:
        nuclear: weighted sum of the nuclear norms.
        sparse: weighted L1 norm of what the background leaves.
    """

    nuclear: Tensor
    sparse: Tensor

    @property
    def whole(self) -> Tensor:
        """What is minimised."""
        return self.nuclear + self.sparse


def measure_loss(clip: Tensor, background: Tensor) -> Terms:
    """What is minimised over B, for a clip X: nuclear norms of B - M, and the L1 norm of X - B.

    Args:
        clip: (N, T, H, W).
        background: likewise.
    """
    still = REMOVED_MEAN * clip.mean(dim=1, keepdim=True)
    count = clip[0].numel()
    norms = nuclear_norms(background - still, smoothing=SMOOTHING)
    scaled = [norm * side**0.5 for norm, side in zip(norms, longer_sides(clip), strict=True)]
    nuclear = torch.stack(scaled).sum(dim=0).mean() / count
    return Terms(nuclear, len(norms) * SPARSITY * (clip - background).abs().mean())
