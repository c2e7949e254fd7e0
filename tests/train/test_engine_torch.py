from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from irstd.runtime.detector import Detector
from irstd.runtime.engine import Engine
from irstd.runtime.errors import EngineError
from irstd.runtime.frame import FloatMap, FrameContract
from irstd.runtime.targets import Extraction
from irstd.train.engine_torch import TorchEngine
from irstd.train.zoo import Model

CPU = torch.device("cpu")


class TenTimes(nn.Module):
    """Ten times the distance to half the scale, as a logit."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, 10.0 * (x - 0.5)


class Halving(TenTimes):
    """Answers in bfloat16."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        reconstruction, logits = super().forward(x)
        return reconstruction.bfloat16(), logits.bfloat16()


def prepared(height: int = 16, width: int = 24) -> FloatMap:
    return np.random.default_rng(0).random((1, 1, height, width), np.float32)


def test_it_is_an_engine_like_others() -> None:
    engine: Engine = TorchEngine(TenTimes(), size=(16, 24), device=CPU)
    assert engine.input_shape == (1, 1, 16, 24)
    assert engine.description == f"torch {torch.__version__} on cpu"
    engine.close()


def test_confidence_by_hand() -> None:
    frame = prepared()
    before = frame.copy()
    confidence = TorchEngine(TenTimes(), size=(16, 24), device=CPU).run(frame)
    assert (confidence.shape, confidence.dtype) == ((16, 24), np.float32)
    np.testing.assert_allclose(confidence, 1 / (1 + np.exp(5 - 10 * frame[0, 0])), rtol=1e-5)
    assert np.array_equal(frame, before)


def test_confidence_stays_between_0_and_1() -> None:
    frame = np.full((1, 1, 16, 24), 1e6, np.float32)
    frame[0, 0, 0] *= -1
    confidence = TorchEngine(TenTimes(), size=(16, 24), device=CPU).run(frame)
    assert set(np.unique(confidence)) == {0.0, 1.0}


def test_dropout_is_off_and_running_statistics_are_used(tiny: Model) -> None:
    network = tiny.build().train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    engine = TorchEngine(network, size=(16, 24), device=CPU)
    first = engine.run(prepared())
    assert not network.training
    assert np.array_equal(engine.run(prepared()), first)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_network_in_half_precision() -> None:
    confidence = TorchEngine(Halving(), size=(16, 24), device=CPU).run(prepared())
    assert confidence.dtype == np.float32
    assert np.abs(confidence - 1 / (1 + np.exp(5 - 10 * prepared()[0, 0]))).max() < 0.02


def test_a_detector_finds_targets_with_it() -> None:
    frame = np.zeros((32, 48), np.uint8)
    frame[10:12, 20:23] = 250
    contract = FrameContract(height=16, width=24, normalisation="full-scale")
    engine = TorchEngine(TenTimes(), size=(16, 24), device=CPU)
    with Detector(engine, contract, Extraction(threshold=0.5)) as detector:
        (target,) = detector(frame)
    assert (target.row, target.column) == pytest.approx((10.5, 21.0), abs=0.6)
    assert 0.5 < target.score <= 1.0


def test_a_detector_of_another_size() -> None:
    engine = TorchEngine(TenTimes(), size=(16, 24), device=CPU)
    with pytest.raises(EngineError, match="takes frames of shape"):
        Detector(engine, FrameContract(height=24, width=16), Extraction(threshold=0.5))
