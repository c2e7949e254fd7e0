"""irstd-evaluate on datasets of several sequences, with centroids, masks and boxes."""

import json
import shutil

import cv2
import numpy as np
import pytest

from irstd.runtime.commands.evaluate import evaluate_command
from irstd.runtime.datasets import open_dataset
from irstd.runtime.media_cv2 import write_sequence
from irstd.runtime.scene import Scene, SceneOptions

SCENE = SceneOptions(height=64, width=64, targets=1, scr=(30.0, 30.0), defects=0)


def figures_of(outcome):
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


@pytest.fixture
def runs(tmp_path):
    """Two sequences of five 14-bit frames with centroids; their numbers go on."""
    root = tmp_path / "runs"
    for name, seed in (("run1", 0), ("run2", 1)):
        write_sequence(root / name, Scene(SCENE, seed=seed), frames=5)
    folder = root / "run2"
    for path in sorted([*folder.glob("frames/*"), *folder.glob("masks/*")], reverse=True):
        path.rename(path.with_stem(f"{int(path.stem) + 5:04d}"))
    lines = (folder / "centroids.csv").read_text().splitlines()
    moved = [f"{int(line[:4]) + 5:04d}{line[4:]}" for line in lines[1:]]
    (folder / "centroids.csv").write_text("\n".join([lines[0], *moved]))
    return root


def as_masks(runs):
    """The same as NUDT-MIRSDT has it: a folder a sequence, images and masks."""
    for folder in runs.iterdir():
        (folder / "frames").rename(folder / "images")
        (folder / "centroids.csv").unlink()
    return runs


def as_boxes(runs):
    """The same as ITSDT-15K has it: images/run1/0001.png and COCO JSON, boxes of 8x8."""
    images, annotations = [], []
    for sample in open_dataset(runs):
        number = len(images) + 1
        name = f"images/{sample.sequence}/{sample.image.name}"
        images.append({"id": number, "file_name": name, "height": 64, "width": 64})
        for row, column in sample.points:
            box = [column + 0.5 - 4, row + 0.5 - 4, 8, 8]
            annotations.append({"image_id": number, "bbox": box})
        (runs / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample.image, runs / name)
    for name in ("run1", "run2"):
        shutil.rmtree(runs / name)
    text = json.dumps({"images": images, "annotations": annotations})
    (runs / "instances_test2017.json").write_text(text)
    return runs


def test_each_sequence_begins_anew(run, bundle_clip, runs):
    both = figures_of(run(evaluate_command, bundle_clip, runs, "--json"))
    alone = [
        figures_of(run(evaluate_command, bundle_clip, runs / name, "--json"))
        for name in ("run1", "run2")
    ]
    # Three frames a clip, though the numbers of the second sequence follow those of the first.
    assert [one["frames_before_start"] for one in (both, *alone)] == [4, 2, 2]
    assert both["frames"] == 6 == sum(one["frames"] for one in alone)
    for name in ("pd", "false_alarms_per_frame"):
        assert both[name] == pytest.approx(sum(one[name] for one in alone) / 2, abs=1e-6)


def test_a_network_for_single_frames_scores_every_frame(run, bundle14, runs):
    figures = figures_of(run(evaluate_command, bundle14, runs, "--json"))
    assert (figures["frames"], figures["targets"], figures["pd"]) == (10, 10, 1.0)
    assert "frames_before_start" not in figures


def test_masks_of_sequences_give_pixel_scores(run, bundle_clip, bundle14, runs):
    runs = as_masks(runs)
    figures = figures_of(run(evaluate_command, bundle_clip, runs, "--json"))
    assert (figures["frames"], figures["frames_before_start"]) == (6, 4)
    assert figures.keys() >= {"iou", "pd", "fa_per_mpix"}
    single = figures_of(run(evaluate_command, bundle14, runs, "--json"))
    assert (single["frames"], single["pd"]) == (10, 1.0)
    assert "frames_before_start" not in single


def test_boxes_are_found_by_what_is_inside(run, bundle14, bundle_clip, runs):
    runs = as_boxes(runs)
    figures = figures_of(run(evaluate_command, bundle14, runs, "--split", "test", "--json"))
    assert (figures["frames"], figures["targets"], figures["pd"]) == (10, 10, 1.0)
    assert figures_of(run(evaluate_command, bundle_clip, runs, "--json"))["frames"] == 6


def test_gaps_are_told(run, bundle_clip, runs):
    (runs / "run1/frames/0003.png").unlink()
    for name in ("0007", "0008"):
        (runs / f"run2/frames/{name}.png").unlink()
    for folder in (runs / "run1", runs / "run2"):
        gone = {"0003", "0007", "0008"}
        lines = (folder / "centroids.csv").read_text().splitlines()
        kept = [line for line in lines if line.split(",")[0] not in gone]
        (folder / "centroids.csv").write_text("\n".join(kept))
    outcome = run(evaluate_command, bundle_clip, runs, "--json")
    assert "frames are missing before run1/0004, run2/0009; a clip of 3 frames" in outcome.stderr
    # A short gap is bridged; after the long one the clip has two frames and never gets whole.
    assert (figures_of(outcome)["frames"], figures_of(outcome)["frames_before_start"]) == (2, 5)


def test_frames_that_change_their_size_in_a_sequence_are_refused(refused, bundle_clip, runs):
    cv2.imwrite(str(runs / "run2/frames/0008.png"), np.zeros((48, 48), np.uint16))
    said = refused(evaluate_command, bundle_clip, runs)
    assert "run2/0008: frame is 48x48, the frames of the clip before it are 64x64" in said


def test_a_sequence_may_have_another_size_than_another(run, bundle_clip, runs):
    rng = np.random.default_rng(1)
    for path in (runs / "run2/frames").iterdir():
        cv2.imwrite(str(path), rng.integers(0, 9999, (48, 48)).astype(np.uint16))
    lines = (runs / "run2/centroids.csv").read_text().splitlines()
    (runs / "run2/centroids.csv").write_text(lines[0])
    assert figures_of(run(evaluate_command, bundle_clip, runs, "--json"))["frames"] == 6


def test_a_listed_box_outside_of_its_frame_is_refused(refused, bundle14, runs):
    # A list says nothing of sizes; the frame does.
    runs = as_boxes(runs)
    (runs / "instances_test2017.json").unlink()
    (runs / "coco_val.txt").write_text("images/run1/0001.png 70,10,78,18,0\n")
    said = refused(evaluate_command, bundle14, runs)
    assert "run1/0001: the centre of a box is at row 13.5, column 73.5, outside of" in said


def test_boxes_have_no_curves(run, bundle14, runs, tmp_path):
    runs = as_boxes(runs)
    outcome = run(evaluate_command, bundle14, runs, "--roc", tmp_path / "roc")
    assert outcome.exit_code == 2
    assert "has boxes and no masks; leave --roc and --resolution out" in outcome.stderr


def test_predictions_of_another_tool_lie_in_a_folder_for_each_sequence(run, refused, runs):
    runs = as_masks(runs)
    folder = runs.parent / "found"
    for sample in open_dataset(runs):
        path = folder / f"{sample.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample.mask, path)
    ask = (evaluate_command, runs, "--predictions", folder, "--json")
    assert figures_of(run(*ask))["iou"] == 1.0
    (folder / "run1/0001.png").rename(folder / "0001.png")  # of which sequence?
    assert "no prediction for run1/0001; expected run1/0001.png" in refused(*ask)
