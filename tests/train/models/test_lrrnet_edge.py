"""LRRNet-Edge: its parts against plain float64 references, and the graph that engines get."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from irstd.export.graph import count_operators, fold_scales, lift_constants
from irstd.export.lint import check_graph
from irstd.export.precision import layer_precisions, to_fp16
from irstd.export.trace import INPUT, OUTPUT, trace
from irstd.train.models.lrrnet_edge import (
    CELL,
    RANK,
    LowRankContext,
    LRRNetEdge,
    Widen,
)
from irstd.train.models.sides import check_sides

Array = npt.NDArray[np.float64]
Unsettle = Callable[..., None]

SIZES = [(64, 64), (96, 160)]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def network(unsettle: Unsettle) -> LRRNetEdge:
    net = LRRNetEdge()
    unsettle(net, seed=0)
    return net


# --- the context ----------------------------------------------------------------------------------


@pytest.fixture
def context(unsettle: Unsettle) -> LowRankContext:
    layer = LowRankContext(12).double()
    unsettle(layer, seed=1)
    return layer


def pointwise(layer: nn.Sequential, x: Array) -> Array:
    """A 1x1 convolution and its normalisation on (C, N)."""
    convolution, norm = layer[0], layer[1]
    weight = convolution.weight.detach().numpy()[:, :, 0, 0]
    mean, variance = norm.running_mean.numpy(), norm.running_var.numpy()
    gain = norm.weight.detach().numpy() / np.sqrt(variance + norm.eps)
    return gain[:, None] * (weight @ x - mean[:, None]) + norm.bias.detach().numpy()[:, None]


def attend(layer: LowRankContext, x: Array) -> Array:
    """The same with the whole N x N matrix: column j weighs all positions for position j."""
    query, key = (np.maximum(pointwise(part, x), 0) for part in (layer.query, layer.key))
    affinity = key.T @ query / x.shape[1]
    seen = pointwise(layer.value, x) @ affinity / (affinity.sum(axis=0) + 0.01)
    return np.maximum(x + pointwise(layer.merge, seen), 0)


@torch.no_grad()
@pytest.mark.parametrize("size", [(4, 6), (1, 1), (9, 5)])
def test_context_against_the_whole_matrix(context: LowRankContext, size: tuple[int, int]) -> None:
    x = np.random.default_rng(2).normal(size=(12, *size))
    found = context(torch.from_numpy(x)[None])[0].numpy()
    expected = attend(context, x.reshape(12, -1)).reshape(x.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)
    assert (expected > 0).mean() > 0.2


@torch.no_grad()
def test_context_where_nothing_is_active(context: LowRankContext) -> None:
    context.key[1].bias.fill_(-1e3)  # no key passes its ReLU
    x = torch.randn(1, 12, 4, 5, dtype=torch.float64)
    expected = F.relu(x + context.merge(torch.zeros_like(x)))
    torch.testing.assert_close(context(x), expected)


@torch.no_grad()
def test_context_keeps_the_images_of_a_batch_apart(context: LowRankContext) -> None:
    batch = torch.randn(3, 12, 4, 5, dtype=torch.float64)
    apart = torch.cat([context(image[None]) for image in batch])
    torch.testing.assert_close(context(batch), apart, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_context_does_not_depend_on_the_order_of_positions(context: LowRankContext) -> None:
    x = torch.randn(1, 12, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(context(x.flip(2, 3)), context(x).flip(2, 3))


@torch.no_grad()
def test_context_stays_in_the_range_of_fp16_in_large_frames() -> None:
    # 65,536 positions: their sum leaves FP16, which ends at 65,504, where their mean does not.
    layer = LowRankContext(8).eval()
    for part in (layer.query, layer.key, layer.value):
        part[0].weight.fill_(0.25)
    x = torch.ones(1, 8, 256, 256)
    expected = layer(x)
    found = layer.half()(x.half()).float()
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


# --- stem, heads and sizes ------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 12), (2, 2)])
def test_the_stem_is_space_to_depth_and_a_3x3_convolution(size: tuple[int, int]) -> None:
    convolution = LRRNetEdge().stem[0][0].double()
    x = torch.randn(2, 1, *size, dtype=torch.float64)
    # Weight of cell (p, q) and of the pixel (a, b) in it, from row 2p + a and column 2q + b.
    cells = convolution.weight.reshape(16, 3, CELL, 3, CELL).permute(0, 2, 4, 1, 3)
    folded = cells.reshape(16, CELL * CELL, 3, 3)
    expected = F.conv2d(F.pixel_unshuffle(x, CELL), folded, padding=1)
    torch.testing.assert_close(convolution(x), expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_widening_repeats_pixels() -> None:
    widen = Widen(3, 2).double()
    x = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    narrow = F.conv2d(x, widen.convolution.weight, widen.convolution.bias)
    expected = narrow.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(widen(x), expected)


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (16, 80), (112, 32), (96, 160)])
def test_sizes_that_fit(network: LRRNetEdge, size: tuple[int, int]) -> None:
    reconstruction, logits = network(torch.rand(2, 1, *size))
    assert reconstruction.shape == logits.shape == (2, 1, *size)
    assert bool(reconstruction.isfinite().all()) and bool(logits.isfinite().all())
    check_sides(torch.zeros(1, 1, *size), stride=16)


@pytest.mark.parametrize(
    ("size", "padded"), [((24, 32), "32x32"), ((16, 250), "16x256"), ((1, 17), "16x32")]
)
def test_sizes_that_four_halvings_do_not_divide(size: tuple[int, int], padded: str) -> None:
    expected = rf"input is {size[0]}x{size[1]}, expected multiples of 16; pad it to {padded}$"
    with pytest.raises(ValueError, match=expected):
        LRRNetEdge()(torch.zeros(1, 1, *size))


def test_sizes_of_the_network() -> None:
    assert sum(parameter.numel() for parameter in LRRNetEdge().parameters()) == 638_968
    assert not any(isinstance(layer, nn.Dropout | nn.GroupNorm) for layer in LRRNetEdge().modules())


@torch.no_grad()
def test_outputs_are_reconstruction_then_logits(network: LRRNetEdge) -> None:
    network.reconstruction.bias.fill_(1000.0)
    network.target.bias.fill_(-1000.0)
    reconstruction, logits = network(torch.rand(2, 1, 32, 48))
    assert reconstruction.min() > 900 and logits.max() < -900


@torch.no_grad()
def test_targets_are_rare_before_anything_is_learned() -> None:
    torch.manual_seed(3)
    _, logits = LRRNetEdge()(torch.rand(2, 1, 64, 64))
    assert float(logits.mean()) == pytest.approx(-4, abs=0.7)


def unfold(cells: torch.Tensor) -> torch.Tensor:
    """(N, 4, h, w) to (N, 1, 2h, 2w): channel 2a + b is the pixel (a, b) of its cell."""
    batch, _, height, width = cells.shape
    pixels = cells.reshape(batch, CELL, CELL, height, width).permute(0, 3, 1, 4, 2)
    return pixels.reshape(batch, 1, CELL * height, CELL * width)


@torch.no_grad()
def test_targets_are_what_the_background_does_not_explain(network: LRRNetEdge) -> None:
    x = torch.rand(2, 1, 32, 48)
    shallow = network.stem(x)
    background = network.reconstruct_background(shallow)
    residual = network.refine(shallow - background)
    reconstruction, logits = network(x)
    torch.testing.assert_close(logits, unfold(network.target(residual)))
    drawn = network.reconstruction(residual + background)
    torch.testing.assert_close(reconstruction, unfold(drawn))


def test_every_parameter_learns() -> None:
    torch.manual_seed(4)
    network = LRRNetEdge().train()
    reconstruction, logits = network(torch.rand(2, 1, 64, 64))
    (reconstruction.square().sum() + logits.square().sum()).backward()
    silent = [key for key, one in network.named_parameters() if not bool(one.grad.any())]
    assert not silent


# --- the exported graph ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flying(unsettle: Unsettle) -> LRRNetEdge:
    """A network whose confidence is neither all 0 nor all 1."""
    net = LRRNetEdge()
    unsettle(net, seed=5)
    with torch.no_grad():
        _, logits = net(torch.rand(1, 1, 64, 64))
        net.target.weight.div_(logits.std())
        net.target.bias.fill_(-1.0)
    return net


def export(network: nn.Module, size: tuple[int, int]) -> onnx.ModelProto:
    model = trace(network, size)
    lift_constants(model)
    fold_scales(model)
    return model


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def model(flying: LRRNetEdge, request: pytest.FixtureRequest) -> onnx.ModelProto:
    return export(flying, request.param)


def shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    found = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        found[value.name] = [side.dim_value for side in value.type.tensor_type.shape.dim]
    return found


def operations(model: onnx.ModelProto, kind: str) -> int:
    """Two a multiply-add, of all convolutions or all matrix products."""
    known, count = shapes(model), 0
    for node in model.graph.node:
        if node.op_type == kind:
            weight = known[node.input[1]]
            summed = math.prod(weight[1:]) if kind == "Conv" else weight[-2]
            count += 2 * math.prod(known[node.output[0]]) * summed
    return count


def run(model: onnx.ModelProto, frame: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run([OUTPUT], {INPUT: frame})[0]


def test_the_graph_is_made_of_plain_operators(model: onnx.ModelProto) -> None:
    check_graph(model)
    operators = count_operators(model)
    norms = {"BatchNormalization", "InstanceNormalization", "GroupNormalization"}
    assert not operators.keys() & (norms | {"Softmax", "Shape", "Loop", "If", "Dropout"})
    # 2 in the stem, 9 on the way down, 4 in the context, 7 on the way up, 3 behind the residual;
    # the head of the reconstruction is gone.
    assert (operators["Conv"], operators["MatMul"], operators["Resize"]) == (25, 2, 3)


@torch.no_grad()
def test_the_graph_computes_what_the_network_does(
    flying: LRRNetEdge, model: onnx.ModelProto
) -> None:
    frame = np.random.default_rng(6).random(shapes(model)[INPUT], dtype=np.float32)
    confidence = run(model, frame)
    _, logits = flying(torch.from_numpy(frame))
    np.testing.assert_allclose(confidence, logits.sigmoid().numpy(), atol=1e-4, rtol=0)
    assert confidence.std() > 0.1


def test_the_graph_in_fp16(model: onnx.ModelProto) -> None:
    half = to_fp16(model)
    check_graph(half)
    assert set(layer_precisions(half).values()) == {"fp16"}
    frame = np.random.default_rng(7).random(shapes(model)[INPUT], dtype=np.float32)
    np.testing.assert_allclose(run(half, frame), run(model, frame), atol=0.03, rtol=0)


def test_nothing_is_computed_at_full_resolution(model: onnx.ModelProto) -> None:
    known = shapes(model)
    sides = known[INPUT][2:]
    full = [shape for shape in known.values() if len(shape) == 4 and shape[2:] == sides]
    assert full and all(channels == 1 for _, channels, *_ in full)


def test_the_cost_of_the_context_is_linear(model: onnx.ModelProto) -> None:
    known = shapes(model)
    positions = math.prod(known[INPUT]) // 256
    assert operations(model, "MatMul") == 2 * 2 * 128 * RANK * positions
    matrices = [shape for shape in known.values() if len(shape) == 3]
    assert matrices and not any(shape.count(positions) > 1 for shape in matrices)


def test_arithmetic_of_a_512x512_frame() -> None:
    model = export(LRRNetEdge(), (512, 512))
    assert 4e9 < operations(model, "Conv") + operations(model, "MatMul") <= 5e9
