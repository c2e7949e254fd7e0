"""Sums over all processes of a training, gradients included."""

from __future__ import annotations

from typing import cast

from torch import Tensor, distributed
from torch.distributed.nn.functional import all_reduce


def count_processes() -> int:
    """How many processes train together; 1 where there is no other."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes; each gets it, and the gradient of what it added.

    Gradients that are averaged over the processes afterwards come out as those of one process.
    """
    if count_processes() == 1:
        return value
    return cast(Tensor, all_reduce(value))  # type: ignore[no-untyped-call]
