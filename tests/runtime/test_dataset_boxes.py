from __future__ import annotations

from pathlib import Path

import pytest

from irstd.runtime.datasets import find_kind, open_dataset, open_train
from irstd.tests.runtime.dataset_trees import names, touch, write

ELSEWHERE = "/home/public/IRDST/images"


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """IRDST as SSTNet passes it on: coco_val_IRDST.txt, images/2/0.bmp."""
    touch(tmp_path, *(f"images/{name}.bmp" for name in ("1/0", "1/1", "2/8", "2/9")))
    write(tmp_path / "coco_train_IRDST.txt", f"{ELSEWHERE}/1/0.bmp 168,368,180,377,0\n")
    lines = ("2/9.bmp 1,377,7,385,0", "", "2/8.bmp 1,377,8,385,0 307,164,317,171,0")
    text = "\n".join(line and f"{ELSEWHERE}/{line}" for line in lines)
    write(tmp_path / "coco_val_IRDST.txt", text)
    return tmp_path


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """IRDST, its real frames without masks: images/train/00000000.png, boxes/train/00000000.txt."""
    for name, text in (
        ("train/00000000", "[3, 4, 5, 6]\n"),
        ("test/00000001", "3 4 5 6\n\n7,8,2,2"),
    ):
        touch(tmp_path, f"images/{name}.png")
        write(tmp_path / f"boxes/{name}.txt", text)
    return tmp_path


def test_lists_with_boxes(listed: Path) -> None:
    assert find_kind(listed) == "boxes"
    dataset = open_dataset(listed)
    assert names(dataset) == ["1/0", "2/8", "2/9"]  # frames without a line are none of it
    assert [sample.sequence for sample in dataset] == ["1", "2", "2"]
    assert [sample.number for sample in dataset] == [0, 8, 9]
    assert dataset.samples[0].image == listed / "images/1/0.bmp"
    assert dataset.samples[0].boxes == ((367.5, 167.5, 376.5, 179.5),)
    assert dataset.samples[1].boxes == ((376.5, 0.5, 384.5, 7.5), (163.5, 306.5, 170.5, 316.5))
    val = open_dataset(listed, split="val")
    assert (names(val), val.split) == (["2/9", "2/8"], "val_IRDST")  # in the order of the list
    assert names(open_dataset(listed, split="coco_val_IRDST")) == ["2/8", "2/9"]
    assert names(open_train(listed)) == ["1/0"]


def test_a_list_of_windows_and_one_that_counts_from_the_dataset(listed: Path) -> None:
    write(listed / "coco_val_IRDST.txt", "D:\\data\\IRDST\\images\\2\\8.bmp 1,2,3,4,0\r\n")
    write(listed / "coco_train_IRDST.txt", "images/1/0.bmp 1,2,3,4,0\n./images/1/1.bmp\n")
    assert names(open_dataset(listed)) == ["1/0", "1/1", "2/8"]
    assert open_dataset(listed).samples[1].boxes == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("images/2/8.bmp 1,2,3,4", r"line 2: 'images/2/8.bmp 1,2,3,4', expected the path of a fra"),
        ("images/2/8.bmp 5,2,3,4,0", r"line 2: a box from x 5, y 2 to x 3, y 4 has no area"),
        ("images/2/8.bmp 1.2.3,2,3,4,0", r"line 2: '1.2.3,2,3,4', expected four numbers"),
        (f"{ELSEWHERE}/1/0.bmp 1,2,3,4,0", r"line 2: frame '1/0' has a line before this one"),
    ],
)
def test_wrong_lines(listed: Path, line: str, said: str) -> None:
    first = f"{ELSEWHERE}/1/0.bmp 168,368,180,377,0"
    write(listed / "coco_train_IRDST.txt", f"{first}\n{line}\n")
    with pytest.raises(ValueError, match=said):
        open_dataset(listed)


def test_a_listed_frame_that_is_missing(listed: Path) -> None:
    (listed / "images/2/8.bmp").unlink()
    with pytest.raises(FileNotFoundError, match=r"2/8 of .* but .*images/2/8.bmp does not exist"):
        open_dataset(listed)
    assert names(open_dataset(listed, split="train")) == ["1/0"]


def test_files_beside_the_frames(beside: Path) -> None:
    assert find_kind(beside) == "boxes"
    dataset = open_dataset(beside)
    assert {sample.name: sample.boxes for sample in dataset} == {
        "test/00000001": ((3.5, 2.5, 9.5, 7.5), (7.5, 6.5, 9.5, 8.5)),
        "train/00000000": ((3.5, 2.5, 9.5, 7.5),),
    }
    assert not dataset.has_sequences  # what is packed so does not tell where one ends
    assert names(open_train(beside)) == ["train/00000000"]


def test_a_frame_without_its_file_and_a_file_without_its_frame(beside: Path) -> None:
    (beside / "boxes/test/00000001.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"00000001.png has no annotation; add it"):
        open_dataset(beside)
    assert len(open_dataset(beside, split="train")) == 1
    write(beside / "boxes/train/7.txt", "")
    with pytest.raises(FileNotFoundError, match=r"boxes/train/7.txt has no frame, expected"):
        open_dataset(beside)


def test_wrong_files(beside: Path) -> None:
    write(beside / "boxes/test/00000001.txt", "\n1,2,3\n")
    with pytest.raises(ValueError, match=r"line 2: '1,2,3', expected x, y, width, height"):
        open_dataset(beside)
