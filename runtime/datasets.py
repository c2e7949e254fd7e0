"""Labelled frames on disk: what evaluation, calibration gates and training read.

Only names are read here; a frame is decoded where it is used.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .frame import Frame
from .sources import frame_number

Kind: TypeAlias = Literal["masks", "centroids", "boxes"]
Point: TypeAlias = tuple[float, float]
Box: TypeAlias = tuple[float, float, float, float]

EXTENSIONS = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff")
MASK_SUFFIXES = ("", "_pixels0")  # a mask is named like its frame, SIRST adds the suffix

# (folder of the frames, folder of their masks); the first pair that is there counts.
LAYOUTS = (
    ("mixed", "annotations/masks"),  # SIRST v2
    ("images", "annotations/masks"),  # SIRST v2, frames sorted into images/targets, .../backgrounds
    ("images", "masks"),  # SIRST v1, NUDT-SIRST, the BasicIRSTD packages, own data
    ("IRSTD1k_Img", "IRSTD1k_Label"),  # IRSTD-1K
)
PARTS = ("train", "trainval", "val", "test")  # folders with a layout each: SIRST-Aug, own data

HELD_OUT = ("val", "test")  # lists and folders that something is measured on

# Where lists of names lie. The first that holds NAME.txt counts; "idx_320/NAME" takes another.
LIST_FOLDERS = ("", "img_idx", "idx_427", "idx_320", "splits", "50_50")

FRAMES, CENTROIDS = "frames", "centroids.csv"
HEADER = ["frame", "x", "y"]

SHOWN_NAMES = 6  # of a folder's content, in an error
FAINTEST_MASK = 127  # largest values between 1 and this are numbers of labels, not a mask
MOST_SOFT = 0.01  # part of a mask that may lie between target and background, on soft borders


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled frame; mask, points or boxes say what is true about it.

    Positions are pixels, origin at the centre of the first pixel.

    Attributes:
        name: file stem of the frame, after "PART/" or "SEQUENCE/" where the dataset is cut into
            folders.
        image: the frame's file.
        mask: the mask's file; None in a dataset without masks.
        points: true centroids (row, column); empty for a frame without target, None in a dataset
            without centroids.
        boxes: true boxes (row0, column0, row1, column1) by their outer edges, as `Target.box`: a
            single pixel at (3, 5) has (2.5, 4.5, 3.5, 5.5); empty for a frame without target, None
            in a dataset without boxes.
        sequence: name of the sequence it belongs to; None for a frame that stands alone.
        number: of the frame in its sequence: what its file's stem ends with, else its place from 0;
            None for a frame that stands alone.
    """

    name: str
    image: Path
    mask: Path | None = None
    points: tuple[Point, ...] | None = None
    boxes: tuple[Box, ...] | None = None
    sequence: str | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """The samples of one dataset or of one split of it.

    Attributes:
        root: folder of the dataset.
        kind: what each frame has: its mask, the "centroids" or the "boxes" of its targets.
        samples: in the order of the list, else by name, numbers counted as numbers.
        split: name of the split, "all" where none was asked for.
    """

    root: Path
    kind: Kind
    samples: tuple[Sample, ...]
    split: str

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


