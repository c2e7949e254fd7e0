"""Constants of a graph: made in numpy, so that a trace holds their values and not their making."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def constant(values: npt.NDArray[np.float64], like: Tensor) -> Tensor:
    """A constant of the type of another tensor."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.dtype)


def identity(like: Tensor) -> Tensor:
    """The identity matrix as wide as another, of its type."""
    return constant(np.eye(int(like.shape[-1])), like)
