import pkgutil
import re
import signal

import cv2
import numpy as np
import onnx
import pytest

from irstd.export.commands import export_command


@pytest.fixture(scope="session")
def edge():
    return ("--model", "lrrnet-edge", "--size", "128x128", "--target", "onnx")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--int8", "--fp16"), "--int8 and --fp16 are two bundles"),
        (("--fp16", "--calibration", "mse"), "--calibration is for --int8"),
        (("--frames", "anywhere"), "--frames are for --int8 and --fp16"),
        (("--max-drop-iou", "0.2"), "--max-drop-iou limits what --int8 and --fp16 may lose"),
        (("--max-drop-pd", "0.5"), "--max-drop-pd limits what --int8 and --fp16 may lose"),
        (("--max-drop-pd", "0", "--max-rise-fa", "3"), "--max-drop-pd, --max-rise-fa limits"),
        (("--int8", "--calibration", "magic"), "'--calibration': 'magic' is not one of 'target'"),
        (("--int8", "--max-drop-pd", "-1"), "'--max-drop-pd': -1.0 is not in the range x>=0.0"),
        (("--fp16", "--max-drop-iou", "-0.1"), "'--max-drop-iou': -0.1 is not in the range"),
        (("--int8", "--max-rise-fa", "-5"), "'--max-rise-fa': -5.0 is not in the range"),
        (("--int8", "--max-drop-iou", "nan"), "drop_iou is nan, expected 0 or more"),
        (("--int8", "--frames", "nowhere"), "nowhere is no folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(refused, edge, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refused(export_command, *edge, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_is_ended_leaves_nothing(run, edge, monkeypatch, tmp_path):
    def end(*_, **__):
        assert [path.name[:8] for path in tmp_path.iterdir()] == [".bundle."]
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("irstd.export.bundling.trace", end)
    before = signal.getsignal(signal.SIGTERM)
    outcome = run(export_command, *edge, "--output", tmp_path / "bundle")
    assert outcome.exit_code == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before


def too_few(folder):
    for path in sorted(folder.iterdir())[7:]:
        path.unlink()


def broken(folder):
    (folder / "0009.png").write_bytes(b"no picture")


def black(folder):
    cv2.imwrite(str(folder / "0009.png"), np.zeros((64, 64), np.uint8))


def deep(folder):
    cv2.imwrite(str(folder / "0009.png"), np.full((64, 64), 5000, np.uint16))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (too_few, "offers 7 frames; 8 are the least"),
        (broken, "0009.png"),
        (black, "1 of 14 frames in {folder} show nothing: 0009.png (every pixel is 0)"),
        (deep, "--bit-depth 13 or more"),
    ],
)
def test_bad_calibration_frames_are_refused_whole(
    refused, edge, camera, tmp_path, monkeypatch, spoil, said
):
    monkeypatch.chdir(tmp_path)
    folder = camera / "images"
    spoil(folder)
    line = refused(export_command, *edge, "--int8", "--frames", folder)
    assert said.format(folder=folder) in line
    assert [path.name for path in tmp_path.iterdir()] == ["camera"]


def test_labelled_sets_of_one_name_are_refused(refused, edge, camera, tmp_path):
    ask = (*edge, "--labelled", camera, "--labelled", camera, "--output", tmp_path / "bundle")
    assert "two labelled sets are called 'camera, val'" in refused(export_command, *ask)


def test_labelled_frames_without_targets_are_refused(refused, edge, camera, tmp_path):
    for path in (camera / "masks").iterdir():
        cv2.imwrite(str(path), np.zeros((64, 64), np.uint8))
    ask = (*edge, "--int8", "--labelled", camera, "--output", tmp_path / "bundle")
    assert "the 4 labelled frames of camera, val hold no target" in refused(export_command, *ask)
    assert [path.name for path in tmp_path.iterdir()] == ["camera"]


def blind(lower):
    """What makes a lower precision, but with a bias under which nothing is a target."""

    def lowered(*arguments, **options):
        graph = lower(*arguments, **options)
        for tensor in graph.graph.initializer:
            if tensor.name.startswith("network.target.bias"):
                values = np.full_like(onnx.numpy_helper.to_array(tensor), -1000)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return graph

    return lowered


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_precision_that_loses_targets_is_refused(
    run, edge, camera, tmp_path, monkeypatch, precision
):
    name = f"irstd.export.lowering.to_{precision}"
    monkeypatch.setattr(name, blind(pkgutil.resolve_name(name)))
    ask = (*edge, f"--{precision}", "--labelled", camera, "--output", tmp_path / "bundle")
    outcome = run(export_command, *ask)
    assert outcome.exit_code == 1
    line = outcome.stderr.splitlines()[-1]
    assert line.startswith("Error: the lower precision loses targets")
    assert re.search(r"9\d% lowered: Pd 0\.\d{4} -> 0\.0000 \(limit -0\.005\); IoU 0\.", line)
    assert "nothing was written" in line
    assert outcome.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["camera"]
