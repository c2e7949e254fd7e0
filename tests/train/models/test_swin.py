import numpy as np
import pytest
import torch
from torch import nn

from irstd.train.models.swin import (
    SHIFT,
    ChannelNorm,
    WindowAttention,
    WindowLayer,
    from_windows,
    relative_places,
    to_windows,
)

FRAMES = 3


def test_windows_hold_every_frame_and_come_back():
    x = torch.arange(2 * FRAMES * 8 * 12 * 4, dtype=torch.float32).reshape(2, FRAMES, 8, 12, 4)
    windows = to_windows(x)
    assert windows.shape == (2, 2 * 3, FRAMES * 16, 4)
    # The second window of the first clip: rows 0..3, columns 4..7 of every frame.
    expected = x[0, :, :4, 4:8].reshape(-1, 4)
    torch.testing.assert_close(windows[0, 1], expected)
    torch.testing.assert_close(from_windows(windows, FRAMES, 8, 12), x)


def test_biases_stand_for_ways_and_are_all_used():
    places = relative_places(2)
    assert places.shape == (32, 32)
    assert places.min() == 0
    assert places.max() == 3 * 7 * 7 - 1
    # From a place to itself there is one way; from a place to its right neighbour another one.
    assert len(set(np.diag(places))) == 1
    assert places[0, 1] == places[1, 2] == places[16, 17]
    assert places[0, 16] != places[16, 0]


def test_the_normalisation_is_torchs():
    ours, theirs = ChannelNorm(6), nn.LayerNorm(6)
    with torch.no_grad():
        ours.weight.copy_(torch.linspace(0.5, 2.0, 6))
        ours.bias.copy_(torch.linspace(-1.0, 1.0, 6))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def reached(layer, place, *, size=(8, 12)):
    """(H, W) whether each place of the newest frame changes when one of the oldest does."""
    x = torch.randn(1, FRAMES, *size, 8, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[0, 0, place[0], place[1]] += 5.0 * torch.arange(8)
    with torch.inference_mode():
        apart = (layer(changed) - layer(x))[0, -1].abs().amax(dim=-1)
    return apart > 1e-6


@pytest.fixture
def layer():
    def make(shift):
        torch.manual_seed(0)
        return WindowLayer(8, FRAMES, shift=shift).eval()

    return make


def test_attention_stays_in_its_window(layer):
    seen = reached(layer(0), (1, 5))
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[:4, 4:8] = True
    assert (seen == expected).all()


def test_shifted_windows_cross_the_borders_of_the_plain_ones_and_not_the_frames(layer):
    seen = reached(layer(SHIFT), (3, 5))
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[2:6, 2:6] = True
    assert (seen == expected).all()
    # At the corner a shifted window holds four parts of the frame that do not touch.
    corner = reached(layer(SHIFT), (0, 0))
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[:2, :2] = True
    assert (corner == expected).all()


def test_both_layers_keep_the_shape():
    network = WindowAttention(8, FRAMES).eval()
    assert network(torch.zeros(2, FRAMES, 8, 4, 12)).shape == (2, FRAMES, 8, 4, 12)
