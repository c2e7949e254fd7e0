"""What sensors and optics do to a frame: gain, blur, noise, defects, another bit depth.

Every function takes a normalised frame, (H, W) float32 in 0..1, and returns a new one in 0..1.
Masks stay as they are.
"""

from __future__ import annotations

import numpy as np

from ..runtime.frame import FloatMap

FULL_SCALE = np.float32(255.0)  # grey levels of the 8-bit scale that amplitudes are quoted on


def gain_offset(frame: FloatMap, *, strength: float, rng: np.random.Generator) -> FloatMap:
    """Squeeze the frame's range, as a hot object elsewhere does to a contrast stretch.

    Args:
        frame: (H, W) float32, 0..1.
        strength: largest part of the range that is lost, 0..1.
        rng: source of randomness.
    """
    gain = 1.0 - strength * rng.random()
    offset = (1.0 - gain) * rng.random()
    return frame * np.float32(gain) + np.float32(offset)


def blur(frame: FloatMap, *, sigma: float, rng: np.random.Generator) -> FloatMap:
    """Blur by a Gaussian of up to `sigma` pixels: focus and atmosphere.

    Args:
        frame: (H, W) float32, 0..1.
        sigma: largest standard deviation in pixels, at most 2.
        rng: source of randomness.
    """
    return gaussian(frame, sigma * rng.random())


def gaussian(frame: FloatMap, sigma: float) -> FloatMap:
    """Convolve with a Gaussian of standard deviation `sigma` pixels; the border is mirrored."""
    reach = np.arange(-6, 7)
    weights = np.exp(-0.5 * (reach / max(sigma, 1e-3)) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    rows, columns = frame.shape
    wide = np.pad(frame, 6, mode="symmetric")
    strip = np.zeros((rows, wide.shape[1]), np.float32)
    smooth = np.zeros((rows, columns), np.float32)
    for step, weight in enumerate(weights):
        if weight > 1e-6:
            strip += weight * wide[step : step + rows]
    for step, weight in enumerate(weights):
        if weight > 1e-6:
            smooth += weight * strip[:, step : step + columns]
    return smooth


def noise(frame: FloatMap, *, sigma: float, rng: np.random.Generator) -> FloatMap:
    """Add white Gaussian noise, half of the time with a column pattern of a third of it.

    NoisySIRST adds 10, 20 or 30 grey levels; small amplitudes are drawn more often here.

    Args:
        frame: (H, W) float32, 0..1.
        sigma: largest standard deviation in grey levels of 0..255.
        rng: source of randomness.
    """
    amplitude = np.float32(sigma * rng.random() ** 2) / FULL_SCALE
    noisy = frame + amplitude * rng.standard_normal(frame.shape, np.float32)
    if rng.random() < 0.5:
        noisy += amplitude / 3 * rng.standard_normal(frame.shape[1], np.float32)
    return np.clip(noisy, 0.0, 1.0, out=noisy)


def defects(frame: FloatMap, *, share: float, rng: np.random.Generator) -> FloatMap:
    """Set single pixels to dead (0) or hot (0.7 to 1).

    Args:
        frame: (H, W) float32, 0..1.
        share: largest part of all pixels that is defective, e.g. 1e-3.
        rng: source of randomness.
    """
    count = int(rng.integers(int(share * frame.size) + 1))
    places = rng.integers(frame.size, size=count)
    marked = frame.copy()
    hot = rng.random(count) < 0.5
    marked.flat[places] = np.where(hot, rng.uniform(0.7, 1.0, count), 0.0).astype(np.float32)
    return marked


def finer_levels(frame: FloatMap, *, rng: np.random.Generator) -> FloatMap:
    """Fill the steps between 8-bit grey levels, as the same scene has them in 14 bits."""
    filled = frame + rng.uniform(-0.5, 0.5, frame.shape).astype(np.float32) / FULL_SCALE
    return np.clip(filled, 0.0, 1.0, out=filled)
