"""DRTENet: each block against its equations in float64, the whole as a network of the zoo."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from irstd.calibration.quantize import list_candidates
from irstd.export.bundling import make_graph
from irstd.export.graph import count_flop, count_operators
from irstd.runtime.engine import load_engine
from irstd.train.models.drtenet import (
    ROWS,
    ChannelAttention,
    ConvTransformer,
    CrossLevelFusion,
    DilatedBlock,
    DRTENet,
    DynamicFeatures,
    Enlarge,
)

pytestmark = pytest.mark.usefixtures("one_thread")
Unsettle = Callable[..., None]
NORM = (1 + 1e-5) ** -0.5  # what a fresh batch normalisation multiplies by in eval mode
WIDTH = 8


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def network(unsettle: Unsettle) -> DRTENet:
    return settled(unsettle, width=WIDTH)


def settled(unsettle: Unsettle, *, width: int) -> DRTENet:
    """With every parameter away from its start, also those that the fixture does not know."""
    torch.manual_seed(1)
    network = DRTENet(width)
    unsettle(network, seed=2)
    with torch.no_grad():
        for block in (network.encode_2, network.encode_3, network.encode_4):
            block.gamma.fill_(0.7)
        for module in network.modules():
            if isinstance(module, ChannelAttention):
                module.squeeze.bias.abs_()  # no channel of so few is silent
        # The logits go where a sigmoid tells them.
        _, logits = network(torch.rand(2, 1, 32, 48))
        network.target.weight.div_(logits.std())
        network.target.bias.sub_(network(torch.rand(2, 1, 32, 48))[1].mean() + 1.0)
    return network


# --- blocks ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_rows_attend_as_published_with_a_linear_that_averages_rows() -> None:
    torch.manual_seed(0)
    block = ConvTransformer(3, 6).double()
    for conv in (block.query, block.key):  # published: 1x1
        conv.weight[:, :, : ROWS // 2].zero_()
        conv.weight[:, :, ROWS // 2 + 1 :].zero_()
    x = random(2, 3, 5, 7)
    average = torch.kron(torch.eye(5), torch.full((1, 7), 1 / 7)).double()  # 35 pixels to 5 numbers
    query = F.conv2d(x, block.query.weight[:, :, 3:4], block.query.bias).flatten(1) @ average.T
    key_bias, slope_bias = torch.tensor([0.4]).double(), torch.tensor([0.3, -2.0, 1.0]).double()
    key = F.conv2d(x, block.key.weight[:, :, 3:4], key_bias).flatten(1) @ average.T
    outer = query[:, :, None] @ key[:, None, :]
    logits = F.conv2d(outer[:, None], block.slope[..., None], slope_bias)
    torch.testing.assert_close(block.attend(x), logits.softmax(dim=-1))


@torch.no_grad()
def test_a_row_sees_seven_rows_and_no_place_in_them() -> None:
    torch.manual_seed(0)
    block, x = ConvTransformer(2, 4).double(), random(1, 2, 12, 6)
    before = block.attend(x)
    torch.testing.assert_close(block.attend(x[..., torch.randperm(6)]), before)
    x[0, :, 6, 2] += 1.0
    logits = block.attend(x).log() - before.log()
    moved = (logits - logits.mean(dim=3, keepdim=True)).abs().amax(dim=(0, 1, 3)) > 1e-9
    key_moves = block.key(x).mean(dim=3)[0, 0] != block.key(random(1, 2, 12, 6)).mean(dim=3)[0, 0]
    assert key_moves.nonzero().flatten().tolist() == list(range(3, 10))
    assert moved.all()  # every row weighs the moved keys anew


@torch.no_grad()
def test_conv_transformer_is_the_sum_of_its_parts(unsettle: Unsettle) -> None:
    torch.manual_seed(0)
    block = ConvTransformer(4, 6)
    unsettle(block, seed=0)
    block.double()
    x = random(2, 4, 8, 10)
    values = block.plain(x) + block.dilated(x)
    for gamma in (0.0, 0.5):
        block.gamma.fill_(gamma)
        mixed = torch.einsum("ncij,ncjw->nciw", block.attend(x), values)
        seen = gamma * mixed + values + x
        expected = block.widen(seen) + block.shortcut(seen)
        torch.testing.assert_close(block(x), expected)
    assert [layer[0].dilation[0] for layer in block.plain] == [1, 1, 1]
    assert [layer[0].dilation[0] for layer in block.dilated] == [2, 4, 2]


def reach(layer: nn.Module, channels: int) -> int:
    """How many pixels to each side an output depends on."""
    x = random(1, channels, 41, 41).requires_grad_()
    layer.double().eval()(x)[..., 20, 20].sum().backward()
    assert x.grad is not None
    rows, columns = x.grad.abs().sum(dim=(0, 1)).nonzero().T
    assert rows.min() == columns.min() == 40 - rows.max() == 40 - columns.max()
    return 20 - int(rows.min())


def test_the_dilated_block_sees_ten_pixels_around(unsettle: Unsettle) -> None:
    torch.manual_seed(0)
    block = DilatedBlock(4, 8)
    unsettle(block, seed=0)
    assert reach(block, 4) == 1 + 2 + 4 + 2 + 1
    assert block(random(1, 4, 5, 6)).shape == (1, 8, 5, 6)


@torch.no_grad()
def test_dynamic_features_are_one_convolution_with_mixed_kernels() -> None:
    torch.manual_seed(0)
    layer = DynamicFeatures(3).double().eval()
    x = random(2, 3, 6, 5)
    for place, frame in enumerate(x):
        weights = F.linear(
            frame.mean(dim=(1, 2)), layer.choice.weight[:, :, 0, 0], layer.choice.bias
        )
        first, second = weights.softmax(dim=0)
        kernel = first * layer.kernels[0][0].weight + second * layer.kernels[1][0].weight
        mixed = F.conv2d(frame[None], kernel, padding=1, groups=3) * NORM
        torch.testing.assert_close(layer(x)[place], mixed[0].clamp(min=0))


@torch.no_grad()
def test_channel_attention_by_hand() -> None:
    layer = ChannelAttention(16)
    assert layer.squeeze.weight.shape == (4, 16, 1, 1)
    layer.squeeze.weight.fill_(0.125)
    layer.squeeze.bias.fill_(-0.5)
    layer.excite.weight.fill_(math.log(3) / 4)
    layer.excite.bias.zero_()
    x = torch.full((1, 16, 2, 2), 0.75)  # 16 * 0.125 * 0.75 - 0.5 = 1
    torch.testing.assert_close(layer(x), torch.full((1, 16, 1, 1), 0.75))
    assert torch.equal(layer(-x), torch.full((1, 16, 1, 1), 0.5))


@torch.no_grad()
def test_fusion(unsettle: Unsettle) -> None:
    torch.manual_seed(0)
    layer = CrossLevelFusion(16)
    unsettle(layer, seed=0)
    layer.double()
    e, d = random(2, 16, 4, 6), random(2, 16, 4, 6, seed=1)
    s, p = e + d, e * d
    m = layer.sum_features(s) * layer.product_features(p) * s
    out = layer.widen(s * layer.mixed_attention(m) + p * layer.product_attention(p))
    assert out.shape == (2, 32, 4, 6)
    torch.testing.assert_close(layer(e, d), out)


@torch.no_grad()
def test_enlarging_is_bilinear() -> None:
    layer = Enlarge(1, 1).double().eval()
    layer.convolution[0].weight.zero_()
    layer.convolution[0].weight[0, 0, 1, 1] = 1 / NORM
    found = layer(torch.tensor([[[[0.0, 4.0]]]]).double())
    expected = torch.tensor([0.0, 1.0, 3.0, 4.0]).double().expand(1, 1, 2, 4)
    torch.testing.assert_close(found, expected)


# --- the whole ------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (16, 80), (112, 32), (96, 160)])
def test_sizes_that_fit(network: DRTENet, size: tuple[int, int]) -> None:
    frames = torch.rand(2, 1, *size)
    handed_on, logits = network(frames)
    assert torch.equal(handed_on, frames)
    assert logits.shape == (2, 1, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("size", "padded"), [((24, 32), "32x32"), ((100, 90), "112x96"), ((8, 8), "16x16")]
)
def test_sizes_that_four_halvings_do_not_divide(size: tuple[int, int], padded: str) -> None:
    with pytest.raises(ValueError, match=f"expected multiples of 16; pad it to {padded}$"):
        DRTENet(WIDTH)(torch.rand(1, 1, *size))


def test_too_narrow() -> None:
    with pytest.raises(ValueError, match="^width is 7, expected 8 or more, e.g. 32$"):
        DRTENet(7)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters() -> None:
    network = DRTENet()
    assert count(network) == 19_024_568
    fusions = sum(count(fusion) for fusion in (network.fuse_3, network.fuse_4, network.fuse_5))
    # The released code, its idle layers left out and its missing fusion replaced by concatenation,
    # has 52.9 million, 34.1 of them in the Linears that there are none of here.
    assert count(network) - fusions == pytest.approx(52.9e6 - 34.1e6, abs=0.1e6)
    assert not any(isinstance(module, nn.Linear) for module in network.modules())
    assert count(DRTENet(16)) < count(network) / 3.9
    widths = [head.in_channels for head in DRTENet(12).beside]
    assert widths == [12, 24, 48, 96, 192]


def test_deep_supervision_in_training_only(network: DRTENet) -> None:
    frames = torch.rand(2, 1, 32, 48)
    _, flying = network(frames)
    network.training = True  # and nothing below: the same statistics
    handed_on, logits = network(frames)
    assert torch.equal(handed_on, frames)
    assert logits.shape == (2, 6, 32, 48)
    torch.testing.assert_close(logits[:, :1], flying)
    for place, head in enumerate(network.beside, start=1):
        network.zero_grad()
        logits[:, place].sum().backward(retain_graph=True)
        moved = [bool(one.weight.grad.any()) for one in (network.target, *network.beside)]
        assert moved == [False, *(one is head for one in network.beside)]


def test_every_parameter_learns(network: DRTENet) -> None:
    _, logits = network.train()(torch.rand(2, 1, 32, 48))
    (logits * torch.rand_like(logits)).sum().backward()
    still = [name for name, one in network.named_parameters() if not one.grad.abs().sum() > 0]
    assert not still


@torch.no_grad()
def test_targets_are_rare_before_anything_is_learned() -> None:
    torch.manual_seed(0)
    _, logits = DRTENet(WIDTH).train()(torch.rand(4, 1, 32, 32))
    assert logits.sigmoid().mean(dim=(0, 2, 3)).max() < 0.1


@torch.no_grad()
def test_images_of_a_batch_are_apart(network: DRTENet) -> None:
    frames = torch.rand(2, 1, 32, 48)
    _, both = network(frames)
    _, second = network(frames[1:])
    torch.testing.assert_close(both[1:], second, atol=1e-5, rtol=1e-4)


# --- as a graph -----------------------------------------------------------------------------------

PLAIN = {
    "Add", "Clip", "Concat", "Conv", "Div", "Identity", "MatMul", "MaxPool", "Mul", "ReduceMax",
    "ReduceMean", "ReduceMin", "Relu", "Resize", "Sigmoid", "Slice", "Softmax", "Split", "Sqrt",
    "Sub", "Transpose",
}  # fmt: skip


@pytest.fixture(
    scope="module", params=[(16, 16), (64, 96)], ids=lambda size: f"{size[0]}x{size[1]}"
)
def graph(unsettle: Unsettle, request: pytest.FixtureRequest) -> tuple[DRTENet, onnx.ModelProto]:
    network = settled(unsettle, width=WIDTH)
    return network, make_graph(network, request.param)


@torch.no_grad()
def test_the_graph_computes_what_the_network_does(graph: tuple[DRTENet, onnx.ModelProto]) -> None:
    network, model = graph
    shape = [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
    frame = np.random.default_rng(3).random(shape, dtype=np.float32)
    confidence = load_engine(model.SerializeToString(), threads=1).run(frame)
    expected = network(torch.from_numpy(frame))[1].sigmoid()[0, 0].numpy()
    np.testing.assert_allclose(confidence, expected, atol=1e-4)
    assert confidence.std() > 1e-2


def test_the_graph_is_made_of_plain_operators(graph: tuple[DRTENet, onnx.ModelProto]) -> None:
    _, model = graph
    # No BatchNormalization, it is folded; nothing that asks for a shape, none of the side heads.
    assert count_operators(model).keys() <= PLAIN
    outputs = {node.name: node for node in model.graph.node if node.op_type == "Conv"}
    assert not [name for name in outputs if "beside" in name]


def test_int8_leaves_the_edges_alone(graph: tuple[DRTENet, onnx.ModelProto]) -> None:
    _, model = graph
    layers = {node.name for node in list_candidates(model)}
    others = {node.name for node in model.graph.node if node.op_type == "Conv"} - layers
    assert len(others) == 2 + 6 + 2  # blurs of frame and tensor, two halvings of the pyramid
    assert not [name for name in others if name.split("/")[2] != "Conv" and "Conv_" not in name]


def test_arithmetic_of_a_256x256_frame() -> None:
    flop = count_flop(make_graph(DRTENet().eval(), (256, 256)))
    # 64.6 as released with concatenation in place of the fusion, at the same width and size.
    assert flop == pytest.approx(65.4e9, rel=1e-3)
