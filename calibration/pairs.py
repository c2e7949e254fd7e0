"""A frame with targets and the same scene without: labelled ones go out, synthetic ones go in."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..runtime.components import Indices, connect
from ..runtime.defects import repair_defects
from ..runtime.frame import Frame, stretch_limits
from ..runtime.scene import PSF_RADIUS, point_spread
from ..runtime.scoring import Mask

Field = npt.NDArray[np.float64]

HALO = 2  # pixels around a label that still hold the target's light
RING = 3  # pixels around those that tell the background
SMOOTHINGS = 200  # until a filled target of 20 pixels has settled between its borders

MOST_TARGETS = 6
SCR = (3.0, 20.0)
SIGMA = (0.6, 1.6)  # pixels, of the point spread function
CLUTTER_RADIUS = 10  # half-width of the window that gives the local clutter
CLEARANCE = 12.0  # pixels between two injected targets
BORDER = 4  # pixels that a target keeps from the frame's border, where the frame has them
DRAWN_PLACES = 24
MOTION = (0.5, 1.0)  # pixels per frame of injected targets, down and to the right
BRIGHT = (0.9, 1.0)  # of the way from its surroundings to the top of the range


def remove_targets(frame: Frame, mask: Mask) -> Frame:
    """Fill labelled targets with a smooth continuation of their surroundings.

    A plane through the ring around a target, then relaxed towards the membrane (Laplace) that its
    border spans: no step at the border, nothing outside the ring's range, nothing random.

    Args:
        frame: (H, W) uint8 or uint16.
        mask: (H, W) bool.

    Returns:
        A copy; equal to `frame` more than 2 pixels away from labels.

    Raises:
        ValueError: the targets leave no background to continue.
    """
    covered = _dilate(mask, HALO)
    if covered.all():
        raise ValueError(
            f"the mask labels {np.count_nonzero(mask)} of {mask.size} pixels as targets and leaves "
            "no background; is it the mask of this frame?"
        )
    empty = frame.copy()
    targets = connect(covered)
    for label in range(targets.count):
        mine = targets.labels == label
        rows, columns = targets.rows[mine], targets.columns[mine]
        window = _span(rows), _span(columns)
        hole = np.zeros(frame[window].shape, np.bool_)
        hole[rows - window[0].start, columns - window[1].start] = True
        ring = _dilate(hole, RING) & ~covered[window]
        filled = _relax(_plane(frame[window], ring), frame[window], hole)
        empty[rows, columns] = np.rint(filled[hole]).astype(frame.dtype)
    return empty


def _dilate(mask: Mask, radius: int) -> Mask:
    """Grow a mask by `radius` pixels in all 8 directions."""
    for axis in (0, 1):
        widths = [(0, 0), (0, 0)]
        widths[axis] = (radius, radius)
        wide = np.pad(mask, widths)
        shifts = np.lib.stride_tricks.sliding_window_view(wide, 2 * radius + 1, axis=axis)
        mask = np.asarray(shifts.any(axis=-1))
    return mask


def _span(places: Indices) -> slice:
    """From the first to the last place and a ring more; a slice's end may pass the frame's."""
    return slice(max(int(places.min()) - RING, 0), int(places.max()) + RING + 1)


def _plane(patch: Frame, ring: Mask) -> Field:
    """The least-squares plane through the ring's pixels, held to their range."""
    rows, columns = np.indices(patch.shape, dtype=np.float64)
    design = np.stack([np.ones(patch.size), rows.ravel(), columns.ravel()], axis=1)
    known = patch[ring].astype(np.float64)
    weights, *_ = np.linalg.lstsq(design[ring.ravel()], known, rcond=None)
    return np.clip((design @ weights).reshape(patch.shape), known.min(), known.max())


def _relax(start: Field, patch: Frame, hole: Mask) -> Field:
    """Draw the hole's pixels to the mean of their 4 neighbours, step by step."""
    values = np.where(hole, start, patch)
    for _ in range(SMOOTHINGS):
        wide = np.pad(values, 1, mode="edge")
        around = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:]
        values[hole] = 0.25 * around[hole]
    return values


