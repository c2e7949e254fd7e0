"""The study of sequences on two synthetic ones: a table, and ROC curves as a picture."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from irstd.runtime.media_cv2 import write_sequence
from irstd.runtime.scene import Scene, SceneOptions

STUDY = Path(__file__).with_name("sequences_study.py")
MODELS = ("top-hat", "temporal-median")


def test_curves_are_drawn_and_thresholds_held_out(tmp_path):
    options = SceneOptions(
        height=64, width=64, bit_depth=8, targets=1, scr=(20.0, 20.0), drift=0.0, defects=0
    )
    for seed in (0, 1):
        write_sequence(tmp_path / "data" / f"scene{seed}", Scene(options, seed=seed), frames=24)
        shutil.rmtree(tmp_path / "data" / f"scene{seed}" / "masks")
    output = tmp_path / "study"
    ask = ["--data", tmp_path / "data", "--output", output]
    for model in MODELS:
        ask += ["--model", model]
    paths = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, STUDY, *ask],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == list(MODELS)
    curves = json.loads((output / "temporal-median.json").read_text())["curves"]
    assert list(curves) == ["scene0", "scene1"]
    assert max(pd for pd, _ in filter(None, curves["scene1"])) == 1.0
    # The first two colours of the cycle, blue and orange, are lines.
    picture = cv2.imread(str(output / "sequences.png")).astype(int)
    for colour in ((180, 119, 31), (14, 127, 255)):
        assert (np.abs(picture - colour).max(axis=2) < 8).sum() > 50
