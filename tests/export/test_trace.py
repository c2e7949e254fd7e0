from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from irstd.export.graph import count_operators
from irstd.export.lint import check_graph
from irstd.export.trace import (
    INPUT,
    OPSET,
    OUTPUT,
    PlainGroupNorm,
    TargetConfidence,
    decompose_norms,
    trace,
)
from irstd.train.models.lrrnet import LRRNet

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [(32, 32), (64, 48)]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """LRRNet with every parameter away from its start, so that none can get lost unseen."""
    torch.manual_seed(0)
    net = LRRNet()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return net


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def traced(network: nn.Module, request: pytest.FixtureRequest) -> onnx.ModelProto:
    return trace(network, request.param)


def sides(value: onnx.ValueInfoProto) -> list[int]:
    return [side.dim_value for side in value.type.tensor_type.shape.dim]


def onnx_run(model: onnx.ModelProto, frame: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (confidence,) = session.run(None, {INPUT: frame})
    return confidence


class Doubled(nn.Module):
    """The smallest network of the zoo's form; it notes what state it is run in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, 1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.drop(2 * self.norm(x))


# --- PlainGroupNorm -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "channels"), [(1, 1), (1, 6), (2, 6), (6, 6), (16, 16), (16, 48)]
)
def test_plain_group_norm_equals_torch_s(groups: int, channels: int) -> None:
    torch.manual_seed(1)
    norm = nn.GroupNorm(groups, channels, eps=1e-3).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = 3 * torch.randn(1, channels, 5, 7, dtype=torch.float64) + 10
    torch.testing.assert_close(PlainGroupNorm(norm)(x), norm(x), rtol=1e-10, atol=1e-10)


def test_plain_group_norm_of_a_constant_frame() -> None:
    norm = nn.GroupNorm(16, 16).double()
    x = torch.full((1, 16, 4, 4), 0.3, dtype=torch.float64)
    torch.testing.assert_close(PlainGroupNorm(norm)(x), norm(x), rtol=0, atol=1e-10)


def test_plain_group_norm_sees_how_channels_of_a_group_differ() -> None:
    # Both channels are flat: all that varies, from 1 to 3, is between them.
    x = torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4)
    of_one_group = PlainGroupNorm(nn.GroupNorm(1, 2, eps=0.0))(x)
    torch.testing.assert_close(of_one_group[0, :, 0, 0], torch.tensor([-1.0, 1.0]))


def test_norms_reshape_averages_and_never_a_map(traced: onnx.ModelProto) -> None:
    # An engine that keeps channels last turns a map around in memory before it can be reshaped.
    inferred = onnx.shape_inference.infer_shapes(traced)
    sizes = {
        value.name: math.prod(side.dim_value for side in value.type.tensor_type.shape.dim)
        for value in inferred.graph.value_info
    }
    norms = [node for node in traced.graph.node if "norm" in node.name]
    reshaped = [sizes[node.output[0]] for node in norms if node.op_type == "Reshape"]
    assert len(reshaped) == 4 * 48  # the norm that only the reconstruction needs is gone
    assert max(reshaped) == 2 * 16 * 8  # channels of the widest, a concatenation


def test_plain_group_norm_takes_a_copy() -> None:
    norm = nn.GroupNorm(2, 4)
    plain, x = PlainGroupNorm(norm), torch.randn(1, 4, 3, 3)
    before = plain(x)
    assert plain.eps == norm.eps
    with torch.no_grad():
        norm.weight.fill_(5.0)
    assert plain.weight.shape == plain.bias.shape == (1, 2, 2)
    assert not torch.equal(before, norm(x))


@torch.no_grad()
def test_decompose_norms_leaves_the_network_alone(network: nn.Module) -> None:
    norms = [layer for layer in network.modules() if isinstance(layer, nn.GroupNorm)]
    plain = decompose_norms(network)
    assert [layer for layer in network.modules() if isinstance(layer, nn.GroupNorm)] == norms
    kinds = [type(layer) for layer in plain.modules()]
    assert nn.GroupNorm not in kinds
    assert kinds.count(PlainGroupNorm) == len(norms) == 49
    x = torch.rand(1, 1, 16, 24, generator=torch.Generator().manual_seed(2))
    for ours, theirs in zip(plain.eval()(x), network.eval()(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_target_confidence_is_the_sigmoid_of_the_logits(network: nn.Module) -> None:
    x = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    _, logits = network.eval()(x)
    expected = 1 / (1 + torch.exp(-logits))
    torch.testing.assert_close(TargetConfidence(network)(x), expected)


# --- trace ----------------------------------------------------------------------------------------


def test_the_graph_computes_what_the_network_does(
    network: nn.Module, traced: onnx.ModelProto
) -> None:
    size = sides(traced.graph.input[0])[2:]
    for seed in range(2):
        frame = np.random.default_rng(seed).random((1, 1, *size), dtype=np.float32)
        with torch.no_grad():
            _, logits = network.eval()(torch.from_numpy(frame))
        confidence = onnx_run(traced, frame)
        assert confidence.dtype == np.float32
        np.testing.assert_allclose(confidence, logits.sigmoid().numpy(), atol=1e-5, rtol=0)
        assert confidence.std() > 1e-3  # not merely everywhere 0


def test_names_shapes_and_opset(traced: onnx.ModelProto) -> None:
    (frame,), (confidence,) = traced.graph.input, traced.graph.output
    assert (frame.name, confidence.name) == (INPUT, OUTPUT) == ("frame", "confidence")
    assert sides(frame) == sides(confidence) in ([1, 1, 32, 32], [1, 1, 64, 48])
    for value in (frame, confidence):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert all(side.HasField("dim_value") for side in value.type.tensor_type.shape.dim)
    assert [(entry.domain, entry.version) for entry in traced.opset_import] == [("", 17)]
    assert OPSET == 17


def test_the_graph_is_made_of_plain_operators(traced: onnx.ModelProto) -> None:
    operators = count_operators(traced)
    refused = {"GroupNormalization", "InstanceNormalization", "Loop", "If", "Scan", "Shape"}
    assert not refused & operators.keys()
    assert "Dropout" not in operators
    check_graph(traced)
    # 2 first, 2 a block, 14 skips, 2 of the attention, 3 down, 3 up, 1 head
    blocks, skips = 23, sum(1 for key in LRRNet().state_dict() if key.endswith("connection.weight"))
    assert operators["Conv"] == 2 + 2 * blocks + skips + 2 + 3 + 3 + 1
    assert operators["MatMul"] == 2


def test_the_reconstruction_head_is_gone(network: nn.Module, traced: onnx.ModelProto) -> None:
    names = [tensor.name for tensor in traced.graph.initializer]
    assert not [name for name in names if "out_conv1" in name or "out_norm1" in name]
    assert [name for name in names if "out_conv.weight" in name]
    head = network.out_conv1.weight.detach().numpy()
    for tensor in traced.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        assert values.shape != head.shape or not np.array_equal(values, head)


def test_tracing_leaves_the_network_as_it_is() -> None:
    net = Doubled().train()
    keys = list(net.state_dict())
    model = trace(net, (8, 16))
    assert net.training and isinstance(net.norm, nn.GroupNorm)
    assert list(net.state_dict()) == keys
    # In the graph, however, it flies: no dropout.
    assert "Dropout" not in count_operators(model)


def test_a_size_the_network_does_not_take(network: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"input is 30x32, expected multiples of 8"):
        trace(network, (30, 32))


def test_tracing_twice_gives_the_same_graph() -> None:
    net = Doubled()
    first, second = (trace(net, (8, 8)).graph.SerializeToString() for _ in range(2))
    assert first == second


def test_statistics_of_a_large_frame_keep_their_digits_in_onnx_runtime(tmp_path: Path) -> None:
    # One sum over 512 x 512 pixels loses them: a few 1e-5 here, 1e-4 of confidence at the end.
    generator = torch.Generator().manual_seed(0)
    x = 5 + torch.rand(1, 16, 512, 512, generator=generator)
    norm = nn.GroupNorm(16, 16)
    path = tmp_path / "norm.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            PlainGroupNorm(norm), (x,), path, dynamo=False, opset_version=17, input_names=["x"]
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (ours,) = session.run(None, {"x": x.numpy()})
    exact = nn.GroupNorm(16, 16).double()(x.double()).detach().numpy()
    assert np.abs(ours - exact).max() < 1e-5
