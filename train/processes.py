"""Where a training runs: its device, and sums over all its processes, gradients included."""

from __future__ import annotations

from torch import Tensor, autograd, cuda, distributed


def choose_device(name: str) -> str:
    """`cpu` or `cuda` for auto, cpu or cuda.

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    has_gpu = cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise ValueError(
            "there is no GPU that torch can use; leave --device out to train on the CPU"
        )
    return "cuda" if has_gpu and name != "cpu" else "cpu"


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
