"""Sums over all processes of a training, gradients included."""

from __future__ import annotations

from torch import Tensor, autograd, distributed


def count_processes() -> int:
    """How many processes train together; 1 where there is no other."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


class _Total(autograd.Function):
    """The sum over all processes; what one adds reaches every loss, so gradients are summed too."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        summed = value.detach().clone()
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        summed = gradients[0].clone()
        distributed.all_reduce(summed)
        return summed


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes; each gets it, and the gradient of what it added.

    Gradients that are averaged over the processes afterwards come out as those of one process.
    """
    if count_processes() == 1:
        return value
    summed: Tensor = _Total.apply(value)  # type: ignore[no-untyped-call]
    return summed
