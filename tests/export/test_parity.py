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


class Engine:
    """Answers like `Doubler`, off by a constant."""

    description = "test"
    input_shape = (1, 1, 16, 16)

    def __init__(self, error):
        self.error = error
        self.runs = 0

    def run(self, prepared):
        self.runs += 1
        confidence = torch.sigmoid(2 * torch.from_numpy(prepared[0, 0])).numpy()
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


def test_no_frames_is_an_error():
    with pytest.raises(ValueError, match="at least one frame"):
        check_parity(Doubler(), Engine(0.0), [], CONTRACT)
