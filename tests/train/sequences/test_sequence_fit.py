import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from irstd.runtime.media_cv2 import write_image
from irstd.train.commands import train_command
from irstd.train.sequences.sequence_fit import (
    check_output,
    cut_blocks,
    list_sinks,
    log_path,
    read_runs,
    register_block,
)

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = 32


def shoot(number, *, size=SIZE):
    """A textured scene that stands still, and a spot that moves down by a pixel a frame."""
    rng = np.random.default_rng(0)
    frame = 90 + 20 * rng.normal(size=(size // 4, size // 4)).repeat(4, 0).repeat(4, 1)
    frame += np.random.default_rng(number).normal(size=frame.shape)
    frame[6 + number : 8 + number, 14:16] += 90.0
    return frame.clip(0, 255).astype(np.uint8)


@pytest.fixture
def sequence(tmp_path):
    """Write frames by number; gives the folder."""

    def write(numbers, shot=shoot):
        folder = tmp_path / "seen" / "frames"
        folder.mkdir(parents=True)
        for number in numbers:
            write_image(folder / f"{number:04d}.png", shot(number))
        return folder.parent

    return write


def fit(folder, output, *changes):
    words = [word for change in changes for word in ("--set", change)]
    return ("--model", "lowrank3d", "--sequence", folder, "--output", output, *words)


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


SHORT = ("iterations=60", "learning_rate=0.03")


def test_a_sequence_becomes_targets_confidence_and_a_log(run, sequence, tmp_path):
    run(train_command, *fit(sequence(range(1, 11)), tmp_path / "out", *SHORT))
    lines = lines_of(tmp_path / "out" / "targets.json")
    assert [line["frame"] for line in lines] == [f"{number:04d}" for number in range(1, 11)]
    maps = sorted((tmp_path / "out" / "maps").iterdir())
    assert [path.stem for path in maps] == [line["frame"] for line in lines]
    for number, path in enumerate(maps, start=1):
        row, column = np.unravel_index(np.load(path).argmax(), (SIZE, SIZE))
        assert row in (6 + number, 7 + number)
        assert column in (14, 15)
    with (tmp_path / "out" / "loss.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    for row in rows:
        terms = sum(float(row[name]) for name in ("nuclear", "sparse", "smooth"))
        assert float(row["loss"]) == pytest.approx(terms, rel=1e-4)
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_targets_as_csv_twice_the_same(run, sequence, tmp_path):
    folder = sequence(range(1, 9))
    for name in ("first", "second"):
        run(train_command, *fit(folder, tmp_path / f"{name}.csv", "iterations=5"))
    texts = [(tmp_path / f"{name}.csv").read_text() for name in ("first", "second")]
    assert texts[0] == texts[1]
    assert texts[0].startswith("frame,row,column,score")
    logs = [(tmp_path / f"{name}-loss.csv").read_text() for name in ("first", "second")]
    assert logs[0] == logs[1]


def test_a_moving_camera_is_registered(sequence):
    scene = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(64, 80)), (0, 0), 2.0)
    levels = (120 + 300 * scene).clip(0, 255).astype(np.uint8)
    folder = sequence(range(9), lambda number: levels[:, 12 - number : 76 - number])
    (run,) = read_runs(folder, span=80, say=print)
    block = register_block(run, None)
    assert block.places[4] == (0.0, 0.0)
    for number, (row, column) in enumerate(block.places):
        assert row == pytest.approx(0.0, abs=0.3)
        assert column == pytest.approx(4 - number, abs=0.3)
    assert block.seen[4].all()
    assert not block.seen[0, :, :3].any()  # came in from beyond the frame
    assert block.seen[0, 1:-1, 5:].all()


def test_a_sequence_of_constant_frames_has_no_targets(run, sequence, tmp_path):
    folder = sequence(range(8), lambda number: np.full((SIZE, SIZE), 70, np.uint8))
    run(train_command, *fit(folder, tmp_path / "t.jsonl", "iterations=5"))
    lines = lines_of(tmp_path / "t.jsonl")
    assert len(lines) == 8
    assert not any(line["targets"] for line in lines)


def test_a_short_gap_is_bridged_and_said(sequence):
    said = []
    runs = read_runs(sequence([*range(1, 6), *range(8, 14)]), span=80, say=said.append)
    assert [len(one) for one in runs] == [11]
    assert said == ["0008: frames are missing before it; the sequence goes on"]


def test_a_long_gap_parts_the_sequence(sequence):
    runs = read_runs(sequence([*range(1, 10), *range(200, 208)]), span=80, say=print)
    assert [[one.number for one in part][:: len(part) - 1] for part in runs] == [
        [1, 9], [200, 207],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (range(1, 8), "7 frames in a row from 0001 on, expected 8 or more"),
        ([*range(1, 10), *range(200, 203)], "3 frames in a row from 0200 on"),
    ],
)
def test_too_few_frames_are_refused(refused, sequence, tmp_path, numbers, said):
    assert said in refused(train_command, *fit(sequence(numbers), tmp_path / "t.csv"))
    assert not list(tmp_path.glob("*.csv"))


