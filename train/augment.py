"""Augmentation of prepared frames: target-aware crops and the eight dihedral variants."""

from __future__ import annotations

import numpy as np

from ..runtime.frame import FloatMap


def target_aware_crop(
    frame: FloatMap,
    mask: FloatMap,
    *,
    side: int,
    target_share: float,
    rng: np.random.Generator,
) -> tuple[FloatMap, FloatMap]:
    """Cut the same square from frame and mask, often around a target.

    Args:
        frame: (H, W) float32.
        mask: (H, W) float32, 0..1.
        side: side of the square in pixels, at most H and W.
        target_share: probability, 0..1, that the square must hold a random target pixel; without
            a target, and otherwise, it lies anywhere.
        rng: source of randomness.

    Returns:
        Views of frame and mask, (side, side) each.

    Raises:
        ValueError: the square is larger than the frame.
    """
    height, width = frame.shape
    if side > height or side > width:
        raise ValueError(f"crop is {side}x{side}, larger than the frame of {height}x{width}")
    tops, lefts = (0, height - side), (0, width - side)
    pixels = np.flatnonzero(mask > 0.5) if rng.random() < target_share else np.zeros(0, int)
    if pixels.size:
        row, column = divmod(int(rng.choice(pixels)), width)
        tops = (max(0, row - side + 1), min(row, height - side))
        lefts = (max(0, column - side + 1), min(column, width - side))
    top = int(rng.integers(tops[0], tops[1] + 1))
    left = int(rng.integers(lefts[0], lefts[1] + 1))
    window = np.s_[top : top + side, left : left + side]
    return frame[window], mask[window]


def dihedral(
    frame: FloatMap, mask: FloatMap, *, rng: np.random.Generator
) -> tuple[FloatMap, FloatMap]:
    """Turn and mirror frame and mask alike, each of the eight variants equally often."""
    quarter_turns = int(rng.integers(4))
    mirrored = bool(rng.integers(2))
    variants = []
    for image in (frame, mask):
        turned = np.rot90(image, quarter_turns)
        variants.append(np.ascontiguousarray(turned[:, ::-1] if mirrored else turned))
    return variants[0], variants[1]
