"""Sequences with boxes as text: one list with all frames, or one file beside each frame."""

from __future__ import annotations

import re
from pathlib import Path

from .dataset_files import name_of, number_frames, sequence_of, walk_images
from .samples import Box, Sample, as_box
from .sources import IMAGES

IMAGE_FOLDERS = ("images", "JPEGImages", "PNGImages")
BOX_FOLDER = "boxes"

# A line of a list: the frame's path, then x0,y0,x1,y1,class of each target.
BOX = re.compile(r"\s+(-?[0-9.]+,-?[0-9.]+,-?[0-9.]+,-?[0-9.]+),[0-9]+")
LINE = re.compile(rf"(.*?)((?:{BOX.pattern})+)\s*$")


def strip_boxes(line: str) -> str:
    """The frame's path that begins a line of a list, without the boxes behind it."""
    found = LINE.match(line)
    return found[1] if found else line


def find_box_lists(root: Path) -> dict[str, Path]:
    """Lists of frames with boxes, e.g. coco_train_ITSDT.txt, by what they are called."""
    return {path.stem: path for path in sorted(root.glob("*.txt")) if _has_boxes(path)}


def _has_boxes(path: Path) -> bool:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = next((line for line in file if line.strip()), "")
    return LINE.match(first) is not None


def read_box_list(root: Path, path: Path) -> list[Sample]:
    """Read a list with one frame a line: its path, then x0,y0,x1,y1,class of each target.

    So the repositories of SSTNet and Tridos pass on DAUB, IRDST and ITSDT-15K. Their paths are of
    another machine, e.g. /home/public/DAUB/images/test/data6/0.bmp: the longest end of a path that
    is in the dataset's folder counts. As they were made, frames without target have no line.

    Raises:
        ValueError: a line is none, a box has no area, or a frame has two lines.
    """
    samples: dict[str, Sample] = {}
    text = path.read_text(encoding="utf-8-sig")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        frame, boxes = _parse_line(line.strip(), place)
        file = _find_frame(root, frame)
        name = name_of(file.relative_to(root).as_posix())
        if name in samples:
            raise ValueError(f"{place}: frame {name!r} has a line before this one; join them")
        samples[name] = Sample(name, file, boxes=boxes, sequence=sequence_of(name))
    return number_frames(samples.values())


def _parse_line(line: str, place: str) -> tuple[str, tuple[Box, ...]]:
    found = LINE.match(line)
    frame, rest = (found[1], found[2]) if found else (line, "")
    if not frame.lower().endswith(IMAGES):
        raise ValueError(
            f"{place}: {line[:60]!r}, expected the path of a frame, then x0,y0,x1,y1,class of each "
            "target"
        )
    return frame, tuple(as_box(_numbers(text, place), place=place) for text in BOX.findall(rest))


def _numbers(text: str, place: str) -> Box:
    try:
        x0, y0, x1, y1 = map(float, text.split(","))
    except ValueError as err:
        raise ValueError(f"{place}: {text!r}, expected four numbers") from err
    return x0, y0, x1, y1


def _find_frame(root: Path, frame: str) -> Path:
    """The frame's file; where there is none, the path below the first folder of frames."""
    parts = [part for part in frame.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for first in range(len(parts)):
        path = root.joinpath(*parts[first:])
        if path.is_file():
            return path
    known = [place for place, part in enumerate(parts) if part in IMAGE_FOLDERS]
    return root.joinpath(*parts[known[0] if known else -1 :])


def find_box_place(root: Path) -> tuple[Path, Path] | None:
    """The folders `images` and `boxes` of a dataset with one text file beside each frame."""
    frames, boxes = root / "images", root / BOX_FOLDER
    return (frames, boxes) if frames.is_dir() and boxes.is_dir() else None


def read_box_files(frames: Path, boxes: Path) -> list[Sample]:
    """Read frames and the text files named like them, one target a line: [x, y, width, height].

    So IRDST packs the boxes of its real frames (images/train/00000000.png with
    boxes/train/00000000.txt); brackets may be missing, spaces may stand for commas. An empty file
    means a frame without target.

    Returns:
        One sample a frame; its boxes are None where the file is missing.

    Raises:
        FileNotFoundError: a file belongs to no frame.
        ValueError: a line is none, or a box has no area.
    """
    images = walk_images(frames)
    files = walk_images(boxes, endings=(".txt",))
    for name, path in files.items():
        if name not in images:
            raise FileNotFoundError(f"{path} has no frame, expected {frames / name} with an ending")
    samples = [
        Sample(name, path, boxes=_read_file(files[name]) if name in files else None)
        for name, path in images.items()
    ]
    return number_frames(
        Sample(one.name, one.image, boxes=one.boxes, sequence=sequence_of(one.name))
        for one in samples
    )


def _read_file(path: Path) -> tuple[Box, ...]:
    boxes = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        words = line.strip().strip("[]").replace(",", " ").split()
        if not words:
            continue
        place = f"{path}, line {number}"
        if len(words) != 4:
            raise ValueError(f"{place}: {line.strip()!r}, expected x, y, width, height")
        x, y, width, height = _numbers(",".join(words), place)
        boxes.append(as_box((x, y, x + width, y + height), place=place))
    return tuple(boxes)
