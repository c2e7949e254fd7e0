import csv
import json
import shutil

import cv2
import numpy as np
import pytest

from irstd.runtime.commands.detect import detect_command
from irstd.runtime.datasets import open_dataset


def test_finds_the_targets_of_a_sequence(run, bundle14, sequence):
    outcome = run(detect_command, bundle14, sequence / "frames")
    assert outcome.exit_code == 0
    lines = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [line["frame"] for line in lines] == [f"{n:04d}" for n in range(1, 7)]
    assert list(lines[0]["targets"][0]) == ["row", "column", "score", "area", "peak", "box"]
    for line, sample in zip(lines, open_dataset(sequence), strict=True):
        (truth,) = sample.points
        nearest = min(
            np.hypot(t["row"] - truth[0], t["column"] - truth[1]) for t in line["targets"]
        )
        assert nearest < 1.0
    assert "6 frames" in outcome.stderr


def test_runs_what_is_fastest_on_a_cpu_unless_told_otherwise(run, bundle_int8, masks_dataset):
    ask = (detect_command, bundle_int8, masks_dataset / "images")
    default = run(*ask)
    assert "bundle-int8: ONNX Runtime" in default.stderr
    assert "threads, fp32: fp32 was faster" in default.stderr
    assert run(*ask, "--precision", "fp32").stdout == default.stdout
    lower = run(*ask, "--precision", "int8")
    assert "threads, int8\n" in lower.stderr
    assert lower.stdout != default.stdout


@pytest.mark.parametrize(
    ("engine", "said"),
    [("openvino", "bundle-int8: OpenVINO "), ("onnxruntime", "bundle-int8: ONNX Runtime ")],
)
def test_runs_the_engine_that_is_named(
    run, bundle_int8, masks_dataset, openvino_installed, engine, said
):
    ask = (detect_command, bundle_int8, masks_dataset / "images", "--engine", engine)
    assert said in run(*ask).stderr


