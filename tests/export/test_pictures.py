import ast
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from irstd.calibration.frames import synthetic_calibration
from irstd.calibration.gate import Limits
from irstd.calibration.sensitivity import Mix
from irstd.export.accuracy import Judge, LabelledSet
from irstd.export.bundling import Order, export_bundle
from irstd.export.lowering import Lowering
from irstd.export.pictures import draw_pictures, write_caption
from irstd.runtime.bundle import read_file, read_manifest
from irstd.runtime.evaluation import SYNTHETIC_NAME, synthetic_frames
from irstd.runtime.frame import FrameContract
from irstd.tests.export.conftest import SET
from irstd.train.checkpoint import read_weights
from irstd.train.zoo import Model


def size_of(path):
    """Height and width of a PNG that is whole and not of one colour."""
    picture = cv2.imread(str(path))
    assert picture is not None
    assert np.ptp(picture) > 100
    return picture.shape[:2]


def test_int8_has_a_curve_and_ranges(int8, tmp_path):
    assert draw_pictures(int8, tmp_path) == ("sensitivity.png", "ranges.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ranges.png", "sensitivity.png"]
    assert size_of(tmp_path / "sensitivity.png") == (420, 1200)
    assert size_of(tmp_path / "ranges.png") == (380, 1200)


def test_several_labelled_sets_have_a_row_of_the_curve_each(int8, tmp_path):
    sets = {SET: int8.before[SET], "night, val": int8.before[SET]}
    curve = tuple(
        replace(mix, scores=dict.fromkeys(sets, mix.scores[SET])) for mix in int8.lowered.curve
    )
    lowered = replace(int8.lowered, curve=curve, chosen=curve[-1], observed={})
    draw_pictures(replace(int8, before=sets, lowered=lowered), tmp_path)
    assert size_of(tmp_path / "sensitivity.png") == (790, 1200)


def test_fp16_has_a_curve_alone(fp16, tmp_path):
    assert draw_pictures(fp16, tmp_path) == ("sensitivity.png",)


def test_at_most_four_inputs_are_drawn_and_layers_share_theirs(int8, tmp_path):
    stem = int8.layers[0]
    observed = {f"tensor_{n}": int8.lowered.observed["frame"] for n in range(5)}
    lowered = replace(int8.lowered, observed=observed, ranges=dict.fromkeys(observed, 1.0))
    layers = [replace(stem, name=f"layer_{n}", input=f"tensor_{n // 2}") for n in range(10)]
    draw_pictures(replace(int8, lowered=lowered, layers=tuple(layers)), tmp_path)
    assert size_of(tmp_path / "ranges.png") == (760, 1200)


def test_a_mix_without_scores_is_left_out_of_the_curve(int8, tmp_path):
    curve = (Mix(frozenset({"x"}), 1.0, {}), *int8.lowered.curve)
    lowered = replace(int8.lowered, curve=curve, observed={})
    assert draw_pictures(replace(int8, lowered=lowered), tmp_path) == ("sensitivity.png",)
    assert size_of(tmp_path / "sensitivity.png") == (420, 1200)


@pytest.mark.parametrize(
    ("low", "high", "counts", "shown"),
    [
        (0.4, 0.6, (0, 2, 2, 0), 3),  # each finds what the other misses
        (0.9, 1.0, (0, 2, 0, 2), 2),  # the lower precision finds nothing
        (0.4, 1.0, (2, 0, 2, 0), 2),  # it finds more
        (0.7, 1.0, (2, 0, 0, 2), 0),  # both find the same
        (0.0, 0.1, (0, 2, 0, 2), 2),  # it takes the background for targets
    ],
)
def test_disagreements_are_drawn(fp16, compare, spots, tmp_path, low, high, counts, shown):
    said = compare(spots, low=low, high=high)
    assert (said.both, said.lost, said.won, said.neither) == counts
    assert len(said.disputed) == shown
    drawn = draw_pictures(replace(fp16, compared={SET: said}), tmp_path)
    assert ("disagreements.png" in drawn) == bool(shown)
    if shown:
        height, width = size_of(tmp_path / "disagreements.png")
        assert width == 1100
        assert 400 * shown < height < 600 * shown


def test_at_most_four_frames_are_drawn(fp16, compare, spots, tmp_path):
    said = compare(spots * 3, low=0.4, high=0.6)
    assert len(said.disputed) == 9
    draw_pictures(replace(fp16, compared={SET: said}), tmp_path)
    assert size_of(tmp_path / "disagreements.png")[0] < 2400


