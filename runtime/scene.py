"""Synthetic infrared scenes: labelled frames for demos, tests and a first training set.

A frame is made in the order of the light: a background that drifts with the line of sight, point
targets spread by the optics, then the sensor with its noise, fixed pattern, defects and bits.
Every frame follows from (options, seed, index) alone, so any frame can be had in any order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .backdrop import KINDS, paint
from .frame import FloatMap, Frame
from .interpolation import cut
from .sensor import log_uniform, make_sensor

Field = npt.NDArray[np.float64]
Point = tuple[float, float]

BORDER = 8  # pixels that a target keeps from the frame's border
PSF_RADIUS = 7  # half-width of the window a target is drawn into; below BORDER
MASK_FRACTION = 0.2  # a pixel belongs to the target above this part of its brightest pixel
CLEARANCE = 13.0  # pixels between two tracks over their first frames; jitter takes less than 1
CLEAR_FRAMES = 256
SWAY = 24  # pixels that the line of sight leaves its middle position at most
MARGIN = SWAY + 8  # background beyond the frame on each side: sway, interpolation, blur
CLUTTER_RADIUS = 10  # half-width of the window that gives the local clutter
BRIGHTEST = 0.8  # a target's contrast over the background's span; bounds it on hard edges


@dataclass(frozen=True, slots=True)
class SceneOptions:
    """What a synthetic scene shows and the camera that sees it.

    Attributes:
        height: rows of a frame, at least 32.
        width: columns of a frame, at least 32.
        bit_depth: 8 gives uint8 frames with the contrast of a display output, 9 to 16 give
            uint16 frames whose background fills a few percent of the scale, as raw counts do.
        targets: number of targets in every frame, 0 to 64.
        scr: (lowest, highest) signal-to-clutter ratio: brightest pixel of a centred target over
            the standard deviation of the local background and noise.
        drift: fastest motion of the background in pixels per frame, 0 to 4.
        noise: temporal noise, standard deviation over the background's span.
        defects: number of dead and hot pixels, at fixed places.
    """

    height: int = 256
    width: int = 256
    bit_depth: int = 14
    targets: int = 3
    scr: tuple[float, float] = (5.0, 12.0)
    drift: float = 0.3
    noise: float = 0.008
    defects: int = 5

    def __post_init__(self) -> None:
        if self.height < 32 or self.width < 32:
            raise ValueError(f"scene is {self.height}x{self.width}, expected at least 32x32 pixels")
        if not 8 <= self.bit_depth <= 16:
            raise ValueError(f"bit depth is {self.bit_depth}, expected 8 to 16")
        if not 0 <= self.targets <= 64:
            raise ValueError(f"scene has {self.targets} targets, expected 0 to 64")
        if not 0.0 < self.scr[0] <= self.scr[1] < math.inf:
            raise ValueError(f"SCR is {self.scr}, expected (lowest, highest), both above 0")
        if not 0.0 <= self.drift <= 4.0:
            raise ValueError(f"drift is {self.drift}, expected 0 to 4 pixels per frame")
        if not 0.0 <= self.noise <= 1.0:
            raise ValueError(f"noise is {self.noise}, expected 0 to 1 of the background's span")
        if not 0 <= self.defects <= self.height * self.width // 100:
            raise ValueError(
                f"scene has {self.defects} defects, expected 0 to "
                f"{self.height * self.width // 100} (1 % of the pixels)"
            )


@dataclass(frozen=True, slots=True)
class SceneFrame:
    """One frame and its truth.

    Attributes:
        frame: (H, W) uint8 or uint16, as the bit depth says.
        mask: (H, W) bool, true on the targets.
        points: (row, column) of each target, sub-pixel, origin at the centre of the first pixel.
    """

    frame: Frame
    mask: npt.NDArray[np.bool_]
    points: tuple[Point, ...]


class Scene:
    """An endless sequence of one synthetic scene.

    The seed picks the kind of scene in turn (sky, terrain, sea) and everything in it. Targets
    fly at 0.2 to 2 px/frame, turn back at the frame's border, and keep 12 px apart over the first
    256 frames where the frame has room.

    Args:
        options: size, bit depth, targets, camera.
        seed: 0 or more; equal seeds give equal scenes.

    Raises:
        ValueError: `seed` is negative.

    Example:
        >>> scene = Scene(SceneOptions(targets=2), seed=7)
        >>> shot = scene.frame(40)
        >>> scene.kind, shot.frame.dtype, len(shot.points)
        ('terrain', dtype('uint16'), 2)
    """

    def __init__(self, options: SceneOptions, *, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"seed is {seed}, expected 0 or more")
        self.options = options
        self.seed = seed
        self.kind = KINDS[seed % len(KINDS)]
        size = (options.height + 2 * MARGIN, options.width + 2 * MARGIN)
        self._sensor = make_sensor(
            self._random(0),
            (options.height, options.width),
            bit_depth=options.bit_depth,
            noise=options.noise,
            defects=options.defects,
        )
        self._background = self._sensor.expose(paint(self._random(1), self.kind, size))
        self._phases = self._random(2).uniform(0.0, math.tau, 2)
        self._tracks = _make_tracks(self._random(3), options)

    def frame(self, index: int) -> SceneFrame:
        """Make frame number `index`, 0 or more.

        Raises:
            ValueError: `index` is negative.
        """
        if index < 0:
            raise ValueError(f"frame index is {index}, expected 0 or more")
        background = self._view(index)
        counts = background.copy()
        mask = np.zeros(counts.shape, np.bool_)
        points = self._points(index)
        for track, point in zip(self._tracks, points, strict=True):
            patch, spread = _place(point, sigma=track.sigma)
            clutter = _local_clutter(background, point, noise=self._sensor.noise)
            contrast = min(track.scr_at(index) * clutter, BRIGHTEST * self._sensor.span)
            counts[patch] += contrast / point_spread((0.0, 0.0), sigma=track.sigma).max() * spread
            mask[patch] |= spread > MASK_FRACTION * spread.max()
        return SceneFrame(self._sensor.read(counts, self._random(4, index)), mask, points)

    def _view(self, index: int) -> FloatMap:
        """The background in frame `index`: the line of sight swings slowly about its middle."""
        # Both swings together are never faster than the drift.
        angles = self.options.drift / (SWAY * math.sqrt(2.0)) * index + self._phases
        row, column = MARGIN + SWAY * np.sin(angles)
        size = (self.options.height, self.options.width)
        return cut(self._background, (float(row), float(column)), size)

    def _points(self, index: int) -> tuple[Point, ...]:
        jitter = self._random(5, index).normal(0.0, 0.12, (len(self._tracks), 2)).clip(-0.4, 0.4)
        places = [
            _fold(track.place(index) + shake, self.options)
            for track, shake in zip(self._tracks, jitter, strict=True)
        ]
        return tuple((float(row), float(column)) for row, column in places)

    def _random(self, *stream: int) -> np.random.Generator:
        # One stream per part: another number of targets leaves background and noise as they are.
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=stream))


def point_spread(offset: Point, *, sigma: float) -> Field:
    """Integrate a Gaussian point spread function over the pixels of a small window.

    Args:
        offset: (row, column) of the point from the centre of the window's middle pixel, -0.5..0.5.
        sigma: standard deviation in pixels; up to 1.6 the window holds all but 1e-4 of the energy.

    Returns:
        (15, 15) float64; its sum is 1 less what falls outside the window.

    Example:
        >>> float(point_spread((0.25, -0.5), sigma=1.0).sum().round(6))
        1.0
    """
    rows, columns = (_integrate(place, sigma) for place in offset)
    return np.outer(rows, columns)


def _integrate(place: float, sigma: float) -> Field:
    edges = np.arange(-PSF_RADIUS, PSF_RADIUS + 2) - 0.5 - place
    return np.diff([0.5 * math.erf(edge / (sigma * math.sqrt(2.0))) for edge in edges])


def _place(point: Point, *, sigma: float) -> tuple[tuple[slice, slice], Field]:
    """The window around a point, and how the point spreads inside it."""
    row, column = round(point[0]), round(point[1])
    patch = (
        slice(row - PSF_RADIUS, row + PSF_RADIUS + 1),
        slice(column - PSF_RADIUS, column + PSF_RADIUS + 1),
    )
    return patch, point_spread((point[0] - row, point[1] - column), sigma=sigma)


def _local_clutter(background: FloatMap, point: Point, *, noise: float) -> float:
    """Standard deviation of background and noise around a point, at least 1 count."""
    top = max(round(point[0]) - CLUTTER_RADIUS, 0)
    left = max(round(point[1]) - CLUTTER_RADIUS, 0)
    size = 2 * CLUTTER_RADIUS + 1
    patch = background[top : top + size, left : left + size]
    return max(math.hypot(float(patch.std()), noise), 1.0)


@dataclass(frozen=True, slots=True)
class _Track:
    """A target in uniform motion. Positions are (row, column)."""

    start: Field
    velocity: Field  # pixels per frame
    sigma: float  # of the point spread function, pixels
    scr: float
    period: float  # of the slow fluctuation, frames
    phase: float

    def place(self, index: npt.NDArray[np.intp] | int) -> Field:
        """(..., 2) position in frame `index`, not yet turned back at the border."""
        return self.start + np.multiply.outer(index, self.velocity)

    def scr_at(self, index: int) -> float:
        """Signal-to-clutter ratio in frame `index`, within 20 % of the track's own."""
        return self.scr * (1.0 + 0.2 * math.sin(math.tau * index / self.period + self.phase))


