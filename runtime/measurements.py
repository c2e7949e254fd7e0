"""What the CUDA kernels measure of each component, and how the host makes targets of it.

The kernels (kernels/components.cu) sum integers; the divisions, the sensor's units and the order
by score are done here, on the few records that come back.
"""

from __future__ import annotations

from math import ceil

import numpy as np
import numpy.typing as npt

from .frame import Geometry
from .targets import Extraction, Targets

UNIT = 2.0**30  # what confidence 1 counts in the sums

# `struct Piece` of kernels/components.cu, field by field. Places are pixels of the map.
MEASUREMENT = np.dtype(
    [
        ("weight", np.uint64),  # sum of confidence * UNIT
        ("row_moment", np.uint64),  # sum of confidence * UNIT * row
        ("column_moment", np.uint64),
        ("area", np.uint32),  # pixels
        ("peak", np.float32),
        ("first", np.uint32),  # row * stride + column of the first pixel met by rows
        ("left", np.uint32),
        ("bottom", np.uint32),
        ("right", np.uint32),
    ]
)


def smallest_area(geometry: Geometry, min_area: float) -> int:
    """The fewest network pixels that cover at least `min_area` sensor pixels.

    Example:
        >>> smallest_area(Geometry(2.0, 2.0, 16, 24), 5.0)
        2
    """
    pixel = geometry.row_scale * geometry.column_scale
    area = max(ceil(min_area / pixel), 0)
    # The quotient may be rounded across the whole number that the products of `extract` decide.
    while area > 0 and (area - 1) * pixel >= min_area:
        area -= 1
    while area * pixel < min_area:
        area += 1
    return area


def to_targets(
    measured: npt.NDArray[np.void],
    *,
    stride: int,
    geometry: Geometry,
    extraction: Extraction,
) -> Targets:
    """Make targets of measured components, the same as `extract` reads out of the map itself.

    Args:
        measured: (n,) MEASUREMENT, every component of at least the smallest area, in any order.
        stride: columns of the map, padding included.
        geometry: how the network's pixels lie on the sensor's.
        extraction: the bound; threshold and smallest area were applied by the kernels.

    Returns:
        Targets in sensor pixels, best score first (equal scores in scan order).
    """
    score = measured["weight"] / UNIT / measured["area"]
    order = np.lexsort((measured["first"], -score))[: extraction.max_targets]
    best = measured[order]
    rows, columns = geometry.row_scale, geometry.column_scale
    row = (best["row_moment"] / best["weight"] + 0.5) * rows - 0.5
    column = (best["column_moment"] / best["weight"] + 0.5) * columns - 0.5
    edges = [best["first"] // stride, best["left"], best["bottom"] + 1.0, best["right"] + 1.0]
    box = np.stack(edges, axis=1) * ((rows, columns) * 2) - 0.5
    return Targets(
        row=row.astype(np.float32),
        column=column.astype(np.float32),
        area=(best["area"] * (rows * columns)).astype(np.float32),
        peak=np.ascontiguousarray(best["peak"]),
        score=score[order].astype(np.float32),
        box=box.astype(np.float32),
        found=len(measured),
    )
