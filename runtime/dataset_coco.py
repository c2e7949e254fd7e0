"""Sequences with boxes as COCO JSON: DAUB, ITSDT-15K and IRDST as their users pass them on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from .dataset_files import name_of, number_frames, sequence_of
from .samples import Box, Sample, as_box, check_box

FOLDERS = ("annotations", "", "json")  # where annotation files lie; the first that has some counts
PATTERN = "*instances*.json"
SPLITS = re.compile(r"trainval|train|val|test")


@dataclass(frozen=True, slots=True)
class _Image:
    """What an annotation file says of a frame."""

    id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class _Annotation:
    """A box (x, y, width, height) and the frame it is in."""

    image_id: int
    bbox: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class _Content:
    """What is read of an annotation file."""

    images: list[_Image]
    annotations: list[_Annotation]


def find_coco_files(root: Path) -> dict[str, Path]:
    """Annotation files by the split they are for: "train" of instances_train2017.json.

    They lie in `ROOT/annotations` (DAUB), `ROOT` (ITSDT-15K) or `ROOT/json` (as SSTNet passes DAUB
    on). A file whose name tells no split, or that of another, is called by its stem.
    """
    for folder in FOLDERS:
        files = sorted((root / folder).glob(PATTERN))
        if files:
            break
    named = {path: found[0] for path in files if (found := SPLITS.search(path.stem))}
    names = list(named.values())
    return {
        name if (name := named.get(path, "")) and names.count(name) == 1 else path.stem: path
        for path in files
    }


def read_coco(root: Path, path: Path) -> list[Sample]:
    """Read the frames and boxes of an annotation file.

    A frame's `file_name` counts from the dataset's folder ("images/test/data6/0.bmp") or from
    `images` in it; the folder that holds the frame names its sequence. An image without annotation
    is a frame without target. x and y are those of the box's upper left corner, as in COCO from the
    outer corner of the first pixel; a published box may reach over the border.

    Raises:
        ValueError: no such JSON, an annotation of an image that is not listed, two images of one id
            or name, a box without area or outside of its frame, or frames of one sequence that
            differ in size.
    """
    try:
        content = msgspec.json.decode(path.read_bytes(), type=_Content)
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise ValueError(
            f"{path} is no annotation file: {err}; expected COCO JSON with images (id, file_name, "
            "height, width) and annotations (image_id, bbox)"
        ) from err
    boxes = _read_boxes(content, path)
    _require_one_size(content.images, path)
    return number_frames(_sample(root, image, boxes[image.id]) for image in content.images)


def _read_boxes(content: _Content, path: Path) -> dict[int, list[Box]]:
    images = {image.id: image for image in content.images}
    if len(images) < len(content.images):
        raise ValueError(f"{path}: two images have one id; each needs its own")
    boxes: dict[int, list[Box]] = {image: [] for image in images}
    for number, annotation in enumerate(content.annotations):
        place = f"{path}, annotation {number}"
        image = images.get(annotation.image_id)
        if image is None:
            raise ValueError(
                f"{place}: image_id {annotation.image_id} is the id of no image in the file; was "
                "it cut, or merged with another?"
            )
        x, y, width, height = annotation.bbox
        box = as_box((x, y, x + width, y + height), place=place)
        check_box(box, (image.height, image.width), place=f"{place} ({image.file_name})")
        boxes[annotation.image_id].append(box)
    return boxes


def _sample(root: Path, image: _Image, boxes: list[Box]) -> Sample:
    relative = image.file_name.replace("\\", "/").lstrip("/")
    candidates = (root / relative, root / "images" / relative)
    file = next((path for path in candidates if path.is_file()), candidates[0])
    name = name_of(relative)
    return Sample(name, file, boxes=tuple(boxes), sequence=sequence_of(name))


def _require_one_size(images: Iterable[_Image], path: Path) -> None:
    sizes: dict[str, tuple[int, int]] = {}
    names = set()
    for image in images:
        name, size = name_of(image.file_name), (image.height, image.width)
        if name in names:
            raise ValueError(f"{path}: two images are named {image.file_name!r}; remove one")
        names.add(name)
        sequence = sequence_of(name)
        if sequence is not None and sizes.setdefault(sequence, size) != size:
            raise ValueError(
                f"{path}: {image.file_name} is {size[0]}x{size[1]}, the frames of its sequence "
                f"before it are {sizes[sequence][0]}x{sizes[sequence][1]}; one sequence has frames "
                "of one size"
            )
