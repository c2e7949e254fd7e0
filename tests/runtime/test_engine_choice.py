"""The choice of an engine: measured, checked against the graph as written, remembered."""

import json

import numpy as np
import pytest

from irstd.runtime import Detector, FrameContract, engine_choice
from irstd.runtime.engine import load_engine
from irstd.runtime.engine_choice import (
    MOVED,
    Candidate,
    choose,
    find_objection,
    find_version,
    moved,
)
from irstd.runtime.errors import EngineError
from irstd.runtime.frame import ClipContract
from irstd.tests.runtime.engine_trials import ORT32, OV8, OV32, kept, latency, raising


def no_objection(candidate):
    return ""


# --- which one ------------------------------------------------------------------------------------


def test_the_fastest_runs():
    measured = {ORT32: latency(27.0), OV32: latency(20.0), OV8: latency(14.2)}
    assert choose(measured, no_objection) == (
        OV8,
        "14.2 ms against 27.0 ms in ONNX Runtime fp32, 20.0 ms in OpenVINO fp32",
    )


@pytest.mark.parametrize("median", [24.4, 27.0, 50.0])
def test_onnx_runtime_stays_unless_it_is_beaten_clearly(median):
    asked = []
    chosen, reason = choose({ORT32: latency(27.0), OV32: latency(median)}, asked.append)
    assert (chosen, reason) == (ORT32, f"27.0 ms against {median} ms in OpenVINO fp32")
    assert not asked


def test_one_that_is_objected_to_is_passed_over():
    measured = {ORT32: latency(27.0), OV32: latency(20.0), OV8: latency(14.2)}
    chosen, reason = choose(measured, {OV8: "int8 is wrong", OV32: ""}.get)
    assert chosen == OV32
    assert reason == (
        "20.0 ms against 27.0 ms in ONNX Runtime fp32, 14.2 ms in OpenVINO int8; int8 is wrong"
    )


def test_where_all_are_objected_to_onnx_runtime_stays():
    measured = {ORT32: latency(27.0), OV32: latency(20.0), OV8: latency(14.2)}
    chosen, reason = choose(measured, lambda one: f"{one.precision} is wrong")
    assert chosen == ORT32
    assert reason.endswith("; int8 is wrong; fp32 is wrong")


class Says:
    """An engine with one answer."""

    def __init__(self, answer):
        self.answer = answer

    def run(self, prepared):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def two_spots(first, second):
    values = np.zeros((8, 8), np.float32)
    values[2, 2], values[5, 5] = first, second
    return values


def test_moved_by_hand():
    truth = two_spots(1.0, 1.0)
    assert moved(truth, truth) == 0.0
    assert moved(two_spots(1.0, 0.0), truth) == 0.5  # a target lost
    assert moved(two_spots(1.0, 0.9), truth) == pytest.approx(0.05)
    assert moved(np.ones((8, 8), np.float32), truth) == 31.0
    faint = two_spots(0.01, 0.0)  # less than a pixel: no share of next to nothing
    assert moved(two_spots(0.02, 0.0), faint) == pytest.approx(0.01)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_objection_starts_at_the_limit(precision):
    candidate, truth = Candidate("openvino", precision), two_spots(1.0, 1.0)
    near, far = (two_spots(1.0, 1.0 - 2 * MOVED[precision] * part) for part in (0.9, 1.1))
    assert find_objection(candidate, Says(near), Says(truth), [truth, truth]) == ""
    said = find_objection(candidate, Says(far), Says(truth), [truth])
    assert said.startswith(f"OpenVINO {precision} is left out: ")
    assert said.endswith(f"elsewhere than in the graph as written (limit {MOVED[precision]:g})")


def test_a_target_lost_on_one_frame_is_an_objection():
    trial, truth = np.zeros((8, 8), np.float32), two_spots(1.0, 1.0)
    answers = iter([truth, two_spots(1.0, 0.5), truth])
    engine = Says(truth)
    engine.run = lambda _: next(answers)
    said = find_objection(OV8, engine, Says(truth), [trial] * 3)
    assert said == (
        "OpenVINO int8 is left out: 0.083 of its confidence lies elsewhere than in the graph as "
        "written (limit 0.02)"
    )


def test_an_engine_that_fails_on_the_trial_is_objected_to():
    truth = two_spots(1.0, 1.0)
    said = find_objection(OV8, Says(EngineError("it fell over")), Says(truth), [truth])
    assert said == "OpenVINO int8 is left out: it fell over"


# --- loading a bundle -----------------------------------------------------------------------------


def test_openvino_runs_where_it_is_faster_and_agrees(bundle_int8, measured):
    frame = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    with (
        Detector.load(bundle_int8, threads=1) as fastest,
        Detector.load(bundle_int8, threads=1, engine="onnxruntime", precision="int8") as plain,
    ):
        assert fastest.precision == "int8"
        assert fastest.description.startswith(f"OpenVINO {find_version('openvino')}, CPU, 1 thr")
        assert fastest.description.endswith(
            " threads, int8: 14.2 ms against 27.0 ms in ONNX Runtime fp32, 20.0 ms in OpenVINO fp32"
        )
        seen = [one.confidence(frame).values for one in (fastest, plain)]
    np.testing.assert_allclose(*seen, atol=1e-5)


def test_onnx_runtime_runs_where_it_is_faster(bundle_int8, measured):
    measured[ORT32] = 10.0
    with Detector.load(bundle_int8) as detector:
        assert detector.precision == "fp32"
        assert detector.description.startswith("ONNX Runtime ")
        assert detector.reason == (
            "10.0 ms against 20.0 ms in OpenVINO fp32, 14.2 ms in OpenVINO int8; fp32 was faster"
        )


