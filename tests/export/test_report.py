from dataclasses import replace

import pytest

from irstd.export.report import write_report
from irstd.runtime.bundle import Accuracy, Calibration, Latency, read_manifest


@pytest.fixture
def manifest(bundle_int8):
    """Of a bundle with an INT8 graph; two engines measured it."""
    read = read_manifest(bundle_int8)
    cpu = replace(read.cpu, latency_ms={"fp32": Latency(45.8, 44.0, 50.0)}, reason="fp32 is faster")
    accuracy = (
        Accuracy("fp32", "ONNX Runtime", "set, val", 24, 0.7, 0.71, 0.95, 20.0),
        Accuracy("int8", "ONNX Runtime, no optimisation", "set, val", 24, 0.69, None, 0.94, 21.5),
    )
    return replace(read, cpu=cpu, accuracy=accuracy, layers={"first": "int8", "last": "fp32"})


def test_every_graph_is_named_with_its_precision(manifest):
    report = write_report(manifest)
    assert report.startswith("# bright-spot, int8\n")
    assert "`model.onnx` (fp32), `model.int8.onnx` (int8); input `frame` [1, 1, 64, 64]" in report
    assert "TensorRT builds from `model.int8.onnx`: 1 of 2 convolutions" in report


def test_the_choice_for_a_cpu_is_told_with_its_latencies(manifest):
    report = write_report(manifest)
    assert "ONNX Runtime runs fp32: fp32 is faster.\n" in report
    assert "| fp32 | 45.8 | 44.0 | 50.0 |\n" in report


def test_each_accuracy_names_its_engine(manifest):
    report = write_report(manifest)
    assert "| fp32 | ONNX Runtime | 24 | 0.7000 | 0.7100 | 0.9500 | 20.00 |\n" in report
    assert "| int8 | ONNX Runtime, no optimisation | 24 | 0.6900 | - | 0.9400 | 21.50 |\n" in report


@pytest.mark.parametrize(("labelled", "said"), [(True, "labelled"), (False, "injected")])
def test_a_calibration_is_described(manifest, labelled, said):
    assert "## Calibration" not in write_report(manifest)
    calibration = Calibration("entropy", "folder x", 24, 100, labelled, "abc", 0.934)
    report = write_report(replace(manifest, calibration=calibration))
    assert 'Ranges by "entropy" on 24 of 100 frames of folder x, ' in report
    assert f"targets {said}, sha256 `abc`. Of the convolutions' FLOP 93% run" in report
