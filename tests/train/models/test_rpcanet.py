"""RPCANet: its equations by hand, and the whole against the published table in plain functions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import irstd
from irstd.export.graph import count_operators, fold_scales, lift_constants
from irstd.export.lint import check_graph
from irstd.export.trace import INPUT, trace
from irstd.train.checkpoint import load_into, read_weights
from irstd.train.models.rpcanet import LowRank, Merge, RPCANet, Sparse, Stage

pytestmark = pytest.mark.usefixtures("one_thread")

PUBLISHED = Path(irstd.__file__).parent.parent / "shared" / "weights"
NORM = (1 + 1e-5) ** -0.5  # what a fresh batch normalisation multiplies by in eval mode

FRAME = torch.tensor([[[[0.5, 0.25], [1.0, 0.0]]]], dtype=torch.float64)
TARGET = torch.tensor([[[[0.25, 0.5], [0.0, 0.0]]]], dtype=torch.float64)
BACKGROUND = torch.tensor([[[[0.5, 0.0], [0.5, 1.0]]]], dtype=torch.float64)


@torch.no_grad()
def passing(layer: nn.Module, *, gain: float) -> nn.Module:
    """Its convolutions hand one channel on; the last multiplies it by `gain`."""
    convs = [conv for conv in layer.modules() if isinstance(conv, nn.Conv2d)]
    for conv in convs:
        conv.weight.zero_()
        conv.bias.zero_()
        conv.weight[0, 0, 1, 1] = 1.0
    convs[-1].weight.mul_(gain)
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
        if isinstance(layer, Sparse):
            layer.epsilon.uniform_(0.02, 0.06)
    return network.eval()


# --- the equations --------------------------------------------------------------------------------


def test_background_without_a_network_is_what_the_target_leaves() -> None:
    assert torch.equal(passing(LowRank(), gain=0)(FRAME, TARGET), FRAME - TARGET)


def test_background() -> None:
    # D - T = 0.25, -0.25, 1, 0; the network sees the positive part, through four normalisations.
    step = 0.5 * NORM**4
    expected = torch.tensor(
        [[[[0.25 + 0.25 * step, -0.25], [1.0 + step, 0.0]]]], dtype=torch.float64
    )
    torch.testing.assert_close(passing(LowRank(), gain=0.5)(FRAME, TARGET), expected)


def test_target_without_a_network() -> None:
    # T + D - B
    expected = torch.tensor([[[[0.25, 0.75], [0.5, -1.0]]]], dtype=torch.float64)
    assert torch.equal(passing(Sparse(), gain=0)(FRAME, BACKGROUND, TARGET), expected)


@pytest.mark.parametrize(("epsilon", "kept"), [(0.01, 0.98), (0.25, 0.5)])
def test_target(epsilon: float, kept: float) -> None:
    sparse = passing(Sparse(), gain=2)
    torch.testing.assert_close(sparse.epsilon.item(), 0.01, rtol=1e-6, atol=0)
    with torch.no_grad():
        sparse.epsilon.fill_(epsilon)
    # P - epsilon * 2 * P where P = T + D - B is positive, P elsewhere.
    expected = torch.tensor([[[[0.25 * kept, 0.75 * kept], [0.5 * kept, -1]]]], dtype=torch.float64)
    torch.testing.assert_close(sparse(FRAME, BACKGROUND, TARGET), expected)


def test_reconstruction_has_no_skip() -> None:
    assert not passing(Merge(), gain=0)(BACKGROUND, TARGET).any()
    expected = 3 * NORM**4 * (BACKGROUND + TARGET)  # none is negative
    torch.testing.assert_close(passing(Merge(), gain=3)(BACKGROUND, TARGET), expected)


def test_a_stage_uses_the_new_background_and_the_new_target() -> None:
    stage = Stage(passing(Sparse(), gain=50), passing(Merge(), gain=1))
    passing(stage.lowrank, gain=-0.5 / NORM**4)
    frame, target = (torch.full((1, 1, 2, 3), value).double() for value in (0.75, 0.25))
    # B = 0.5 - 0.25 = 0.25; P = 0.25 + 0.75 - 0.25 = 0.75; T = P - 0.01 * 50 P; D = B + T.
    merged, found = stage(frame, target)
    torch.testing.assert_close(found, torch.full_like(frame, 0.375), rtol=1e-6, atol=0)
    torch.testing.assert_close(merged, torch.full_like(frame, 0.625 * NORM**4), rtol=1e-6, atol=0)


# --- the whole ------------------------------------------------------------------------------------


def chain(tensors: Mapping[str, Tensor], prefix: str, step: int, x: Tensor) -> Tensor:
    """Convolutions at 0, step, 2 step ...; at step 3 each but the last has a normalisation."""
    at = 0
    while f"{prefix}.{at}.weight" in tensors:
        x = x if at == 0 else x.clamp(min=0)
        key = f"{prefix}.{at}"
        x = F.conv2d(x, tensors[f"{key}.weight"], tensors[f"{key}.bias"], padding=1)
        norm = f"{prefix}.{at + 1}"
        if f"{norm}.running_var" in tensors:
            gain = tensors[f"{norm}.weight"] / (tensors[f"{norm}.running_var"] + 1e-5).sqrt()
            offset = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * gain
            x = x * gain[:, None, None] + offset[:, None, None]
        at += step
    return x


@torch.no_grad()
@pytest.mark.parametrize("size", [(6, 5), (1, 9)])
def test_network_against_the_published_equations(size: tuple[int, int]) -> None:
    network = unsettled(RPCANet(), seed=1).double()
    tensors = network.state_dict()
    x = torch.rand(2, 1, *size, dtype=torch.float64)
    d, t = x, torch.zeros_like(x)
    for k in range(6):
        b = d - t + chain(tensors, f"decos.{k}.lowrank.convs", 3, d - t)
        p = t + d - b
        epsilon = tensors[f"decos.{k}.sparse.epsilon"]
        t = p - epsilon * chain(tensors, f"decos.{k}.sparse.convs", 2, p)
        d = chain(tensors, f"decos.{k}.merge.mapping", 3, b + t)
    frame, target = network(x)
    torch.testing.assert_close(frame, d, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(target, t, rtol=1e-9, atol=1e-9)


def test_sizes_and_keys() -> None:
    network = RPCANet()
    state = network.state_dict()
    assert sum(parameter.numel() for parameter in network.parameters()) == 679_896
    assert len(state) == 462
    for key, shape in {
        "decos.0.lowrank.convs.0.weight": (32, 1, 3, 3),
        "decos.2.lowrank.convs.10.running_mean": (32,),
        "decos.5.lowrank.convs.12.bias": (1,),
        "decos.0.sparse.epsilon": (1,),
        "decos.3.sparse.convs.12.weight": (32, 32, 3, 3),
        "decos.4.sparse.convs.14.weight": (1, 32, 3, 3),
        "decos.1.merge.mapping.4.num_batches_tracked": (),
        "decos.5.merge.mapping.12.weight": (1, 32, 3, 3),
    }.items():
        assert tuple(state[key].shape) == shape


@pytest.mark.parametrize("name", ["rpcanet_sirst.pkl", "rpcanet_nudt_sirst.pkl"])
def test_published_weights_load_strictly(name: str) -> None:
    if not (PUBLISHED / name).is_file():
        pytest.skip(f"no published weights; to run this, put {name} into ../shared/weights")
    network = RPCANet()
    load_into(network, read_weights(PUBLISHED / name).tensors, name=name)
    epsilons = [stage.sparse.epsilon.item() for stage in network.decos]
    assert len(set(epsilons)) == 6 and 0.009 < min(epsilons) and max(epsilons) < 0.06


def test_weights_start_as_published() -> None:
    torch.manual_seed(2)
    convs = [layer for layer in RPCANet().modules() if isinstance(layer, nn.Conv2d)]
    wide = torch.cat([conv.weight.flatten() for conv in convs if conv.weight.shape[:2] == (32, 32)])
    # Xavier: variance 2 / (inputs + outputs), both 32 channels of 9 weights.
    assert float(wide.detach().std()) == pytest.approx((2 / (2 * 32 * 9)) ** 0.5, rel=0.01)


def test_every_parameter_learns() -> None:
    torch.manual_seed(3)
    network = RPCANet().train()
    reconstruction, logits = network(torch.rand(2, 1, 8, 8))
    (reconstruction.square().sum() + logits.square().sum()).backward()
    assert all(bool(parameter.grad.any()) for parameter in network.parameters())


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (37, 50)])
def test_any_size(size: tuple[int, int]) -> None:
    for output in RPCANet().eval()(torch.rand(2, 1, *size)):
        assert output.shape == (2, 1, *size)
        assert bool(output.isfinite().all())


@torch.no_grad()
def test_export() -> None:
    network = unsettled(RPCANet(), seed=4)
    frame = np.random.default_rng(5).random((1, 1, 64, 64), dtype=np.float32)
    last = network.decos[-1].sparse  # its bias brings the logits to where a sigmoid tells them
    last.convs[-1].bias.add_(network(torch.from_numpy(frame))[1].mean() / last.epsilon)
    model = trace(network, (64, 64))
    lift_constants(model)
    fold_scales(model)
    check_graph(model)
    # Six stages of 5 + 8 + 5 convolutions, the last reconstruction dropped.
    assert count_operators(model)["Conv"] == 6 * 18 - 5
    assert "BatchNormalization" not in count_operators(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (confidence,) = session.run(None, {INPUT: frame})
    _, logits = network(torch.from_numpy(frame))
    np.testing.assert_allclose(confidence, logits.sigmoid().numpy(), atol=1e-4, rtol=0)
    assert confidence.std() > 1e-2  # not merely everywhere 0
