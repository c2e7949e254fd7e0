"""DRPCA-Net: its steps by hand, and the whole against the published table in plain functions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from irstd.export.graph import count_operators, fold_scales, lift_constants
from irstd.export.lint import check_graph
from irstd.export.trace import INPUT, trace
from irstd.train.models.drpcanet import (
    ChannelAttention,
    DRPCANet,
    DynamicSparse,
    DynamicSpatialAttention,
    FrameWeight,
    filter_each,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@torch.no_grad()
def silenced(layer: nn.Module) -> nn.Module:
    """Double precision, eval mode, every convolution 0."""
    for conv in layer.modules():
        if isinstance(conv, nn.Conv2d):
            conv.weight.zero_()
            conv.bias.zero_()
    return layer.double().eval()


@torch.no_grad()
def unsettled(network: nn.Module, *, seed: int) -> nn.Module:
    """In eval mode, with statistics and weights of every normalisation away from 0 and 1."""
    torch.manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.running_mean, layer.bias):
                tensor.normal_(0, 0.3)
            for tensor in (layer.running_var, layer.weight):
                tensor.uniform_(0.5, 1.5)
    return network.eval()


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


# --- the target step ------------------------------------------------------------------------------


@torch.no_grad()
def test_frame_weight() -> None:
    layer = silenced(FrameWeight())
    first, second = layer.generator[1], layer.generator[3]
    first.weight.copy_(torch.tensor([1.0, -1.0, 0.0]).reshape(3, 1, 1, 1))
    first.bias.copy_(torch.tensor([0.0, 0.0, 0.5]))
    second.weight.copy_(torch.tensor([2.0, 1.0, 1.0]).reshape(1, 3, 1, 1))
    second.bias.fill_(-1.0)
    frames = torch.tensor([[0.0, 0.5], [0.5, 1.5], [-3.0, 1.0]], dtype=torch.float64)
    # Means 0.25, 1, -1: 2 * 0.25 + 0.5 - 1 = 0; 2 * 1 + 0.5 - 1 = 1.5; 1 + 0.5 - 1 = 0.5.
    expected = torch.tensor([0.5, sigmoid(1.5), sigmoid(0.5)], dtype=torch.float64)
    weights = layer(frames.reshape(3, 1, 1, 2))
    torch.testing.assert_close(weights, expected.reshape(3, 1, 1, 1))


@torch.no_grad()
@pytest.mark.parametrize(("gamma", "epsilon"), [(0.5, 0.5), (0.25, 0.75)])
def test_target(gamma: float, epsilon: float) -> None:
    sparse = silenced(DynamicSparse())
    sparse.gamma_generator.generator[3].bias.fill_(math.log(gamma / (1 - gamma)))
    sparse.epsilon_generator.generator[3].bias.fill_(math.log(epsilon / (1 - epsilon)))
    sparse.convs[14].bias.fill_(0.2)  # SP(P) = 0.2 everywhere
    frame, background, target = (
        torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, 2)
        for values in ([0.75, 1.0], [0.25, 1.0], [0.25, -1.0])
    )
    expected = torch.tensor(
        [gamma * 0.25 + (1 - gamma) * 0.5 - epsilon * 0.2, -gamma - epsilon * 0.2],
        dtype=torch.float64,
    )
    torch.testing.assert_close(sparse(frame, background, target).flatten(), expected)


@torch.no_grad()
def test_gamma_comes_from_the_target_and_epsilon_from_the_mixture() -> None:
    sparse = silenced(DynamicSparse())
    for generator in (sparse.gamma_generator.generator, sparse.epsilon_generator.generator):
        generator[1].weight[0] = 1.0
        generator[3].weight[0, 0] = 1.0  # sigmoid of the mean
    sparse.convs[14].bias.fill_(1.0)
    frame, background, target = (torch.full((1, 1, 2, 2), v).double() for v in (3.0, 1.0, 0.5))
    start = sigmoid(0.5) * 0.5 + (1 - sigmoid(0.5)) * 2
    expected = torch.full_like(frame, start - sigmoid(start))
    torch.testing.assert_close(sparse(frame, background, target), expected)


# --- attention ------------------------------------------------------------------------------------


@torch.no_grad()
def test_channel_attention() -> None:
    layer = silenced(ChannelAttention())
    layer.fc[0].weight[0, 0] = 1.0  # a hidden channel looks at channel 0
    layer.fc[2].weight[1, 0] = 1.0  # and weighs channel 1
    layer.fc[2].bias[2] = 0.25
    x = torch.ones(1, 32, 1, 2, dtype=torch.float64)
    x[0, 0] = torch.tensor([1.0, 3.0])  # mean 2, maximum 3
    expected = 0.5 * x
    expected[0, 1] *= 2 * sigmoid(2 + 3)
    expected[0, 2] *= 2 * sigmoid(0.25 + 0.25)  # the bias counts for the mean and the maximum
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (1, [[0.0, 0.0], [1.0, 2.0]]),  # first row, second column: from above
        (3, [[0.0, 1.0], [0.0, 3.0]]),
        (4, [[1.0, 2.0], [3.0, 4.0]]),
        (5, [[2.0, 0.0], [4.0, 0.0]]),
        (8, [[4.0, 0.0], [0.0, 0.0]]),
        (slice(None), [[10.0, 10.0], [10.0, 10.0]]),
    ],
)
def test_filter_each(at: int | slice, expected: list[list[float]]) -> None:
    kernel = torch.zeros(9)
    kernel[at] = 1.0
    filtered = filter_each(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), kernel.reshape(1, 9, 1, 1))
    assert torch.equal(filtered, torch.tensor([[expected]]))


@pytest.mark.parametrize("size", [(7, 11), (2, 2), (1, 1), (1, 6)])
def test_filter_each_is_a_convolution_of_each_map(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(4, 1, *size, generator=generator, dtype=torch.float64)
    kernels = torch.randn(4, 9, 1, 1, generator=generator, dtype=torch.float64)
    expected = F.conv2d(
        maps.transpose(0, 1), kernels.reshape(4, 1, 3, 3), padding=1, groups=4
    ).transpose(0, 1)
    torch.testing.assert_close(filter_each(maps, kernels), expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_spatial_attention() -> None:
    layer = silenced(DynamicSpatialAttention())
    layer.kernel_generator[1].weight[7, 0] = 2.0  # a hidden channel: twice the mean of channel 0
    layer.kernel_generator[3].weight[5, 7] = 1.0  # it is the kernel's right neighbour
    x = torch.zeros(2, 32, 1, 2, dtype=torch.float64)
    x[0, 0] = torch.tensor([16.0, 32.0])  # mean 24, so the kernel holds 48; over channels 0.5, 1
    x[1] = -1.0  # the kernel is 0
    expected = 0.5 * x
    expected[0, :, 0, 0] *= 2 * sigmoid(48 * 1.0)
    torch.testing.assert_close(layer(x), expected)


# --- the whole ------------------------------------------------------------------------------------


class Table:
    """The published network in plain functions of its state dict."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def conv(self, key: str, x: Tensor) -> Tensor:
        weight, bias = self.tensors[f"{key}.weight"], self.tensors[f"{key}.bias"]
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    def norm(self, key: str, x: Tensor) -> Tensor:
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.tensors[f"{key}.{part}"] for part in parts))

    def lowrank(self, key: str, x: Tensor) -> Tensor:
        for at in (0, 3, 6, 9):
            x = F.relu(self.norm(f"{key}.{at + 1}", self.conv(f"{key}.{at}", x)))
        return self.conv(f"{key}.12", x)

    def sparse(self, key: str, x: Tensor) -> Tensor:
        for at in range(0, 14, 2):
            x = F.relu(self.conv(f"{key}.{at}", x))
        return self.conv(f"{key}.14", x)

    def two(self, first: str, second: str, x: Tensor) -> Tensor:
        return self.conv(second, F.relu(self.conv(first, x)))

    def weight(self, key: str, x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1)
        return self.two(f"{key}.generator.1", f"{key}.generator.3", pooled).sigmoid()

    def block(self, key: str, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.norm(f"{key}.1", self.conv(f"{key}.0", x)), 0.2)
        y = self.norm(f"{key}.4", self.conv(f"{key}.3", y))
        pools = (F.adaptive_avg_pool2d(y, 1), F.adaptive_max_pool2d(y, 1))
        y = y * sum(self.two(f"{key}.5.fc.0", f"{key}.5.fc.2", pool) for pool in pools).sigmoid()
        generator = f"{key}.6.kernel_generator"
        kernels = self.two(f"{generator}.1", f"{generator}.3", F.adaptive_avg_pool2d(y, 1))
        kernels, count = kernels.reshape(-1, 1, 3, 3), len(x)
        seen = F.conv2d(y.mean(dim=1)[None], kernels, padding=1, groups=count)
        return x + y * seen.transpose(0, 1).sigmoid()

    def merge(self, key: str, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm(f"{key}.1", self.conv(f"{key}.0", x)), 0.2)
        y = x
        for number in range(5):
            y = self.block(f"{key}.3.body.{number}.body", y)
        return self.conv(f"{key}.4", x + self.conv(f"{key}.3.body.5", y))


