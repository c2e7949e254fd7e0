"""Unrolling: an exact solver becomes a fixed number of matrix products, and the cost is told."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor, nn

from ..runtime.bundle import SolverRecord
from ..train.sequences.lowrank3d import LowRank3d
from ..train.solvers.solver import Solver, State, to_logits
from .solvers.fixed import FixedAlgebra
from .solvers.thresholding import Form

MOST_ITERATIONS = 200  # beyond which no engine is built in any sane time
CONVERGED_ERROR, CONVERGED_IOU = 0.05, 0.97


class Unrolled(nn.Module, Generic[State]):
    """The fixed-iteration twin of a solver: same steps, other algebra, no test of convergence.

    Attributes:
        solver: with the twin's algebra.
        iterations: N.
    """

    def __init__(self, solver: Solver[State], *, iterations: int, form: Form = "quick") -> None:
        super().__init__()
        if not 1 <= iterations <= MOST_ITERATIONS:
            raise ValueError(
                f"iterations is {iterations}, expected 1 to {MOST_ITERATIONS}; "
                f"{type(solver).__name__} takes {solver.steps} by default"
            )
        self.solver = copy.deepcopy(solver)
        self.algebra = FixedAlgebra(form)
        self.solver.algebra = self.algebra
        self.iterations = iterations

    def targets(self, frame: Tensor) -> Iterator[Tensor]:
        """The target image (N, 1, H, W) after each iteration."""
        state = self.solver.start(frame)
        for number in range(self.iterations):
            state = self.solver.step(state, number)
            yield self.solver.target(state)

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """The background, and logits of the targets, as the exact solver gives them."""
        state = self.solver.start(frame)
        for number in range(self.iterations):
            state = self.solver.step(state, number)
        target = self.solver.target(state)
        return frame - target, self.solver.logits(target)


def unroll(network: nn.Module, *, iterations: int | None, form: Form = "quick") -> nn.Module:
    """Take the exact model and give its fixed-iteration twin.

    Args:
        network: of the zoo; one that is no solver, and needs no unrolling, comes back as it is.
            One of learned steps keeps them, and gets the other algebra.
        iterations: N; None takes the solver's own.
        form: of singular value thresholding; "half" multiplies in FP16.

    Raises:
        ValueError: iterations are asked of what has none, or are out of range.
    """
    if isinstance(network, Solver):
        chosen = network.steps if iterations is None else iterations
        return Unrolled(network, iterations=chosen, form=form)
    if iterations is not None:
        said = "has learned its steps" if isinstance(network, LowRank3d) else "does not iterate"
        raise ValueError(f"{type(network).__name__} {said}; leave --iterations out")
    if isinstance(network, LowRank3d):
        network = copy.deepcopy(network)
        network.algebra = FixedAlgebra(form)
    return network


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a twin is from the exact solver after some iterations.

    Attributes:
        iterations: N.
        error: norm of the difference of the target images over the exact one's, mean over frames.
        iou: of their segmentations, all frames together; 1 where both are empty.
    """

    iterations: int
    error: float
    iou: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What unrolling costs.

    Attributes:
        exact_steps: that the exact solver took, the most of all frames.
        frames: measured on.
        curve: distance after each number of iterations, up to the twin's.
        own_iterations: that the model takes where none are asked for; None where steps are learned.
    """

    exact_steps: int
    frames: int
    curve: tuple[Distance, ...]
    own_iterations: int | None

    @property
    def final(self) -> Distance:
        """At the twin's number of iterations."""
        return self.curve[-1]

    @property
    def has_converged(self) -> bool:
        """Whether the twin says what the exact solver says."""
        return self.final.error <= CONVERGED_ERROR and self.final.iou >= CONVERGED_IOU


def measure_cost(solver: Solver[State], twin: Unrolled[State], frames: Sequence[Tensor]) -> Cost:
    """Compare the target images of a solver, run to rest in float64, and of its twin.

    Args:
        solver: exact.
        twin: `unroll(solver)`.
        frames: (1, 1, H, W) float32 each, prepared.

    Raises:
        ConvergenceError: the exact solver does not come to rest.
        ValueError: there are no frames.
    """
    if not frames:
        raise ValueError("the cost of unrolling needs at least one frame")
    measured = [_compare(solver, twin, frame) for frame in frames]
    table = torch.tensor([one for _, one in measured]).double()  # frame, iteration, figure
    error = table[:, :, 0].mean(dim=0).tolist()
    both, either = table[:, :, 1].sum(dim=0), table[:, :, 2].sum(dim=0)
    iou = torch.where(either > 0, both / either.clamp(min=1.0), 1.0).tolist()
    curve = [Distance(number + 1, error[number], iou[number]) for number in range(twin.iterations)]
    exact_steps = max(steps for steps, _ in measured)
    return Cost(exact_steps, len(frames), tuple(curve), solver.steps)


