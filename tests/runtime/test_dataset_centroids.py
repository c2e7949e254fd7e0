from __future__ import annotations

from pathlib import Path

import pytest

from irstd.runtime.datasets import find_kind, open_dataset, open_train
from irstd.tests.runtime.dataset_trees import names, touch, write


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    touch(tmp_path, "frames/1.png", "frames/2.png", "frames/10.png")
    write(tmp_path / "centroids.csv", "frame,x,y\n10,91,37\n1,5.5,6\n1,7,8\n\n")
    return tmp_path


def test_sequence(sequence: Path) -> None:
    dataset = open_dataset(sequence)
    assert (dataset.kind, dataset.split) == ("centroids", "all")
    assert names(dataset) == ["1", "2", "10"]  # in order of time
    assert [sample.mask for sample in dataset] == [None] * 3
    assert {sample.sequence for sample in dataset} == {sequence.name}
    assert [sample.number for sample in dataset] == [1, 2, 10]
    # x is the column, y the row; a frame without a line has no target.
    assert [sample.points for sample in dataset] == [((6.0, 5.5), (8.0, 7.0)), (), ((37.0, 91.0),)]


def test_sequence_with_a_list(sequence: Path) -> None:
    write(sequence / "calibration.txt", "10\n2\n")
    assert names(open_dataset(sequence, split="calibration")) == ["10", "2"]
    with pytest.raises(ValueError, match="no split 'test', there are calibration"):
        open_dataset(sequence, split="test")


def test_centroids_as_spreadsheets_write_them(sequence: Path) -> None:
    write(sequence / "centroids.csv", "\ufeffframe, x, y\r\n2.png, 1e1, 2\r\n,,\r\n")
    assert open_dataset(sequence).samples[1].points == ((2.0, 10.0),)


def test_sequence_without_targets(sequence: Path) -> None:
    write(sequence / "centroids.csv", "frame,x,y\n")
    assert [sample.points for sample in open_dataset(sequence)] == [(), (), ()]


def test_sequence_without_frames(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    write(tmp_path / "centroids.csv", "frame,x,y\n")
    with pytest.raises(ValueError, match="frames holds no image"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("text", ["", "frame,y,x\n1,2,3\n", "1,91,37\n", "frame;x;y\n"])
def test_wrong_header(sequence: Path, text: str) -> None:
    write(sequence / "centroids.csv", text)
    with pytest.raises(ValueError, match="expected the header 'frame,x,y'"):
        open_dataset(sequence)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,abc,3", "line 3: '1,abc,3', expected numbers for x and y"),
        ("1,,3", "line 3: '1,,3', expected numbers for x and y"),
        ("1,nan,3", "line 3: '1,nan,3', expected finite numbers"),
        ("1,2", "line 3: 2 fields, expected 3: frame, x, y"),
        ("1,2,3,4", "line 3: 4 fields, expected 3"),
    ],
)
def test_bad_line(sequence: Path, line: str, message: str) -> None:
    write(sequence / "centroids.csv", f"frame,x,y\n1,5,6\n{line}\n")
    with pytest.raises(ValueError, match=message):
        open_dataset(sequence)


def test_centroid_of_no_frame(sequence: Path) -> None:
    write(sequence / "centroids.csv", "frame,x,y\n0001,5,6\n")
    with pytest.raises(FileNotFoundError, match="line 2: frame '0001' has no file in .*frames"):
        open_dataset(sequence)


def test_train_of_a_sequence(sequence: Path) -> None:
    assert names(open_train(sequence)) == ["1", "2", "10"]
    write(sequence / "val.txt", "2\n")
    assert names(open_train(sequence)) == ["1", "10"]


# --- several sequences in one folder --------------------------------------------------------------


@pytest.fixture
def several(tmp_path: Path) -> Path:
    for sequence in ("run2", "run10", "train/run1"):
        touch(tmp_path, f"{sequence}/frames/0001.png", f"{sequence}/frames/0002.pgm")
        write(tmp_path / sequence / "centroids.csv", "frame,x,y\n0002,3,4\n")
    return tmp_path


def test_several_sequences(several: Path) -> None:
    dataset = open_dataset(several)
    assert (find_kind(several), dataset.kind, dataset.has_sequences) == (
        "centroids",
        "centroids",
        True,
    )
    assert names(dataset) == [
        f"{run}/000{number}" for run in ("run2", "run10", "train/run1") for number in (1, 2)
    ]
    assert [sample.sequence for sample in dataset] == ["run2"] * 2 + ["run10"] * 2 + [
        "train/run1"
    ] * 2
    assert [sample.number for sample in dataset] == [1, 2] * 3
    assert [sample.points for sample in dataset] == [(), ((4.0, 3.0),)] * 3


def test_splits_of_several_sequences(several: Path) -> None:
    write(several / "val.txt", "run10\nrun2/frames/0002.pgm\n")
    assert names(open_dataset(several, split="val")) == ["run10/0001", "run10/0002", "run2/0002"]
    assert names(open_train(several)) == ["train/run1/0001", "train/run1/0002"]  # the part "train"
    write(several / "train.txt", "run2/0001\n")  # of a part and a list, the part counts
    assert names(open_dataset(several, split="train")) == ["train/run1/0001", "train/run1/0002"]
    # A stem alone could be of any sequence.
    write(several / "val.txt", "0002\n")
    with pytest.raises(FileNotFoundError, match="names '0002', but .* has no such image"):
        open_dataset(several, split="val")


def test_frames_without_numbers_are_numbered_by_place(tmp_path: Path) -> None:
    touch(tmp_path, "frames/a.png", "frames/b.png")
    write(tmp_path / "centroids.csv", "frame,x,y\n")
    assert [sample.number for sample in open_dataset(tmp_path)] == [0, 1]
