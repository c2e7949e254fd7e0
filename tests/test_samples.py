"""The samples are short and run as a user would run them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

SAMPLES = Path(__file__).parent.parent / "samples"


def run(sample, *arguments, cwd):
    """Run a sample in another folder, as a copy of it would."""
    command = [sys.executable, "-W", "error", str(SAMPLES / sample), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, timeout=120, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_samples_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40


def test_embed_detector(bundle14, sequence, tmp_path):
    said = run("embed_detector.py", bundle14, sequence / "frames" / "0001.png", cwd=tmp_path)
    assert "row " in said
    assert "targets" in said.splitlines()[-1]


def test_detect_camera_writes_every_frame_of_a_video(bundle, tmp_path):
    path = tmp_path / "seen.mp4"
    video = cv2.VideoWriter(
        str(tmp_path / "in.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (96, 64)
    )
    for column in range(20, 30):
        frame = np.full((64, 96, 3), 60, np.uint8)
        frame[30:33, column : column + 3] = 250
        video.write(frame)
    video.release()
    run("detect_camera.py", bundle, tmp_path / "in.mp4", path, cwd=tmp_path)
    seen = cv2.VideoCapture(str(path))
    assert seen.get(cv2.CAP_PROP_FRAME_COUNT) == 10
    _, picture = seen.read()
    assert picture.shape[0] == 512


def test_the_demo_scripts(bundle14, tmp_path):
    run("make_sequence.py", "s", cwd=tmp_path)
    frames = sorted((tmp_path / "s" / "frames").glob("*.png"))
    assert len(frames) == 30
    lines = [json.dumps({"frame": path.stem, "targets": []}) for path in frames]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    said = run("compare_with_truth.py", "t.jsonl", "s", bundle14, cwd=tmp_path)
    assert "30 frames: Pd 0.000, 0.00 false/frame" in said
    assert (tmp_path / "demo.png").is_file()
