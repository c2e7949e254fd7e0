"""Detector.load on fake machines: a plan that fits runs, else the CPU, and why is said."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from irstd.runtime import Detector, EngineError
from irstd.runtime.bundle import read_manifest, seal_bundle
from irstd.runtime.commands.detect import detect_command
from irstd.runtime.errors import DeviceError
from irstd.runtime.plans import Gpu, Machine, PlanRecord
from irstd.tests.conftest import write_bundle
from irstd.tests.runtime.fake_cuda.fake_network import computing_tensorrt
from irstd.tests.runtime.fake_cuda.test_pipeline import CONTRACT, assert_same, make_frames

PLAN = "bright-spot-fp32.plan"
DESKTOP, ORIN = Gpu("Fake GPU", "8.6", 2**30), Gpu("Fake Orin", "8.7", 2**33)
LISTING = "tensorrt-10.3.0"


@pytest.fixture
def machine(monkeypatch):
    """What the probe finds; tests change it."""
    found = {"machine": Machine("12.6", (DESKTOP,), {"tensorrt": "10.3.0"})}
    monkeypatch.setattr("irstd.runtime.engine_plan.probe_machine", lambda: found["machine"])
    return found


@pytest.fixture
def planned(bench, machine, tmp_path, monkeypatch):
    """A bundle with a plan, on a machine that it fits; CuPy drives it."""
    bench.install("cupy", devices=((8, 6), (8, 7)))
    folder = write_bundle(tmp_path / "bundle", CONTRACT, threshold=0.3)
    model = (folder / "model.onnx").read_bytes()
    trt, plan = computing_tensorrt(LISTING, bench.driver, model)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    add_plan(folder, plan)
    return folder


def add_plan(folder: Path, plan: bytes, **changes):
    manifest = read_manifest(folder)
    (folder / PLAN).write_bytes(plan)
    record = PlanRecord(
        library="tensorrt",
        version="10.3.0",
        precision="fp32",
        compute_capabilities=("8.6",),
        gpu="Fake GPU",
        is_hardware_compatible=False,
        is_version_compatible=False,
        needs_host_code=False,
        device_memory_bytes=2**20,
        graph_sha256=manifest.files["model.onnx"].sha256,
        layers={"fp32": 1},
        command="",
    )
    seal_bundle(folder, replace(manifest, plans={PLAN: replace(record, **changes)}))


def test_a_plan_that_fits_runs(bench, planned):
    frames = make_frames(3)
    with Detector.load(planned, engine="onnxruntime") as truth, Detector.load(planned) as detector:
        assert detector.description == "TensorRT 10.3.0, Fake GPU (sm_86), CuPy 14.2.0, fp32"
        assert truth.description.startswith("ONNX Runtime")
        for frame in frames:
            assert_same(detector(frame), truth(frame))
    bench.driver.assert_clean()


def test_a_plan_that_does_not_fit_is_not_touched(bench, planned, machine):
    machine["machine"] = Machine("12.6", (DESKTOP,), {"tensorrt": "10.16.1"})
    with Detector.load(planned) as detector:
        assert "ONNX Runtime" in detector.engine.description
        assert detector.reason.startswith(
            f"no plan runs here: {PLAN}: it needs TensorRT 10.3.0, here is 10.16.1; run: irstd-bui"
        )
        assert detector.note == ""  # nothing failed
    with pytest.raises(EngineError, match=r"it needs TensorRT 10\.3\.0, here is 10\.16\.1; run"):
        Detector.load(planned, engine="tensorrt")
    assert bench.driver.said == []


def test_a_machine_without_a_gpu(planned, machine):
    machine["machine"] = Machine(None, (), {"tensorrt": "10.3.0"}, "there is no driver")
    with Detector.load(planned) as detector:
        assert "here is none (there is no driver)" in detector.description
    with pytest.raises(EngineError, match="needs an NVIDIA GPU"):
        Detector.load(planned, engine="tensorrt")


def test_a_bundle_without_plans_does_not_ask_for_gpus(bundle, monkeypatch):
    def ask():
        raise AssertionError

    monkeypatch.setattr("irstd.runtime.engine_plan.probe_machine", ask)
    with Detector.load(bundle, engine=None, threads=1) as detector:
        assert "plan" not in detector.description
    with pytest.raises(EngineError, match="no fp32 plan .none at all.; on the device run: irstd-b"):
        Detector.load(bundle, engine="tensorrt")


def test_the_device_that_is_named(bench, planned, machine):
    both = Machine("12.6", (DESKTOP, ORIN), {"tensorrt": "10.3.0"})
    machine["machine"] = both
    with Detector.load(planned, device=0) as detector:
        assert "sm_86" in detector.description
    with pytest.raises(EngineError, match=r"needs Fake GPU \(8\.6\), here is Fake Orin \(8\.7\)"):
        Detector.load(planned, device=1)
    with pytest.raises(EngineError, match=r"no device 2: .* has 0 \(Fake GPU\), 1 \(Fake Orin\)"):
        Detector.load(planned, device=2)
    with pytest.raises(ValueError, match="device is -1"):
        Detector.load(planned, device=-1)
    machine["machine"] = replace(both, gpus=(ORIN, DESKTOP))
    bench.driver.devices = ((8, 7), (8, 6))
    with Detector.load(planned) as detector:  # the first that fits
        assert "sm_86" in detector.description


def test_no_library_that_drives_the_gpu(planned, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delitem(sys.modules, "irstd.runtime.device_cupy", raising=False)
    with Detector.load(planned) as detector:
        assert f"{PLAN} fits, but neither CuPy" in detector.reason
        assert "pip install 'irstd[cuda12]'" in detector.reason
    with pytest.raises(EngineError, match="neither CuPy"):
        Detector.load(planned, engine="tensorrt")


def test_a_gpu_that_fails_at_loading_is_an_error_unless_the_cpu_is_allowed(bench, planned):
    trt = sys.modules["tensorrt"]
    trt.answers["ICudaEngine.create_execution_context"] = lambda *_: None
    with pytest.raises(DeviceError, match=r"gets no memory to run in.*allow_cpu=True \(--allow-c"):
        Detector.load(planned)
    with Detector.load(planned, allow_cpu=True) as detector:
        assert "gets no memory to run in" in detector.reason
        assert detector(make_frames(1)[0]).note == detector.note != ""
    bench.driver.assert_clean()


def test_a_gpu_that_is_lost_later(bench, planned):
    frames = make_frames(3)
    with Detector.load(planned, engine="onnxruntime") as truth:
        exact = [truth(frame) for frame in frames]
    with Detector.load(planned, allow_cpu=True) as detector:
        assert_same(detector(frames[0]), exact[0])
        bench.driver.calls_left = 4
        for frame, one in zip(frames[1:], exact[1:], strict=True):
            targets = detector(frame)
            assert_same(targets, one)
            assert "failed at frame 1 (" in targets.note
        assert "ONNX Runtime" in detector.description


def test_a_plan_that_was_changed_is_refused(planned):
    content = bytearray((planned / PLAN).read_bytes())
    content[5] ^= 1
    (planned / PLAN).write_bytes(content)
    with pytest.raises(ValueError, match="is not the file that was exported"):
        Detector.load(planned)


def test_detect_writes_what_happened_into_its_output(bench, planned, run, tmp_path):
    np.save(tmp_path / "frames.npy", np.stack(make_frames(4)))
    place = tmp_path / "targets.jsonl"
    outcome = run(detect_command, planned, tmp_path / "frames.npy", f"json:{place}", "--allow-cpu")
    assert outcome.exit_code == 0, outcome.output
    lines = [json.loads(line) for line in place.read_text().splitlines()]
    assert ["note" in line for line in lines] == [False] * 4
    bench.driver.calls_left = len(bench.driver.said) * 3 // 4
    run(detect_command, planned, tmp_path / "frames.npy", f"json:{place}", "--allow-cpu")
    lines = [json.loads(line) for line in place.read_text().splitlines()]
    assert [line["frame"] for line in lines] == ["000000", "000001", "000002", "000003"]
    notes = ["note" in line for line in lines]
    assert notes == sorted(notes)
    assert notes[-1]
    assert not notes[0]
