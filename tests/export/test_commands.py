import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from irstd.calibration.gate import Limits
from irstd.export.commands import export_command
from irstd.runtime import Detector
from irstd.runtime.bundle import read_manifest
from irstd.runtime.commands.evaluate import evaluate_command
from irstd.runtime.evaluation import synthetic_frames
from irstd.tests.conftest import write_masks_dataset
from irstd.train.checkpoint import Weights, read_weights, save_weights
from irstd.train.fake_quantize import list_convolutions
from irstd.train.models.lrrnet import LRRNet
from irstd.train.zoo import find_model

HAS_RTX = importlib.util.find_spec("tensorrt_rtx") is not None


@pytest.fixture(scope="session")
def foreign_weights(tmp_path_factory):
    """An untrained LRRNet as a published checkpoint: a pickled state dict."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "published.pkl"
    torch.save(LRRNet().state_dict(), path)
    return path


@pytest.fixture(scope="session")
def small():
    return ("--model", "lrrnet", "--size", "64x64", "--target", "onnx")


@pytest.fixture(scope="session")
def edge():
    return ("--model", "lrrnet-edge", "--size", "128x128", "--target", "onnx")


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
    assert manifest.plans == {}
    assert "no TensorRT plan; on the device: irstd-build BUNDLE" in outcome.stdout
    report = (folder / "report.md").read_text()
    assert "## TensorRT plans\nNone was built. On the device: `irstd-build BUNDLE`." in report
    with Detector.load(folder) as detector:
        assert detector.confidence(np.zeros((50, 80), np.uint8)).on_sensor().shape == (50, 80)
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_fp16_bundle_is_measured_and_runs_the_fp16_graph(run, edge, tmp_path):
    folder = tmp_path / "half"
    outcome = run(export_command, *edge, "--fp16", "--bit-depth", 14, "--output", folder)
    assert outcome.exit_code == 0, outcome.output
    manifest = read_manifest(folder)
    assert manifest.precision == "fp16"
    assert manifest.graphs == {"fp32": "model.onnx", "fp16": "model.fp16.onnx"}
    assert engines_of(manifest) == [
        ("fp32", "ONNX Runtime"),
        ("fp16", "as the graph is written"),
        ("fp16", "ONNX Runtime"),
    ]
    assert set(manifest.cpu.latency_ms) == {"fp32", "fp16"}
    assert manifest.cpu.reason in outcome.stdout
    assert set(manifest.layers.values()) == {"fp16"}
    calibration = manifest.calibration
    assert (calibration.method, calibration.share) == ("minmax", 1.0)
    half = folder / "model.fp16.onnx"
    assert (folder / "model.onnx").stat().st_size > 1.8 * half.stat().st_size
    onnx.checker.check_model(str(half), full_check=True)
    assert (
        "| fp16 | ONNX Runtime | the synthetic scene set | 24 |"
        in (folder / "report.md").read_text()
    )
    flat = np.zeros((64, 64), np.uint16)
    with Detector.load(folder) as fastest, Detector.load(folder, precision="fp16") as lower:
        assert fastest.precision == manifest.cpu.precision
        assert lower.precision == "fp16"
        assert lower.confidence(flat).values.shape == fastest.confidence(flat).values.shape


def engines_of(manifest):
    return [(entry.precision, entry.engine) for entry in manifest.accuracy]


def test_padding_rounds_a_sensor_size_up_and_keeps_pixels(run, foreign_weights, tmp_path):
    folder = tmp_path / "padded"
    ask = ("--model", "lrrnet", "--size", "60x66", "--fit", "pad", "--weights", foreign_weights)
    assert run(export_command, *ask, "--target", "onnx", "--output", folder).exit_code == 0
    frame = read_manifest(folder).frame
    assert (frame.height, frame.width, frame.fit) == (64, 72, "pad")


def test_a_14_bit_bundle_can_be_measured_on_8_bit_labels(run, edge, masks_dataset, tmp_path):
    folder = tmp_path / "bundle"
    ask = (*edge, "--labelled", masks_dataset, "--bit-depth", 14)
    outcome = run(export_command, *ask, "--output", folder)
    assert outcome.exit_code == 0, outcome.output
    manifest = read_manifest(folder)
    assert manifest.frame.bit_depth == 14
    assert manifest.accuracy[0].frames == 2


def test_an_older_bundle_is_replaced_whole(run, edge, tmp_path):
    folder = tmp_path / "bundle"
    for depth in (8, 12):
        outcome = run(export_command, *edge, "--bit-depth", depth, "--output", folder)
        assert outcome.exit_code == 0, outcome.output
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


# --- lower precisions -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(edge, tmp_path_factory):
    """A bundle in INT8 with every default, and what was said on the way."""
    folder = tmp_path_factory.mktemp("exported") / "edge-int8"
    target = ("--target", "tensorrt-rtx", "--compute-capability", "8.9,8.6") if HAS_RTX else ()
    ask = [*edge, "--int8", *target, "--output", str(folder)]
    outcome = CliRunner().invoke(export_command, ask)
    assert outcome.exit_code == 0, outcome.output
    return folder, outcome


def test_int8_bundle_holds_both_graphs_and_says_how_it_came_about(exported):
    folder, outcome = exported
    manifest = read_manifest(folder)
    assert manifest.precision == "int8"
    assert manifest.graphs == {"fp32": "model.onnx", "int8": "model.int8.onnx"}
    for name in manifest.graphs.values():
        onnx.checker.check_model(str(folder / name), full_check=True)
    assert {"report.md", *manifest.graphs.values()} <= manifest.files.keys()
    assert set(manifest.layers.values()) == {"int8", "fp32"}
    assert manifest.operators["QuantizeLinear"] > 20
    calibration = manifest.calibration
    assert (calibration.method, calibration.source) == ("target", "the synthetic scene set")
    assert (calibration.frames, calibration.offered, calibration.labelled) == (32, 64, True)
    assert 0.5 <= calibration.share < 1.0
    said = outcome.stderr.splitlines()
    assert "collecting ranges on 32 frames of the synthetic scene set" in said
    assert "lowering each of 25 layers alone" in said


def test_int8_is_measured_as_written_and_as_a_cpu_runs_it(exported):
    folder, outcome = exported
    manifest = read_manifest(folder)
    assert engines_of(manifest) == [
        ("fp32", "ONNX Runtime"),
        ("int8", "as the graph is written"),
        ("int8", "ONNX Runtime"),
    ]
    full, written, _ = manifest.accuracy
    assert full.pd > 0.1  # something is found that INT8 could lose
    assert full.pd - written.pd <= 0.005
    assert full.iou - written.iou <= 0.005
    assert f"IoU {written.iou:.3f}, Pd {written.pd:.3f}, Fa {written.fa_per_mpix:.1f}" in (
        outcome.stdout
    )
    assert set(manifest.cpu.latency_ms) == {"fp32", "int8"}
    assert f"a CPU runs {manifest.cpu.precision}: {manifest.cpu.reason}" in outcome.stdout


def test_detectors_run_the_precision_that_is_asked_for(exported):
    folder, _ = exported
    manifest = read_manifest(folder)
    frame = next(synthetic_frames(8, height=128, width=128)).frame
    with Detector.load(folder) as fastest, Detector.load(folder, precision="int8") as lower:
        assert fastest.precision == manifest.cpu.precision
        assert fastest.reason.endswith(manifest.cpu.reason) == (fastest.precision == "fp32")
        assert lower.precision == "int8"
        assert manifest.cpu.reason not in lower.reason
        answer = lower.confidence(frame).values
    with Detector.load(folder, precision="fp32") as full:
        change = np.abs(full.confidence(frame).values - answer).max()
    assert 1e-4 < change < 0.3


# --- what is asked for ----------------------------------------------------------------------------


class Asked(ValueError):
    """Ends an export before it begins."""


@pytest.fixture
def order_of(run, edge, monkeypatch):
    """The order that a command line comes to, and the folder."""

    def stop(order, folder, *, say):
        orders.append((order, folder))
        raise Asked

    def make(*arguments):
        outcome = run(export_command, *edge, *arguments)
        assert outcome.exit_code == 1 and "Asked" in outcome.stderr, outcome.output
        return orders[-1]

    orders = []
    monkeypatch.setattr("irstd.export.commands.export_bundle", stop)
    return make


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_lower_precision_is_asked_for_with_defaults(precision, order_of):
    order, folder = order_of(f"--{precision}")
    assert folder == Path(f"lrrnet-edge-{precision}")
    assert order.precision == order.lowering.precision == precision
    assert order.lowering.limits == Limits()
    assert order.lowering.method == "target"
    assert order.lowering.contract == order.contract
    assert order.lowering.frames.source == "the synthetic scene set"
    assert order.judge.threshold == 0.5


def test_every_option_arrives(order_of):
    limits = ("--max-drop-pd", 1, "--max-drop-iou", 2.5, "--max-rise-fa", 30)
    order, _ = order_of("--int8", *limits, "--calibration", "entropy", "--threshold", 0.4)
    assert order.lowering.limits == Limits(drop_pd=0.01, drop_iou=0.025, rise_fa=0.3)
    assert order.lowering.method == "entropy"
    assert order.judge.threshold == 0.4


def test_a_limit_alone_leaves_the_others(order_of):
    order, _ = order_of("--fp16", "--max-drop-iou", 0.2)
    assert order.lowering.limits == Limits(drop_iou=0.002)


@pytest.fixture
def tuned(tmp_path):
    """The shipped weights of lrrnet-edge, with ranges as a training with --qat writes them."""
    model = find_model("lrrnet-edge")
    read = read_weights(model.weights)
    ranges = dict.fromkeys(list_convolutions(model.build()), 6.0)
    save_weights(tmp_path / "tuned.safetensors", Weights(read.tensors, read.notes, ranges))
    return tmp_path / "tuned.safetensors", ranges


def test_ranges_of_a_training_come_with_its_weights(order_of, tuned):
    weights, ranges = tuned
    lowering = order_of("--int8", "--weights", weights)[0].lowering
    assert lowering.trained == ranges and lowering.ranged_by == "trained"


@pytest.mark.parametrize("ask", [("--fp16",), ("--int8", "--calibration", "target")])
def test_ranges_of_a_training_are_for_int8_that_names_no_method(order_of, tuned, ask):
    lowering = order_of(*ask, "--weights", tuned[0])[0].lowering
    assert lowering.trained == {} and lowering.ranged_by != "trained"


def test_fp32_is_not_calibrated(order_of):
    assert order_of()[0].lowering is None


def test_a_dataset_is_calibrated_on_what_it_is_not_measured_on(order_of, camera):
    order, _ = order_of("--int8", "--frames", camera, "--labelled", camera)
    frames = order.lowering.frames
    assert (frames.offered, len(frames.frames), frames.labelled) == (10, 10, True)
    (measured,) = order.judge.sets
    assert {one.name for one in frames.frames}.isdisjoint(one.name for one in measured.frames)
    assert (measured.name, len(measured.frames)) == ("camera, val", 4)


def test_plain_frames_get_targets(order_of, camera):
    order, _ = order_of("--fp16", "--frames", camera / "images")
    frames = order.lowering.frames
    assert (frames.source, frames.offered, frames.labelled) == ("folder images", 14, False)
    assert [one.name for one in order.judge.sets] == ["the synthetic scene set"]


def test_several_labelled_sets_are_measured_each_at_its_depth(order_of, camera, tmp_path):
    deep = write_masks_dataset(
        tmp_path / "deep", targets=2, seed=2, frames=5, held_out=3, bit_depth=14
    )
    order, _ = order_of("--bit-depth", 14, "--labelled", camera, "--labelled", deep)
    assert order.judge.description == "4 frames of camera, val and 3 frames of deep, val"
    assert [one.contract.bit_depth for one in order.judge.sets] == [8, 14]
    assert order.contract.bit_depth == 14


def test_evaluate_measures_int8_and_finds_what_the_manifest_says(run, edge, camera, tmp_path):
    folder = tmp_path / "bundle"
    own = ("--frames", camera, "--labelled", camera, "--calibration", "minmax", "--threshold", 0.3)
    ask = (*edge, "--int8", *own, "--max-drop-iou", 5, "--output", folder)
    outcome = run(export_command, *ask)
    assert outcome.exit_code == 0, outcome.output
    manifest = read_manifest(folder)
    assert manifest.threshold == 0.3
    calibration = manifest.calibration
    assert (calibration.method, calibration.frames, calibration.offered) == ("minmax", 10, 10)
    assert calibration.labelled
    assert {(entry.dataset, entry.frames) for entry in manifest.accuracy} == {("camera, val", 4)}
    evaluate = ("--split", "val", "--json")
    outcome = run(evaluate_command, folder, camera, *evaluate)
    assert outcome.exit_code == 0, outcome.output
    figures, measured = json.loads(outcome.stdout), manifest.accuracy[-1]
    assert figures["graph_precision"] == "int8"
    assert (figures["iou"], figures["pd"]) == (pytest.approx(measured.iou), measured.pd)
    other = run(evaluate_command, folder, camera, *evaluate, "--threshold", 0.9)
    assert json.loads(other.stdout)["iou"] != pytest.approx(measured.iou)


# --- plans ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_RTX, reason="TensorRT for RTX is not installed")
def test_an_int8_plan_computes_what_the_graph_says(exported):
    folder, _ = exported
    manifest = read_manifest(folder)
    ((name, record),) = manifest.plans.items()
    assert re.fullmatch(r"lrrnet-edge-int8-128x128-rtx[\d.]+-sm86-sm89\.plan", name)
    lowered = list(manifest.layers.values())
    assert record.layers == {kind: lowered.count(kind) for kind in ("fp32", "int8")}
    assert record.graph_sha256 == manifest.files["model.int8.onnx"].sha256
