"""A labelled frame and a set of them: what every layout of a dataset is read into."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["masks", "centroids", "boxes"]
Point: TypeAlias = tuple[float, float]
Box: TypeAlias = tuple[float, float, float, float]


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
            in a dataset without boxes. They may reach over the frame's border.
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
        samples: in the order of the list, else by name, numbers counted as numbers, so that a
            sequence is in order of time and sequences follow one another.
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

    @property
    def has_sequences(self) -> bool:
        """Whether every frame belongs to a sequence, so that clips can be made of them."""
        return all(sample.sequence is not None for sample in self.samples)


def check_box(box: Box, shape: tuple[int, int], *, place: str) -> None:
    """Refuse a box that lies outside of its frame; over the border it may reach, as published.

    Args:
        box: (row0, column0, row1, column1) edges in pixels.
        shape: (H, W) of the frame.
        place: where the box stands, for the error.

    Raises:
        ValueError: its centre is no place in the frame.
    """
    row, column = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    if not (-0.5 <= row <= shape[0] - 0.5 and -0.5 <= column <= shape[1] - 0.5):
        raise ValueError(
            f"{place}: the centre of a box is at row {row:g}, column {column:g}, outside of the "
            f"frame of {shape[0]}x{shape[1]}; are x and y swapped, or the frames resized?"
        )


def as_box(corners: Box, *, place: str) -> Box:
    """Bring a published box to ours, whose origin is the centre of the first pixel.

    Args:
        corners: (x0, y0, x1, y1), x to the right, y downwards, in pixels from the outer corner of
            the first pixel.
        place: where the box stands, for the error.

    Raises:
        ValueError: a corner is no finite number, or the box has no area.

    Example:
        >>> as_box((96, 77, 104, 85), place="0.bmp")
        (76.5, 95.5, 84.5, 103.5)
    """
    x0, y0, x1, y1 = corners
    if not (all(map(math.isfinite, corners)) and x0 < x1 and y0 < y1):
        raise ValueError(
            f"{place}: a box from x {x0:g}, y {y0:g} to x {x1:g}, y {y1:g} has no area; expected "
            "the upper left corner before the lower right one"
        )
    return y0 - 0.5, x0 - 0.5, y1 - 0.5, x1 - 0.5
