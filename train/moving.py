"""Moving scenes to train on: dim targets over real or painted backgrounds, seen by a moving camera.

Made for networks of clips: targets are fainter than single frames show, and what is in their way
moves as well. A scene follows from (options, backgrounds, seed, index) alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ..runtime.backdrop import KINDS, paint, texture
from ..runtime.frame import FloatMap, Frame
from ..runtime.interpolation import sample
from ..runtime.scene import MASK_FRACTION, PSF_RADIUS, Point, point_spread
from ..runtime.sensor import log_uniform, make_sensor

Field = npt.NDArray[np.float64]
Box = tuple[int, int, int, int]

PAINTINGS = 64  # that a training draws from; each is 20 to 60 ms of work
PAINTED_MARGIN = 64  # pixels that a painting is wider than the frame, on each side
EDGE = 3  # pixels that a view keeps from the border of its background
BORDER = 3  # pixels that a target keeps from the border of the newest frame
CLUTTER_RADIUS = 10  # half-width of the window that gives the local clutter
TALLEST = 0.8  # a target's contrast over the background's span, as in runtime.scene
# How often a scene has a part.
CLOUDS, TRACKED, ZOOMING, STILL = 0.25, 0.3, 0.5, 0.15
LAMPS = 1.0  # spots that belong to the background, on average


@dataclass(frozen=True, slots=True)
class MovingOptions:
    """What a moving scene shows and the camera that sees it.

    Attributes:
        size: (rows, columns) of a frame, at least 32 each.
        frames: how many; the last is the newest.
        bit_depths: one is drawn; as in runtime.scene.
        targets: most targets in a scene, 1 or more; how many there are is drawn.
        empty: part of the scenes that has none: hard negatives.
        scr: (lowest, highest) signal-to-clutter ratio: brightest pixel of a centred target over the
            standard deviation of the background and noise around it in the newest frame.
        speed: (lowest, highest) of a target over the background, pixels per frame.
        drift: fastest motion of the camera, pixels per frame.
        jitter: largest standard deviation of its shake, pixels.
        noise: (lowest, highest) temporal noise, standard deviation over the background's span.
        defects: most dead and hot pixels.
        real: part of the scenes over real backgrounds, where there are some.
    """

    size: tuple[int, int] = (128, 128)
    frames: int = 15
    bit_depths: tuple[int, ...] = (8, 14)
    targets: int = 3
    empty: float = 0.15
    scr: tuple[float, float] = (1.5, 8.0)
    speed: tuple[float, float] = (0.15, 2.0)
    drift: float = 1.5
    jitter: float = 0.5
    noise: tuple[float, float] = (0.002, 0.02)
    defects: int = 4
    real: float = 0.7

    def __post_init__(self) -> None:
        if min(self.size) < 32:
            raise ValueError(
                f"scene is {self.size[0]}x{self.size[1]}, expected at least 32x32 pixels"
            )
        if self.frames < 2 or self.targets < 1:
            raise ValueError(
                f"scene has {self.frames} frames and up to {self.targets} targets, expected 2 "
                "frames and 1 target or more"
            )
        for name in ("scr", "speed", "noise"):
            low, high = getattr(self, name)
            if not 0.0 < low <= high < math.inf:
                raise ValueError(f"{name} is {low}..{high}, expected (lowest, highest) above 0")
        for name in ("empty", "real"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to 1")


@dataclass(frozen=True, slots=True)
class MovingFrame:
    """One frame and its truth.

    Attributes:
        frame: (H, W) uint8 or uint16.
        mask: (H, W) bool, true on the targets.
        points: (row, column) of each target that is in the frame, sub-pixel.
        boxes: (first row, first column, last row, last column) of each target's mask, in pixels,
            both ends inside; in the order of `points`.
        camera: (rows, columns) that the scene has moved since frame 0, in the middle of the frame.
    """

    frame: Frame
    mask: npt.NDArray[np.bool_]
    points: tuple[Point, ...]
    boxes: tuple[Box, ...]
    camera: Point


@dataclass(frozen=True, slots=True)
class _Target:
    """A target; positions are (row, column) on the sensor."""

    path: Field  # (frames, 2)
    sigma: float
    height: Field  # (frames,) counts of the brightest pixel, were it centred


@dataclass(frozen=True, slots=True)
class _Camera:
    """Where the scene lies on the sensor, frame by frame."""

    offset: Field  # (frames, 2) pixels that the scene has moved
    zoom: Field  # (frames,) enlargement about the middle of the frame


class MovingScene:
    """A scene of a fixed number of frames; `frame(number)` makes any of them.

    Args:
        options: what it shows.
        backgrounds: target-free real frames, float32 in 0..1, each at least as large as a frame
            and 16 pixels more in both directions; smaller ones are not drawn.
        seed: 0 or more.
        index: number of the scene, 0 or more.

    Raises:
        ValueError: `seed` or `index` is negative.

    Example:
        >>> scene = MovingScene(MovingOptions(size=(64, 64), empty=0.0), (), seed=1, index=0)
        >>> shown = scene.frame(14)
        >>> shown.frame.shape, len(shown.points) == len(shown.boxes) > 0
        ((64, 64), True)
    """

    def __init__(
        self, options: MovingOptions, backgrounds: Sequence[FloatMap], *, seed: int, index: int
    ) -> None:
        if min(seed, index) < 0:
            raise ValueError(f"seed is {seed} and index {index}, expected 0 or more")
        self.options = options
        self._key = seed, index
        random = self._random(0)
        self._sensor = make_sensor(
            random,
            options.size,
            bit_depth=int(random.choice(options.bit_depths)),
            noise=log_uniform(random, *options.noise),
            defects=int(random.integers(options.defects + 1)),
        )
        self._camera = _move_camera(self._random(1), options)
        radiance = _choose_background(self._random(2), options, backgrounds, seed=seed)
        self._background = self._sensor.expose(_add_lamps(self._random(3), radiance))
        self._clouds = _gather_clouds(self._random(4), options, seed=seed)
        self._targets = self._draw_targets(self._random(5))

    def frame(self, number: int) -> MovingFrame:
        """Make frame `number`, 0 to `options.frames` - 1.

        Raises:
            ValueError: there is no such frame.
        """
        if not 0 <= number < self.options.frames:
            raise ValueError(f"frame is {number}, expected 0 to {self.options.frames - 1}")
        counts = self._view(number)
        mask = np.zeros(counts.shape, np.bool_)
        points: list[Point] = []
        boxes: list[Box] = []
        for target in self._targets:
            row, column = (float(side) for side in target.path[number])
            box = _draw(counts, mask, target, number)
            if box is not None:
                points.append((row, column))
                boxes.append(box)
        seen = self._sensor.read(counts, self._random(6, number))
        return MovingFrame(seen, mask, tuple(points), tuple(boxes), self.camera(number))

    def camera(self, number: int) -> Point:
        """(rows, columns) that the scene has moved since frame 0, in the middle of the frame."""
        row, column = (float(side) for side in self._camera.offset[number])
        return row, column

    def _view(self, number: int) -> FloatMap:
        """Background and clouds in a frame, in counts."""
        offset, zoom = self._camera.offset[number], float(self._camera.zoom[number])
        view = _look(self._background, self.options.size, offset, zoom)
        if self._clouds is None:
            return view
        cover, moved = self._clouds
        over = _look(cover, self.options.size, offset + moved[number], zoom).clip(0.0, 1.0)
        cloud = self._sensor.level + 0.6 * self._sensor.span * (over - 0.3)
        return np.asarray(view + over * (cloud - view), np.float32)

    def _draw_targets(self, random: np.random.Generator) -> list[_Target]:
        options = self.options
        if random.random() < options.empty:
            return []
        newest = self._view(options.frames - 1)
        size = np.array(options.size)
        targets: list[_Target] = []
        for _ in range(int(random.integers(1, options.targets + 1))):
            last = random.uniform(BORDER, size - 1 - BORDER)
            path = last + _fly(random, options, self._camera.offset)
            clutter = _local_clutter(newest, last, noise=self._sensor.noise)
            height = min(log_uniform(random, *options.scr) * clutter, TALLEST * self._sensor.span)
            period, phase = random.uniform(20.0, 60.0), random.uniform(0.0, math.tau)
            shimmer = 1.0 + 0.2 * np.sin(math.tau * np.arange(options.frames) / period + phase)
            targets.append(_Target(path, random.uniform(0.5, 1.6), height * shimmer))
        return targets

    def _random(self, *stream: int) -> np.random.Generator:
        # One stream per part and frame: any frame can be had in any order.
        seed, index = self._key
        return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index, *stream)))


def _move_camera(random: np.random.Generator, options: MovingOptions) -> _Camera:
    times = np.arange(options.frames, dtype=np.float64)
    heading = random.uniform(0.0, math.tau)
    speed = 0.0 if random.random() < STILL else options.drift * random.random() ** 1.5
    turn = random.normal(0.0, 0.02)  # radians per frame
    angles = heading + turn * times
    steps = speed * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    shake = options.jitter * random.random() ** 2
    offset = np.cumsum(steps, axis=0) + random.normal(0.0, shake, (options.frames, 2))
    rate = random.normal(0.0, 3e-4) if random.random() < ZOOMING else 0.0
    return _Camera(offset - offset[0], np.exp(rate * times))


def _fly(random: np.random.Generator, options: MovingOptions, camera: Field) -> Field:
    """(frames, 2): a target's path relative to its last place, in uniform motion and a shake."""
    heading, speed = random.uniform(0.0, math.tau), log_uniform(random, *options.speed)
    times = np.arange(options.frames) - options.frames + 1.0
    path = speed * np.outer(times, [math.sin(heading), math.cos(heading)])
    if random.random() < TRACKED:  # the camera follows it, the scene passes behind
        path *= 0.2
    else:
        path += camera - camera[-1]
    path += random.normal(0.0, 0.1, path.shape)
    return np.asarray(path - path[-1], np.float64)


