"""TenRPCANet re-created: blocks on what can be checked by hand, and the promises of the whole."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from irstd.train.models import tenrpcanet
from irstd.train.models.tenrpcanet import (
    CHANNELS,
    FRAMES,
    PixelAttention,
    TenRPCANet,
    ThresholdGate,
    attend,
    cut_windows,
    join_windows,
    local_mean,
    measure_residuals,
    widen_border,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network() -> TenRPCANet:
    torch.manual_seed(0)
    return TenRPCANet().eval()


def clip(seed: int = 0, side: int = 32) -> Tensor:
    return torch.rand(1, FRAMES, side, side, generator=torch.Generator().manual_seed(seed))


# --- windows --------------------------------------------------------------------------------------


def test_windows_hold_their_places_in_order() -> None:
    """Tokens that carry their own number: window 1 begins at column 4, frame after frame."""
    numbers = torch.arange(2 * 8 * 12.0).reshape(1, 2, 1, 8, 12)
    cut = cut_windows(numbers, 1)
    assert cut.shape == (6, 1, 32, 1)
    assert cut[1, 0, :5, 0].tolist() == [4, 5, 6, 7, 16]
    assert cut[1, 0, 16, 0] == 4 + 8 * 12  # the second frame
    assert cut[3, 0, 0, 0] == 4 * 12


def test_windows_go_back_to_where_they_were() -> None:
    tokens = torch.randn(2, 3, 6, 8, 12)
    torch.testing.assert_close(join_windows(cut_windows(tokens, 2), (2, 3, 8, 12)), tokens)


def test_heads_are_groups_of_channels() -> None:
    tokens = torch.randn(1, 1, 6, 4, 4)
    cut = cut_windows(tokens, 3)
    torch.testing.assert_close(cut[0, 1, 5], tokens[0, 0, 2:4, 1, 1])


def test_the_border_is_mirrored() -> None:
    tokens = torch.randn(2, 3, 8, 4)
    expected = torch.nn.functional.pad(tokens, (2, 2, 2, 2), mode="reflect")
    torch.testing.assert_close(widen_border(tokens), expected)


def test_attention_by_hand() -> None:
    """One query, two keys: scores 2 / sqrt(4) and 0, bias 0 and ln 2."""
    query = torch.tensor([[[[2.0, 0, 0, 0]]]])
    key = torch.tensor([[[[1.0, 0, 0, 0], [0, 1.0, 0, 0]]]])
    bias = torch.tensor([[[[0.0, 0.6931472]]]])
    share = attend(query, key, bias)
    torch.testing.assert_close(share[0, 0, 0], torch.tensor([2.7182817, 2.0]) / 4.7182817)


# --- background -----------------------------------------------------------------------------------


def test_pixels_of_the_same_place_are_where_attention_begins() -> None:
    """A patch that differs from all others is found again, mixed with 2 % of the others at most."""
    torch.manual_seed(1)
    module = PixelAttention().eval()
    pixels = torch.rand(1, 1, 32, 32).repeat(1, FRAMES - 1, 1, 1)
    tokens = torch.zeros(1, FRAMES, CHANNELS, 8, 8)
    with torch.no_grad():
        made = module(tokens, pixels)
    assert (made - pixels[:, :1]).abs().max() < 0.05


def test_the_newest_frame_is_no_part_of_its_background(network: TenRPCANet) -> None:
    """Older frames all alike leave nothing to combine, whatever the newest one shows."""
    still = clip()[:, :1].repeat(1, FRAMES, 1, 1)
    still[:, -1] = torch.rand(1, 32, 32)
    with torch.no_grad():
        background, _ = network(still)
    torch.testing.assert_close(background, still[:, :1])


def test_a_background_that_moves_by_noise_alone_is_their_mean(network: TenRPCANet) -> None:
    frames = 0.5 + 0.01 * torch.randn(1, FRAMES, 32, 32)
    with torch.no_grad():
        background, _ = network(frames)
    assert (background - 0.5).std() < 0.01 / 2  # 7 frames: 0.0038 for the mean, 0.0047 the median


# --- residual and gate ----------------------------------------------------------------------------


def test_residuals_are_in_units_of_the_misfit() -> None:
    """The older frames miss the background by 0.02 everywhere; a target of 0.12 stands above it."""
    frames = torch.full((1, FRAMES, 32, 32), 0.52)
    frames[:, -1] = 0.5
    frames[:, -1, 16, 16] = 0.62
    levels = measure_residuals(frames, torch.full((1, 1, 32, 32), 0.5))
    assert levels.shape == (1, FRAMES + 1, 32, 32)
    assert float(levels[0, 0, 5, 5]) == pytest.approx(0.02 / 0.024, rel=1e-4)
    assert float(levels[0, -2, 16, 16]) == pytest.approx(0.12 / 0.024, rel=1e-4)
    hat = 0.12 / (0.12 / 81 + 0.004)
    assert float(levels[0, -1, 16, 16]) == pytest.approx(min(hat, 12.0), rel=1e-3)


def test_residuals_are_bounded() -> None:
    frames = torch.zeros(1, FRAMES, 32, 32)
    frames[:, -1, 3, 3] = 1.0
    assert float(measure_residuals(frames, torch.zeros(1, 1, 32, 32)).max()) == 12.0


def test_the_local_mean_leaves_out_what_is_beyond_the_border() -> None:
    torch.testing.assert_close(local_mean(torch.ones(1, 1, 16, 16)), torch.ones(1, 1, 16, 16))


def test_the_gate_is_a_soft_threshold() -> None:
    gate = ThresholdGate(1, 1)
    with torch.no_grad():
        gate.height.convolution.weight.zero_()
        gate.height.convolution.bias.fill_(0.5413249)  # softplus of it is 1
        x = torch.tensor([[[[3.0, 0.5], [-0.5, -4.0]]]])
        shrunk = gate(x, torch.randn(1, 1, 1, 1))
    torch.testing.assert_close(shrunk, torch.tensor([[[[2.0, 0.0], [0.0, -3.0]]]]))


# --- the whole ------------------------------------------------------------------------------------


def test_shapes_and_parameters(network: TenRPCANet) -> None:
    with torch.no_grad():
        background, logits = network(torch.rand(2, FRAMES, 32, 48))
    assert background.shape == logits.shape == (2, 1, 32, 48)
    assert sum(one.numel() for one in network.parameters()) == 174_644


def test_a_gradient_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    network = TenRPCANet()
    background, logits = network(torch.rand(2, FRAMES, 32, 32))
    (background.square().mean() + logits.square().mean()).backward()  # type: ignore[no-untyped-call]
    still = [
        name
        for name, one in network.named_parameters()
        if one.grad is None or not bool(one.grad.abs().sum() > 0)
    ]
    assert not still


def test_frames_of_a_batch_do_not_meet(network: TenRPCANet) -> None:
    both = torch.cat([clip(1), clip(2)])
    with torch.no_grad():
        alone, together = network(clip(1))[1], network(both)[1]
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-4)


def test_another_length_is_refused(network: TenRPCANet) -> None:
    with pytest.raises(ValueError, match=re.escape("the clip has 7 frames, tenrpcanet takes 8")):
        network(torch.rand(1, 7, 32, 32))


def test_another_size_is_refused(network: TenRPCANet) -> None:
    with pytest.raises(ValueError, match="input is 40x32, expected multiples of 16"):
        network(torch.rand(1, 8, 40, 32))


def test_stride_is_a_window_of_patches() -> None:
    assert tenrpcanet.STRIDE == 16
