"""Geometry of augmentation: target-aware windows, their fit, the eight dihedral variants."""

from __future__ import annotations

import numpy as np

from ..runtime.frame import FloatMap, resize_bilinear

Pair = tuple[FloatMap, FloatMap]  # frame and mask, cut and turned alike


def cut_window(
    frame: FloatMap,
    mask: FloatMap,
    *,
    side: int,
    zoom: tuple[float, float],
    target_share: float,
    rng: np.random.Generator,
) -> Pair:
    """Cut the same window from frame and mask, often around a target, at the sensor's scale.

    Args:
        frame: (H, W) float32.
        mask: (H, W) float32, 0..1.
        side: side in pixels of the square that the window will be fitted to.
        zoom: (rows, columns) of that fit, above 1 enlarges; a frame smaller than the window it
            asks for gives all it has.
        target_share: probability, 0..1, that the window must hold a random target pixel; without
            a target, and otherwise, it lies anywhere.
        rng: source of randomness.

    Returns:
        Views of frame and mask, side / zoom pixels in each direction.
    """
    rows, columns = (
        min(extent, max(1, round(side / factor)))
        for extent, factor in zip(frame.shape, zoom, strict=True)
    )
    top, left = choose_corner(mask, (rows, columns), target_share, rng)
    window = np.s_[top : top + rows, left : left + columns]
    return frame[window], mask[window]


def fit_square(image: FloatMap, side: int) -> FloatMap:
    """Scale a window to (side, side) as flight scales frames."""
    return image if image.shape == (side, side) else resize_bilinear(image, (side, side))


def fit_mask(mask: FloatMap, side: int) -> FloatMap:
    """Scale a mask likewise, to 0 and 1: a pixel is target that is covered by half of it.

    That is how scores read a confidence, and what is soft at the edges of a target of three pixels
    is most of it: SoftIoU would learn blurred outlines. A target that covers half of no pixel,
    being smaller or lying between them, keeps those it covers most, so that none vanishes.
    """
    fitted = fit_square(mask, side)
    left = (fitted > 0) & (fitted == _highest_around(fitted))
    fitted_mask: FloatMap = ((fitted > 0.5) | left).astype(np.float32)
    return fitted_mask


def _highest_around(image: FloatMap) -> FloatMap:
    """The largest of each pixel and its eight neighbours."""
    padded = np.pad(image, 1, mode="edge")
    down = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
    highest: FloatMap = np.maximum(np.maximum(down[:, :-2], down[:, 1:-1]), down[:, 2:])
    return highest


def choose_corner(
    mask: FloatMap, window: tuple[int, int], target_share: float, rng: np.random.Generator
) -> tuple[int, int]:
    """The first row and column of a window that lies inside, around a target if one is drawn."""
    lowest = np.zeros(2, np.intp)
    highest = np.array(mask.shape, np.intp) - window
    pixels = np.flatnonzero(mask > 0.5) if rng.random() < target_share else np.zeros(0, np.int64)
    if pixels.size:
        place = np.array(divmod(int(rng.choice(pixels)), mask.shape[1]))
        lowest = np.maximum(lowest, place - window + 1)
        highest = np.minimum(highest, place)
    top, left = rng.integers(lowest, highest + 1)
    return int(top), int(left)


def draw_zoom(spread: float, rng: np.random.Generator) -> tuple[float, float]:
    """Draw a zoom for rows and columns, log-uniform within 1/spread..spread, 15 % apart at most."""
    widest = np.log(spread)
    apart = min(widest, np.log(1.15)) / 2.0
    common = (widest - apart) * rng.uniform(-1.0, 1.0)
    apart *= rng.uniform(-1.0, 1.0)
    return float(np.exp(common + apart)), float(np.exp(common - apart))


def draw_fit(fit: tuple[float, float], rng: np.random.Generator) -> tuple[float, float]:
    """Draw how much of a fit is done, log-uniform from nothing (1) to all of it, sides alike."""
    part = rng.random()
    return float(fit[0] ** part), float(fit[1] ** part)


def dihedral(frame: FloatMap, mask: FloatMap, *, rng: np.random.Generator) -> Pair:
    """Turn and mirror frame and mask alike, each of the eight variants equally often."""
    quarter_turns = int(rng.integers(4))
    mirrored = bool(rng.integers(2))
    variants = []
    for image in (frame, mask):
        turned = np.rot90(image, quarter_turns)
        variants.append(np.ascontiguousarray(turned[:, ::-1] if mirrored else turned))
    return variants[0], variants[1]
