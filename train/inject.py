"""Targets put into frames: synthetic ones of the optics' shape, and transplanted ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..runtime.components import Indices, connect
from ..runtime.frame import FloatMap
from .augment import Pair, dihedral

REACH = 9  # half-width of the window a target is drawn into, pixels
SHARPEST = 0.45  # pixels, standard deviation
SUPERSAMPLING = 3  # points a pixel and direction over which the point spread is averaged
# Labels of SIRST and NUDT-SIRST end where a target falls to a third of its height: the innermost
# labelled ring has 0.5 of it in the median, the first ring outside 0.17.
MASK_FRACTION = 0.35
CLEARANCE = 6  # pixels between an injected target and what is labelled already
LARGEST_TRANSPLANT = 200  # pixels
MARGIN = 4  # pixels of background around a transplanted target


@dataclass(frozen=True, slots=True)
class Transplant:
    """A labelled target taken out of its frame.

    Attributes:
        contrast: (h, w) float32, what the target adds to its background.
        mask: (h, w) float32, 0..1.
    """

    contrast: FloatMap
    mask: FloatMap


def gaussian_target(*, largest: float, rng: np.random.Generator) -> Pair:
    """Draw a target as the optics show it: an elliptical Gaussian at a sub-pixel place.

    Args:
        largest: upper end of the standard deviations in pixels; the lower end is 0.45, where half
            of the light still falls beside the brightest pixel: that tells it from a hot one.
        rng: source of randomness.

    Returns:
        Shape of height 1 and mask, (19, 19) float32 each.
    """
    spread = SHARPEST + (largest - SHARPEST) * rng.random() ** 2
    sigmas = spread, max(SHARPEST, spread * rng.uniform(0.5, 1.0))
    angle, place = rng.uniform(0.0, np.pi), rng.uniform(-0.5, 0.5, 2)
    fine = np.arange(-REACH, REACH + 1)[:, None] + (np.arange(SUPERSAMPLING) - 1) / SUPERSAMPLING
    rows, columns = np.meshgrid(fine.ravel() - place[0], fine.ravel() - place[1], indexing="ij")
    along = (np.cos(angle) * rows + np.sin(angle) * columns) / sigmas[0]
    across = (np.cos(angle) * columns - np.sin(angle) * rows) / sigmas[1]
    side = 2 * REACH + 1
    points = np.exp(-0.5 * (along**2 + across**2))
    shape = points.reshape(side, SUPERSAMPLING, side, SUPERSAMPLING).mean(axis=(1, 3))
    shape = (shape / shape.max()).astype(np.float32)
    return shape, (shape > MASK_FRACTION).astype(np.float32)


def inject_target(
    frame: FloatMap, mask: FloatMap, *, scr: tuple[float, float], rng: np.random.Generator
) -> Pair:
    """Add a synthetic target of a drawn signal-to-clutter ratio (CRRP of MTU-Net, with optics).

    Args:
        frame: (H, W) float32, 0..1.
        mask: (H, W) float32, 0..1.
        scr: (lowest, highest), drawn log-uniformly: height over the standard deviation of the
            surrounding 19x19 pixels, which counts as one grey level of 255 at least.
        rng: source of randomness.

    Returns:
        New frame and mask; the old ones where the drawn place is taken.
    """
    shape, footprint = gaussian_target(largest=2.5, rng=rng)
    window = _free_window(mask, (2 * REACH + 1, 2 * REACH + 1), rng)
    if window is None:
        return frame, mask
    height = np.exp(rng.uniform(*np.log(scr))) * _clutter(frame[window])
    # More than the scale holds would clip to a flat top.
    height = min(height, 1.05 - float(frame[window].mean()))
    return _add(frame, mask, window, (np.float32(height) * shape, footprint))


def collect_transplants(frame: FloatMap, mask: FloatMap) -> list[Transplant]:
    """Take every small labelled target out of a frame, less its local background."""
    components = connect(mask > 0.5)
    found = []
    for label in range(components.count):
        mine = components.labels == label
        rows = _span(components.rows[mine])
        columns = _span(components.columns[mine])
        inside = rows.start >= 0 and columns.start >= 0
        inside &= rows.stop <= frame.shape[0] and columns.stop <= frame.shape[1]
        # A neighbour in the window would be pasted as a label, its contrast faded away.
        alone = np.count_nonzero(mask[rows, columns] > 0.5) == np.count_nonzero(mine)
        if inside and alone and np.count_nonzero(mine) <= LARGEST_TRANSPLANT:
            found.append(_take(frame[rows, columns], mask[rows, columns]))
    return found


def _span(places: Indices) -> slice:
    return slice(int(places.min()) - MARGIN, int(places.max()) + MARGIN + 1)


def _take(patch: FloatMap, mask: FloatMap) -> Transplant:
    """Subtract the plane through the patch's border; fade what is left towards that border."""
    rows, columns = np.indices(patch.shape, dtype=np.float64)
    design = np.stack([np.ones(patch.size), rows.ravel(), columns.ravel()], axis=1)
    border = np.ones(patch.shape, np.bool_)
    border[2:-2, 2:-2] = False
    weights, *_ = np.linalg.lstsq(design[border.ravel()], patch[border], rcond=None)
    contrast = patch - (design @ weights).reshape(patch.shape)
    fade = np.minimum(_ramp(patch.shape[0])[:, None], _ramp(patch.shape[1])[None, :])
    return Transplant((contrast * fade).astype(np.float32), mask)


