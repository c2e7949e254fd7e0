"""Fake quantisation: a network in training that computes what its INT8 graph will compute.

`irstd-export --int8` rounds what a convolution reads and its weights; all else stays in floating
point. Here the same is done by torch's own fake-quantise operators, whose gradient passes straight
through where nothing is clipped and is zero where something is (Bengio et al., arXiv 1308.3432):

- weights are symmetric with a step for each output channel, which follows their largest one. The
  export folds a BatchNorm, or LRRNet's scale, into the convolution before it rounds. Both are one
  factor for each output channel, and step and weight grow by it alike: rounded and then scaled is
  scaled and then rounded. So nothing has to be folded here, but running statistics must stand
  still, as they do in flight (Krishnamoorthi, arXiv 1806.08342);
- what a convolution reads is symmetric with one step. Its range is the largest magnitude that the
  trained network reads on whole frames, and is then fixed; it travels with the weights, and the
  export rounds the same convolutions by the same steps. A moving average of the largest values
  (Jacob et al., CVPR 2018) lies below those of targets.

Every `Conv2d` of a network is replaced by one that rounds and holds the same parameters, so that no
model knows of it. Those that read or write a single map (the frame itself, reconstruction and
confidence) stay as they are: 127 steps are too few there, and there is next to no arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

LEVELS = 127  # of each sign, as in the exported graph; an INT8 zero point is always 0
LOWEST = -LEVELS - 1  # what QuantizeLinear clips to
SMALLEST_STEP = torch.finfo(torch.float32).tiny
RANGE = "input_range"


class RoundedConv2d(nn.Conv2d):
    """A convolution that reads its input and its weights as INT8 will.

    Attributes:
        input_range: scalar, the largest magnitude that is not clipped; part of the state dict, so
            that an unfinished training keeps it.
    """

    input_range: Tensor

    def __init__(self, convolution: nn.Conv2d, input_range: float) -> None:
        """Take the place of a convolution; parameters are its own, not copies.

        Args:
            convolution: zero-padded; zeros are exact in INT8.
            input_range: more than 0.
        """
        super().__init__(
            convolution.in_channels,
            convolution.out_channels,
            cast(tuple[int, int], convolution.kernel_size),
            cast(tuple[int, int], convolution.stride),
            cast(tuple[int, int], convolution.padding),
            cast(tuple[int, int], convolution.dilation),
            convolution.groups,
            convolution.bias is not None,
            convolution.padding_mode,
            device="meta",  # no start of its own: neither memory nor random numbers
        )
        self.weight, self.bias = convolution.weight, convolution.bias
        self.register_buffer(RANGE, torch.tensor(input_range, device=convolution.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H', W')."""
        rounded = round_activations(x, self.input_range)
        made: Tensor = self._conv_forward(rounded, round_weights(self.weight), self.bias)
        return made


def round_activations(x: Tensor, largest: Tensor) -> Tensor:
    """Round to 127 steps of each sign up to `largest`, a scalar; clip what is larger."""
    zero_point = torch.zeros_like(largest, dtype=torch.int32)
    return torch.fake_quantize_per_tensor_affine(x, largest / LEVELS, zero_point, LOWEST, LEVELS)


def round_weights(weight: Tensor) -> Tensor:
    """Round (outputs, inputs, rows, columns) to 127 steps of each sign, by output channel."""
    largest = weight.detach().abs().amax(dim=(1, 2, 3))
    step = (largest / LEVELS).clamp(min=SMALLEST_STEP)
    zero_points = torch.zeros_like(step, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, step, zero_points, 0, LOWEST, LEVELS)


def list_convolutions(network: nn.Module) -> dict[str, nn.Conv2d]:
    """The convolutions that are rounded, by module name.

    Raises:
        ValueError: there are none.
    """
    found = {
        name: module
        for name, module in network.named_modules()
        if type(module) is nn.Conv2d and min(module.in_channels, module.out_channels) > 1
    }
    if not found:
        raise ValueError(
            f"{type(network).__name__} has no convolution between feature maps, so INT8 has "
            "nothing to round; train it without --qat"
        )
    return found


@torch.no_grad()
def observe_ranges(network: nn.Module, frames: Iterable[Tensor]) -> dict[str, float]:
    """The largest magnitude that each convolution reads while a network looks at frames.

    Args:
        network: trained; comes back in evaluation mode.
        frames: (1, 1, H, W) each, prepared as in flight.

    Returns:
        By module name; 0 where nothing but zeros, or nothing at all, was read.

    Raises:
        ValueError: the network has no convolution to round, or one reads NaN or infinity.
    """
    ranges = dict.fromkeys(convolutions := list_convolutions(network), 0.0)

    def look(name: str, _: nn.Module, given: tuple[Tensor]) -> None:
        largest = float(given[0].abs().max())
        if not math.isfinite(largest):  # and the fake-quantise operators make a number of NaN
            raise ValueError(f"{name} reads NaN or infinity; start from weights that work")
        ranges[name] = max(ranges[name], largest)

    hooks = [
        convolution.register_forward_pre_hook(partial(look, name))
        for name, convolution in convolutions.items()
    ]
    try:
        network.eval()
        for frame in frames:
            network(frame)
    finally:
        for hook in hooks:
            hook.remove()
    return ranges


def round_convolutions(network: nn.Module, ranges: Mapping[str, float]) -> None:
    """Replace convolutions in place by those that round; what reads only zeros stays.

    Args:
        network: whose parameters stay the same objects.
        ranges: of what convolutions read, by module name.
    """
    for name, input_range in ranges.items():
        if input_range > 0.0:
            rounded = RoundedConv2d(cast(nn.Conv2d, network.get_submodule(name)), input_range)
            network.set_submodule(name, rounded)


def check_ranges(network: nn.Module, ranges: Mapping[str, float], *, name: str) -> None:
    """Refuse ranges of convolutions that a network does not have.

    Args:
        network: of the ranges' weights.
        ranges: by module name; may be empty.
        name: what the weights are called in an error.

    Raises:
        ValueError: some are of other modules; the text names one.
    """
    if ranges and (foreign := sorted(ranges.keys() - list_convolutions(network).keys())):
        raise ValueError(
            f"{name} brings INT8 ranges of {len(foreign)} modules that {type(network).__name__} "
            f"does not round ({foreign[0]}); it was trained with another network"
        )


def kept_ranges(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """The ranges in the state dict of a network that rounds, by module name."""
    return {
        key.removesuffix(f".{RANGE}"): float(tensor)
        for key, tensor in tensors.items()
        if key.endswith(f".{RANGE}")
    }


def without_ranges(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the keys that the network has when it does not round."""
    return {key: tensor for key, tensor in tensors.items() if not key.endswith(f".{RANGE}")}