@torch.no_grad()
@pytest.mark.parametrize("size", [(6, 5), (1, 9)])
def test_network_against_the_published_equations(size: tuple[int, int]) -> None:
    network = unsettled(DRPCANet(), seed=1).double()
    table = Table(network.state_dict())
    x = torch.rand(2, 1, *size, dtype=torch.float64)
    d, t = x, torch.zeros_like(x)
    for k in range(6):
        b = d - t + table.lowrank(f"decos.{k}.lowrank.convs", d - t)
        gamma = table.weight(f"decos.{k}.sparse.gamma_generator", t)
        p = gamma * t + (1 - gamma) * (d - b)
        epsilon = table.weight(f"decos.{k}.sparse.epsilon_generator", p)
        t = p - epsilon * table.sparse(f"decos.{k}.sparse.convs", p)
        d = table.merge(f"decos.{k}.merge.mapping", b + t)
    frame, target = network(x)
    torch.testing.assert_close(frame, d, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(target, t, rtol=1e-9, atol=1e-9)


def test_sizes_and_keys() -> None:
    network = DRPCANet()
    state = network.state_dict()
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_168_980
    assert len(state) == 1050
    for key, shape in {
        "decos.0.lowrank.convs.10.running_var": (32,),
        "decos.1.sparse.gamma_generator.generator.1.weight": (3, 1, 1, 1),
        "decos.2.sparse.epsilon_generator.generator.3.weight": (1, 3, 1, 1),
        "decos.3.merge.mapping.0.weight": (32, 1, 1, 1),
        "decos.4.merge.mapping.3.body.4.body.4.running_mean": (32,),
        "decos.5.merge.mapping.3.body.0.body.5.fc.0.weight": (2, 32, 1, 1),
        "decos.0.merge.mapping.3.body.1.body.6.kernel_generator.3.weight": (9, 32, 1, 1),
        "decos.1.merge.mapping.3.body.5.weight": (32, 32, 3, 3),
        "decos.2.merge.mapping.4.bias": (1,),
    }.items():
        assert tuple(state[key].shape) == shape


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (37, 50)])
def test_any_size(size: tuple[int, int]) -> None:
    for output in DRPCANet().eval()(torch.rand(2, 1, *size)):
        assert output.shape == (2, 1, *size)
        assert bool(output.isfinite().all())