def _ramp(length: int) -> npt.NDArray[np.float64]:
    """0 at both ends, 1 from the fourth pixel on."""
    steps = np.minimum(np.arange(length), np.arange(length)[::-1])
    return np.minimum(steps / 3.0, 1.0)


def transplant_target(
    frame: FloatMap,
    mask: FloatMap,
    bank: Sequence[Transplant],
    *,
    lowest_scr: float,
    rng: np.random.Generator,
) -> Pair:
    """Add a labelled target of another frame at a drawn place (Simple Copy-Paste, CVPR 2021).

    It is turned, mirrored, and keeps 0.4 to 1.2 of its height.

    Args:
        frame: (H, W) float32, 0..1.
        mask: (H, W) float32, 0..1.
        bank: targets to draw from.
        lowest_scr: a target that would stand out less from its surroundings is left out: nobody
            could see what is labelled there.
        rng: source of randomness.

    Returns:
        New frame and mask; the old ones where the drawn place is taken or drowns the target.
    """
    drawn = bank[int(rng.integers(len(bank)))]
    contrast, footprint = dihedral(drawn.contrast, drawn.mask, rng=rng)
    window = _free_window(mask, (contrast.shape[0], contrast.shape[1]), rng)
    if window is None:
        return frame, mask
    contrast = np.float32(rng.uniform(0.4, 1.2)) * contrast
    if float(contrast.max()) < lowest_scr * _clutter(frame[window]):
        return frame, mask
    return _add(frame, mask, window, (contrast, footprint))


def _clutter(patch: FloatMap) -> float:
    """Standard deviation of what surrounds a target, one grey level of 255 at least."""
    return max(float(patch.std()), 1.0 / 255.0)


def _free_window(
    mask: FloatMap, size: tuple[int, int], rng: np.random.Generator
) -> tuple[slice, slice] | None:
    """A window anywhere in the frame, unless something labelled lies in it or near it."""
    if size[0] > mask.shape[0] or size[1] > mask.shape[1]:
        return None
    top = int(rng.integers(mask.shape[0] - size[0] + 1))
    left = int(rng.integers(mask.shape[1] - size[1] + 1))
    near = mask[
        max(0, top - CLEARANCE) : top + size[0] + CLEARANCE,
        max(0, left - CLEARANCE) : left + size[1] + CLEARANCE,
    ]
    return None if near.any() else (slice(top, top + size[0]), slice(left, left + size[1]))


def _add(frame: FloatMap, mask: FloatMap, window: tuple[slice, slice], target: Pair) -> Pair:
    seen, labelled = frame.copy(), mask.copy()
    seen[window] = np.clip(seen[window] + target[0], 0.0, 1.0)
    labelled[window] = np.maximum(labelled[window], target[1])
    return seen, labelled
