"""Target extraction: a confidence map becomes targets in the sensor frame's own pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .clip import ClipState
from .components import Components, connect
from .frame import FloatMap, Geometry

Column = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Target:
    """One target. Positions are sensor pixels with the origin at the centre of the first pixel.

    Attributes:
        row: confidence-weighted centroid, downwards.
        column: confidence-weighted centroid, to the right.
        area: sensor pixels.
        peak: highest confidence inside, 0..1.
        score: mean confidence inside, 0..1.
        box: (top, left, bottom, right) edges; a single pixel at (3, 5) has (2.5, 4.5, 3.5, 5.5).
    """

    row: float
    column: float
    area: float
    peak: float
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Targets:
    """The targets of one frame as columns, best score first; iterates as `Target`.

    Attributes:
        row, column, area, peak, score: (n,) float32, as in `Target`.
        box: (n, 4) float32, as in `Target`.
        found: targets before the bound on their number cut; equals n where it did not.
        note: what must be known of how they were found, e.g. that the CPU stood in for a GPU that
            failed; empty where all went as loaded.
        clip: frames that are missing and how the scene moved, for a network for sequences.
    """

    row: Column
    column: Column
    area: Column
    peak: Column
    score: Column
    box: Column
    found: int
    note: str = ""
    clip: ClipState | None = None

    def __len__(self) -> int:
        return len(self.row)

    def __iter__(self) -> Iterator[Target]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> Target:
        top, left, bottom, right = self.box[index].tolist()
        return Target(
            row=float(self.row[index]),
            column=float(self.column[index]),
            area=float(self.area[index]),
            peak=float(self.peak[index]),
            score=float(self.score[index]),
            box=(top, left, bottom, right),
        )

    @property
    def is_truncated(self) -> bool:
        """Whether more targets were found than the bound lets through."""
        return self.found > len(self)


@dataclass(frozen=True, slots=True)
class Extraction:
    """How targets are read out of a confidence map.

    Attributes:
        threshold: a pixel belongs to a target when its confidence is above this; 0 < t < 1.
        min_area: smallest target, in sensor pixels; 0 keeps all.
        max_targets: bound on the targets of a frame; those with the best score stay.
    """

    threshold: float = 0.5
    min_area: float = 0.0
    max_targets: int = 1000

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold < 1.0:
            raise ValueError(f"threshold is {self.threshold}, expected between 0 and 1")
        if not self.min_area >= 0.0:
            raise ValueError(f"minimum area is {self.min_area}, expected 0 or more pixels")
        if self.max_targets < 1:
            raise ValueError(f"maximum of targets is {self.max_targets}, expected 1 or more")


def add_note(targets: Targets, note: str) -> Targets:
    """Targets with a further note; unchanged where there is none."""
    if not note:
        return targets
    return replace(targets, note=f"{targets.note}; {note}" if targets.note else note)


def extract(confidence: FloatMap, geometry: Geometry, extraction: Extraction) -> Targets:
    """Read the targets out of a network's confidence map.

    Args:
        confidence: (H', W') float32, 0..1, at the network's resolution. Padding is ignored.
        geometry: how the network's pixels lie on the sensor's, from `fit_geometry`.
        extraction: threshold, smallest area, bound.

    Returns:
        Targets in sensor pixels, best score first (equal scores in scan order).
    """
    seen = confidence[: geometry.height, : geometry.width]
    components = connect(seen > extraction.threshold)
    values = seen[components.rows, components.columns]
    areas = components.areas()
    score = components.sums(values) / areas
    area = areas * (geometry.row_scale * geometry.column_scale)
    keep = np.flatnonzero(area >= extraction.min_area)
    order = keep[np.argsort(-score[keep], kind="stable")][: extraction.max_targets]
    row, column = _weighted_centroids(components, values, geometry)
    peak = np.zeros(components.count, np.float32)
    np.maximum.at(peak, components.labels, values)
    return Targets(
        row=row[order].astype(np.float32),
        column=column[order].astype(np.float32),
        area=area[order].astype(np.float32),
        peak=peak[order],
        score=score[order].astype(np.float32),
        box=to_sensor(components.boxes(), geometry)[order],
        found=keep.size,
    )


def _weighted_centroids(
    components: Components, values: FloatMap, geometry: Geometry
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    weight = components.sums(values)
    row = components.sums(components.rows * values) / weight
    column = components.sums(components.columns * values) / weight
    return (
        (row + 0.5) * geometry.row_scale - 0.5,
        (column + 0.5) * geometry.column_scale - 0.5,
    )


def to_sensor(boxes: npt.NDArray[np.floating], geometry: Geometry) -> Column:
    """Bring boxes to where `Target.box` has them.

    Args:
        boxes: (n, 4) edges top, left, bottom, right, in the network's pixels from the corner.
        geometry: how these lie on the sensor's.

    Returns:
        (n, 4) in sensor pixels, origin at the centre of the first pixel.
    """
    scale = (geometry.row_scale, geometry.column_scale) * 2
    return (boxes * scale - 0.5).astype(np.float32)