@torch.inference_mode()
def measure_swap(network: LowRank3d, twin: LowRank3d, clips: Sequence[Tensor]) -> Cost:
    """Compare what learned steps give with the exact algebra, in float64, and with the twin's.

    Args:
        network: exact.
        twin: `unroll(network)`.
        clips: (1, T, H, W) float32 each, prepared.
    """
    exact = copy.deepcopy(network).double()
    error, both, either = 0.0, 0.0, 0.0
    for clip in clips:
        rests, masks = [], []
        for kind, seen in ((exact, clip.double()), (twin, clip)):
            background, logits = kind(seen)
            rests.append((seen[:, -1:] - background).double())
            masks.append(logits > 0.0)
        size = float(rests[0].norm())
        moved = float((rests[1] - rests[0]).norm())
        error += (moved / size if size else float(moved > 0.0)) / len(clips)
        both += float((masks[0] & masks[1]).sum())
        either += float((masks[0] | masks[1]).sum())
    steps = len(twin.steps)
    distance = Distance(steps, error, both / either if either else 1.0)
    return Cost(steps, len(clips), (distance,), None)


@torch.inference_mode()
def _compare(
    solver: Solver[State], twin: Unrolled[State], frame: Tensor
) -> tuple[int, list[tuple[float, float, float]]]:
    """Steps of the exact solver, and (error, intersection, union) after each of the twin's."""
    solution = solver.solve(frame.double())
    exact = solution.target
    mask = to_logits(exact, sigmas=solver.sigmas) > 0.0
    rows = []
    for target in twin.targets(frame):
        seen = to_logits(target, sigmas=solver.sigmas) > 0.0
        size = float(exact.norm())
        moved = float((target - exact).norm())
        error = moved / size if size else float(moved > 0.0)
        rows.append((error, float((seen & mask).sum()), float((seen | mask).sum())))
    return solution.steps, rows


@dataclass(frozen=True, slots=True)
class Unrolling:
    """A network as it is traced.

    Attributes:
        network: of a solver its twin.
        cost: of the unrolling; None for what is no solver.
        record: of it, for the manifest.
        half: the twin whose thresholding multiplies in FP16; None for what is no solver.
    """

    network: nn.Module
    cost: Cost | None
    record: SolverRecord | None
    half: nn.Module | None


def unroll_measured(
    network: nn.Module,
    frames: Sequence[Tensor],
    *,
    iterations: int | None,
    say: Callable[[str], None],
) -> Unrolling:
    """Unroll a network of the zoo if it is a solver, and say what that costs.

    Args:
        network: of the zoo.
        frames: (1, 1, H, W) float32 each, prepared.
        iterations: N; None takes the solver's own.
        say: receives a line before the measurement and one after.

    Raises:
        ConvergenceError: the exact solver does not come to rest.
        ValueError: iterations are asked of what has none, or are out of range.
    """
    twin = unroll(network, iterations=iterations).eval()
    if isinstance(network, LowRank3d) and isinstance(twin, LowRank3d):
        say(f"running the steps with the exact algebra on {len(frames)} clips")
        swap = measure_swap(network, twin, frames)
        say(tell_cost(swap))
        return Unrolling(twin, swap, _record(FixedAlgebra(), swap), None)
    if not isinstance(twin, Unrolled) or not isinstance(network, Solver):
        return Unrolling(twin, None, None, None)
    say(f"running the exact solver to rest on {len(frames)} frames")
    cost = measure_cost(network, twin, frames)
    say(tell_cost(cost))
    half = unroll(network, iterations=iterations, form="half").eval()
    return Unrolling(twin, cost, _record(twin.algebra, cost), half)


def _record(algebra: FixedAlgebra, cost: Cost) -> SolverRecord:
    return SolverRecord(
        iterations=cost.final.iterations,
        coefficients=algebra.coefficients,
        inner_iterations=algebra.inner_iterations,
        form=algebra.form,
        exact_iterations=cost.exact_steps,
        frames=cost.frames,
        target_error=cost.final.error,
        iou=cost.final.iou,
    )


def tell_cost(cost: Cost) -> str:
    """One line on what unrolling costs; where it has not converged, that and what to do."""
    final = cost.final
    said = (
        f"{final.iterations} iterations leave the target image {final.error:.2%} from the exact "
        f"one ({cost.exact_steps} iterations on {cost.frames} frames), IoU of its segmentation "
        f"{final.iou:.3f}"
    )
    return said if cost.has_converged else f"warning: not converged: {said}; {_advise(cost)}"


def _advise(cost: Cost) -> str:
    """What to do: a twin goes on where the exact solver rests, so more steps may lead away."""
    if cost.own_iterations is None:
        return "its steps are learned, so only other frames or more training can bring it nearer"
    best = min(cost.curve, key=lambda one: one.error)
    said = "ask for more --iterations"
    if best.iterations < cost.final.iterations:
        said = (
            f"fewer are nearer, {best.iterations} leave {best.error:.2%}: "
            f"ask for --iterations {best.iterations}"
        )
    is_own = cost.final.iterations == cost.own_iterations
    return said if is_own else f"{said}, or leave the option out for {cost.own_iterations}"