def test_frames_that_change_size_are_refused(refused, sequence, tmp_path):
    folder = sequence(range(9), lambda number: shoot(number, size=SIZE if number < 8 else 36))
    said = refused(train_command, *fit(folder, tmp_path / "t.csv"))
    assert "0008 is 36x36 uint8, the frames before it are 32x32 uint8" in said


def test_a_damaged_frame_is_refused(refused, sequence, tmp_path):
    folder = sequence(range(9))
    (folder / "frames" / "0003.png").write_bytes(b"no image")
    assert "0003" in refused(train_command, *fit(folder, tmp_path / "t.csv"))


def test_a_missing_sequence(refused, tmp_path):
    assert "nowhere" in refused(train_command, *fit(tmp_path / "nowhere", tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("iterations=0", "iterations is 0, expected 1 or more"),
        ("epochs=3", "lowrank3d has no 'epochs' here; known: block, iterations"),
        ("iterations", "'iterations' is no NAME=VALUE"),
        ("iterations=many", "lowrank3d: Expected `int`"),
    ],
)
def test_options_that_are_none(refused, sequence, tmp_path, change, said):
    assert said in refused(train_command, *fit(sequence(range(8)), tmp_path / "t.csv", change))


def test_other_models_fit_no_sequence(refused, sequence, tmp_path):
    words = ("--model", "lrrnet", "--sequence", sequence(range(8)), "--output", tmp_path / "t.csv")
    assert "only lowrank3d is fitted to a --sequence" in refused(train_command, *words)


def test_options_of_trainings_with_labels_are_refused(refused, sequence, tmp_path):
    words = fit(sequence(range(8)), tmp_path / "t.csv")
    said = refused(train_command, *words, "--data", tmp_path, "--resume")
    assert "leave --data, --resume out" in said


@pytest.mark.parametrize(
    ("count", "most", "sizes"),
    [(8, 80, [8]), (80, 80, [80]), (81, 80, [40, 41]), (33, 16, [11, 11, 11])],
)
def test_blocks_are_even(count, most, sizes):
    blocks = cut_blocks(count, most)
    assert [len(block) for block in blocks] == sizes
    assert [place for block in blocks for place in block] == list(range(count))


def test_where_things_go(tmp_path):
    assert list_sinks(tmp_path / "a" / "t.json") == [f"json:{tmp_path}/a/t.json"]
    assert list_sinks(tmp_path / "b") == [
        f"json:{tmp_path}/b/targets.json", f"maps-npy:{tmp_path}/b/maps",
    ]  # fmt: skip
    assert log_path(Path("x/t.csv")) == Path("x/t-loss.csv")
    assert log_path(Path("x/out")) == Path("x/out/loss.csv")
    with pytest.raises(ValueError, match=r"output is t.txt, expected a folder, or a file"):
        check_output(tmp_path / "t.txt")
