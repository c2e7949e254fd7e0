"""What every solver is: a model without weights that splits a frame step by step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...runtime.errors import IrstdError
from .algebra import EXACT, Algebra

State = TypeVar("State")

FLAT = 1e-6  # deviation of a target image under which it shows nothing but rounding


class ConvergenceError(IrstdError):
    """A solver did not come to rest within its limit of steps."""


@dataclass(frozen=True, slots=True)
class Solution:
    """What an exact solver came to.

    Attributes:
        target: (N, 1, H, W), 0 where there is none.
        steps: taken.
    """

    target: Tensor
    steps: int


class Solver(nn.Module, Generic[State], ABC):
    """Splits frames (N, 1, H, W) in 0..1 into background and target; it has no parameters.

    A child says how to start, what a step is, how far a state is from rest, and which target image
    it holds. As it stands, a solver is exact and steps until it rests; `export.unroll` gives it
    another algebra and a fixed number of steps.

    Attributes:
        steps: of its unrolled form.
        limit: steps after which the exact form gives up.
        tolerance: of `change`, below which it rests.
        sigmas: a pixel with more than the target image's mean + sigmas * standard deviation belongs
            to a target; there the confidence is 0.5.
        algebra: what it computes with.
    """

    steps: int
    limit: int
    tolerance: float
    sigmas: float

    def __init__(self) -> None:
        super().__init__()
        self.algebra: Algebra = EXACT

    @abstractmethod
    def start(self, frame: Tensor) -> State:
        """The state before the first step."""

    @abstractmethod
    def step(self, state: State, number: int) -> State:
        """The state after one more step.

        Args:
            state: before it.
            number: of the step, 0 for the first; a solver may branch on it, and on no values.
        """

    @abstractmethod
    def change(self, state: State) -> Tensor:
        """How far the state is from rest, (N,), relative to the frame."""

    @abstractmethod
    def target(self, state: State) -> Tensor:
        """The target image of a state, (N, 1, H, W), never negative."""

    def solve(self, frame: Tensor) -> Solution:
        """Step until the state rests.

        Raises:
            ConvergenceError: it does not, within the limit.
            ValueError: the frame is too small.
        """
        state = self.start(frame)
        for number in range(self.limit):
            state = self.step(state, number)
            change = float(self.change(state).max())
            if change <= self.tolerance:
                return Solution(self.target(state), number + 1)
        raise ConvergenceError(
            f"{type(self).__name__} has not come to rest after {self.limit} steps: its change is "
            f"{change:.1e}, wanted {self.tolerance:.0e}; choose other options"
        )

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """The background, and logits of the targets; solved in float64."""
        target = self.solve(frame.double()).target.to(frame.dtype)
        return frame - target, self.logits(target)

    def logits(self, target: Tensor) -> Tensor:
        """What the confidence is made of: above 0 where a pixel belongs to a target."""
        return to_logits(target, sigmas=self.sigmas)


def to_logits(target: Tensor, *, sigmas: float) -> Tensor:
    """Map a target image to logits, monotonously: 0 at the mean + `sigmas` standard deviations.

    The confidence is then 1 / (1 + exp(sigmas - z)), z = (target - mean) / deviation: a threshold c
    of confidence stands for sigmas + ln(c / (1 - c)) standard deviations.

    Args:
        target: (N, 1, H, W).
        sigmas: standard deviations.
    """
    centred = target - _mean(target)
    deviation = _mean(centred * centred).sqrt()
    return centred / deviation.clamp(min=FLAT) - sigmas


def _mean(images: Tensor) -> Tensor:
    """Along rows, then over them: one sum over a frame loses digits in ONNX Runtime."""
    return images.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)


def shrink(x: Tensor, threshold: Tensor | float) -> Tensor:
    """Soft threshold: the proximal point of threshold * |x|_1, for a threshold of 0 or more."""
    return F.relu(x - threshold) - F.relu(-x - threshold)


def relative(change: Tensor, to: Tensor) -> Tensor:
    """Frobenius norm of a change over that of something, (N,); of nothing, 0 over 0, it is 0."""
    size = torch.linalg.vector_norm(to.flatten(1), dim=1)
    moved: Tensor = torch.linalg.vector_norm(change.flatten(1), dim=1)
    share: Tensor = moved / size.clamp(min=torch.finfo(size.dtype).tiny)
    return share
