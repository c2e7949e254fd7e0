from __future__ import annotations

from pathlib import Path

import pytest

from irstd.runtime.datasets import find_kind, open_dataset, open_train
from irstd.tests.runtime.dataset_trees import names, touch, write

OBJECT = (
    "<object><name>target</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>"
    "<ymax>{}</ymax></bndbox></object>"
)
BOMB = (
    '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    "<annotation>&b;</annotation>"
)


def annotation(*boxes: tuple[float, float, float, float], height: object = 256) -> str:
    objects = "".join(OBJECT.format(*box) for box in boxes)
    size = f"<size><width>256</width><height>{height}</height><depth>1</depth></size>"
    return f'<?xml version="1.0"?>\n<annotation><folder>data5</folder>{size}{objects}</annotation>'


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """JPEGImages/data5/0.bmp with Annotations/data5/0.xml, lists in ImageSets/Main."""
    for name, boxes in (
        ("data5/0", [(10, 20, 14, 26)]),
        ("data5/1", []),
        ("data6/0", [(1, 1, 2, 3)]),
    ):
        touch(tmp_path, f"JPEGImages/{name}.bmp")
        write(tmp_path / f"Annotations/{name}.xml", annotation(*boxes))
    write(tmp_path / "ImageSets/Main/train.txt", "data5/0\ndata5/1\n")
    write(tmp_path / "ImageSets/Main/test.txt", "data6\n")
    return tmp_path


def test_voc(voc: Path) -> None:
    assert find_kind(voc) == "boxes"
    dataset = open_dataset(voc)
    assert names(dataset) == ["data5/0", "data5/1", "data6/0"]
    assert [sample.sequence for sample in dataset] == ["data5", "data5", "data6"]
    assert [sample.boxes for sample in dataset] == [
        ((19.5, 9.5, 25.5, 13.5),),
        (),
        ((0.5, 0.5, 2.5, 1.5),),
    ]
    assert names(open_dataset(voc, split="test")) == ["data6/0"]
    assert names(open_train(voc)) == ["data5/0", "data5/1"]


def test_flat_voc_has_single_frames(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png")
    write(tmp_path / "annotations/a.xml", annotation())
    (sample,) = open_dataset(tmp_path)
    assert (sample.name, sample.sequence, sample.boxes) == ("a", None, ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "has a document type declaration"),
        (
            '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>',
            "has a document type declaration",
        ),
        ("<annotation>", "is no XML: no element found"),
        ("data", "is no XML: syntax error"),
        ("<kml/>", "is no VOC annotation: it begins with <kml>"),
        (
            "<annotation/>",
            "is no VOC annotation: annotation/size/height is None, expected a number",
        ),
        (annotation((10, 20, 14, 26), height="inf"), "size/height is 'inf', expected a number"),
        (annotation((10, 20, 10, 26)), "a box from x 10, y 20 to x 10, y 26 has no area"),
        (
            annotation((10, 260, 14, 270)),
            r"row 264.5, column 11.5, outside of the frame of 256x256",
        ),
        (
            "<annotation><size><height>9</height><width>9</width></size><object/></annotation>",
            "object/bndbox/xmin is None, expected a number",
        ),
    ],
)
def test_wrong_files(voc: Path, text: str, said: str) -> None:
    write(voc / "Annotations/data5/0.xml", text)
    with pytest.raises(ValueError, match=rf"data5/0.xml.*{said}"):
        open_dataset(voc)


def test_a_declaration_in_another_encoding_is_found_too(voc: Path) -> None:
    (voc / "Annotations/data5/0.xml").write_bytes(BOMB.encode("utf-16"))
    with pytest.raises(ValueError, match="has a document type declaration"):
        open_dataset(voc)


def test_a_frame_without_its_file_and_a_file_without_its_frame(voc: Path) -> None:
    (voc / "Annotations/data6/0.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"data6/0.bmp has no annotation; add it"):
        open_dataset(voc)
    assert len(open_dataset(voc, split="train")) == 2
    write(voc / "Annotations/data7/0.xml", annotation())
    with pytest.raises(FileNotFoundError, match=r"data7/0.xml has no frame, expected"):
        open_dataset(voc)