def inject_targets(frame: Frame, *, bit_depth: int) -> Frame:
    """Put 1 to 6 synthetic targets into a frame; the same frame always gets the same ones.

    Their SCR is log-uniform in 3 to 20, none is taller than the frame's own range unless noise is
    all that the frame shows. The one in the darkest of the places drawn rises at least nine tenths
    of the way to the top of the frame's own range, so that every frame draws a strong answer from
    the network.

    Args:
        frame: (H, W) uint8 or uint16.
        bit_depth: of the sensor; brighter than its full scale no pixel gets.

    Returns:
        A copy; equal to `frame` more than 7 pixels away from the targets.
    """
    digest = hashlib.sha256(np.ascontiguousarray(frame).tobytes()).digest()
    random = np.random.default_rng(int.from_bytes(digest[:16], "big"))
    (low, high), full_scale = stretch_limits(frame), 2**bit_depth - 1
    steady = repair_defects(frame, span=high - low)
    noise = float(np.median(np.abs(np.diff(steady.astype(np.int32), axis=1))))
    tallest = max(high - low, SCR[1] * noise)  # on a hard edge, SCR 20 is many times the range
    # Wider than the frame by half a window: no target needs to be cut at the border.
    light = np.zeros([side + 2 * PSF_RADIUS for side in frame.shape])
    for number, place in enumerate(_draw_places(steady, random)):
        around = _surroundings(steady, place)
        height = math.exp(random.uniform(*np.log(SCR))) * max(float(around.std()), 1.0)
        level, share = float(around.mean()), random.uniform(*BRIGHT)
        if number == 0:
            height = max(height, share * (high - level))
        height = min(height, tallest, full_scale - level)  # more would clip to a flat top
        window, spread = _point(place, height=height, sigma=random.uniform(*SIGMA))
        light[window] += spread
    seen = frame + light[PSF_RADIUS:-PSF_RADIUS, PSF_RADIUS:-PSF_RADIUS]
    bright = frame.copy()
    bright[:] = np.rint(seen).clip(0, full_scale)
    return bright


def inject_moving(frames: Sequence[Frame], *, bit_depth: int) -> list[Frame]:
    """Put synthetic targets that move into frames one after another.

    The last frame gets those of `inject_targets`; in the frames before they come from half a row
    and one column further up and to the left for each frame.

    Args:
        frames: (H, W) uint8 or uint16 each, of one size.
        bit_depth: of the sensor.

    Returns:
        Copies, in the same order.
    """
    light = inject_targets(frames[-1], bit_depth=bit_depth).astype(np.int32) - frames[-1]
    bright: list[Frame] = []
    for age, frame in zip(range(len(frames) - 1, -1, -1), frames, strict=True):
        moved = np.zeros_like(light)
        rows, columns = (
            min(round(age * step), side) for step, side in zip(MOTION, light.shape, strict=True)
        )
        part = light[rows:, columns:]
        moved[: part.shape[0], : part.shape[1]] = part
        seen = frame.copy()
        seen[:] = (frame + moved).clip(0, 2**bit_depth - 1)
        bright.append(seen)
    return bright


def _draw_places(frame: Frame, random: np.random.Generator) -> list[Field]:
    """Sub-pixel (row, column) that keep clear of each other, the darkest first."""
    count = int(random.integers(1, MOST_TARGETS + 1))
    last = np.array(frame.shape) - 1.0
    border = np.minimum(BORDER, last / 2)
    drawn = list(random.uniform(border, last - border, (DRAWN_PLACES, 2)))
    darkest = int(np.argmin([_surroundings(frame, place).mean() for place in drawn]))
    places = [drawn.pop(darkest)]
    for place in drawn:
        is_clear = min(math.dist(place, other) for other in places) >= CLEARANCE
        if is_clear and len(places) < count:
            places.append(place)
    return places


def _surroundings(frame: Frame, place: Field) -> Frame:
    """The 21x21 pixels around a place, as far as the frame has them."""
    top, left = (max(round(side) - CLUTTER_RADIUS, 0) for side in place)
    size = 2 * CLUTTER_RADIUS + 1
    return frame[top : top + size, left : left + size]


def _point(place: Field, *, height: float, sigma: float) -> tuple[tuple[slice, slice], Field]:
    """A window of the padded frame, and the light of a point in it; `height` of its brightest."""
    row, column = (round(side) for side in place)
    size = 2 * PSF_RADIUS + 1
    spread = point_spread((place[0] - row, place[1] - column), sigma=sigma)
    window = slice(row, row + size), slice(column, column + size)
    return window, height / spread.max() * spread
