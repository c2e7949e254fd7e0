from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from irstd.train.batchnorm import SharedBatchNorm2d, share_statistics
from irstd.train.models.lrrnet_edge import LRRNetEdge
from irstd.train.zoo import MODELS

STEPS = 3
# What each of two processes does: its half of every batch through forward and backward.
PROGRAM = """
from irstd.train.batchnorm import share_statistics

network, batches = share_statistics(given["network"]), given["batches"]
found["outputs"], found["slopes"] = [], []
for batch in batches:
    x = batch.chunk(2)[rank].clone().requires_grad_()
    y = network(x)
    y.pow(3).mean().backward()
    found["outputs"].append(y.detach())
    found["slopes"].append(x.grad)
found["gradients"] = [parameter.grad for parameter in network.parameters()]
found["state"] = {key: value.clone() for key, value in network.state_dict().items()}
# One process alone: had the other a part in an evaluation, this would wait for ever.
found["evaluated"] = network.eval()(batches[0][:1]).detach() if rank == 0 else None
found["type"] = network.train()[1](torch.ones(1, 4, 2, 2, dtype=torch.bfloat16)).dtype
"""


@dataclass(frozen=True, slots=True)
class Found:
    """What forward and backward passes gave, one entry a batch, and what they left behind."""

    outputs: list[Tensor]
    slopes: list[Tensor]
    gradients: list[Tensor]
    state: dict[str, Tensor]
    evaluated: Tensor | None
    type: torch.dtype


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3, eps=1e-3),
    )  # fmt: skip
    for norm in (net[1], net[4]):
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        nn.init.uniform_(norm.bias, -1.0, 1.0)
    return net


def batches() -> list[Tensor]:
    """The second half of each batch is brighter: its own statistics would not do."""
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.rand(4, 2, 9, 7, generator=generator) for _ in range(STEPS)]
    return [batch + torch.tensor([0.0, 0, 1, 3])[:, None, None, None] for batch in drawn]


@pytest.fixture(scope="module")
def halves(run_twice: Callable[[str, object], list[dict]]) -> list[Found]:
    """What two processes found, each on its half."""
    given = {"network": network(), "batches": batches()}
    return [Found(**found) for found in run_twice(PROGRAM, given)]


@pytest.fixture(scope="module")
def whole() -> Found:
    """What plain `BatchNorm2d` finds on the whole batch."""
    net, outputs, slopes = network(), [], []
    for batch in batches():
        x = batch.clone().requires_grad_()
        y = net(x)
        y.pow(3).mean().backward()
        outputs.append(y.detach())
        slopes.append(x.grad)
    gradients = [parameter.grad for parameter in net.parameters()]
    state = {key: value.clone() for key, value in net.state_dict().items()}
    evaluated = net.eval()(batches()[0][:1]).detach()
    return Found(outputs, slopes, gradients, state, evaluated, torch.float32)


def close(ours: Tensor, expected: Tensor) -> None:
    # Sums of float32 in another order, through two batch normalisations and a cube: 2e-5 was seen.
    torch.testing.assert_close(ours, expected, rtol=5e-5, atol=1e-5)


def test_two_processes_normalise_as_one(halves: list[Found], whole: Found) -> None:
    for step, expected in enumerate(whole.outputs):
        close(torch.cat([half.outputs[step] for half in halves]), expected)
    alone = network()(batches()[0][:2])
    assert not torch.allclose(alone, whole.outputs[0][:2], atol=0.1)


def test_two_processes_learn_as_one(halves: list[Found], whole: Found) -> None:
    # Each half's loss is a mean over the half; the mean of both is that over the batch.
    for place, expected in enumerate(whole.gradients):
        close((halves[0].gradients[place] + halves[1].gradients[place]) / 2, expected)
    for step, expected in enumerate(whole.slopes):
        close(torch.cat([half.slopes[step] for half in halves]) / 2, expected)


def test_two_processes_remember_as_one(halves: list[Found], whole: Found) -> None:
    for half in halves:
        assert list(half.state) == list(whole.state)
        for key, value in whole.state.items():
            close(half.state[key], value)
        assert half.state["1.num_batches_tracked"] == STEPS
    for key, value in halves[0].state.items():
        assert torch.equal(value, halves[1].state[key])  # to the bit, or they would drift apart


def test_two_processes_evaluate_each_alone(halves: list[Found], whole: Found) -> None:
    assert halves[0].evaluated is not None and whole.evaluated is not None
    close(halves[0].evaluated, whole.evaluated)


def test_two_processes_keep_the_type_of_the_input(halves: list[Found]) -> None:
    assert [half.type for half in halves] == [torch.bfloat16] * 2


# --- one process ----------------------------------------------------------------------------------


def test_one_process_has_plain_norms() -> None:
    plain, shared = network(), share_statistics(network())
    for batch in batches():
        torch.testing.assert_close(shared(batch), plain(batch), rtol=0, atol=0)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[key], value, rtol=0, atol=0)
    torch.testing.assert_close(shared.eval()(batches()[0]), plain.eval()(batches()[0]))


def test_sharing_keeps_the_state_and_reaches_every_norm() -> None:
    torch.manual_seed(0)
    net = LRRNetEdge()
    net(torch.rand(2, 1, 32, 32))  # moves the running statistics
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert share_statistics(net) is net
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    kinds = {type(module) for module in net.modules() if isinstance(module, nn.BatchNorm2d)}
    assert kinds == {SharedBatchNorm2d}


def test_sharing_twice_changes_nothing() -> None:
    net = share_statistics(network())
    norms = [net[1], net[4]]
    share_statistics(net)
    assert [net[1], net[4]] == norms
    assert norms[1].eps == 1e-3


@pytest.mark.parametrize("name", sorted(name for name, one in MODELS.items() if one.is_trained))
def test_every_model_of_the_zoo_can_share(name: str) -> None:
    share_statistics(MODELS[name].build())


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(3, momentum=0.01),
        nn.BatchNorm2d(3, momentum=None),
        nn.BatchNorm2d(3, affine=False),
        nn.BatchNorm2d(3, track_running_stats=False),
    ],
    ids=repr,
)
def test_other_norms_are_refused(norm: nn.BatchNorm2d) -> None:
    with pytest.raises(ValueError, match="^cannot share the statistics of BatchNorm2d"):
        share_statistics(nn.Sequential(norm))
