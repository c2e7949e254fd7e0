from __future__ import annotations

import math

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from irstd.train.checkpoint import load_into
from irstd.train.fake_quantize import (
    RoundedConv2d,
    check_ranges,
    list_convolutions,
    observe_ranges,
    round_activations,
    round_convolutions,
    round_weights,
    without_ranges,
)
from irstd.train.loop import Training
from irstd.train.models.lrrnet_edge import LRRNetEdge
from irstd.train.recipe import Recipe
from irstd.train.zoo import MODELS, Model

pytestmark = pytest.mark.usefixtures("one_thread")

RANGE = torch.tensor(127 * 0.25)  # a step of 0.25


class Small(nn.Module):
    """Convolutions of all kinds: reading the frame, normalised, plain, on its own, to one map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.body = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)
        )
        self.apart = nn.Conv2d(4, 4, 3, stride=2, dilation=2, padding=2, groups=2)
        self.unread = nn.Conv2d(4, 4, 1)
        self.wide = nn.Conv2d(4, 2, 1)
        self.target = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        deep = self.body(self.stem(x))
        spread = nn.functional.interpolate(self.apart(deep), scale_factor=2.0)
        return self.wide(deep)[:, :1], self.target(deep + spread)


def small() -> Small:
    torch.manual_seed(0)
    return Small()


def frames(count: int = 2, *, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(1, 1, 16, 16, generator=generator) for _ in range(count)]


def rounded() -> tuple[Small, dict[str, float]]:
    network = small()
    ranges = observe_ranges(network, frames())
    round_convolutions(network, ranges)
    return network, ranges


# --- rounding by hand -----------------------------------------------------------------------------


def test_activations_by_hand() -> None:
    given = torch.tensor([0.1, 0.125, 0.2, 0.375, -0.6, 31.75, 40.0, -32.0, -40.0])
    # Halves go to even; only what is beyond the range becomes -128 steps.
    expected = torch.tensor([0.0, 0.0, 0.25, 0.5, -0.5, 31.75, 31.75, -32.0, -32.0])
    assert torch.equal(round_activations(given, RANGE), expected)


def test_the_gradient_passes_straight_and_ends_at_the_clip() -> None:
    given = torch.tensor([0.1, -0.6, 31.75, 31.8, 32.0, 40.0, -32.0, -32.2, -40.0])
    given.requires_grad_()
    weights = torch.arange(1.0, 10.0)
    (round_activations(given, RANGE) * weights).sum().backward()
    # 31.8 and -32.2 round to 127 and -129 steps: only the second is beyond.
    inside = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    assert given.grad is not None
    assert torch.equal(given.grad, weights * inside)


def test_weights_by_hand() -> None:
    first = [63.5, 0.25, 0.3, -0.8]  # a step of 0.5
    second = [-12.7, 1.23, 0.0, 0.04]  # of 0.1
    weight = torch.tensor([first, second, [0.0] * 4])[:, :, None, None].requires_grad_()
    found = round_weights(weight)
    expected = torch.tensor([[63.5, 0.0, 0.5, -1.0], [-12.7, 1.2, 0.0, 0.0], [0.0] * 4])
    torch.testing.assert_close(found[:, :, 0, 0], expected, rtol=1e-6, atol=0)
    (slopes,) = torch.autograd.grad(found.sum(), weight)
    assert torch.equal(slopes, torch.ones_like(weight))  # weights are never clipped


def test_a_convolution_by_hand() -> None:
    plain = nn.Conv2d(2, 2, 1)
    with torch.no_grad():
        plain.weight.copy_(torch.tensor([[63.5, 0.3], [0.3, -127.0]])[:, :, None, None])
        assert plain.bias is not None
        plain.bias.copy_(torch.tensor([0.01, -0.01]))
    convolution = RoundedConv2d(plain, float(RANGE))
    made = convolution(torch.tensor([2.1, 40.0])[None, :, None, None]).flatten()
    # It reads 2.0 and 31.75 by 63.5, 0.5 and 0, -127; biases are not rounded.
    expected = [2.0 * 63.5 + 31.75 * 0.5 + 0.01, 31.75 * -127.0 - 0.01]
    assert made.tolist() == pytest.approx(expected, rel=1e-6)


def test_all_that_a_convolution_is_stays() -> None:
    plain = nn.Conv2d(4, 6, (3, 5), (2, 1), (1, 4), (1, 2), 2, bias=False, padding_mode="reflect")
    x = torch.randn(2, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    convolution = RoundedConv2d(plain, float(x.abs().max()))
    assert convolution.weight is plain.weight and convolution.bias is None
    torch.testing.assert_close(convolution(x), plain(x), atol=0.05, rtol=0)
    assert not torch.equal(convolution(x), plain(x))


def test_bfloat16() -> None:
    plain = nn.Conv2d(4, 4, 3, padding=1)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    convolution = RoundedConv2d(plain, float(x.abs().max()))
    expected = convolution(x)
    with torch.autocast("cpu", torch.bfloat16):
        made = convolution(x.bfloat16())
        made.float().square().mean().backward()
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.float(), expected, atol=0.05, rtol=0)
    assert plain.weight.grad is not None and plain.weight.grad.abs().sum() > 0


# --- which convolutions, and their ranges ---------------------------------------------------------


def test_which_convolutions_are_rounded() -> None:
    assert list(list_convolutions(small())) == ["body.0", "apart", "unread", "wide"]


def test_a_network_without_any_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 1, 3))
    with pytest.raises(ValueError, match=r"^Sequential has no convolution .* without --qat$"):
        observe_ranges(network, frames())


def test_ranges_are_the_largest_magnitudes_in_flight() -> None:
    network = small().train()
    statistics = network.body[1].running_mean.clone()
    ranges = observe_ranges(network, frames())
    assert not network.training and torch.equal(network.body[1].running_mean, statistics)
    assert list(ranges) == ["body.0", "apart", "unread", "wide"]
    with torch.no_grad():
        shallow = [network.stem(frame).abs().max() for frame in frames()]
        deep = [network.body(network.stem(frame)).abs().max() for frame in frames()]
    assert ranges["body.0"] == float(max(shallow))
    assert ranges["apart"] == ranges["wide"] == float(max(deep))
    assert ranges["unread"] == 0.0
    assert not network.body[0]._forward_pre_hooks


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_give_no_number_are_refused(value: float) -> None:
    network = small()
    with torch.no_grad():
        network.stem.weight[1] = value
    with pytest.raises(ValueError, match=r"^body\.0 reads NaN or infinity; start from weights"):
        observe_ranges(network, frames())
    assert not network.body[0]._forward_pre_hooks


def test_ranges_of_other_modules_are_refused() -> None:
    check_ranges(small(), {}, name="plain")
    check_ranges(small(), {"body.0": 1.0, "wide": 2.0}, name="tuned")
    said = r"^tuned brings INT8 ranges of 2 modules that Small does not round \(body\.9\); it was"
    with pytest.raises(ValueError, match=said):  # the stem reads a single map
        check_ranges(small(), {"body.0": 1.0, "stem": 1.0, "body.9": 1.0}, name="tuned")


# --- in a network ---------------------------------------------------------------------------------


def test_what_reads_nothing_stays() -> None:
    network, ranges = rounded()
    kinds = {name: type(module) for name, module in network.named_children() if name != "body"}
    assert kinds == {
        "stem": nn.Conv2d, "apart": RoundedConv2d, "unread": nn.Conv2d, "wide": RoundedConv2d,
        "target": nn.Conv2d,
    }  # fmt: skip
    assert network.body[0].input_range == pytest.approx(ranges["body.0"])


TRAINED = [model for model in MODELS.values() if model.is_trained and model.name != "lowrank3d"]


@pytest.mark.parametrize("model", TRAINED, ids=lambda model: model.name)
def test_every_model_keeps_its_keys_and_parameters(model: Model) -> None:
    network = model.build()
    parameters, keys = dict(network.named_parameters()), list(network.state_dict())
    names = list_convolutions(network)
    round_convolutions(network, dict.fromkeys(names, 6.0))
    assert len(names) > 20
    assert all(isinstance(network.get_submodule(name), RoundedConv2d) for name in names)
    after = dict(network.named_parameters())
    assert after.keys() == parameters.keys()
    assert all(after[name] is parameter for name, parameter in parameters.items())
    written = without_ranges(network.state_dict())
    assert list(written) == keys
    assert len(network.state_dict()) == len(keys) + len(names)  # a range each
    load_into(model.build(), written, name="fine-tuned")


def test_rounding_changes_little_and_something() -> None:
    plain, (network, _) = small().eval(), rounded()
    x = frames(1)[0]
    for made, expected in zip(network(x), plain(x), strict=True):
        torch.testing.assert_close(made, expected, atol=0.02, rtol=0)
        assert not torch.equal(made, expected)


# --- in a training --------------------------------------------------------------------------------


def batch() -> tuple[Tensor, Tensor]:
    """Dim noise with a bright 3x3 target in each frame."""
    x = 0.2 * torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros_like(x)
    mask[:, :, 4:7, 9:12] = 1.0
    return x + 0.7 * mask, mask


def test_the_loss_of_int8_falls(fabric: Fabric) -> None:
    network, ranges = rounded()
    recipe = Recipe(crop=16, batch=4, learning_rate=0.02, start_share=0.0)
    training = Training(fabric, network, recipe, steps=30, as_flown=True)
    losses = [training.advance(*batch()) for _ in range(3)]
    assert losses[2] < losses[1] < losses[0]
    again, _ = rounded()
    again.load_state_dict(training.averaged())
    assert again.body[0].input_range == pytest.approx(ranges["body.0"])  # the average keeps it


def test_nothing_but_parameters_moves(fabric: Fabric) -> None:
    losses = []
    for seed in (0, 1):  # of the dropout
        network, _ = rounded()
        before = {name: buffer.clone() for name, buffer in network.named_buffers()}
        recipe = Recipe(crop=16, batch=4, learning_rate=0.02, seed=seed)
        losses.append(Training(fabric, network, recipe, steps=9, as_flown=True).advance(*batch()))
        assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
        assert not torch.equal(network.body[0].weight, small().body[0].weight)
    assert losses[0] == losses[1]


def test_an_engine_network_learns_in_int8(fabric: Fabric) -> None:
    torch.manual_seed(0)
    network = LRRNetEdge()
    round_convolutions(network, observe_ranges(network, [torch.rand(1, 1, 32, 32)]))
    before = {name: one.detach().clone() for name, one in network.named_parameters()}
    recipe = Recipe(crop=32, batch=2, learning_rate=1e-3)
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    Training(fabric, network, recipe, steps=9, as_flown=True).advance(x, (x > 0.99).float())
    still = [name for name, one in network.named_parameters() if torch.equal(one, before[name])]
    assert not still  # a gradient reaches every parameter
