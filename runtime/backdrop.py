"""Backgrounds of synthetic scenes: clouds, ridges and waves out of 1/f textures, and hard edges."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .frame import FloatMap

Field = npt.NDArray[np.float64]
Size = tuple[int, int]

KINDS = ("sky", "terrain", "sea")

OPTICAL_BLUR = 0.6  # pixels, standard deviation of the optics' blur


def paint(random: np.random.Generator, kind: str, size: Size) -> FloatMap:
    """Paint the background of a scene.

    Args:
        random: draws everything that is not fixed by the kind.
        kind: one of KINDS.
        size: (rows, columns).

    Returns:
        `size` float32, 0 at the darkest and 1 at the brightest pixel. A few pixels along the
        border hold traces of the opposite side.
    """
    painters = {"sky": _paint_sky, "terrain": _paint_terrain, "sea": _paint_sea}
    seen = _blur(painters[kind](random, size), sigma=OPTICAL_BLUR)
    seen -= seen.min()
    return np.asarray(seen / seen.max(), np.float32)


def texture(random: np.random.Generator, size: Size, *, beta: float, stretch: float = 1.0) -> Field:
    """Draw a random texture whose power falls with frequency as 1 / f^beta.

    Natural scenes have beta near 2, clouds near 3 (Burton and Moorhead, Appl. Opt. 26, 1987).

    Args:
        random: source of the draw.
        size: (rows, columns).
        beta: exponent of the power spectrum; larger is smoother.
        stretch: how much longer structures are along the rows than across them.

    Returns:
        `size` float64 of zero mean and unit standard deviation; it continues across its borders.
    """
    across = np.fft.fftfreq(size[0])[:, None]
    along = np.fft.rfftfreq(size[1])[None, :] * stretch
    frequency = np.hypot(across, along)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(random.standard_normal(size)) * frequency ** (-beta / 2.0)
    field = np.fft.irfft2(spectrum, s=size)
    return np.asarray((field - field.mean()) / field.std(), np.float64)


def _blur(field: Field, *, sigma: float) -> Field:
    """Gaussian blur through the spectrum; the borders wrap."""
    across = np.fft.fftfreq(field.shape[0])[:, None]
    along = np.fft.rfftfreq(field.shape[1])[None, :]
    response = np.exp(-2.0 * (math.pi * sigma) ** 2 * (across**2 + along**2))
    return np.fft.irfft2(np.fft.rfft2(field) * response, s=field.shape)


def _paint_sky(random: np.random.Generator, size: Size) -> Field:
    """Clouds before a sky that brightens towards the horizon; in half of the scenes a ridge."""
    height = np.linspace(0.0, 1.0, size[0])[:, None]
    cover = texture(random, size, beta=random.uniform(3.2, 3.9), stretch=random.uniform(1.2, 2.5))
    edge = random.uniform(0.4, 1.8)  # small: cumulus with hard rims; large: veils
    density = _smooth((cover - random.uniform(-0.6, 0.7)) / edge)
    billows = texture(random, size, beta=2.6, stretch=1.3)
    haze = texture(random, size, beta=3.0, stretch=3.0)
    sky = random.uniform(0.1, 0.4) * height**2 + 0.02 * haze
    field = sky + density * (random.uniform(0.25, 0.6) + 0.07 * billows)
    if random.random() < 0.5:
        field = _add_ridge(random, field, level=random.uniform(0.78, 0.92), nearness=0.5)
    return field


def _paint_terrain(random: np.random.Generator, size: Size) -> Field:
    """Ridges one before the other, then near ground with woods, a road and warm buildings."""
    height = np.linspace(0.0, 1.0, size[0])[:, None]
    field = (
        random.uniform(0.15, 0.3)
        + 0.2 * height
        + 0.02 * texture(random, size, beta=3.0, stretch=3.0)
    )
    levels = np.sort(random.uniform(0.12, 0.5, random.integers(2, 5)))
    for order, level in enumerate(levels):
        field = _add_ridge(random, field, level=float(level), nearness=order / 4.0)
    near = _below(random, size, level=float(levels[-1]) + 0.08, relief=0.02)
    field = _lay(field, near, _ground(random, size))
    for _ in range(random.integers(1, 4)):
        field = _lay(field, near * _road(random, size), random.uniform(0.6, 0.85))
    for _ in range(random.integers(2, 7)):
        field = _lay(field, near * _building(random, size), random.uniform(0.65, 1.0))
    return field


def _paint_sea(random: np.random.Generator, size: Size) -> Field:
    """Waves that grow towards the viewer, a band of glint, a level horizon and often a coast."""
    rows, columns = size
    horizon = random.uniform(0.12, 0.45)
    height = np.linspace(0.0, 1.0, rows)[:, None]
    sky = 0.5 - 0.35 * (horizon - height).clip(min=0.0) / horizon
    field = sky + 0.03 * texture(random, size, beta=3.0, stretch=4.0)
    if random.random() < 0.6:
        coast = _below(random, size, level=horizon - 0.04, relief=0.03)
        field = _lay(field, coast, 0.6 + 0.05 * texture(random, size, beta=1.8))
    near = ((height - horizon) / (1.0 - horizon)).clip(0.0, 1.0)
    far_waves = texture(random, size, beta=1.3, stretch=8.0)
    near_waves = texture(random, size, beta=2.0, stretch=3.0)
    waves = (1.0 - near) * far_waves + near * near_waves
    place = (np.arange(columns) / columns - random.uniform(0.1, 0.9)) / random.uniform(0.1, 0.3)
    glint = np.exp(-0.5 * place**2)[None, :] * random.uniform(0.05, 0.3)
    water = 0.25 + 0.15 * near + (0.05 + 0.03 * near) * waves + glint * _smooth(0.5 * waves - 0.3)
    return _lay(
        field, _coverage(np.arange(rows, dtype=np.float64)[:, None] - horizon * rows), water
    )


def _ground(random: np.random.Generator, size: Size) -> Field:
    """Meadows of two brightnesses with woods on them."""
    meadow = texture(random, size, beta=2.2, stretch=2.5)
    grass = texture(random, size, beta=1.0, stretch=2.0)
    trees = texture(random, size, beta=1.4, stretch=0.6)
    woods = _smooth((texture(random, size, beta=2.4, stretch=2.0) - 0.3) / 0.15 + 0.5 * trees)
    open_land = 0.45 + 0.06 * meadow + 0.035 * grass
    return _lay(open_land, woods, random.uniform(0.2, 0.4) + 0.06 * trees)


def _add_ridge(
    random: np.random.Generator, field: Field, *, level: float, nearness: float
) -> Field:
    """Put a mountain ridge before a field; nearer ones are warmer and rougher."""
    size = (field.shape[0], field.shape[1])
    slope = texture(random, size, beta=2.4, stretch=0.8)
    shade = random.uniform(0.35, 0.45) + 0.2 * nearness
    rock = shade + (0.03 + 0.05 * nearness) * slope
    return _lay(field, _below(random, size, level=level, relief=0.05), rock)


def _below(random: np.random.Generator, size: Size, *, level: float, relief: float) -> Field:
    """Coverage of what lies under a rugged line; `level` and `relief` are parts of the height."""
    line = size[0] * (level + relief * texture(random, (1, size[1]), beta=3.0))
    return _coverage(np.arange(size[0])[:, None] - line)


def _road(random: np.random.Generator, size: Size) -> Field:
    """Coverage of a straight band that crosses the field at a flat angle."""
    return _coverage(random.uniform(0.3, 2.0) - np.abs(_distance(random, size, steepest=0.35)))


def _building(random: np.random.Generator, size: Size) -> Field:
    """Coverage of an upright rectangle of 2 to 16 pixels."""
    row, column = random.uniform(0.3, 0.95) * size[0], random.uniform(0.05, 0.95) * size[1]
    high, wide = random.uniform(1.0, 5.0), random.uniform(1.5, 8.0)
    rows = _coverage(high - np.abs(np.arange(size[0]) - row))
    columns = _coverage(wide - np.abs(np.arange(size[1]) - column))
    return np.outer(rows, columns)


def _distance(random: np.random.Generator, size: Size, *, steepest: float) -> Field:
    """Signed distance in pixels from a random straight line."""
    angle = random.uniform(-steepest, steepest)
    rows = np.arange(size[0])[:, None] - random.uniform(0.4, 0.95) * size[0]
    columns = np.arange(size[1])[None, :] - 0.5 * size[1]
    return rows * math.cos(angle) + columns * math.sin(angle)


def _coverage(distance: Field) -> Field:
    """Part of each pixel that lies on the positive side of an edge."""
    return (distance + 0.5).clip(0.0, 1.0)


def _lay(field: Field, coverage: Field, over: Field | float) -> Field:
    """Lay one surface over another."""
    return field + coverage * (over - field)


def _smooth(value: Field) -> Field:
    """Smooth step from 0 at -1/2 to 1 at 1/2."""
    t = (value + 0.5).clip(0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), np.float64)
