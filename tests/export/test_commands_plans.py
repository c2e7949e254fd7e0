import re

import pytest

from irstd.export.commands import export_command
from irstd.runtime.bundle import read_manifest
from irstd.runtime.plans import Gpu, Machine
from irstd.tests.tensorrt_api.fake import fake_tensorrt, plan_bytes


@pytest.fixture(scope="session")
def edge():
    return ("--model", "lrrnet-edge", "--size", "128x128", "--target", "onnx")


ORIN = Machine("12.6", (Gpu("Orin", "8.7", 2**33),), {"tensorrt": "10.3.0"})


@pytest.fixture
def machine(monkeypatch):
    """Let the command believe in another machine."""

    def believe(other):
        monkeypatch.setattr("irstd.export.commands.probe_machine", lambda: other)

    return believe


@pytest.fixture
def rtx(machine):
    """A machine without a GPU that has TensorRT for RTX."""
    rtx = pytest.importorskip(
        "tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install tensorrt-rtx"
    )
    machine(Machine(None, (), {"tensorrt-rtx": rtx.__version__}, "no driver is installed"))
    return rtx


def test_auto_adds_a_plan_ahead_of_time_where_there_is_no_gpu(run, edge, tmp_path, rtx):
    folder = tmp_path / "bundle"
    outcome = run(export_command, *edge, "--target", "auto", "--output", folder)
    assert outcome.exit_code == 0, outcome.output
    manifest = read_manifest(folder)
    ((name, record),) = manifest.plans.items()
    assert re.fullmatch(r"lrrnet-edge-fp32-128x128-rtx[\d.]+-sm86-sm89-sm120\.plan", name)
    assert record.layers == {"fp32": len(manifest.layers)}
    assert record.graph_sha256 == manifest.files["model.onnx"].sha256
    assert {path.name for path in folder.iterdir()} == {*manifest.files, "manifest.json"}
    assert f"  {name}: TensorRT for RTX {rtx.__version__}" in outcome.stdout
    assert f"| `{name}` |" in (folder / "report.md").read_text()


def test_auto_builds_for_the_gpu_that_is_here(run, edge, tmp_path, machine, monkeypatch):
    machine(ORIN)
    trt = fake_tensorrt("tensorrt-10.3.0")
    monkeypatch.setattr("irstd.export.plan_order.import_tensorrt", lambda library: trt)
    folder = tmp_path / "bundle"
    outcome = run(export_command, *edge, "--target", "auto", "--output", folder)
    assert outcome.exit_code == 0, outcome.output
    assert list(read_manifest(folder).plans) == ["lrrnet-edge-fp32-128x128-trt10.3.0-sm87.plan"]
    assert (folder / "lrrnet-edge-fp32-128x128-trt10.3.0-sm87.plan").read_bytes() == plan_bytes(trt)
    assert "TensorRT 10.3.0, Orin" in outcome.stdout
    # The fake knows no layers of this network, which a person must hear.
    assert "does not tell how 27 of 27 layers are computed" in outcome.stderr


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (("--target", "tensorrt"), "TensorRT is not installed"),
        (("--target", "tensorrt-rtx", "--compute-capability", "8.7"), "install TensorRT and run"),
        (
            ("--target", "tensorrt-rtx", "--compute-capability", "new"),
            "compute capability is 'new'",
        ),
        (("--target", "onnx", "--compute-capability", "8.6"), "is for --target tensorrt-rtx"),
    ],
)
def test_a_plan_that_cannot_be_built_is_refused_before_anything_else(
    refused, run, edge, tmp_path, rtx, ask, said
):
    line = refused(export_command, *edge, *ask, "--output", tmp_path / "bundle")
    assert said in line
    assert "tracing" not in run(export_command, *edge, *ask).stderr
    assert list(tmp_path.iterdir()) == []


def test_a_plan_that_fails_leaves_no_bundle(refused, edge, tmp_path, machine, monkeypatch):
    machine(ORIN)
    trt = fake_tensorrt("tensorrt-10.3.0")
    trt.answers["Builder.build_serialized_network"] = lambda *_: None
    monkeypatch.setattr("irstd.export.plan_order.import_tensorrt", lambda library: trt)
    ask = (*edge, "--target", "tensorrt", "--output", tmp_path / "bundle")
    assert "TensorRT 10.3.0 cannot build the graph" in refused(export_command, *ask)
    assert list(tmp_path.iterdir()) == []
