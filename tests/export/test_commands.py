import json

import numpy as np
import onnx
import pytest
import torch

from irstd.export.commands import export_command
from irstd.runtime import Detector
from irstd.runtime.bundle import read_manifest
from irstd.train.models.lrrnet import LRRNet


@pytest.fixture(scope="session")
def foreign_weights(tmp_path_factory):
    """An untrained LRRNet as a published checkpoint: a pickled state dict."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "published.pkl"
    torch.save(LRRNet().state_dict(), path)
    return path


@pytest.fixture(scope="session")
def small():
    return ("--model", "lrrnet", "--size", "64x64")


def test_export_makes_a_whole_bundle_and_says_what_to_do_next(
    run, small, foreign_weights, masks_dataset, tmp_path
):
    folder = tmp_path / "bundle"
    ask = (*small, "--weights", foreign_weights, "--labelled", masks_dataset, "--output", folder)
    outcome = run(export_command, *ask)
    assert outcome.exit_code == 0, outcome.output
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "model.onnx", "report.md"}
    manifest = read_manifest(folder)
    assert (manifest.precision, manifest.graphs) == ("fp32", {"fp32": "model.onnx"})
    assert manifest.cpu.precision == "fp32"
    latency = manifest.cpu.latency_ms["fp32"]
    assert 0 < latency.least <= latency.median <= latency.most
    assert manifest.calibration is None
    assert manifest.parity.max_difference <= 1e-4
    assert manifest.frame.normalisation == "full-scale"  # published weights were trained so
    assert manifest.accuracy[0].dataset == "dataset, val"
    assert manifest.weights.file == "published.pkl"
    assert not {"GroupNormalization", "Loop", "If"} & manifest.operators.keys()
    assert f"irstd-detect {folder} FRAMES" in outcome.stdout
    assert "MiB" in outcome.stdout
    with Detector.load(folder) as detector:
        assert detector.confidence(np.zeros((50, 80), np.uint8)).on_sensor().shape == (50, 80)
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_fp16_bundle_is_measured_and_runs_the_fp16_graph(run, small, tmp_path):
    folder = tmp_path / "half"
    outcome = run(export_command, *small, "--fp16", "--bit-depth", 14, "--output", folder)
    assert outcome.exit_code == 0, outcome.output
    manifest = read_manifest(folder)
    assert manifest.precision == "fp16"
    assert manifest.graphs == {"fp32": "model.onnx", "fp16": "model.fp16.onnx"}
    assert [entry.precision for entry in manifest.accuracy] == ["fp32", "fp16"]
    assert {entry.engine for entry in manifest.accuracy} == {"ONNX Runtime"}
    assert set(manifest.cpu.latency_ms) == {"fp32", "fp16"}
    assert manifest.cpu.reason in outcome.stdout
    assert set(manifest.layers.values()) == {"fp16"}
    half = folder / "model.fp16.onnx"
    assert (folder / "model.onnx").stat().st_size > 1.8 * half.stat().st_size
    onnx.checker.check_model(str(half), full_check=True)
    assert "| fp16 | ONNX Runtime | 24 |" in (folder / "report.md").read_text()
    flat = np.zeros((64, 64), np.uint16)
    with Detector.load(folder) as fastest, Detector.load(folder, precision="fp16") as lower:
        assert fastest.precision == manifest.cpu.precision
        assert lower.precision == "fp16"
        assert lower.confidence(flat).values.shape == fastest.confidence(flat).values.shape


def test_padding_rounds_a_sensor_size_up_and_keeps_pixels(run, foreign_weights, tmp_path):
    folder = tmp_path / "padded"
    ask = ("--model", "lrrnet", "--size", "60x66", "--fit", "pad", "--weights", foreign_weights)
    assert run(export_command, *ask, "--output", folder).exit_code == 0
    frame = read_manifest(folder).frame
    assert (frame.height, frame.width, frame.fit) == (64, 72, "pad")


def test_a_14_bit_bundle_can_be_measured_on_8_bit_labels(
    run, small, foreign_weights, masks_dataset, tmp_path
):
    folder = tmp_path / "bundle"
    ask = (*small, "--weights", foreign_weights, "--labelled", masks_dataset, "--bit-depth", 14)
    outcome = run(export_command, *ask, "--output", folder)
    assert outcome.exit_code == 0, outcome.output
    manifest = read_manifest(folder)
    assert manifest.frame.bit_depth == 14
    assert manifest.accuracy[0].frames == 2


def test_an_older_bundle_is_replaced_whole(run, small, foreign_weights, tmp_path):
    folder = tmp_path / "bundle"
    for depth in (8, 12):
        ask = (*small, "--weights", foreign_weights, "--bit-depth", depth, "--output", folder)
        assert run(export_command, *ask).exit_code == 0
    assert json.loads((folder / "manifest.json").read_text())["frame"]["bit_depth"] == 12
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_refusals_leave_nothing_behind(refused, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other.pth"
    torch.save({"conv.weight": torch.zeros(3)}, other)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep me")
    before = sorted(path.name for path in tmp_path.iterdir())
    said = refused(export_command, *small, "--weights", other)
    assert "267 missing" in said
    assert "1 unexpected (conv.weight)" in said
    assert "did you mean 'lrrnet'" in refused(export_command, "--model", "lrnet")
    assert "use --size 64x72" in refused(export_command, "--model", "lrrnet", "--size", "60x66")
    assert "HEIGHTxWIDTH" in refused(export_command, "--model", "lrrnet", "--size", "big")
    assert "do not exist" in refused(export_command, *small, "--weights", tmp_path / "no.pkl")
    assert "is no bundle" in refused(export_command, *small, "--output", tmp_path / "notes")
    assert "bit depth" in refused(export_command, *small, "--bit-depth", 40)
    assert "threshold" in refused(export_command, *small, "--threshold", 1.5)
    assert "no folder" in refused(export_command, *small, "--labelled", tmp_path / "nothing")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "notes" / "mine.txt").read_text() == "keep me"


def test_a_graph_that_differs_from_the_network_is_refused(refused, small, tmp_path, monkeypatch):
    monkeypatch.setattr("irstd.export.parity.COARSEST", 0.0)  # no tolerance is above this
    said = refused(export_command, *small, "--output", tmp_path / "bundle")
    assert "differs from the network" in said
    assert list(tmp_path.iterdir()) == []


def test_a_precision_that_loses_targets_is_refused(refused, small, tmp_path, monkeypatch):
    def half_without_signal(model):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for tensor in copy.graph.initializer:
            if tensor.name == "network.out_conv.bias":
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32([-50.0]), tensor.name))
        return copy

    monkeypatch.setattr("irstd.export.bundling.to_fp16", half_without_signal)
    said = refused(export_command, *small, "--fp16", "--output", tmp_path / "bundle")
    assert "loses targets: Pd" in said
    assert list(tmp_path.iterdir()) == []