def _choose_background(
    random: np.random.Generator,
    options: MovingOptions,
    backgrounds: Sequence[FloatMap],
    *,
    seed: int,
) -> FloatMap:
    """A window somewhat larger than the frame, any way round, as it is or at half its scale."""
    least = max(options.size) + 16
    fitting = [one for one in backgrounds if min(one.shape) >= least]
    if not fitting or random.random() >= options.real:
        number = int(random.integers(PAINTINGS))
        return _turn(_paint(seed, number, max(options.size)), random)
    chosen = fitting[int(random.integers(len(fitting)))]
    if min(chosen.shape) >= 2 * least and random.random() < 0.5:
        chosen = _halve(chosen)
    side = min(max(options.size) + 2 * PAINTED_MARGIN, *chosen.shape)
    top, left = (int(random.integers(extent - side + 1)) for extent in chosen.shape)
    return _turn(chosen[top : top + side, left : left + side], random)


def _halve(frame: FloatMap) -> FloatMap:
    rows, columns = (side // 2 * 2 for side in frame.shape)
    even = frame[:rows, :columns]
    half: FloatMap = 0.25 * (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2])
    return half


def _turn(window: FloatMap, random: np.random.Generator) -> FloatMap:
    turned = np.rot90(window, int(random.integers(4)))
    return np.ascontiguousarray(turned[:, ::-1] if random.random() < 0.5 else turned)


