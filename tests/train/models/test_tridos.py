import numpy as np
import pytest
import torch
from torch import nn

from irstd.export.bundling import make_graph
from irstd.export.graph import count_flop, count_operators
from irstd.export.parity import TOLERANCE, compare_answers
from irstd.runtime.engine import load_engine
from irstd.train.models.box_network import answer
from irstd.train.models.csp_darknet import CspDarknet
from irstd.train.models.tridos import FRAMES, Compensation, Design, Tridos

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = (64, 96)
FORBIDDEN = {"DFT", "Loop", "If", "Scan", "NonZero", "TopK", "NonMaxSuppression", "Atan", "Where"}


@pytest.fixture(scope="module")
def small(unsettle):
    torch.manual_seed(0)
    network = Tridos(Design(channels=16))
    unsettle(network, seed=1)
    return network


def clip(*, seed=0, frames=FRAMES, size=SIZE, batch=1):
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.random((batch, frames, *size), np.float32))


@pytest.mark.parametrize(("cell", "places"), [(4, 16 * 24), (8, 8 * 12)])
def test_every_place_gives_a_box(cell, places):
    network = Tridos(Design(channels=16, cell=cell)).eval()
    with torch.inference_mode():
        raw = network(clip())
        boxes = answer(network, clip())
    assert raw.shape == (1, 6, SIZE[0] // cell, SIZE[1] // cell)
    assert boxes.shape == (1, places, 5)
    assert (boxes[..., :2] < boxes[..., 2:4]).all()
    # Before anything is learned a target is rare everywhere.
    assert 0.0 < boxes[..., 4].min() <= boxes[..., 4].max() < 0.1


def test_clips_of_a_batch_do_not_see_one_another(small):
    with torch.inference_mode():
        both = small(torch.cat([clip(), clip(seed=1)]))
        alone = small(clip(seed=1))
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("place", range(FRAMES))
def test_every_frame_counts(place):
    torch.manual_seed(0)
    network = Tridos(Design(channels=16)).train()  # normalised by what it sees, as at the start
    changed = clip(batch=2)
    changed[:, place] = changed[:, place].flip(-1)
    with torch.inference_mode():
        assert (network(changed) - network(clip(batch=2))).abs().max() > 1e-2


def test_sizes_that_the_halvings_do_not_divide_are_refused(small):
    with pytest.raises(ValueError, match="multiples of 32"):
        small(clip(size=(64, 80)))


@pytest.mark.parametrize("cell", [2, 16])
def test_other_cells_are_refused(cell):
    with pytest.raises(ValueError, match="expected 4 or 8"):
        Design(cell=cell)


@pytest.mark.parametrize("channels", [0, 24])
def test_channels_that_halve_badly_are_refused(channels):
    with pytest.raises(ValueError, match="multiple of 16"):
        CspDarknet(channels)


def test_the_published_width_has_the_published_parameters():
    """The release's 21.49 M, of which 0.89 M are idle: 4.83 backbone, 13.37 neck, 2.40 head."""
    network = Tridos(Design.published())
    counts = {
        name: sum(one.numel() for one in part.parameters()) / 1e6
        for name, part in network.named_children()
    }
    assert counts["backbone"] == pytest.approx(4.83, abs=0.005)
    assert counts["head"] == pytest.approx(2.40, abs=0.005)
    assert sum(counts.values()) - counts["backbone"] - counts["head"] == pytest.approx(
        13.4, abs=0.1
    )


def test_every_parameter_learns():
    torch.manual_seed(0)
    network = Tridos(Design(channels=16)).train()
    nn.init.constant_(network.space.relate.gain, 0.1)  # it begins as the identity
    network(clip(batch=2)).square().sum().backward()
    silent = [
        name
        for name, one in network.named_parameters()
        if one.grad is None or not one.grad.abs().sum() > 0.0
    ]
    assert not silent


def test_compensation_is_hand_checkable():
    """With all weights of the body at zero only the way past it is left."""
    block = Compensation(16).eval()
    with torch.no_grad():
        for one in block.body.parameters():
            one.zero_()
        block.past.weight.fill_(0.25)
        block.past.bias.fill_(-1.0)
    said = block(torch.full((1, 16, 2, 2), 0.5), torch.full((1, 16, 2, 2), 1.0))
    torch.testing.assert_close(said, torch.full((1, 16, 2, 2), 16 * 0.25 * 1.5 - 1.0))


def test_the_graph_is_what_engines_take_and_says_what_torch_says(small):
    graph = make_graph(small, SIZE, frames=FRAMES)
    assert not set(count_operators(graph)) & FORBIDDEN
    (output,) = graph.graph.output
    assert output.name == "boxes"
    assert [side.dim_value for side in output.type.tensor_type.shape.dim] == [1, 384, 5]
    engine = load_engine(graph.SerializeToString(), threads=1)
    parity = compare_answers(small, engine, [clip(seed=seed).numpy() for seed in range(2)])
    assert parity.max_difference <= TOLERANCE


def test_the_cost_at_the_default_width():
    torch.manual_seed(0)
    graph = make_graph(Tridos().eval(), (256, 256), frames=FRAMES)
    assert count_flop(graph) / 1e9 == pytest.approx(4.3, abs=0.3)
