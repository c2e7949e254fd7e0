"""A trained network of clips goes to INT8: calibrated on clips, generated or recorded."""

import cv2
import numpy as np
import pytest
import torch

from irstd.calibration import frames as calibration
from irstd.calibration.pairs import inject_moving
from irstd.export import speed
from irstd.export.commands import export_command
from irstd.runtime import Detector, FrameContract, evaluation
from irstd.runtime.bundle import read_manifest
from irstd.runtime.scene import Scene, SceneOptions
from irstd.train.checkpoint import Weights, save_weights
from irstd.train.zoo import find_model

pytestmark = pytest.mark.usefixtures("one_thread")

SPAN = 15
LOOSE = ("--max-drop-pd", 50, "--max-drop-iou", 50, "--max-rise-fa", 10_000)  # of nine targets


@pytest.fixture
def weights():
    """Of a network that finds the targets of the labelled scene."""
    return find_model("tenrpcanet").weights


@pytest.fixture
def scene():
    return Scene(SceneOptions(height=48, width=48, bit_depth=8, targets=2), seed=3)


@pytest.fixture
def folder(tmp_path, scene):
    """Nine clips' worth of consecutive frames."""
    place = tmp_path / "frames"
    place.mkdir()
    for number in range(SPAN + 8):
        cv2.imwrite(str(place / f"{number:03}.png"), scene.frame(number).frame)
    return place


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """One labelled scene, eight generated clips, and no time spent on timing."""
    monkeypatch.setattr(evaluation, "SYNTHETIC_SEEDS", range(101, 102))
    monkeypatch.setattr(calibration, "SYNTHETIC_SEEDS", range(200, 204))
    monkeypatch.setattr(speed, "FEWEST", 1)
    monkeypatch.setattr(speed, "BUDGET_S", 0.1)


@pytest.mark.parametrize("source", ["generated", "recorded"])
def test_int8_of_a_clip_network(run, weights, folder, scene, tmp_path, source):
    options = ("--frames", folder) if source == "recorded" else ()
    output = tmp_path / "bundle"
    outcome = run(
        export_command, "--model", "tenrpcanet", "--weights", weights, "--int8", "--size", "48x48",
        "--target", "onnx", *options, *LOOSE, "--output", output,
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.stderr
    manifest = read_manifest(output)
    assert manifest.precision == "int8"
    assert "int8" in manifest.layers.values()
    assert manifest.calibration.offered == {"generated": 8, "recorded": 9}[source]
    with Detector.load(output, engine="onnxruntime", precision="int8", threads=1) as detector:
        states = [detector(scene.frame(number).frame).clip for number in range(SPAN + 1)]
    assert [state.frames_missing for state in states] == [*range(SPAN - 1, -1, -1), 0]


def test_weights_that_find_nothing_cannot_be_judged(refused, tmp_path):
    torch.manual_seed(0)
    network = find_model("tenrpcanet").build()
    path = tmp_path / "w.safetensors"
    save_weights(path, Weights(network.state_dict(), {"normalisation": "stretch"}))
    line = refused(
        export_command, "--model", "tenrpcanet", "--weights", path, "--int8", "--size", "48x48",
        "--target", "onnx", *LOOSE, "--output", tmp_path / "bundle",
    )  # fmt: skip
    assert "fp32 finds none of the 9 targets of" in line
    assert not (tmp_path / "bundle").exists()


def test_too_few_frames_in_a_row(refused, weights, folder, tmp_path):
    for number in range(10, SPAN + 8):  # 10 frames, and 13 after a long gap
        (folder / f"{number:03}.png").rename(folder / f"{number + 500:03}.png")
    line = refused(
        export_command, "--model", "tenrpcanet", "--weights", weights, "--int8", "--size", "48x48",
        "--target", "onnx", "--frames", folder, "--output", tmp_path / "bundle",
    )  # fmt: skip
    assert "offers 0 clips of 15 frames in a row; 8 are the least" in line
    assert not (tmp_path / "bundle").exists()


def test_a_calibration_clip_differs_by_its_targets_alone(folder):
    contract = FrameContract(48, 48, clip=find_model("tenrpcanet").clip)
    for chosen in (
        calibration.synthetic_calibration(contract, most=8),
        calibration.read_calibration(folder, contract, most=8),
    ):
        for pair in chosen.frames:
            assert len(pair.older) == len(pair.older_empty) == SPAN - 1
            whole = zip((*pair.older, pair.frame), (*pair.older_empty, pair.empty), strict=True)
            changes = [np.count_nonzero(seen != empty) for seen, empty in whole]
            assert changes[-1] > 0
            assert max(changes) < 48 * 48 / 3


def test_injected_targets_move_towards_the_newest_frame():
    flat = [np.full((48, 48), 100, np.uint8)] * 5
    flat[-1] = flat[-1] + np.random.default_rng(0).integers(0, 3, (48, 48)).astype(np.uint8)
    seen = inject_moving(flat, bit_depth=8)
    light = [one.astype(int) - empty for one, empty in zip(seen, flat, strict=True)]
    np.testing.assert_array_equal(light[0][:-2, :-4], light[4][2:, 4:])
    assert light[0].any()
    assert all(one.dtype == np.uint8 for one in seen)
