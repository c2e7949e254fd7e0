"""LRRNet against the published key table and against a reference in plain float64 numpy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from irstd.train.checkpoint import load_into
from irstd.train.models.lrrnet import (
    Attention,
    Downsample,
    LRRNet,
    ResidualBlock,
    Upsample,
)
from irstd.train.models.sides import check_sides

pytestmark = pytest.mark.usefixtures("one_thread")

Array = npt.NDArray[np.float64]
Shape = tuple[int, ...]

# The published structure, written down without the network's own code: (inputs, outputs) of every
# residual block, and the channels of what halves and doubles.
BLOCKS = {
    "downs.0": (16, 16),
    "downs.1": (16, 16),
    "downs.3": (16, 32),
    "downs.4": (32, 32),
    "downs.6": (32, 64),
    "downs.7": (64, 64),
    "downs.9": (64, 128),
    "downs.10": (128, 128),
    "mid.0": (128, 128),
    "mid.1": (128, 128),
    "ups.0": (256, 128),
    "ups.1": (256, 128),
    "ups.2": (192, 128),
    "ups.4": (192, 64),
    "ups.5": (128, 64),
    "ups.6": (96, 64),
    "ups.8": (96, 32),
    "ups.9": (64, 32),
    "ups.10": (48, 32),
    "ups.12": (48, 16),
    "ups.13": (32, 16),
    "ups.14": (32, 16),
    "out_resblock": (16, 16),
}
HALVINGS = {"downs.2": 16, "downs.5": 32, "downs.8": 64}
DOUBLINGS = {"ups.3": 128, "ups.7": 64, "ups.11": 32}


def affine(key: str, weight: Shape) -> dict[str, Shape]:
    """A weight and the bias of its first side."""
    return {f"{key}.weight": weight, f"{key}.bias": weight[:1]}


def published_shapes() -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    shapes |= affine("init_conv", (16, 1, 3, 3))
    shapes |= affine("second_conv", (16, 16, 3, 3))
    for key, (inputs, outputs) in BLOCKS.items():
        shapes[f"{key}.scale"] = (1, outputs, 1, 1)
        shapes |= affine(f"{key}.norm_1", (inputs,))
        shapes |= affine(f"{key}.conv_1", (outputs, inputs, 3, 3))
        shapes |= affine(f"{key}.norm_2", (outputs,))
        shapes |= affine(f"{key}.conv_2.1", (outputs, outputs, 3, 3))
        if inputs != outputs:
            shapes |= affine(f"{key}.residual_connection", (outputs, inputs, 1, 1))
    shapes |= affine("mid.0.attention.norm", (128,))
    shapes |= affine("mid.0.attention.to_qkv", (384, 128, 1, 1))
    shapes |= affine("mid.0.attention.to_out", (128, 128, 1, 1))
    for key, channels in HALVINGS.items():
        shapes |= affine(f"{key}.downsample", (channels, channels, 3, 3))
    for key, channels in DOUBLINGS.items():
        shapes |= affine(f"{key}.upsample.1", (channels, channels, 3, 3))
    for norm, conv in (("out_norm", "out_conv"), ("out_norm1", "out_conv1")):
        shapes |= affine(norm, (16,))
        shapes |= affine(conv, (1, 16, 3, 3))
    return shapes


# --- the reference: plain numpy in float64, (C, H, W) ---------------------------------------------

Tensors = Mapping[str, Array]


def within(tensors: Tensors, prefix: str) -> dict[str, Array]:
    return {
        key.removeprefix(f"{prefix}."): value
        for key, value in tensors.items()
        if key.startswith(f"{prefix}.")
    }


def conv(tensors: Tensors, prefix: str, x: Array, *, stride: int = 1) -> Array:
    weight, bias = tensors[f"{prefix}.weight"], tensors[f"{prefix}.bias"]
    margin, side = weight.shape[2] // 2, weight.shape[2]
    wide = np.pad(x, ((0, 0), (margin, margin), (margin, margin)))
    windows = np.lib.stride_tricks.sliding_window_view(wide, (side, side), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    return np.tensordot(weight, windows, axes=((1, 2, 3), (0, 3, 4))) + bias[:, None, None]


def group_norm(tensors: Tensors, prefix: str, x: Array, *, groups: int = 16) -> Array:
    out = np.empty_like(x)
    size = len(x) // groups
    for first in range(0, len(x), size):
        group = x[first : first + size]
        deviation = np.sqrt(((group - group.mean()) ** 2).mean() + 1e-5)
        out[first : first + size] = (group - group.mean()) / deviation
    gain, offset = tensors[f"{prefix}.weight"], tensors[f"{prefix}.bias"]
    return out * gain[:, None, None] + offset[:, None, None]


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def attention(tensors: Tensors, x: Array) -> Array:
    channels, height, width = x.shape
    qkv = conv(tensors, "to_qkv", group_norm(tensors, "norm", x)).reshape(3 * channels, -1)
    query, key, value = qkv[:channels].T, qkv[channels : 2 * channels].T, qkv[2 * channels :].T
    scores = np.exp(query @ key.T / np.sqrt(channels))
    seen = scores / scores.sum(axis=1, keepdims=True) @ value
    return x + conv(tensors, "to_out", seen.T.reshape(channels, height, width))


def residual_block(tensors: Tensors, x: Array) -> Array:
    hidden = conv(tensors, "conv_1", relu(group_norm(tensors, "norm_1", x)))
    hidden = conv(tensors, "conv_2.1", relu(group_norm(tensors, "norm_2", hidden)))
    skip = x
    if "residual_connection.weight" in tensors:
        skip = conv(tensors, "residual_connection", x)
    out = tensors["scale"][0] * hidden + skip
    if "attention.norm.weight" in tensors:
        return attention(within(tensors, "attention"), out)
    return out


def upsample(tensors: Tensors, x: Array) -> Array:
    return conv(tensors, "upsample.1", x.repeat(2, axis=1).repeat(2, axis=2))


def lrrnet(tensors: Tensors, x: Array) -> tuple[Array, Array]:
    """Follows the published table step by step, every skip by name."""

    def block(key: str, x: Array) -> Array:
        return residual_block(within(tensors, key), x)

    shallow = conv(tensors, "init_conv", x)
    x = conv(tensors, "second_conv", shallow)
    skips = [x]
    for number in range(11):
        key = f"downs.{number}"
        if key in HALVINGS:
            x = conv(tensors, f"{key}.downsample", x, stride=2)
        else:
            x = block(key, x)
        skips.append(x)
    x = block("mid.1", block("mid.0", x))
    for number in range(15):
        key = f"ups.{number}"
        if key in DOUBLINGS:
            x = upsample(within(tensors, key), x)
        else:
            x = block(key, np.concatenate([x, skips.pop()]))
    assert not skips
    background = x
    residual = block("out_resblock", shallow - background)
    decoded = relu(group_norm(tensors, "out_norm1", residual + background))
    target = relu(group_norm(tensors, "out_norm", residual))
    return conv(tensors, "out_conv1", decoded), conv(tensors, "out_conv", target)


# --- helpers --------------------------------------------------------------------------------------


def randomised(network: nn.Module, seed: int) -> nn.Module:
    """Double precision, eval mode, and no parameter left at 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    network = network.double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.3 * noise if parameter.dim() == 1 else 0.02 * noise)
            if parameter.shape[0] == 1 and parameter.dim() == 4:  # the scales, and two heads
                parameter.mul_(1 + 0.3 * noise)
    return network