@lru_cache(maxsize=2 * PAINTINGS)
def _paint(seed: int, number: int, side: int) -> FloatMap:
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
    wide = side + 2 * PAINTED_MARGIN
    return paint(random, KINDS[number % len(KINDS)], (wide, wide))


@lru_cache(maxsize=2 * PAINTINGS)
def _cloud(seed: int, number: int, side: int) -> FloatMap:
    """How much a layer of clouds covers, somewhat beyond 0..1."""
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(PAINTINGS + number,)))
    wide = side + 2 * PAINTED_MARGIN
    layer = texture(random, (wide, wide), beta=random.uniform(3.2, 4.0))
    edge = random.uniform(0.8, 2.5)
    return np.asarray(((layer - random.uniform(-0.3, 1.0)) / edge + 0.5), np.float32).clip(0.0, 0.8)


def _gather_clouds(
    random: np.random.Generator, options: MovingOptions, *, seed: int
) -> tuple[FloatMap, Field] | None:
    """A layer of its own motion, and (frames, 2) how far it has moved over the background."""
    if random.random() >= CLOUDS:
        return None
    cover = _turn(_cloud(seed, int(random.integers(PAINTINGS)), max(options.size)), random)
    heading, speed = random.uniform(0.0, math.tau), random.uniform(0.1, 1.5)
    times = np.arange(options.frames, dtype=np.float64)
    return cover, speed * np.outer(times, [math.sin(heading), math.cos(heading)])


