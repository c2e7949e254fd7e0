"""Tracing: a network of the zoo becomes an ONNX graph from frame to confidence."""

from __future__ import annotations

import copy
import tempfile
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from ..runtime.outputs import BOXES
from ..train.models.box_network import BoxNetwork, answer

OPSET = 17  # the newest that TensorRT 8.6 parses
INPUT = "frame"
OUTPUT = "confidence"


class TargetConfidence(nn.Module):
    """A network of the zoo reduced to what flies: frame in, confidence of its pixels out.

    Of a `BoxNetwork` boxes come out.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, frame: Tensor) -> Tensor:
        """(1, T, H, W) float32 in 0..1 to confidence (1, 1, H, W) or boxes (1, A, 5)."""
        return answer(self.network, frame)


def name_output(network: nn.Module) -> str:
    """What the graph of a network calls its output."""
    return BOXES if isinstance(network, BoxNetwork) else OUTPUT


class PlainGroupNorm(nn.Module):
    """Group normalisation in operators that every TensorRT has, ending in one multiply-add.

    TensorRT 8.6 to 10 fail on GroupNormalization or return wrong numbers, and ONNX Runtime's
    kernel for its core does not scale with threads. Same result as `nn.GroupNorm` up to rounding.

    Pixels are averaged for each channel; only those averages are grouped. Were the map itself
    reshaped into groups, an engine that keeps channels last, as OpenVINO does on CPUs, would have
    to turn it around in memory before every norm.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        # One row a group: the group's mean and deviation then broadcast over its channels.
        self.weight = nn.Parameter(norm.weight.detach().reshape(1, norm.num_groups, -1))
        self.bias = nn.Parameter(norm.bias.detach().reshape(1, norm.num_groups, -1))

    def forward(self, x: Tensor) -> Tensor:
        """(1, C, H, W) to the same shape."""
        average = _average(x)
        centred = x - average
        spread = _average(centred * centred).reshape(self.weight.shape)
        of_channel = average.reshape(self.weight.shape)
        mean = of_channel.mean(dim=2, keepdim=True)
        # What a group varies by: within its channels, and from channel to channel.
        between = of_channel - mean
        variance = (spread + between * between).mean(dim=2, keepdim=True)
        gain = self.weight / (variance + self.eps).sqrt()
        offset = self.bias - mean * gain
        return x * gain.reshape(1, -1, 1, 1) + offset.reshape(1, -1, 1, 1)


def _average(x: Tensor) -> Tensor:
    """(1, C, H, W) to (1, C, 1, 1): first along the rows, then over them.

    A single sum over a frame loses digits in ONNX Runtime (1.2e-4 of confidence on real frames);
    sums of sums do not (1e-5).
    """
    return x.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)


def decompose_norms(network: nn.Module) -> nn.Module:
    """A copy of a network in which every group normalisation is made of plain operators."""
    plain = copy.deepcopy(network)
    for parent in list(plain.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(parent, name, PlainGroupNorm(child))
    return plain


def trace(network: nn.Module, size: tuple[int, int], *, frames: int = 1) -> onnx.ModelProto:
    """Trace a network of the zoo at a fixed size.

    Args:
        network: maps (N, 1, H, W) in 0..1 to (reconstruction, target logits), or a `BoxNetwork`.
        size: (height, width) of the input, multiples of the network's stride.
        frames: T, of the clip that a network for sequences takes in place of one frame.

    Returns:
        Opset 17, input `frame` (1, T, H, W) and output `confidence` (1, 1, H, W) or `boxes`
        (1, A, 5), float32. What only feeds the reconstruction is gone.

    Raises:
        ValueError: the network does not take that size.
    """
    flying = TargetConfidence(decompose_norms(network)).eval()
    example = torch.zeros(1, frames, *size)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), warnings.catch_warnings():
        path = Path(folder) / "traced.onnx"
        # dynamo=False is chosen, not forgotten: the new exporter writes opset 18 and up and its
        # down-conversion is not trusted; torch warns that the old one is deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        # Shape checks of the networks become constants in a graph of fixed size: intended.
        warnings.simplefilter("ignore", TracerWarning)
        torch.onnx.export(
            flying,
            (example,),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[name_output(network)],
        )
        return onnx.load(path)
