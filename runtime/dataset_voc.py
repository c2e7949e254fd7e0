"""Sequences with boxes as Pascal VOC: one XML file beside each frame."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from .dataset_files import number_frames, sequence_of, walk_images
from .samples import Box, Sample, as_box, check_box

FRAME_FOLDERS = ("JPEGImages", "images", "PNGImages")
XML_FOLDERS = ("Annotations", "annotations", "xml")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def find_voc_place(root: Path) -> tuple[Path, Path] | None:
    """The folders of the frames and of their XML files; None where a dataset has no such."""
    frames = [root / name for name in FRAME_FOLDERS if (root / name).is_dir()]
    labels = [root / name for name in XML_FOLDERS if (root / name).is_dir()]
    for folder in labels:
        if frames and any(folder.rglob("*.xml")):
            return frames[0], folder
    return None


def read_voc(frames: Path, labels: Path) -> list[Sample]:
    """Read frames and the XML files named like them, in the same sub-folders.

    Each sub-folder is a sequence, but those named train, val or test. That DAUB or ITSDT-15K are
    passed on in such folders could not be confirmed; the form is that of labelImg: corners from the
    outer corner of the first pixel. A file without an object means a frame without target.

    Returns:
        One sample a frame; its boxes are None where the file is missing.

    Raises:
        FileNotFoundError: a file belongs to no frame.
        ValueError: a file is no VOC annotation, or a box has no area or is outside of its frame.
    """
    images = walk_images(frames)
    files = walk_images(labels, endings=(".xml",))
    for name, path in files.items():
        if name not in images:
            raise FileNotFoundError(f"{path} has no frame, expected {frames / name} with an ending")
    return number_frames(
        Sample(
            name,
            path,
            boxes=_read_file(files[name]) if name in files else None,
            sequence=sequence_of(name),
        )
        for name, path in images.items()
    )


def _read_file(path: Path) -> tuple[Box, ...]:
    tree = parse_xml(path)
    if tree.tag != "annotation":
        raise ValueError(f"{path} is no VOC annotation: it begins with <{tree.tag}>")
    height, width = (_number(tree, f"size/{name}", path) for name in ("height", "width"))
    boxes = []
    for found in tree.iterfind("object"):
        x0, y0, x1, y1 = (_number(found, f"bndbox/{name}", path) for name in CORNERS)
        box = as_box((x0, y0, x1, y1), place=str(path))
        check_box(box, (int(height), int(width)), place=str(path))
        boxes.append(box)
    return tuple(boxes)


def _number(element: Element, name: str, path: Path) -> float:
    text = element.findtext(name)
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"{path} is no VOC annotation: {element.tag}/{name} is {text!r}, expected a number"
        )
    return number


def parse_xml(path: Path) -> Element:
    """Read an XML file that declares nothing: no entities to expand, no other files to fetch.

    Raises:
        ValueError: it is no XML, or it has a document type declaration.
    """

    def refuse(*_: object) -> None:
        raise ValueError(
            f"{path} has a document type declaration, which annotations never need and which could "
            "expand without end; remove it"
        )

    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as err:
        raise ValueError(f"{path} is no XML: {err}") from err
    return builder.close()
