from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from irstd.runtime.detector import Detector
from irstd.runtime.evaluation import score_masks
from irstd.runtime.targets import Extraction
from irstd.tests.train.session_jobs import (
    assert_same_outcome,
    begin,
    interrupt,
    losses,
    moved,
)
from irstd.train.checkpoint import Weights, load_into, read_weights, save_weights
from irstd.train.data import fit_spread
from irstd.train.engine_torch import TorchEngine
from irstd.train.fake_quantize import kept_ranges, observe_ranges, round_convolutions
from irstd.train.session import RANGE_FRAMES, Job, read_frames
from irstd.train.state import read_state, save_state, state_path
from irstd.train.zoo import Model


@pytest.fixture
def int8(job: Job, tiny: Model) -> Job:
    """The same job as a fine-tuning of weights that were trained before."""
    torch.manual_seed(5)
    initial = job.output.parents[1] / "initial.safetensors"
    save_weights(initial, Weights(tiny.build().state_dict()))
    return replace(job, initial=initial, is_int8=True)


def as_int8(job: Job, weights: Path, fabric: Fabric) -> nn.Module:
    """The network of some weights, rounded with the ranges of the job's initial ones."""
    frames = read_frames(job)
    network = job.model.build()
    assert job.initial is not None
    load_into(network, read_weights(job.initial).tensors, name="initial")
    whole = fit_spread(frames.crops.datasets[0], job.contract, most=RANGE_FRAMES)
    ranges = observe_ranges(network, whole)
    load_into(network, read_weights(weights).tensors, name="fine-tuned")
    round_convolutions(network, ranges)
    return network


def test_int8_is_what_is_validated(int8: Job, fabric: Fabric) -> None:
    rows = [progress.row for progress in begin(int8, fabric) if progress.row is not None]
    engines = [
        TorchEngine(network, size=int8.model.size, device=torch.device("cpu"))
        for network in (as_int8(int8, int8.last, fabric), int8.model.build())
    ]
    found = [
        score_masks(
            Detector(engine, int8.contract, Extraction(threshold=0.5)),
            read_frames(int8).validation[0],
        )
        for engine in engines
    ]
    assert found[0] == rows[-1].scores[0] != found[1]


def test_weights_fine_tuned_for_int8_are_plain_weights(int8: Job, fabric: Fabric) -> None:
    list(begin(int8, fabric))
    network = int8.model.build()
    for path in (int8.output, int8.last):
        written = read_weights(path)
        assert set(written.tensors) == set(network.state_dict())
        load_into(network, written.tensors, name="fine-tuned")
        fake = as_int8(int8, path, fabric).state_dict()
        assert written.ranges == kept_ranges(fake) != {}
        assert written.notes["training.qat"] == "int8"
        assert written.notes["training.initial"] == "initial.safetensors"
        assert written.notes["fine_tuned"].startswith("quantisation-aware; val scores are those of")
    assert int8.initial is not None
    started = read_weights(int8.initial).tensors
    assert torch.equal(written.tensors["body.1.running_mean"], started["body.1.running_mean"])
    assert not torch.equal(written.tensors["head.weight"], started["head.weight"])


def test_a_plain_training_says_nothing_of_int8(job: Job, fabric: Fabric) -> None:
    list(begin(job, fabric))
    written = read_weights(job.output)
    assert "training.qat" not in written.notes and "fine_tuned" not in written.notes
    assert written.ranges == {}


@pytest.mark.parametrize("after", [1, 4])
def test_an_interrupted_fine_tuning_goes_on_to_the_bit(
    int8: Job, fabric: Fabric, after: int
) -> None:
    whole = moved(int8, "uninterrupted")
    expected = losses(begin(whole, fabric))
    found = interrupt(int8, fabric, after=after)
    state = read_state(state_path(int8.output), int8.origin)
    assert {key for key in state.network if key.endswith("input_range")} == {"head.input_range"}
    found += losses(begin(int8, fabric, resume=True))
    assert found == expected
    assert_same_outcome(int8, whole)


def test_ranges_are_taken_up_from_the_state(int8: Job, fabric: Fabric) -> None:
    interrupt(int8, fabric, after=1)
    path = state_path(int8.output)
    state = read_state(path, int8.origin)
    narrow = {**state.network, "head.input_range": torch.tensor(0.125)}
    averaged = {**state.averaged, "head.input_range": torch.tensor(0.125)}
    save_state(path, replace(state, network=narrow, averaged=averaged))
    interrupt(int8, fabric, after=2, resume=True)
    assert read_state(path, int8.origin).network["head.input_range"] == 0.125


def test_int8_goes_on_with_int8_only(int8: Job, fabric: Fabric) -> None:
    interrupt(int8, fabric, after=1)
    with pytest.raises(ValueError, match="qat int8 then, not set now"):
        next(begin(replace(int8, is_int8=False), fabric, resume=True))


def test_int8_without_trained_weights(job: Job) -> None:
    with pytest.raises(ValueError, match="none of tiny come with the SDK; pass --initial"):
        replace(job, is_int8=True)


class OneMap(nn.Module):
    """Nothing between two feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv2d(1, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        reconstruction, logits = self.line(x).split(1, dim=1)
        return reconstruction, logits


def test_int8_of_a_network_that_it_cannot_round(int8: Job, fabric: Fabric) -> None:
    assert int8.initial is not None
    save_weights(int8.initial, Weights(OneMap().state_dict()))
    flat = replace(int8, model=replace(int8.model, build=OneMap))
    with pytest.raises(ValueError, match="^OneMap has no convolution between feature maps"):
        next(begin(flat, fabric))
    assert not list(int8.output.parent.iterdir())