def test_a_precision_that_is_named_is_not_chosen_away(bundle_int8, measured):
    with Detector.load(bundle_int8, precision="fp32") as detector:
        assert detector.precision == "fp32"
        assert detector.reason == "20.0 ms against 27.0 ms in ONNX Runtime fp32"


def test_this_machine_is_really_measured(bundle, openvino_installed):
    with Detector.load(bundle, threads=1) as detector:
        assert detector.reason.count(" ms ") == 2
    (path,) = kept()
    chosen = json.loads(path.read_text())["chosen"]
    assert (chosen["name"] == "openvino") == detector.description.startswith("OpenVINO")


@pytest.mark.parametrize("side", [16, 40])
def test_networks_of_any_size_have_trial_inputs(side):
    contract = FrameContract(side, side, fit="pad", bit_depth=12)
    trials = engine_choice._trial_inputs(contract)
    assert [trial.shape for trial in trials] == [(1, 1, side, side)] * 3


def test_networks_for_sequences_are_tried_on_clips():
    contract = FrameContract(40, 40, clip=ClipContract(4))
    trials = engine_choice._trial_inputs(contract)
    assert [trial.shape for trial in trials] == [(1, 4, 40, 40)] * 3
    assert all((trial[0, 0] != trial[0, 3]).any() for trial in trials)


def test_an_engine_that_is_named_runs_unmeasured(bundle_int8, measured):
    with (
        Detector.load(bundle_int8, engine="openvino") as own,
        Detector.load(bundle_int8, engine="openvino", precision="fp32") as full,
        Detector.load(bundle_int8, engine="onnxruntime") as plain,
    ):
        assert (own.precision, own.reason) == ("int8", "")
        assert (full.precision, full.reason) == ("fp32", "")
        assert (plain.precision, plain.reason) == ("fp32", "fp32 was faster")
        assert "OpenVINO" in own.description and "OpenVINO" in full.description
        assert "ONNX Runtime" in plain.description
    assert (measured.times, kept()) == (0, [])


def test_without_openvino_nothing_is_measured(bundle_int8):
    with Detector.load(bundle_int8) as detector:
        assert detector.reason == "fp32 was faster"
    assert kept() == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "tflite"}, "engine is 'tflite'"),
        ({"threads": 0}, "threads is 0"),
        ({"precision": "fp16"}, "no graph in fp16"),
    ],
)
def test_refusals(bundle, measured, options, said):
    with pytest.raises(ValueError, match=said):
        Detector.load(bundle, **options)


# --- what fails -----------------------------------------------------------------------------------


def test_an_openvino_that_cannot_be_loaded_is_said_and_tried_again(
    bundle, measured, broken_openvino
):
    broken_openvino(raising(EngineError("OpenVINO cannot be loaded (libtbb.so.12)")))
    with Detector.load(bundle) as detector:
        assert detector.description.startswith("ONNX Runtime ")
        assert detector.reason == (
            "OpenVINO fp32 is left out: OpenVINO cannot be loaded (libtbb.so.12)"
        )
    assert (measured.times, kept()) == (0, [])


class Scaled:
    """OpenVINO, with its confidence changed by a function."""

    description = "OpenVINO, changed"

    def __init__(self, model, change):
        self.engine = load_engine(model, threads=1)
        self.input_shape = self.engine.input_shape
        self.change = change
        self.is_closed = False

    def run(self, prepared):
        return self.change(self.engine.run(prepared))

    def close(self):
        self.is_closed = True


def test_one_that_disagrees_is_never_run(bundle, measured, broken_openvino):
    made = []

    def make(model):
        made.append(Scaled(model, lambda values: values * np.float32(0.9)))
        return made[-1]

    broken_openvino(make)
    with Detector.load(bundle) as detector:
        assert detector.description.startswith("ONNX Runtime ")
        assert detector.reason == (
            "27.0 ms against 20.0 ms in OpenVINO fp32; OpenVINO fp32 is left out: 0.1 of its "
            "confidence lies elsewhere than in the graph as written (limit 0.0002)"
        )
    assert [one.is_closed for one in made] == [True]
    Detector.load(bundle).close()
    assert (measured.times, len(made)) == (1, 1)  # that, too, is remembered


def test_one_that_fails_to_run_is_left_out(bundle_int8, measured, broken_openvino):
    full = (bundle_int8 / "model.onnx").read_bytes()

    def fail(values):
        raise EngineError("OpenVINO failed: no")

    broken_openvino(lambda model: Scaled(model, fail if model != full else np.abs))
    with Detector.load(bundle_int8) as detector:
        assert detector.precision == "fp32"
        assert detector.reason == (
            "20.0 ms against 27.0 ms in ONNX Runtime fp32; "
            "OpenVINO int8 is left out: OpenVINO failed: no"
        )


def test_without_onnx_runtime_there_is_no_detector(bundle, measured, monkeypatch):
    def load(model, *, threads, name="onnxruntime"):
        raise EngineError("install ONNX Runtime: pip install 'irstd[cpu]'")

    monkeypatch.setattr(engine_choice, "load_engine", load)
    with pytest.raises(EngineError, match="install ONNX Runtime"):
        Detector.load(bundle)


def test_openvino_that_is_asked_for_and_missing(bundle, monkeypatch):
    def find():
        raise EngineError("OpenVINO cannot be loaded; pip install 'irstd[openvino]'")

    monkeypatch.setattr("irstd.runtime.engine._find_openvino", find)
    with pytest.raises(EngineError, match=r"pip install 'irstd\[openvino\]'"):
        Detector.load(bundle, engine="openvino")
