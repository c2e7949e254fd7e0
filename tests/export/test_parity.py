import numpy as np
import pytest
import torch
from torch import nn

from irstd.export.parity import ParityError, check_parity
from irstd.runtime.frame import FrameContract

CONTRACT = FrameContract(16, 16, normalisation="full-scale")


class Doubler(nn.Module):
    """Target logits are twice the frame."""

    def forward(self, frame):
        return frame, 2 * frame


class Steep(Doubler):
    """As `Doubler`, but one pixel has a logit of `top`."""

    def __init__(self, top):
        super().__init__()
        self.top = top

    def forward(self, frame):
        logits = 2 * frame
        logits[0, 0, 0, 0] = self.top
        return frame, logits


class Engine:
    """Answers like `Doubler`, off by a constant."""

    description = "test"
    input_shape = (1, 1, 16, 16)

    def __init__(self, error, *, network=None):
        self.error = error
        self.network = network or Doubler()
        self.runs = 0

    def run(self, prepared):
        self.runs += 1
        confidence = self.network(torch.from_numpy(prepared))[1].sigmoid()[0, 0].numpy()
        return confidence + np.float32(self.error)

    def close(self):
        pass


def frames(count):
    return list(np.random.default_rng(0).integers(0, 256, (count, 16, 16), np.uint8))


def test_an_exact_engine_passes_and_the_difference_is_told():
    parity = check_parity(Doubler(), Engine(5e-5), frames(3), CONTRACT)
    assert parity.frames == 3
    assert parity.max_difference == pytest.approx(5e-5, rel=0.01)


def test_many_frames_are_sampled_over_their_whole_length():
    engine = Engine(0.0)
    assert check_parity(Doubler(), engine, frames(100), CONTRACT).frames == 16
    assert engine.runs == 16


@pytest.mark.parametrize("error", [2e-4, -0.5, float("nan")])
def test_a_wrong_engine_is_refused(error):
    with pytest.raises(ParityError, match="nothing was written"):
        check_parity(Doubler(), Engine(error), frames(2), CONTRACT)


def test_nan_in_a_later_frame_is_refused():
    engine = Engine(0.0)
    engine.run = lambda prepared: np.full((16, 16), np.nan if prepared.mean() > 0.5 else 0.5, "f4")
    dark, bright = np.zeros((16, 16), np.uint8), np.full((16, 16), 255, np.uint8)
    with pytest.raises(ParityError, match="by nan"):
        check_parity(Doubler(), engine, [dark, bright], CONTRACT)


@pytest.mark.parametrize(("top", "tolerance"), [(-10.0, 1e-4), (1000.0, 4.77e-4), (-1e9, 1e-3)])
def test_large_logits_are_compared_as_exactly_as_fp32_can(top, tolerance):
    network = Steep(top)
    below, above = (Engine(share * tolerance, network=network) for share in (0.95, 1.05))
    assert check_parity(network, below, frames(1), CONTRACT).tolerance == pytest.approx(
        tolerance, rel=1e-2
    )
    with pytest.raises(ParityError, match="differs from the network"):
        check_parity(network, above, frames(1), CONTRACT)


def test_no_frames_is_an_error():
    with pytest.raises(ValueError, match="at least one frame"):
        check_parity(Doubler(), Engine(0.0), [], CONTRACT)