def tensors_of(network: nn.Module) -> dict[str, Array]:
    return {key: tensor.numpy() for key, tensor in network.state_dict().items()}


def random_map(shape: Shape, seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


@torch.no_grad()
def run(network: nn.Module, x: Array) -> Array:
    return network(torch.from_numpy(x)[None])[0].numpy()


# --- keys and shapes ------------------------------------------------------------------------------


def test_keys_and_shapes_are_the_published_ones() -> None:
    shapes = {key: tuple(tensor.shape) for key, tensor in LRRNet().state_dict().items()}
    assert shapes == published_shapes()
    assert len(shapes) == 267


def test_parameter_count() -> None:
    network = LRRNet()
    counts = {
        name: sum(parameter.numel() for parameter in child.parameters())
        for name, child in network.named_children()
    }
    assert sum(counts.values()) == 3_454_994
    assert (counts["downs"], counts["mid"], counts["ups"]) == (749_200, 657_920, 2_040_320)
    assert not list(network.buffers())


def test_a_published_state_dict_loads_strictly() -> None:
    generator = torch.Generator().manual_seed(0)
    published = {
        key: torch.randn(shape, generator=generator) for key, shape in published_shapes().items()
    }
    network = LRRNet()
    load_into(network, published, name="published")
    assert all(torch.equal(network.state_dict()[key], published[key]) for key in published)


def test_every_scale_starts_at_one() -> None:
    scales = [tensor for key, tensor in LRRNet().state_dict().items() if key.endswith("scale")]
    assert len(scales) == len(BLOCKS)
    assert all(bool((scale == 1).all()) for scale in scales)


# --- blocks against the reference -----------------------------------------------------------------


@pytest.mark.parametrize(("inputs", "outputs"), [(16, 16), (32, 32), (16, 32), (48, 16)])
def test_residual_block(inputs: int, outputs: int) -> None:
    block = randomised(ResidualBlock(inputs, outputs), 1)
    x = random_map((inputs, 6, 10), 2)
    expected = residual_block(tensors_of(block), x)
    np.testing.assert_allclose(run(block, x), expected, rtol=1e-9, atol=1e-10)


def test_residual_block_attends_after_the_skip() -> None:
    block = randomised(ResidualBlock(16, 32, attends=True), 3)
    x = random_map((16, 4, 6), 4)
    expected = residual_block(tensors_of(block), x)
    np.testing.assert_allclose(run(block, x), expected, rtol=1e-9, atol=1e-10)


def test_scale_zero_leaves_the_skip() -> None:
    block = randomised(ResidualBlock(16, 16), 5)
    with torch.no_grad():
        block.scale.zero_()
    x = random_map((16, 4, 4), 6)
    np.testing.assert_array_equal(run(block, x), x)


@pytest.mark.parametrize("size", [(4, 6), (1, 1), (5, 3)])
def test_attention_is_an_explicit_softmax(size: tuple[int, int]) -> None:
    layer = randomised(Attention(32), 7)
    with torch.no_grad():  # large enough that the softmax is far from uniform
        layer.to_qkv.weight.mul_(4)
    x = random_map((32, *size), 8)
    expected = attention(tensors_of(layer), x)
    np.testing.assert_allclose(run(layer, x), expected, rtol=1e-9, atol=1e-10)


@torch.no_grad()
def test_attention_keeps_the_images_of_a_batch_apart() -> None:
    layer = randomised(Attention(16), 9)
    batch = torch.from_numpy(random_map((3, 16, 2, 5), 10))
    apart = torch.cat([layer(image[None]) for image in batch])
    torch.testing.assert_close(layer(batch), apart, rtol=1e-12, atol=1e-12)


def test_downsample() -> None:
    layer = randomised(Downsample(4), 11)
    x = random_map((4, 6, 10), 12)
    halved = run(layer, x)
    assert halved.shape == (4, 3, 5)
    expected = conv(tensors_of(layer), "downsample", x, stride=2)
    np.testing.assert_allclose(halved, expected, rtol=1e-9, atol=1e-10)


def test_upsample() -> None:
    layer = randomised(Upsample(4), 13)
    x = random_map((4, 3, 5), 14)
    doubled = run(layer, x)
    assert doubled.shape == (4, 6, 10)
    np.testing.assert_allclose(doubled, upsample(tensors_of(layer), x), rtol=1e-9, atol=1e-10)


# --- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 24), (32, 32), (8, 8)])
def test_network_against_the_reference(size: tuple[int, int]) -> None:
    network = randomised(LRRNet(), 15)
    x = np.random.default_rng(16).random((1, *size))
    with torch.no_grad():
        frame, target = network(torch.from_numpy(x)[None])
    expected_frame, expected_target = lrrnet(tensors_of(network), x)
    np.testing.assert_allclose(frame[0].numpy(), expected_frame, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(target[0].numpy(), expected_target, rtol=1e-9, atol=1e-9)
    assert np.abs(expected_frame - expected_target).max() > 0.1  # the order is really tested


@torch.no_grad()
def test_single_precision_is_near_double() -> None:
    network = randomised(LRRNet(), 17)
    x = torch.rand(1, 1, 16, 24, generator=torch.Generator().manual_seed(18), dtype=torch.float64)
    exact = network(x)
    single = network.float()(x.float())
    for ours, theirs in zip(single, exact, strict=True):
        assert ours.dtype == torch.float32
        worst = float((ours - theirs).abs().max())
        assert worst < 1e-4 * float(theirs.abs().max())


@torch.no_grad()
def test_outputs_are_reconstruction_then_logits() -> None:
    network = LRRNet().eval()
    network.out_conv1.bias.fill_(1000.0)  # the published key of the reconstruction
    network.out_conv.bias.fill_(-1000.0)  # and of the target
    reconstruction, logits = network(torch.rand(2, 1, 16, 24))
    assert reconstruction.shape == logits.shape == (2, 1, 16, 24)
    assert reconstruction.min() > 900 and logits.max() < -900


@torch.no_grad()
def test_dropout_is_active_in_training_only() -> None:
    torch.manual_seed(19)
    network, x = LRRNet(), torch.rand(1, 1, 16, 16)
    rates = [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)]
    assert rates == [0.2] * len(BLOCKS)
    network.train()
    assert not torch.equal(network(x)[1], network(x)[1])
    network.eval()
    assert torch.equal(network(x)[1], network(x)[1])


def test_every_parameter_learns() -> None:
    torch.manual_seed(20)
    network = LRRNet().eval()
    reconstruction, logits = network(torch.rand(1, 1, 16, 16))
    (reconstruction.square().sum() + logits.square().sum()).backward()
    silent = [
        key
        for key, parameter in network.named_parameters()
        if parameter.grad is None or not bool(parameter.grad.any())
    ]
    assert not silent


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "padded"), [((17, 24), "24x24"), ((16, 20), "16x24"), ((1, 250), "8x256")]
)
def test_sizes_that_three_halvings_do_not_divide(size: tuple[int, int], padded: str) -> None:
    with pytest.raises(ValueError, match=rf"input is {size[0]}x{size[1]}.*pad it to {padded}$"):
        LRRNet()(torch.zeros(1, 1, *size))


def test_sizes_that_fit_pass() -> None:
    check_sides(torch.zeros(1, 1, 8, 264), stride=8)
