"""Sequences with centroids: `frames/` and `centroids.csv`, one sequence or several in a folder."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from .dataset_files import PARTS, find_images, number_frames, strip_ending
from .samples import Point, Sample
from .sources import natural_key

FRAMES, CENTROIDS = "frames", "centroids.csv"
HEADER = ["frame", "x", "y"]


def find_centroid_places(root: Path) -> list[tuple[str, Path]]:
    """Folders with `frames/` and `centroids.csv`, each with what stands before its frames' names.

    That is the folder itself, else the folders in it and those in `ROOT/train`, `ROOT/test`.
    """
    if _is_sequence(root):
        return [("", root)]
    parts = [root / part for part in PARTS if (root / part).is_dir()]
    folders = [*root.iterdir(), *(inner for part in parts for inner in part.iterdir())]
    found = sorted((folder for folder in folders if _is_sequence(folder)), key=natural_key)
    return [(f"{folder.relative_to(root).as_posix()}/", folder) for folder in found]


def _is_sequence(folder: Path) -> bool:
    return (folder / CENTROIDS).is_file() and (folder / FRAMES).is_dir()


def read_centroids(prefix: str, folder: Path) -> list[Sample]:
    """Read a sequence with its list of centroids.

    The list has the header `frame,x,y`, x the column, y the row, and one line a target; a frame
    without a line has no target.

    Args:
        prefix: what stands before the frames' names.
        folder: holds `frames/` and `centroids.csv`.

    Raises:
        FileNotFoundError: a line names a frame that is not there.
        ValueError: no frame, two of one name, or a line that is none.
    """
    frames = find_images(folder / FRAMES, required=True)
    points = _read_points(folder / CENTROIDS, frames)
    sequence = prefix.rstrip("/") or folder.resolve().name
    return number_frames(
        Sample(f"{prefix}{stem}", path, points=tuple(points[stem]), sequence=sequence)
        for stem, path in frames.items()
    )


def _read_points(path: Path, frames: dict[str, Path]) -> dict[str, list[Point]]:
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
    return strip_ending(row[0].strip()), (y, x)