def test_pictures_are_the_same_to_the_byte(fp16, compare, spots, tmp_path):
    outcome = replace(fp16, compared={SET: compare(spots[:1], low=0.4, high=0.6)})
    folders = tmp_path / "first", tmp_path / "second"
    for folder in folders:
        folder.mkdir()
        drawn = draw_pictures(outcome, folder)
    for name in drawn:
        first, second = ((folder / name).read_bytes() for folder in folders)
        assert first == second
        assert b"tEXt" not in first


def test_captions_say_who_misses_what_and_why(int8, compare, spots):
    both = compare(spots, low=0.4, high=0.6).disputed[0]
    assert write_caption(both, int8) == (
        "both: INT8 misses 1 target that FP32 finds, FP32 misses 1 target that INT8 finds\n"
        "enlarged, row 10, column 51: confidence reaches 0.400 in INT8, 0.900 in FP32; "
        "threshold 0.5"
    )
    won = compare(spots, low=0.4, high=0.6).disputed[2]
    assert "dim: FP32 misses 1 target that INT8 finds\nenlarged, row 41, column 0: " in (
        write_caption(won, int8)
    )
    flooded = compare(spots, low=0.0, high=1.0).disputed[0]
    assert write_caption(flooded, int8).endswith(
        "INT8 marks pixels there, but centres no detection of its own on it"
    )


class BrightSpot(nn.Module):
    """Logits that rise with what a pixel has above its neighbourhood."""

    def __init__(self):
        super().__init__()
        self.contrast = nn.Conv2d(1, 2, 5, padding=2)
        self.merge = nn.Conv2d(2, 1, 1)

    def forward(self, frame):
        return frame, self.merge(self.contrast(frame).relu())


@pytest.fixture
def order(tmp_path):
    """INT8 of a network of two layers, whatever it costs."""
    kernel = torch.full((2, 1, 5, 5), -1 / 25)
    kernel[:, :, 2, 2] += 1
    tensors = {
        "contrast.weight": kernel,
        "contrast.bias": torch.zeros(2),
        "merge.weight": torch.full((1, 2, 1, 1), 20.0),
        "merge.bias": torch.tensor([-8.0]),
    }
    path = tmp_path / "spot.safetensors"
    save_file(tensors, path)
    contract = FrameContract(64, 64)
    frames = list(synthetic_frames(8, height=64, width=64))[::6]
    return Order(
        model=Model("spot", BrightSpot, 1, (64, 64), "tests"),
        weights=read_weights(path),
        weights_file=path,
        contract=contract,
        lowering=Lowering(
            precision="int8",
            frames=synthetic_calibration(contract, most=8),
            contract=contract,
            method="minmax",
            limits=Limits(1.0, 1.0, 1e9),
        ),
        judge=Judge((LabelledSet(SYNTHETIC_NAME, frames, contract),), threshold=0.5),
    )


def test_a_bundle_holds_and_hashes_its_pictures(order, tmp_path):
    said = []
    manifest = export_bundle(order, tmp_path / "bundle", say=said.append)
    folder = tmp_path / "bundle"
    pictures = {"sensitivity.png", "ranges.png"}
    assert pictures <= manifest.files.keys()
    assert manifest == read_manifest(folder)
    for name in pictures:
        assert read_file(folder, manifest, name) == (folder / name).read_bytes()
        assert size_of(folder / name)
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert f"\nOn {SYNTHETIC_NAME} (4 frames, " in report
    assert "| contrast | " in report
    assert "| merge | " in report
    assert ("disagreements.png" in manifest.files) == ("](disagreements.png)" in report)
    last = "comparing fp32 and int8 target by target on 4 frames of the synthetic scene set"
    assert said[-1] == last


def test_fp32_gets_no_pictures(order, tmp_path):
    manifest = export_bundle(
        replace(order, lowering=None), tmp_path / "bundle", say=lambda line: None
    )
    assert manifest.files.keys() == {"model.onnx", "report.md"}


def test_only_pictures_load_matplotlib():
    """Which takes seconds, and --help and FP32 bundles shall not wait for it."""
    for path in (Path(__file__).parents[2] / "export").glob("*.py"):
        top = ast.parse(path.read_text(encoding="utf-8")).body
        loaded = {node.module for node in top if isinstance(node, ast.ImportFrom)}
        if path.name != "pictures.py":
            assert not loaded & {"pictures", "runtime.plot_matplotlib"}, path.name