def _add_lamps(random: np.random.Generator, radiance: FloatMap) -> FloatMap:
    """Spots of a target's shape that stand still on the ground: small, but not new."""
    lit = radiance.copy()
    for _ in range(int(random.poisson(LAMPS * radiance.size / 128**2))):
        row, column = (
            int(random.integers(PSF_RADIUS, side - PSF_RADIUS)) for side in radiance.shape
        )
        spread = point_spread((0.0, 0.0), sigma=random.uniform(0.5, 1.6))
        window = (
            slice(row - PSF_RADIUS, row + PSF_RADIUS + 1),
            slice(column - PSF_RADIUS, column + PSF_RADIUS + 1),
        )
        height = log_uniform(random, 0.03, 0.6)
        lit[window] += np.float32(height / spread.max()) * spread.astype(np.float32)
    return lit


def _look(field: FloatMap, size: tuple[int, int], offset: Field, zoom: float) -> FloatMap:
    """The part of a field that the camera sees once the field has moved by an offset.

    A path that leaves the field turns back at its border.
    """
    places = []
    for side, extent, by in zip(size, field.shape, offset, strict=True):
        middle = (side - 1) / 2.0
        inside = np.arange(side) - middle
        place = (extent - 1) / 2.0 - by + inside / zoom
        low, high = float(EDGE), extent - 1.0 - EDGE
        span = high - low
        places.append(high - np.abs(span - (place - low) % (2.0 * span)))
    return sample(field, places[0], places[1])


def _local_clutter(frame: FloatMap, place: Field, *, noise: float) -> float:
    top, left = (max(round(float(side)) - CLUTTER_RADIUS, 0) for side in place)
    side = 2 * CLUTTER_RADIUS + 1
    return max(math.hypot(float(frame[top : top + side, left : left + side].std()), noise), 1.0)


def _draw(
    counts: FloatMap, mask: npt.NDArray[np.bool_], target: _Target, number: int
) -> Box | None:
    """Add a target to counts and mask, cut at the frame's border; gives the box of its mask."""
    place = target.path[number]
    row, column = (round(float(side)) for side in place)
    if not (0 <= row < counts.shape[0] and 0 <= column < counts.shape[1]):
        return None
    spread = point_spread((float(place[0]) - row, float(place[1]) - column), sigma=target.sigma)
    centred = point_spread((0.0, 0.0), sigma=target.sigma).max()
    top, left = row - PSF_RADIUS, column - PSF_RADIUS
    rows = slice(max(top, 0), min(row + PSF_RADIUS + 1, counts.shape[0]))
    columns = slice(max(left, 0), min(column + PSF_RADIUS + 1, counts.shape[1]))
    seen = spread[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    counts[rows, columns] += target.height[number] / centred * seen
    mine = seen > MASK_FRACTION * spread.max()
    mask[rows, columns] |= mine
    lines, places = np.nonzero(mine)
    return (
        rows.start + int(lines.min()),
        columns.start + int(places.min()),
        rows.start + int(lines.max()),
        columns.start + int(places.max()),
    )
