import csv
import json

import cv2
import numpy as np
import pytest

from irstd.runtime.commands.evaluate import evaluate_command
from irstd.runtime.datasets import open_dataset
from irstd.runtime.media_cv2 import read_image

MASK_KEYS = {"iou", "niou", "precision", "recall", "f1", "pd", "fa_per_mpix", "frames"}


def figures_of(outcome):
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


def test_masks_at_both_resolutions(run, bundle, masks_dataset):
    native = figures_of(run(evaluate_command, bundle, masks_dataset, "--json"))
    assert native.keys() >= MASK_KEYS | {"graph_precision"}
    assert 0 < native["precision"] <= 1  # the score of that name
    assert native["frames"] == 4
    assert native["pd"] == 1.0
    network = run(evaluate_command, bundle, masks_dataset, "--resolution", "network", "--json")
    # 64x64 frames and a 64x64 network: both are the same pixels.
    assert figures_of(network) == native


def test_evaluates_the_bundles_own_precision_unless_told_otherwise(run, bundle_int8, masks_dataset):
    ask = (evaluate_command, bundle_int8, masks_dataset, "--json")
    own = run(*ask)
    assert "threads, int8\n" in own.stderr
    figures = figures_of(own)
    assert figures["graph_precision"] == "int8"
    assert figures_of(run(*ask, "--precision", "int8")) == figures
    full = figures_of(run(*ask, "--precision", "fp32"))
    assert full["graph_precision"] == "fp32"
    assert full["iou"] != figures["iou"]
    assert "dataset, split all, int8\n" in run(*ask[:-1]).stdout


def test_figures_are_onnx_runtimes_unless_an_engine_is_named(
    run, bundle_int8, masks_dataset, openvino_installed
):
    ask = (evaluate_command, bundle_int8, masks_dataset, "--json")
    default = run(*ask)
    assert "bundle-int8: ONNX Runtime " in default.stderr
    named = run(*ask, "--engine", "openvino")
    assert "bundle-int8: OpenVINO " in named.stderr and "threads, int8\n" in named.stderr
    assert figures_of(named)["iou"] == pytest.approx(figures_of(default)["iou"], abs=0.01)


def test_split_by_name_and_by_file(run, bundle, masks_dataset):
    by_name = figures_of(run(evaluate_command, bundle, masks_dataset, "--split", "val", "--json"))
    path = masks_dataset / "val.txt"
    by_file = figures_of(run(evaluate_command, bundle, masks_dataset, "--split", path, "--json"))
    assert by_name["frames"] == 2
    assert by_file == by_name


def test_sequence_gives_pd_and_false_alarms_per_frame(run, bundle14, sequence):
    figures = figures_of(run(evaluate_command, bundle14, sequence, "--json"))
    expected = {"pd", "false_alarms_per_frame", "frames", "targets", "graph_precision"}
    assert set(figures) == expected
    assert figures["pd"] == 1.0
    assert figures["frames"] == 6


def test_roc_folder_adds_curve_picture_and_contrast(run, bundle, masks_dataset, tmp_path):
    pytest.importorskip("matplotlib", reason="pip install 'irstd[plots]' draws the curve")
    out = tmp_path / "roc"
    figures = figures_of(run(evaluate_command, bundle, masks_dataset, "--roc", out, "--json"))
    assert 0.9 < figures["auc"] <= 1.0
    assert {"scrg", "bsf", "scr_in", "scr_out"} <= figures.keys()
    with (out / "roc.csv").open() as file:
        assert len(list(csv.reader(file))) == 1003
    assert cv2.imread(str(out / "roc.png")).shape[2] == 3


def predictions(dataset, folder, *, suffix):
    folder.mkdir()
    for sample in open_dataset(dataset):
        mask = read_image(sample.mask)
        if suffix == ".npy":
            np.save(folder / f"{sample.name}.npy", mask > 0)
        else:
            cv2.imwrite(str(folder / f"{sample.name}{suffix}"), mask)
    return folder


@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_perfect_predictions_of_another_tool(run, masks_dataset, tmp_path, suffix):
    folder = predictions(masks_dataset, tmp_path / "maps", suffix=suffix)
    figures = figures_of(run(evaluate_command, masks_dataset, "--predictions", folder, "--json"))
    assert (figures["iou"], figures["pd"], figures["fa_per_mpix"]) == (1.0, 1.0, 0.0)
    assert "graph_precision" not in figures


def test_bad_predictions_are_refused(refused, masks_dataset, tmp_path):
    folder = predictions(masks_dataset, tmp_path / "maps", suffix=".npy")
    np.save(folder / "0002.npy", np.full((64, 64), np.nan, np.float32))
    ask = (evaluate_command, masks_dataset, "--predictions", folder)
    of_a_network = (("--precision", "fp32"), ("--engine", "openvino"), ("--resolution", "network"))
    for option in of_a_network:
        assert "leave --resolution, --engine and --precision out" in refused(*ask, *option)
    assert "holds NaN" in refused(*ask)
    np.save(folder / "0002.npy", np.zeros((2, 64, 64), np.float32))
    assert "shape (2, 64, 64)" in refused(*ask)
    (folder / "0002.npy").write_bytes(b"nonsense")
    assert "no .npy file" in refused(*ask)
    (folder / "0002.npy").unlink()
    assert "no prediction for 0002" in refused(*ask)


def test_undefined_scores_are_null(run, bundle, masks_dataset):
    for path in (masks_dataset / "masks").iterdir():
        cv2.imwrite(str(path), np.zeros((64, 64), np.uint8))
    figures = figures_of(run(evaluate_command, bundle, masks_dataset, "--json"))
    assert figures["pd"] is None
    assert figures["fa_per_mpix"] > 0


def test_a_table_for_people(run, bundle, masks_dataset):
    outcome = run(evaluate_command, bundle, masks_dataset)
    assert "dataset, split all" in outcome.stdout
    assert "fa_per_mpix" in outcome.stdout


def test_refusals(refused, bundle, masks_dataset, tmp_path, sequence):
    assert "expected DATASET alone" in refused(evaluate_command, bundle)
    assert "no split 'nope'" in refused(evaluate_command, bundle, masks_dataset, "--split", "nope")
    assert "no folder" in refused(evaluate_command, bundle, tmp_path / "nothing")
    ask = (evaluate_command, bundle, masks_dataset)
    assert "only in fp32" in refused(*ask, "--precision", "fp16")
    assert "0001: frame is uint16" in refused(evaluate_command, bundle, sequence)
    cv2.imwrite(str(masks_dataset / "masks" / "0001.png"), np.zeros((9, 9), np.uint8))
    assert "mask of 0001 is 9x9" in refused(evaluate_command, bundle, masks_dataset)
    (masks_dataset / "masks" / "0001.png").unlink()
    assert "has no mask" in refused(evaluate_command, bundle, masks_dataset)


def test_frames_before_a_clip_is_whole_are_not_scored(run, bundle_clip, sequence):
    outcome = run(evaluate_command, bundle_clip, sequence, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    figures = json.loads(outcome.stdout)
    assert (figures["frames"], figures["frames_before_start"], figures["targets"]) == (4, 2, 4)


def test_a_network_for_sequences_wants_a_sequence(refused, bundle_clip, masks_dataset):
    said = refused(evaluate_command, bundle_clip, masks_dataset)
    assert "takes clips of 3 frames" in said
    assert "centroids.csv" in said