def open_dataset(root: Path, *, split: str | None = None) -> Dataset:
    """Find the frames of a dataset and what is true about them.

    SIRST v1 and v2, NUDT-SIRST, IRSTD-1K, SIRST-Aug and the BasicIRSTD packages are read as their
    owners pack them; `ROOT/images` with `ROOT/masks`, the same inside `ROOT/train` and `ROOT/test`,
    and `ROOT/frames` with `ROOT/centroids.csv` (header `frame,x,y`, x the column, y the row, one
    line a target) are for own data.

    Args:
        root: folder of the dataset.
        split: a list's name ("val" finds val.txt, or val_NUDT-SIRST.txt where no other list begins
            so), a folder of frames and masks ("test"), or the path of a .txt list with one name a
            line. None takes every frame.

    Raises:
        FileNotFoundError: no such folder or list, no known layout, a frame or mask is missing.
        ValueError: unknown or ambiguous split, an empty list or folder, a wrong `centroids.csv`.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder; pass the folder of a dataset")
    if find_kind(root) == "centroids":
        samples = _read_sequence(root)
        chosen, name = _choose(root, samples, split)
        return Dataset(root, "centroids", chosen, name)
    chosen, name = _choose(root, _pair_masks(root), split)
    for sample in chosen:
        _require_mask(sample)
    return Dataset(root, "masks", chosen, name)


def find_kind(root: Path) -> Kind | None:
    """Say what `open_dataset` would read in a folder; None where it knows no layout."""
    if (root / CENTROIDS).is_file() and (root / FRAMES).is_dir():
        return "centroids"
    places = (root, *(root / part for part in PARTS))
    return "masks" if any(_layout(place) for place in places) else None


def open_train(root: Path) -> Dataset:
    """Open the part of a dataset that nothing is measured on.

    That is the list or folder "train"; where there is none, every frame that no list or folder
    named val, test, val_... or test_... holds.

    Raises:
        FileNotFoundError: as `open_dataset`.
        ValueError: as `open_dataset`, or nothing is left.
    """
    if has_split(root, "train"):
        return open_dataset(root, split="train")
    dataset = open_dataset(root)
    held_out = {
        sample.name
        for name, path in _lists(root).items()
        if name.split("/")[-1].split("_")[0] in HELD_OUT
        for sample in _read_list(path, root, dataset.samples)
    }
    parts = tuple(f"{part}/" for part in HELD_OUT)
    kept = [sample for sample in dataset if not sample.name.startswith(parts)]
    samples = tuple(sample for sample in kept if sample.name not in held_out)
    if not samples:
        raise ValueError(
            f"every frame of {root} is held out by {' or '.join(HELD_OUT)}, none is left to train "
            "or calibrate on; add a train.txt with the names of frames that nothing is measured on"
        )
    is_whole = len(samples) == len(dataset)
    return replace(dataset, samples=samples, split="all" if is_whole else "all but val and test")


def has_split(root: Path, name: str) -> bool:
    """Whether a dataset has a list or a folder of this name, or one list that begins with it."""
    lists = _lists(root)
    begins = [known for known in lists if known.startswith(f"{name}_")]
    return name in lists or len(begins) == 1 or _layout(root / name) is not None


def check_mask(mask: Frame, frame_shape: tuple[int, int], *, name: str) -> npt.NDArray[np.bool_]:
    """Turn a mask as it was read from its file into the truth about a frame.

    Public masks are 0/1, 0/255 or 0/255 with soft borders, and nothing in the file says which. A
    pixel is foreground above half of the mask's own largest value, which is right for all three.
    Soft borders are thin; what has in-between values over 1 % of the frame is a picture.

    Args:
        mask: (H, W) uint8 or uint16.
        frame_shape: (H, W) of the frame it belongs to.
        name: name of the sample, for the error.

    Returns:
        (H, W) bool; all False for a mask of zeros.

    Raises:
        ValueError: the mask is not of the frame's size, or not binary (a picture, labels).

    Example:
        >>> check_mask(np.array([[0, 1], [0, 1]], np.uint8), (2, 2), name="Misc_1").sum()
        np.int64(2)
    """
    if mask.shape != frame_shape:
        raise ValueError(
            f"mask of {name} is {'x'.join(map(str, mask.shape))}, expected "
            f"{frame_shape[0]}x{frame_shape[1]} as the frame; pair each frame with its own mask"
        )
    highest = int(mask.max(initial=0))
    if 1 < highest < FAINTEST_MASK:
        raise ValueError(
            f"mask of {name} holds values up to {highest}, expected 0 and 1, or 0 and 255; "
            "numbered labels must be made binary first"
        )
    between = np.count_nonzero((mask > 0.1 * highest) & (mask < 0.9 * highest))
    if between > MOST_SOFT * mask.size:
        raise ValueError(
            f"mask of {name} has {between} pixels that are neither target nor background, expected "
            "two values; is it a picture?"
        )
    return np.asarray(mask > 0.5 * highest)


def _pair_masks(root: Path) -> tuple[Sample, ...]:
    places = [(part, *found) for part in PARTS if (found := _layout(root / part))]
    if found := _layout(root):
        places = [("", *found)]
    if not places:
        pairs = ", ".join(f"{frames} + {masks}" for frames, masks in LAYOUTS)
        raise FileNotFoundError(
            f"{root} has no layout of a dataset; looked for the folders {pairs}, there and in "
            f"{', '.join(PARTS)}, and for {FRAMES} + {CENTROIDS}; found {_content(root)}; arrange "
            "the files in one of these"
        )
    samples: list[Sample] = []
    for part, frames, masks in places:
        known = find_images(masks)
        for stem, image in find_images(frames, required=True).items():
            candidates = [known[stem + end] for end in MASK_SUFFIXES if stem + end in known]
            mask = candidates[0] if candidates else masks / f"{stem}.png"
            samples.append(Sample(f"{part}/{stem}" if part else stem, image, mask))
    return tuple(samples)


def _content(folder: Path) -> str:
    """The first names in a folder, for a person who wonders what is wrong with it."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more if names else "nothing"


def _layout(folder: Path) -> tuple[Path, Path] | None:
    for frames, masks in LAYOUTS:
        if (folder / frames).is_dir() and (folder / masks).is_dir():
            return folder / frames, folder / masks
    return None


def _require_mask(sample: Sample) -> None:
    if sample.mask is not None and not sample.mask.is_file():
        raise FileNotFoundError(
            f"frame {sample.image} has no mask; expected {sample.mask} or "
            f"{sample.mask.stem}{MASK_SUFFIXES[1]}.png beside it; add it (all zero for a frame "
            "without target), or name a split that leaves the frame out"
        )


def find_images(folder: Path, *, required: bool = False) -> dict[str, Path]:
    """Image files of a folder and of its sub-folders, by stem, numbers counted as numbers."""
    files = [path for pattern in ("*", "*/*") for path in folder.glob(pattern)]
    found: dict[str, Path] = {}
    for path in sorted(files, key=_natural):
        if path.suffix.lower() not in EXTENSIONS or path.name.startswith("."):
            continue
        if path.stem in found:
            raise ValueError(
                f"{folder} has two images named {path.stem!r}: {found[path.stem]} and {path}; "
                "rename or remove one"
            )
        found[path.stem] = path
    if required and not found:
        raise ValueError(f"{folder} holds no image, expected files ending {' '.join(EXTENSIONS)}")
    return found


