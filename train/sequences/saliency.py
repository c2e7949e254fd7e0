"""What makes a target of a clip: new in time, and small in space."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

RADIUS = 2  # pixels; half-width of the window of the top-hat


def newest(clip: Tensor) -> Tensor:
    """(N, 1, H, W): the frame that targets belong to."""
    return clip[:, -1:]


def weigh(residual: Tensor, frame: Tensor) -> Tensor:
    """Geometric mean of what a frame has over its background and of its top-hat.

    What misregistration leaves along an edge is new but no narrow spot, and a lamp is a spot but
    not new: the product of both leaves targets.

    Args:
        residual: (N, 1, H, W), what background in time leaves of the frame.
        frame: (N, 1, H, W), the newest one, in the unit of `residual`.

    Returns:
        (N, 1, H, W) in that unit, never negative.
    """
    weighed: Tensor = (F.relu(residual) * F.relu(frame - _open(frame))).sqrt()
    return weighed


def _open(frame: Tensor) -> Tensor:
    """The grey opening by a flat square."""
    return _dilate(-_dilate(-frame))


def _dilate(frame: Tensor) -> Tensor:
    return F.max_pool2d(frame, 2 * RADIUS + 1, stride=1, padding=RADIUS)
