from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from irstd.runtime.datasets import find_kind, has_split, open_dataset, open_train
from irstd.tests.runtime.dataset_trees import names, touch, write

Content = dict[str, Any]


def coco(files: list[str], boxes: list[tuple[int, list[float]]], *, side: int = 256) -> Content:
    """What an annotation file holds: frames numbered from 1, and (frame, box) pairs."""
    images = [
        {"height": side, "width": side, "id": number, "file_name": file}
        for number, file in enumerate(files, start=1)
    ]
    annotations = [
        {"segmentation": [[]], "iscrowd": 0, "image_id": image, "bbox": box, "area": 64.0}
        | {"category_id": 1, "id": number}
        for number, (image, box) in enumerate(boxes, start=1)
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "t"}]}


@pytest.fixture
def daub(tmp_path: Path) -> Path:
    """DAUB: annotations/instances_test2017.json, images/test/data6/0.bmp."""
    train = [f"images/train/data5/{number}.bmp" for number in range(2)]
    test = [f"images/test/data6/{number}.bmp" for number in (0, 1, 10, 2)]
    touch(tmp_path, *train, *test)
    boxes = [(1, [96.0, 77.0, 8, 8]), (3, [1.5, 2.0, 4, 5]), (3, [250.0, 250.0, 8, 8])]
    for name, files in (("train", train), ("test", test)):
        content = coco(files, boxes if name == "test" else [])
        write(tmp_path / f"annotations/instances_{name}2017.json", json.dumps(content))
    return tmp_path


def spoil(root: Path, change: Any) -> None:
    path = root / "annotations/instances_test2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_daub(daub: Path) -> None:
    assert find_kind(daub) == "boxes"
    test = open_dataset(daub, split="test")
    assert (test.kind, test.split, test.has_sequences) == ("boxes", "test", True)
    assert names(test) == [f"test/data6/{number}" for number in (0, 1, 2, 10)]  # in order of time
    assert {sample.sequence for sample in test} == {"test/data6"}
    assert [sample.number for sample in test] == [0, 1, 2, 10]
    assert test.samples[0].image == daub / "images/test/data6/0.bmp"
    # x, y, width, height; the first pixel's outer corner is (-0.5, -0.5) here.
    assert test.samples[0].boxes == ((76.5, 95.5, 84.5, 103.5),)
    assert test.samples[1].boxes == ()  # no annotation, no target
    # Over the border, as published.
    assert test.samples[3].boxes == ((1.5, 1.0, 6.5, 5.0), (249.5, 249.5, 257.5, 257.5))
    assert names(open_train(daub)) == ["train/data5/0", "train/data5/1"]
    assert (len(open_dataset(daub)), open_dataset(daub).split) == (6, "all")
    with pytest.raises(ValueError, match="no split 'val', there are test, train; pass the path"):
        open_dataset(daub, split="val")


def test_itsdt_15k(tmp_path: Path) -> None:
    """JSON and lists in the root; file names count from images/ or from the root."""
    for split, sequence, before in (("train", 1, ""), ("test", 58, "images/")):
        touch(tmp_path, f"images/{sequence}/0.bmp", f"images/{sequence}/1.bmp")
        files = [f"{before}{sequence}/{number}.bmp" for number in range(2)]
        content = coco(files, [(1, [4, 4, 2, 2])])
        write(tmp_path / f"instances_{split}2017.json", json.dumps(content))
    write(
        tmp_path / "coco_val_ITSDT.txt",
        "/home/public/ITSDT/images/58/0.bmp 4,4,6,6,0 9,9,12,12,0\n",
    )
    assert names(open_dataset(tmp_path)) == ["1/0", "1/1", "58/0", "58/1"]
    assert names(open_dataset(tmp_path, split="test")) == ["58/0", "58/1"]
    assert names(open_train(tmp_path)) == ["1/0", "1/1"]
    # The list only chooses frames; their boxes are those of the JSON file.
    assert has_split(tmp_path, "val") and not has_split(tmp_path, "trainval")
    (val,) = open_dataset(tmp_path, split="val")
    assert (val.name, val.boxes) == ("58/0", ((3.5, 3.5, 5.5, 5.5),))


def test_annotation_files_of_unclear_split_go_by_their_stem(daub: Path) -> None:
    folder = daub / "annotations"
    (folder / "instances_train2017.json").rename(folder / "b_instances_test.json")
    assert len(open_dataset(daub, split="instances_test2017")) == 4
    assert len(open_dataset(daub, split="b_instances_test")) == 2
    assert len(open_dataset(daub, split="test")) == 4  # the folder images/test


def test_frames_without_a_sequence(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png")
    content = coco(["a.png"], [(1, [4, 4, 2, 2])])
    write(tmp_path / "annotations/instances_all.json", json.dumps(content))
    (sample,) = open_dataset(tmp_path)
    assert (sample.name, sample.sequence, sample.number) == ("a", None, None)


def test_a_frame_in_two_files(daub: Path) -> None:
    content = json.loads((daub / "annotations/instances_test2017.json").read_text())
    path = daub / "annotations/instances_val2017.json"
    path.write_text(json.dumps(content))
    assert len(open_dataset(daub)) == 6
    assert len(open_dataset(daub, split="val")) == 4
    content["annotations"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"'test/data6/10' has other boxes in 'val' than"):
        open_dataset(daub)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["annotations"][1].update(image_id=99), r"annotation 1: image_id 99 is the id"),
        (lambda c: c["images"][1].update(id=1), r"two images have one id"),
        (
            lambda c: c["images"][1].update(file_name="images/test/data6/0.bmp"),
            r"two images are na",
        ),
        (
            lambda c: c["annotations"][0].update(bbox=[1, 2, 0, 4]),
            r"annotation 0: a box .* no area",
        ),
        (
            lambda c: c["annotations"][0].update(bbox=[300, 20, 8, 8]),
            r"annotation 0 \(images/test/data6/0.bmp\): the centre of a box is at row 23.5, column "
            r"303.5, outside of the frame of 256x256",
        ),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), r"no annotation file: .*bbox"),
        (lambda c: c.pop("images"), r"no annotation file: .*`images`.*expected COCO JSON"),
        (lambda c: c["images"][1].update(height=128), r"1.bmp is 128x256, the frames of its sequ"),
    ],
)
def test_wrong_annotations(daub: Path, change: Any, said: str) -> None:
    spoil(daub, change)
    with pytest.raises(ValueError, match=said):
        open_dataset(daub)


def test_no_json_at_all(daub: Path) -> None:
    (daub / "annotations/instances_test2017.json").write_bytes(b"\xff{")
    with pytest.raises(ValueError, match=r"instances_test2017.json is no annotation file"):
        open_dataset(daub)


def test_a_frame_that_is_missing(daub: Path) -> None:
    (daub / "images/test/data6/1.bmp").unlink()
    with pytest.raises(FileNotFoundError, match=r"test/data6/1 of .* has annotations, but .*1.bmp"):
        open_dataset(daub)
    assert len(open_dataset(daub, split="train")) == 2  # leaves it out
