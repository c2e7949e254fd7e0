"""Parity: the exported graph must say what the network says, on frames, before anything is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..runtime.bundle import Parity
from ..runtime.engine import Engine
from ..runtime.errors import IrstdError
from ..runtime.frame import FloatMap, Frame, FrameContract, prepare
from ..train.models.box_network import BoxNetwork, answer

TOLERANCE = 1e-4  # of confidence
COARSEST = 1e-3  # of confidence; whatever the logits, more than this is another answer
# Two sums of the same FP32 terms in another order differ by a few units in the last place of what
# they add up; a network with logits of a thousand cannot be told more exactly than that.
ROUNDING = 4 * float(np.finfo(np.float32).eps)  # of confidence, for each unit of the largest logit
# Reweighted steps divide by what they found before and amplify its rounding; of the confidence at a
# target's edge this is far less than what unrolling itself costs.
SOLVER_TOLERANCE = 2e-2
FRAMES = 16  # compared at most, spread over those given


class ParityError(IrstdError):
    """The exported graph answers differently than the network."""


def check_parity(
    network: nn.Module,
    engine: Engine,
    frames: Sequence[Frame],
    contract: FrameContract,
) -> Parity:
    """Compare torch and the engine pixel by pixel.

    Args:
        network: maps (N, 1, H, W) to (reconstruction, target logits).
        engine: runs the graph that was traced from it.
        frames: sensor frames, prepared here as in flight.
        contract: how.

    Returns:
        The largest difference of confidence, and what is tolerated: 1e-4, or what FP32 loses on
        the largest logit where that is more.

    Raises:
        ParityError: it is above the tolerance.
        ValueError: there are no frames.
    """
    step = max(1, len(frames) // FRAMES)
    chosen = list(frames)[::step][:FRAMES]
    return compare_answers(network, engine, [prepare(frame, contract) for frame in chosen])


def compare_answers(
    network: nn.Module, engine: Engine, inputs: Sequence[FloatMap], *, amplifies: bool = False
) -> Parity:
    """The same on prepared frames or clips, all of them.

    Args:
        network: as in `check_parity`.
        engine: likewise.
        inputs: (1, T, H, W) float32 each.
        amplifies: whether the network is an unrolled solver, of which 2e-2 is tolerated.

    Raises:
        ParityError: the difference is above the tolerance.
        ValueError: there are none.
    """
    if not inputs:
        raise ValueError("parity needs at least one frame")
    network.eval()
    compared = [_compare(network, engine, prepared) for prepared in inputs]
    # NumPy's maximum, unlike Python's, lets no NaN slip through.
    largest, logit = (float(value) for value in np.max(compared, axis=0))
    tolerance = min(max(TOLERANCE, ROUNDING * logit), COARSEST)
    if amplifies:
        tolerance = SOLVER_TOLERANCE
    if not largest <= tolerance:  # NaN fails too
        raise ParityError(
            f"the exported graph differs from the network by {largest:.2e} in confidence on "
            f"{len(inputs)} frames, more than {tolerance:.0e}; nothing was written"
        )
    return Parity(frames=len(inputs), max_difference=largest, tolerance=tolerance)


def _compare(network: nn.Module, engine: Engine, prepared: FloatMap) -> tuple[float, float]:
    """The largest difference of confidence on a frame, and the largest logit."""
    if isinstance(network, BoxNetwork):
        return _compare_boxes(network, engine, prepared)
    with torch.inference_mode():
        _, logits = network(torch.from_numpy(prepared))
    expected = logits.sigmoid()[0, 0].numpy()
    difference = float(np.abs(engine.run(prepared) - expected).max())
    return difference, float(logits.abs().max())


def _compare_boxes(network: nn.Module, engine: Engine, prepared: FloatMap) -> tuple[float, float]:
    """The largest difference of a score, or of an edge in parts of the frame; no logit."""
    with torch.inference_mode():
        expected: Tensor = answer(network, torch.from_numpy(prepared))[0]
    apart = np.abs(engine.run(prepared) - expected.numpy())
    apart[:, :4] /= max(prepared.shape[-2:])
    return float(apart.max()), 0.0
