"""What the tests of the report and of the pictures share: a lower precision made by hand."""

import numpy as np
import onnx
import pytest

from irstd.calibration.gate import Limits
from irstd.calibration.ranges import BINS, Observation
from irstd.calibration.sensitivity import Mix
from irstd.export.lowering import Lowered
from irstd.export.outcome import Layer, Outcome
from irstd.runtime import Detector, Extraction, FrameContract
from irstd.runtime.comparison import Comparison, compare_detectors
from irstd.runtime.evaluation import LabelledFrame
from irstd.runtime.scoring import Scores
from irstd.tests.conftest import write_masks_dataset

STEM, BODY, PRODUCT = "/network/stem/stem.0/Conv", "/network/body/Conv", "/network/MatMul"
SET = "set, val"
SHARES = {STEM: 0.06, BODY: 0.9, PRODUCT: 0.04}


class Between:
    """An engine that is sure of pixels in a range of the prepared frame, and of no others."""

    description = "between"

    def __init__(self, low, high, *, size=(64, 64)):
        self.input_shape = (1, 1, *size)
        self.limits = low, high

    def run(self, prepared):
        low, high = self.limits
        inside = (prepared[0, 0] > low) & (prepared[0, 0] < high)
        return np.where(inside, 0.9, 0.4).astype(np.float32)

    def close(self):
        pass


def scores(*, iou=0.7, pd=0.95, fa=20.0):
    return Scores(
        iou=iou,
        niou=iou + 0.01,
        precision=0.8,
        recall=0.8,
        f1=0.8,
        pd=pd,
        fa_per_mpix=fa,
        frames=24,
        targets=40,
        false_alarms_per_frame=0.5,
    )


def observation(*, largest=3.0, target=2.0):
    """Values of both signs, fewer the larger they are, in bins of -4..4."""
    counts = np.zeros(BINS, np.int64)
    centres = (np.arange(BINS) + 0.5) * 8.0 / BINS - 4.0
    inside = np.abs(centres) < largest
    counts[inside] = 1 + 1e6 * np.exp(-3.0 * np.abs(centres[inside]))
    return Observation(counts, edge=4.0, largest=largest, target=target)


@pytest.fixture
def nothing_disputed():
    return Comparison(both=38, lost=0, won=0, neither=2, disputed=())


@pytest.fixture
def int8(nothing_disputed):
    """Three layers: the stem costs most and stays out, a product of activations cannot be INT8."""
    all_in = Mix(frozenset({STEM, BODY}), 1.0, {SET: scores(iou=0.69, pd=0.9)})
    chosen = Mix(frozenset({BODY}), 0.94, {SET: scores(iou=0.698, fa=21.0)})
    lowered = Lowered(
        graph=onnx.ModelProto(),
        chosen=chosen,
        share=0.9,
        curve=(all_in, chosen),
        damage={STEM: 2e-5, BODY: 3e-6},
        observed={"frame": observation(), "hidden": observation(largest=1.5, target=0.0)},
        ranges={"frame": 2.0, "hidden": 1.5},
    )
    return Outcome(
        precision="int8",
        limits=Limits(),
        before={SET: scores()},
        lowered=lowered,
        layers=(
            Layer(STEM, "frame", SHARES[STEM], 2e-5, "fp32"),
            Layer(BODY, "hidden", SHARES[BODY], 3e-6, "int8"),
            Layer(PRODUCT, "product", SHARES[PRODUCT], None, "fp32"),
        ),
        compared={SET: nothing_disputed},
        threshold=0.5,
    )


@pytest.fixture
def fp16(nothing_disputed):
    """Three layers that are all in FP16 at the first try."""
    chosen = Mix(frozenset(SHARES), 1.0, {SET: scores()})
    return Outcome(
        precision="fp16",
        limits=Limits(),
        before={SET: scores()},
        lowered=Lowered(onnx.ModelProto(), chosen, 1.0, (chosen,), {}, {}, {}),
        layers=tuple(Layer(name, "frame", share, None, "fp16") for name, share in SHARES.items()),
        compared={SET: nothing_disputed},
        threshold=0.5,
    )


@pytest.fixture
def compare():
    """Compare an engine that sees bright spots with one that sees what `low` and `high` say."""

    def make(frames, *, low, high):
        contract = FrameContract(64, 64, normalisation="full-scale", fit="pad")
        bright, other = (
            Detector(Between(*limits), contract, Extraction())
            for limits in ((0.7, 1.0), (low, high))
        )
        return compare_detectors(bright, other, frames)

    return make


@pytest.fixture
def spots():
    """Labelled frames of 48x64 pixels with a bright target, a dim one, or both."""

    def labelled(name, *levels):
        frame, mask = np.full((48, 64), 20, np.uint8), np.zeros((48, 64), np.bool_)
        for level in levels:
            place = (slice(10, 12), slice(50, 53)) if level > 180 else (slice(40, 43), slice(0, 2))
            frame[place], mask[place] = level, True
        return LabelledFrame(name, frame, mask)

    return [labelled("both", 200, 120), labelled("bright", 200), labelled("dim", 120)]


@pytest.fixture
def camera(tmp_path):
    """A dataset of fourteen labelled frames, four of them to measure on."""
    return write_masks_dataset(tmp_path / "camera", targets=2, seed=1, frames=14, held_out=4)