def _make_tracks(random: np.random.Generator, options: SceneOptions) -> list[_Track]:
    """Draw tracks one by one, each the first of 24 that keeps clear of those before it."""
    tracks: list[_Track] = []
    paths: list[Field] = []
    for _ in range(options.targets):
        drawn = [_make_track(random, options) for _ in range(24)]
        drawn_paths = [_fold(track.place(np.arange(CLEAR_FRAMES)), options) for track in drawn]
        best = int(np.argmax([_clearance(path, paths) for path in drawn_paths]))
        tracks.append(drawn[best])
        paths.append(drawn_paths[best])
    return tracks


def _make_track(random: np.random.Generator, options: SceneOptions) -> _Track:
    heading = random.uniform(0.0, math.tau)
    speed = log_uniform(random, 0.2, 2.0)
    size = np.array([options.height, options.width])
    return _Track(
        start=random.uniform(BORDER, size - 1 - BORDER),
        velocity=speed * np.array([math.sin(heading), math.cos(heading)]),
        sigma=random.uniform(0.6, 1.6),
        scr=log_uniform(random, *options.scr),
        period=random.uniform(20.0, 60.0),
        phase=random.uniform(0.0, math.tau),
    )


def _clearance(path: Field, others: list[Field]) -> float:
    """The nearest that a path comes to others, counted up to what is wanted."""
    distances = [float(np.hypot(*(path - other).T).min()) for other in others]
    return min([CLEARANCE, *distances])


def _fold(place: Field, options: SceneOptions) -> Field:
    """Reflect (..., 2) positions into the frame less its border, as often as it takes."""
    high = np.array([options.height, options.width]) - 1.0 - BORDER
    size = high - BORDER
    return high - np.abs(size - (place - BORDER) % (2.0 * size))