def test_writes_every_sink_in_one_run(run, bundle14, sequence, tmp_path):
    out = tmp_path / "out"
    sinks = (
        f"json:{tmp_path}/t.jsonl", f"csv:{tmp_path}/t.csv", f"overlay:{out}/seen",
        f"video:{tmp_path}/seen.mp4", f"maps:{out}/png", f"maps-npy:{out}/npy",
        f"maps-mat:{out}/mat",
    )  # fmt: skip
    outcome = run(detect_command, bundle14, sequence / "frames", *sinks)
    assert outcome.exit_code == 0
    assert outcome.stdout == ""
    assert len((tmp_path / "t.jsonl").read_text().splitlines()) == 6
    with (tmp_path / "t.csv").open() as file:
        assert {row["frame"] for row in csv.DictReader(file)} == {f"{n:04d}" for n in range(1, 7)}
    for folder, suffix in (("seen", "png"), ("png", "png"), ("npy", "npy"), ("mat", "mat")):
        assert len(list((out / folder).glob(f"*.{suffix}"))) == 6
    video = cv2.VideoCapture(str(tmp_path / "seen.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 6
    assert not list(tmp_path.rglob("*partial*"))
    values = np.load(out / "npy" / "0001.npy")
    shown = cv2.imread(str(out / "png" / "0001.png"), cv2.IMREAD_UNCHANGED)
    assert values.shape == (64, 64)
    np.testing.assert_allclose(shown / 255, values, atol=0.002)


def test_the_bound_on_targets_is_told(run, bundle14, sequence):
    options = ("--max-targets", 1, "--threshold", 0.02)
    outcome = run(detect_command, bundle14, sequence / "frames" / "0001.png", *options)
    line = json.loads(outcome.stdout)
    assert line["truncated"] is True
    assert line["found"] > 1
    assert len(line["targets"]) == 1


@pytest.fixture
def frames_with_a_bad_one(sequence, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for name in ("0001", "0002", "0003"):
        content = (sequence / "frames" / f"{name}.png").read_bytes()
        (folder / f"{name}.png").write_bytes(content[:900] if name == "0002" else content)
    return folder


def test_a_bad_frame_stops_the_run_and_leaves_no_file(
    refused, bundle14, frames_with_a_bad_one, tmp_path
):
    said = refused(detect_command, bundle14, frames_with_a_bad_one, f"json:{tmp_path}/t.jsonl")
    assert "0002" in said
    assert "cut off" in said
    assert "--skip-bad" in said
    assert not list(tmp_path.glob("*t.jsonl*"))


def test_a_bad_frame_is_reported_and_skipped_on_request(run, bundle14, frames_with_a_bad_one):
    outcome = run(detect_command, bundle14, frames_with_a_bad_one, "--skip-bad")
    assert outcome.exit_code == 0
    assert len(outcome.stdout.splitlines()) == 2
    assert "skipped 0002: image" in outcome.stderr
    assert "2 frames, 1 skipped" in outcome.stderr


def test_nothing_usable_is_an_error_even_when_skipping(refused, bundle, sequence):
    said = refused(detect_command, bundle, sequence / "frames", "--skip-bad")
    assert "no frame of" in said


def test_refusals(refused, bundle, bundle14, sequence, tmp_path):
    frames = sequence / "frames"
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert "declare the sensor's bit depth" in refused(detect_command, bundle, frames)
    assert "holds no image" in refused(detect_command, bundle, tmp_path / "empty")
    assert "does not exist" in refused(detect_command, bundle, tmp_path / "nothing")
    assert "does not exist" in refused(detect_command, tmp_path / "nothing", frames)
    assert "is no bundle" in refused(detect_command, tmp_path / "empty", frames)
    assert "did you mean overlay:x" in refused(detect_command, bundle14, frames, "overlya:x")
    assert "threshold" in refused(detect_command, bundle14, frames, "--threshold", 2)
    assert "threads" in refused(detect_command, bundle14, frames, "--threads", 0)
    assert "only in fp32" in refused(detect_command, bundle14, frames, "--precision", "int8")
    assert "'fp64' is not one of" in refused(
        detect_command, bundle14, frames, "--precision", "fp64"
    )
    said = refused(detect_command, bundle14, frames, f"overlay:{tmp_path}/file/inside")
    assert str(tmp_path / "file") in said


def test_a_changed_model_file_is_refused(refused, bundle14, sequence):
    path = bundle14 / "model.onnx"
    path.write_bytes(path.read_bytes()[:-10])
    said = refused(detect_command, bundle14, sequence / "frames")
    assert "is not the file that was exported" in said


def test_a_full_disk_leaves_nothing_behind(refused, bundle14, sequence, tmp_path, monkeypatch):
    import pathlib

    def full(self, content):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    said = refused(detect_command, bundle14, sequence / "frames", f"overlay:{tmp_path}/seen")
    assert "No space left on device" in said
    assert not list((tmp_path / "seen").iterdir())


def test_a_clip_is_waited_for_and_the_shift_is_told(run, bundle_clip, sequence, tmp_path):
    outcome = run(detect_command, bundle_clip, sequence / "frames")
    assert outcome.exit_code == 0, outcome.stderr
    lines = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [line.get("frames_missing") for line in lines] == [2, 1, None, None, None, None]
    assert "shift" not in lines[0]
    assert all(len(line["shift"]) == 2 for line in lines[1:])
    assert not any(line["targets"] for line in lines[:2])


def test_a_gap_is_told_and_another_sequence_begins_another_clip(
    run, bundle_clip, sequence, tmp_path
):
    for number, name in enumerate(("0001", "0002", "0003", "0005", "0006"), start=1):
        shutil.copy(sequence / f"frames/{number:04d}.png", tmp_path / f"run-{name}.png")
    shutil.copy(sequence / "frames/0006.png", tmp_path / "run-0900.png")
    outcome = run(detect_command, bundle_clip, tmp_path)
    missing = [json.loads(line).get("frames_missing", 0) for line in outcome.stdout.splitlines()]
    assert missing == [2, 1, 0, 0, 0, 2]
    assert "run-0005: frames are missing before it; the clip goes on" in outcome.stderr
    assert "run-0900: does not follow the frame before it; a new clip begins" in outcome.stderr


def test_a_sequence_shorter_than_the_clip_is_told(run, bundle_clip, sequence):
    outcome = run(detect_command, bundle_clip, sequence / "frames/0001.png")
    assert outcome.exit_code == 0
    assert "no frame had a whole clip of 3 frames" in outcome.stderr


def test_frames_of_changing_size_are_refused(refused, bundle_clip, sequence, tmp_path):
    shutil.copy(sequence / "frames/0001.png", tmp_path / "1.png")
    cv2.imwrite(str(tmp_path / "2.png"), np.full((40, 40), 99, np.uint16))
    said = refused(detect_command, bundle_clip, tmp_path)
    assert "frame is 40x40, the frames of the clip before it are 64x64" in said
