"""Images on disk by name, and how names are made and read; every layout of a dataset uses them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from .samples import Sample
from .sources import IMAGES, frame_number, natural_key

PARTS = ("train", "trainval", "val", "test")  # folders that cut a dataset into splits

# Folders that hold frames; they are no part of a frame's name.
FRAME_FOLDERS = ("images", "frames", "mixed", "Mix", "JPEGImages", "PNGImages", "IRSTD1k_Img")

SHOWN_NAMES = 6  # of a folder's content, in an error
LEVELS = 3  # of folders below the one that holds the frames: PART/SEQUENCE/FRAME


def find_images(folder: Path, *, required: bool = False) -> dict[str, Path]:
    """Image files of a folder and of its sub-folders, numbers counted as numbers.

    Args:
        folder: where to look, there and one folder deeper.
        required: whether it is an error that there is none.

    Returns:
        The files by stem; by relative path without extension ("run1/0001") where two sub-folders
        have files of one stem.

    Raises:
        ValueError: two files of one name in one folder, or none where one is required.
    """
    found = walk_images(folder, levels=2)
    if required and not found:
        raise ValueError(f"{folder} holds no image, expected files ending {' '.join(IMAGES)}")
    stems = {path.stem for path in found.values()}
    return {path.stem: path for path in found.values()} if len(stems) == len(found) else found


def walk_images(
    folder: Path, *, levels: int = LEVELS, endings: Iterable[str] = IMAGES
) -> dict[str, Path]:
    """Files of a folder by their relative path without extension, "/" between folders.

    Raises:
        ValueError: two files of one name in one folder.
    """
    patterns = ["/".join("*" * count) for count in range(1, levels + 1)]
    files = (path for pattern in patterns for path in folder.glob(pattern))
    known = tuple(endings)
    found: dict[str, Path] = {}
    for path in sorted(files, key=natural_key):
        if path.suffix.lower() not in known or path.name.startswith("."):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise ValueError(
                f"{folder} has two images named {name!r}: {found[name]} and {path}; "
                "rename or remove one"
            )
        found[name] = path
    return found


def strip_ending(name: str) -> str:
    """The name without an image extension; other dots belong to the name."""
    return name[: name.rindex(".")] if name.lower().endswith((*IMAGES, ".mat")) else name


def name_of(relative: str) -> str:
    """The sample's name of a frame's path below the dataset.

    Example:
        >>> name_of("images/test/data6/0.bmp")
        'test/data6/0'
    """
    *folders, stem = PurePosixPath(strip_ending(relative.replace("\\", "/"))).parts
    return "/".join([*(one for one in folders if one not in (*FRAME_FOLDERS, "/")), stem])


def sequence_of(name: str) -> str | None:
    """The sequence that a sample's name tells of: its folder, if that is no part of a dataset.

    Example:
        >>> sequence_of("test/data6/0"), sequence_of("test/0"), sequence_of("0")
        ('test/data6', None, None)
    """
    folder = name.rpartition("/")[0]
    return folder if folder and folder not in PARTS else None


def number_frames(samples: Iterable[Sample]) -> list[Sample]:
    """Give each frame of a sequence its number: what its stem ends with, else its place."""
    places: dict[str, int] = {}
    numbered = []
    for sample in samples:
        if sample.sequence is not None:
            place = places.get(sample.sequence, 0)
            places[sample.sequence] = place + 1
            number = frame_number(sample.image.stem)
            sample = replace(sample, number=place if number is None else number)
        numbered.append(sample)
    return numbered


def list_content(folder: Path) -> str:
    """The first names in a folder, for a person who wonders what is wrong with it."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more if names else "nothing"