def test_every_parameter_learns_but_one() -> None:
    torch.manual_seed(2)
    network = DRPCANet().eval()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.endswith(("fc.0.bias", "generator.1.bias")):
                parameter.fill_(3.0)  # keeps the few hidden channels of the generators alive
    reconstruction, logits = network(torch.rand(1, 1, 8, 8))
    (reconstruction.square().sum() + logits.square().sum()).backward()
    silent = [key for key, parameter in network.named_parameters() if not parameter.grad.any()]
    # The first stage's target is 0, and so is its mean.
    assert silent == ["decos.0.sparse.gamma_generator.generator.1.weight"]


@torch.no_grad()
def test_export() -> None:
    network = unsettled(DRPCANet(), seed=3)
    model = trace(network, (64, 64))
    lift_constants(model)
    fold_scales(model)
    check_graph(model)
    operators = count_operators(model)
    assert not {"BatchNormalization", "Pad", "Shape", "ConstantOfShape"} & operators.keys()
    # No kernel is computed: the weights of every convolution are constants.
    constants = {tensor.name for tensor in model.graph.initializer}
    assert all(node.input[1] in constants for node in model.graph.node if node.op_type == "Conv")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    frame = np.random.default_rng(4).random((1, 1, 64, 64), dtype=np.float32)
    (confidence,) = session.run(None, {INPUT: frame})
    _, logits = network(torch.from_numpy(frame))
    np.testing.assert_allclose(confidence, logits.sigmoid().numpy(), atol=1e-4, rtol=0)
    assert confidence.std() > 1e-2  # not merely everywhere 0
