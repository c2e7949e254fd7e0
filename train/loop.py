"""The training loop: what one step does, and what a training remembers between steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from ..runtime.detector import Detector
from ..runtime.errors import IrstdError
from ..runtime.evaluation import LabelledFrame, score_masks
from ..runtime.frame import FrameContract
from ..runtime.scoring import Scores
from ..runtime.targets import Extraction
from .batchnorm import share_statistics
from .box_loss import box_loss
from .data import as_recorded
from .engine_torch import TorchEngine
from .losses import balanced_bce, batch_soft_iou, mean_probability, reconstruction_error, soft_iou
from .models.box_network import BoxNetwork
from .recipe import Recipe
from .state import State

WARM_UP = 0.0999  # part of the steps; torch divides by zero where 0.1 of them is exactly one
THRESHOLD = 0.5
GRADIENT_NORM = 1.0
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


class TrainingError(IrstdError):
    """A training cannot go on."""


class Training:
    """A network, its optimiser and the average of its weights, moved on step by step.

    Attributes:
        fabric: where it runs: device, processes, arithmetic.
        recipe: what decides the outcome.
        steps: how many there will be.
        as_flown: whether it learns with the running statistics and without dropout.
        step: how many are done.
        best: highest validation so far, -1 before the first.
        learning_rate: of the step that was done last, or of the first.
    """

    def __init__(
        self,
        fabric: Fabric,
        network: nn.Module,
        recipe: Recipe,
        *,
        steps: int,
        as_flown: bool = False,
    ) -> None:
        """Begin at the first step.

        Args:
            fabric: launched.
            network: of the zoo; changed in place from now on.
            recipe: what decides the outcome.
            steps: how many there will be.
            as_flown: learn with the running statistics and without dropout.
        """
        self.fabric = fabric
        self.recipe = recipe
        self.steps = steps
        self.as_flown = as_flown
        self.step = 0
        self.best = -1.0
        share_statistics(network)
        # Convolutions of the CPU and of tensor cores read channels fastest.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimiser = AdamW(_groups(network, recipe.weight_decay), lr=recipe.learning_rate)
        self._schedule = OneCycleLR(
            optimiser, recipe.learning_rate, total_steps=steps, pct_start=WARM_UP
        )
        self._network, self._optimiser = fabric.setup(network, optimiser)
        self._plain = network
        self._averaged = {key: value.clone() for key, value in network.state_dict().items()}
        self.learning_rate = float(self._schedule.get_last_lr()[0])

    def advance(self, frames: Tensor, masks: Tensor) -> float:
        """Learn from one batch.

        Args:
            frames: (N, T, side, side) float32 of this process, T = 1 for single frames.
            masks: (N, 1, side, side) of the newest frame.

        Returns:
            The loss, averaged over all processes.

        Raises:
            TrainingError: the loss or its gradient is not finite (nothing was learned from this
                batch then), or memory ran out.
        """
        statistics = [buffer.clone() for buffer in self._plain.buffers()]
        try:
            with _memory(f"step {self.step + 1}", self.recipe):
                return self._advance(frames, masks)
        except TrainingError:
            for buffer, before in zip(self._plain.buffers(), statistics, strict=True):
                buffer.copy_(before)
            raise

    def _advance(self, frames: Tensor, masks: Tensor) -> float:
        # Dropout follows from the step alone, so a resumed training draws what it would have drawn.
        torch.manual_seed(_mix(self.recipe.seed, self.step, self.fabric.global_rank))
        self._network.train(not self.as_flown)
        frames = self.fabric.to_device(frames.contiguous(memory_format=torch.channels_last))
        loss = self._loss(frames, self.fabric.to_device(masks))
        shared = average(self.fabric, loss.detach())
        self._check_finite("loss", shared)
        self._optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        # A single hard crop must not throw away what thousands have taught.
        norm = self.fabric.clip_gradients(
            self._network, self._optimiser, max_norm=GRADIENT_NORM, error_if_nonfinite=False
        )
        self._check_finite("gradient", float(cast(Tensor, norm)))
        self.learning_rate = float(self._schedule.get_last_lr()[0])
        self._optimiser.step()
        self._schedule.step()
        self.step += 1
        self._move_average()
        return shared

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"the {what} is {value} in step {self.step + 1} of {self.steps}; the weights of "
                "the steps before are kept; lower --learning-rate, or --set arithmetic=fp32"
            )

    def _loss(self, frames: Tensor, masks: Tensor) -> Tensor:
        if isinstance(self._plain, BoxNetwork):
            return box_loss(self._plain.decode(self._network(frames).float()), masks)
        reconstruction, logits = self._network(frames)
        # Sums over a frame need FP32 also where the network computes in bfloat16.
        reconstruction, logits = reconstruction.float(), logits.float()
        # Deep supervision: in training some networks give several maps, each held to the mask.
        maps = [self._segmentation_loss(one, masks) for one in logits.split(1, dim=1)]
        error = reconstruction_error(reconstruction, frames[:, -1:])
        return torch.stack(maps).mean() + self.recipe.reconstruction_weight * error

    def _segmentation_loss(self, logits: Tensor, masks: Tensor) -> Tensor:
        recipe = self.recipe
        loss = (1.0 - recipe.batch_share) * soft_iou(logits, masks)
        whole = batch_soft_iou(logits, masks, clutter_weight=recipe.clutter_weight)
        loss = loss + recipe.batch_share * whole
        loss = loss + recipe.sparsity_weight * mean_probability(logits)
        if recipe.cross_entropy:
            plain = balanced_bce(logits, masks, target_weight=1.0)
            loss = loss + recipe.cross_entropy * plain
        starting = recipe.start_share * self.steps
        if (fading := 1.0 - self.step / starting if starting else 0.0) > 0.0:
            start = balanced_bce(logits, masks, target_weight=recipe.target_weight)
            loss = loss + fading * start
        return loss

    @torch.no_grad()
    def _move_average(self) -> None:
        # A young average forgets faster, or the initial weights would stay in it for long.
        decay = min(self.recipe.averaging, (1 + self.step) / (10 + self.step))
        for key, value in self._plain.state_dict().items():
            if value.is_floating_point():
                self._averaged[key].lerp_(value, 1.0 - decay)
            else:
                self._averaged[key].copy_(value)

    def averaged(self) -> dict[str, Tensor]:
        """A copy of the averaged weights, which are those that are validated and kept."""
        return {key: value.detach().clone() for key, value in self._averaged.items()}

    def validate(
        self, network: nn.Module, sets: Sequence[Sequence[LabelledFrame]], contract: FrameContract
    ) -> tuple[Scores, ...]:
        """Score the averaged weights as a detector will run them; every process does it all.

        Args:
            network: of the same kind; receives the averaged weights.
            sets: labelled frames of each dataset.
            contract: of the network's input.
        """
        network.load_state_dict(self._averaged)
        with _memory("validation", self.recipe):
            return score_network(network.to(self.fabric.device), sets, contract)

    def state(self, losses: Sequence[float], origin: dict[str, str]) -> State:
        """Everything that the next step depends on."""
        return State(
            step=self.step,
            best=self.best,
            losses=tuple(losses),
            network=self._plain.state_dict(),
            averaged=self.averaged(),
            optimiser=self._optimiser.state_dict(),
            schedule=self._schedule.state_dict(),
            origin=origin,
        )

    def restore(self, state: State) -> None:
        """Go back to where a state was taken."""
        self.step, self.best = state.step, state.best
        self._plain.load_state_dict(dict(state.network))
        for key, value in state.averaged.items():
            self._averaged[key].copy_(value)
        self._optimiser.load_state_dict(state.optimiser)
        self._schedule.load_state_dict(state.schedule)


def score_network(
    network: nn.Module, sets: Sequence[Sequence[LabelledFrame]], contract: FrameContract
) -> tuple[Scores, ...]:
    """Score a network as a detector will run it, where its parameters are.

    Args:
        network: of the zoo.
        sets: labelled frames of each dataset.
        contract: of the network's input.
    """
    device = next(network.parameters()).device
    size, frames = (contract.height, contract.width), contract.input_shape[1]
    engine = TorchEngine(network, size=size, device=device, frames=frames)
    extraction = Extraction(threshold=THRESHOLD)

    def score(labelled: Sequence[LabelledFrame]) -> Scores:
        recorded = as_recorded(contract, labelled[0].frame)
        return score_masks(Detector(engine, recorded, extraction), labelled)

    return tuple(map(score, sets))


@contextmanager
def _memory(where: str, recipe: Recipe) -> Iterator[None]:
    """Say what lowers the need where torch finds no memory."""
    try:
        yield
    except RuntimeError as err:
        if not any(words in str(err).lower() for words in OUT_OF_MEMORY):
            raise
        raise TrainingError(
            f"out of memory in {where} with {recipe.batch} crops of {recipe.crop}x{recipe.crop}; "
            "lower --batch or --crop"
        ) from err


def average(fabric: Fabric, value: Tensor) -> float:
    """Mean of a scalar over all processes."""
    return float(cast(Tensor, fabric.all_reduce(value, reduce_op="mean")))


def _groups(network: nn.Module, decay: float) -> list[dict[str, object]]:
    """Convolution weights decay; biases and norms do not."""
    parameters = list(network.parameters())
    return [
        {"params": [one for one in parameters if one.ndim > 1], "weight_decay": decay},
        {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
    ]


def _mix(seed: int, step: int, rank: int) -> int:
    """One seed out of three numbers, below 2**63."""
    return ((seed * 1_000_003 + step) * 4093 + rank) % 2**63


def fitness(scores: Sequence[Scores]) -> float:
    """What a validation is worth: mean IoU of the sets that define one, each counted alike."""
    defined = [score.iou for score in scores if not math.isnan(score.iou)]
    return sum(defined) / len(defined) if defined else 0.0
