"""Parity: the exported graph must say what the network says, on frames, before anything is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ..runtime.bundle import Parity
from ..runtime.engine import Engine
from ..runtime.errors import IrstdError
from ..runtime.frame import Frame, FrameContract, prepare

TOLERANCE = 1e-4  # of confidence
FRAMES = 16  # compared at most, spread over those given


class ParityError(IrstdError):
    """The exported graph answers differently than the network."""


def check_parity(
    network: nn.Module, engine: Engine, frames: Sequence[Frame], contract: FrameContract
) -> Parity:
    """Compare torch and the engine pixel by pixel.

    Args:
        network: maps (N, 1, H, W) to (reconstruction, target logits).
        engine: runs the graph that was traced from it.
        frames: sensor frames, prepared here as in flight.
        contract: how.

    Returns:
        The largest difference of confidence.

    Raises:
        ParityError: it is above the tolerance.
        ValueError: there are no frames.
    """
    if not frames:
        raise ValueError("parity needs at least one frame")
    step = max(1, len(frames) // FRAMES)
    chosen = list(frames)[::step][:FRAMES]
    network.eval()
    largest = max(_difference(network, engine, frame, contract) for frame in chosen)
    if not largest <= TOLERANCE:  # NaN fails too
        raise ParityError(
            f"the exported graph differs from the network by {largest:.2e} in confidence on "
            f"{len(chosen)} frames, more than {TOLERANCE:.0e}; nothing was written"
        )
    return Parity(frames=len(chosen), max_difference=largest, tolerance=TOLERANCE)


def _difference(network: nn.Module, engine: Engine, frame: Frame, contract: FrameContract) -> float:
    prepared = prepare(frame, contract)
    with torch.inference_mode():
        _, logits = network(torch.from_numpy(prepared))
    expected = logits.sigmoid()[0, 0].numpy()
    return float(np.abs(engine.run(prepared) - expected).max())
