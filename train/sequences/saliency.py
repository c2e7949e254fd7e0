"""What makes a target of a clip: new in time, and small in space."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ..solvers.solver import to_logits

PERCENT = 100.0
STEEPNESS = 2.0  # power of the deviations that the confidence follows
FAINTEST = 0.01  # deviations; what is fainter has the least confidence
RADIUS = 2  # pixels; half-width of the window of the top-hat


def newest(clip: Tensor) -> Tensor:
    """(N, 1, H, W): the frame that targets belong to."""
    return clip[:, -1:]


def weigh(residual: Tensor, frame: Tensor) -> Tensor:
    """What a frame has over its background, times its top-hat.

    What misregistration leaves along an edge is new but no narrow spot, and a lamp is a spot but
    not new: the product of both leaves targets.

    Args:
        residual: (N, 1, H, W), what background in time leaves of the frame.
        frame: (N, 1, H, W), the newest one, in the unit of `residual`.

    Returns:
        (N, 1, H, W) in percent of full scale squared, never negative.
    """
    return F.relu(residual * PERCENT) * F.relu((frame - open_grey(frame)) * PERCENT)


def to_wide_logits(target: Tensor, *, sigmas: float) -> Tensor:
    """Map a target image to logits, monotonously: 0 at the mean + `sigmas` standard deviations.

    Targets of a clip reach a hundred deviations, where a sigmoid of them says 1 to all. By the
    logarithm the confidence is z^2 / (z^2 + sigmas^2), z = (target - mean) / deviation: a threshold
    c of confidence stands for sigmas * (c / (1 - c))^(1/2) standard deviations.

    Args:
        target: (N, 1, H, W), never negative.
        sigmas: standard deviations, above 0.
    """
    z = to_logits(target, sigmas=0.0).clamp(min=FAINTEST)
    logits: Tensor = STEEPNESS * (z / sigmas).log()
    return logits


def open_grey(frame: Tensor) -> Tensor:
    """The grey opening of (N, 1, H, W) by a flat square of 5x5 pixels."""
    return _dilate(-_dilate(-frame))


def _dilate(frame: Tensor) -> Tensor:
    return F.max_pool2d(frame, 2 * RADIUS + 1, stride=1, padding=RADIUS)
