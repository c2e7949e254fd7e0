"""The samples are short and run as a user would run them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from irstd.runtime.bundle import read_manifest

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


COMPILER = shutil.which("g++")


@pytest.mark.skipif(
    COMPILER is None or not Path("/usr/include/nlohmann/json.hpp").is_file(),
    reason="needs a C++ compiler and nlohmann/json: apt install g++ nlohmann-json3-dev",
)
def test_a_cpp_program_reads_the_contract(bundle14, tmp_path):
    program = tmp_path / "read_contract"
    source = SAMPLES / "read_contract.cpp"
    strict = ["-std=c++17", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([COMPILER, *strict, str(source), "-o", str(program)], check=True)

    def read(folder):
        return subprocess.run([str(program), str(folder)], capture_output=True, text=True)

    manifest = read_manifest(bundle14)
    told = read(bundle14)
    assert told.returncode == 0, told.stderr
    height, width = manifest.frame.height, manifest.frame.width
    assert told.stdout.splitlines()[:3] == [
        f"input {manifest.input.name} [1,1,{height},{width}] {manifest.input.dtype}",
        f"output {manifest.output.name} [1,1,{height},{width}] {manifest.output.dtype}",
        f'bits 14, "stretch", fit "resize", threshold {manifest.threshold}',
    ]
    refused = read(tmp_path)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "holds no manifest.json" in refused.stderr


def test_trtexec_is_given_every_plan(tmp_path):
    def run_on(folder):
        command = ["sh", str(SAMPLES / "trtexec.sh"), str(folder)]
        environment = {**os.environ, "TRTEXEC": "echo"}
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    refused = run_on(tmp_path)
    assert refused.returncode == 1
    assert "run irstd-build" in refused.stderr
    plan = tmp_path / "lrrnet-int8-256x256-trt10.3.0-sm87.plan"
    plan.touch()
    (tmp_path / "lrrnet-int8-256x256-rtx1.7.1-sm86.plan").touch()  # trtexec cannot load it
    expected = f"--loadEngine={plan} --useCudaGraph --noDataTransfers --iterations=200\n"
    assert run_on(tmp_path).stdout == expected
