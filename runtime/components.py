"""8-connected components of a mask, kept sparse: targets are few pixels in a large frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Components:
    """The foreground pixels of a mask and the component that each belongs to.

    Components are numbered from 0 in the order in which a scan by rows meets them.

    Attributes:
        rows: (P,) row of each foreground pixel, in scan order.
        columns: (P,) column of each foreground pixel.
        labels: (P,) component of each foreground pixel, 0 to count - 1.
        count: number of components.
    """

    rows: Indices
    columns: Indices
    labels: Indices
    count: int

    def areas(self) -> Indices:
        """(count,) pixels in each component."""
        return np.bincount(self.labels, minlength=self.count)

    def sums(self, values: npt.NDArray[np.floating] | Indices) -> npt.NDArray[np.float64]:
        """(count,) sum over each component of one value per foreground pixel."""
        sums = np.bincount(self.labels, weights=values, minlength=self.count)
        return sums.astype(np.float64, copy=False)

    def centroids(self) -> npt.NDArray[np.float64]:
        """(count, 2) mean row and column of each component, every pixel counted alike."""
        areas = self.areas()
        return np.stack([self.sums(self.rows) / areas, self.sums(self.columns) / areas], axis=1)

    def boxes(self) -> npt.NDArray[np.float64]:
        """(count, 4) edges top, left, bottom, right, in pixels from the mask's corner."""
        edges = np.empty((self.count, 4), np.float64)
        edges[:, :2] = np.inf
        edges[:, 2:] = -np.inf
        for side, places in enumerate((self.rows, self.columns)):
            np.minimum.at(edges[:, side], self.labels, places)
            np.maximum.at(edges[:, side + 2], self.labels, places + 1.0)
        return edges


def connect(mask: npt.NDArray[np.bool_]) -> Components:
    """Find the 8-connected components of a mask.

    Runs of pixels along the rows are the elements that are joined, so the cost follows the
    foreground and not the frame (run-based labelling: He, Chao, Suzuki, 2008).

    Args:
        mask: (H, W) bool.

    Raises:
        ValueError: `mask` is not two-dimensional.

    Example:
        >>> connect(np.eye(3, dtype=bool)).count
        1
    """
    if mask.ndim != 2:
        raise ValueError(f"mask has shape {mask.shape}, expected (height, width)")
    pixels = np.flatnonzero(mask)
    rows, columns = np.divmod(pixels, max(mask.shape[1], 1))
    if pixels.size == 0:
        return Components(rows, columns, np.zeros(0, np.intp), 0)
    # One empty column between the rows: a run at the right border touches nothing at the left.
    stride = mask.shape[1] + 1
    places = rows * stride + columns
    first = np.flatnonzero(np.diff(places, prepend=-2) != 1)
    lengths = np.diff(first, append=pixels.size)
    starts = places[first]
    roots = _join(*_touching(starts, starts + lengths - 1, stride), count=first.size)
    leaders, run_labels = np.unique(roots, return_inverse=True)
    return Components(rows, columns, np.repeat(run_labels, lengths), leaders.size)


def _touching(starts: Indices, ends: Indices, stride: int) -> tuple[Indices, Indices]:
    """Pairs (run, run of the next row) that touch by a side or a corner."""
    first = np.searchsorted(ends - stride, starts - 1, side="left")
    last = np.searchsorted(starts - stride, ends + 1, side="right")
    counts = np.maximum(last - first, 0)
    upper = np.repeat(np.arange(starts.size), counts)
    within = np.arange(upper.size) - np.repeat(np.cumsum(counts) - counts, counts)
    return upper, np.repeat(first, counts) + within


def _join(upper: Indices, lower: Indices, *, count: int) -> Indices:
    """For each run the smallest run that it is connected to (union by pointer jumping)."""
    parent = np.arange(count)
    while True:
        one, other = parent[upper], parent[lower]
        if np.array_equal(one, other):
            return parent
        np.minimum.at(parent, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(parent, above := parent[parent]):
            parent = above