def _natural(path: Path) -> tuple[list[str], list[int], str]:
    """Sort key that puts frame 2 before frame 10."""
    words = re.split(r"\d+", path.stem)
    return words, [int(digits) for digits in re.findall(r"\d+", path.stem)], str(path)


def _stem(name: str) -> str:
    """The name without an image extension; other dots belong to the name."""
    return name[: name.rindex(".")] if name.lower().endswith(EXTENSIONS) else name


def _choose(
    root: Path, samples: tuple[Sample, ...], split: str | None
) -> tuple[tuple[Sample, ...], str]:
    if split is None:
        return samples, "all"
    if part := tuple(sample for sample in samples if sample.name.startswith(f"{split}/")):
        return part, split
    if split.endswith(".txt"):
        path = Path(split) if Path(split).is_file() else root / split
        if not path.is_file():
            raise FileNotFoundError(f"there is no list {split}, neither here nor in {root}")
        return _read_list(path, root, samples), path.stem
    lists = _lists(root)
    parts = {sample.name.split("/")[0] for sample in samples if "/" in sample.name}
    name = _match_name(split, lists, sorted(parts), root)
    return _read_list(lists[name], root, samples), name


def _lists(root: Path) -> dict[str, Path]:
    """Lists of names by what `split` calls them."""
    found: dict[str, Path] = {}
    for folder in LIST_FOLDERS:
        for path in sorted((root / folder).glob("*.txt")):
            name = f"{folder}/{path.stem}" if path.stem in found else path.stem
            found[name] = path
            if folder:
                found[f"{folder}/{path.stem}"] = path
    return found


def _match_name(split: str, lists: dict[str, Path], parts: Sequence[str], root: Path) -> str:
    if split in lists:
        return split
    close = [name for name in lists if name.startswith(f"{split}_")]
    if len(close) == 1:
        return close[0]
    if close:
        raise ValueError(
            f"split {split!r} of {root} could be {' or '.join(close)}; pass one of these names"
        )
    there = [*parts, *(name for name in lists if "/" not in name)]
    raise ValueError(
        f"{root} has no split {split!r}, "
        + (f"there are {', '.join(there)}; " if there else "it has none; ")
        + "pass the path of a .txt list with one name a line, or no split for every frame"
    )


def _read_list(path: Path, root: Path, samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    by_name = {sample.name: sample for sample in samples}
    by_stem = {sample.image.stem: sample for sample in samples}
    if len(by_stem) < len(by_name):  # the same stem in several parts: only the full name is clear
        by_stem = by_name
    chosen: dict[str, Sample] = {}
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        name = _stem(line.strip())
        if not name:
            continue
        sample = by_name.get(name) or by_stem.get(name.split("/")[-1])
        if sample is None:
            raise FileNotFoundError(
                f"list {path} names {name!r}, but {root} has no such image; "
                "complete the images, or take the name out"
            )
        chosen.setdefault(sample.name, sample)
    if not chosen:
        raise ValueError(f"list {path} is empty, expected one name a line")
    return tuple(chosen.values())


def _read_sequence(root: Path) -> tuple[Sample, ...]:
    frames = find_images(root / FRAMES, required=True)
    points = _read_centroids(root / CENTROIDS, frames)
    sequence = root.resolve().name
    samples = []
    for place, (stem, path) in enumerate(frames.items()):
        number = frame_number(stem)
        samples.append(
            Sample(
                stem,
                path,
                points=tuple(points[stem]),
                sequence=sequence,
                number=place if number is None else number,
            )
        )
    return tuple(samples)


def _read_centroids(path: Path, frames: dict[str, Path]) -> dict[str, list[Point]]:
    points: dict[str, list[Point]] = {stem: [] for stem in frames}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        header = [cell.strip() for cell in next(reader, [])]
        if header != HEADER:
            raise ValueError(
                f"{path} begins with {','.join(header)!r}, expected the header 'frame,x,y' "
                "(x the column, y the row)"
            )
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            frame, point = _parse_centroid(row, f"{path}, line {reader.line_num}")
            if frame not in points:
                raise FileNotFoundError(
                    f"{path}, line {reader.line_num}: frame {frame!r} has no file in "
                    f"{path.parent / FRAMES}; name frames as their files, without extension"
                )
            points[frame].append(point)
    return points


def _parse_centroid(row: list[str], place: str) -> tuple[str, Point]:
    if len(row) != len(HEADER):
        raise ValueError(f"{place}: {len(row)} fields, expected 3: frame, x, y")
    try:
        x, y = float(row[1]), float(row[2])
    except ValueError as err:
        raise ValueError(f"{place}: {','.join(row)!r}, expected numbers for x and y") from err
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"{place}: {','.join(row)!r}, expected finite numbers for x and y")
    return _stem(row[0].strip()), (y, x)
