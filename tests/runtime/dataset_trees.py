"""Small made-up datasets in the layouts of public ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from irstd.runtime.datasets import Dataset


def touch(root: Path, *names: str) -> None:
    """Make empty files, and the folders above them."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path: Path, text: str) -> None:
    """Make a file of text, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def draw(path: Path, *, target: tuple[int, int] | None = None, side: int = 64) -> None:
    """Make a frame of ramp and noise, (side, side) uint8, with a bright 3x3 target."""
    rng = np.random.default_rng(side)
    frame = np.linspace(60, 90, side)[:, None] + rng.normal(0, 1, (side, side))
    if target is not None:
        frame[target[0] - 1 : target[0] + 2, target[1] - 1 : target[1] + 2] += 120
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), frame.clip(0, 255).astype(np.uint8))


def draw_mask(path: Path, target: tuple[int, int], *, side: int = 64) -> None:
    """Make the mask of what `draw` draws."""
    mask = np.zeros((side, side), np.uint8)
    mask[target[0] - 1 : target[0] + 2, target[1] - 1 : target[1] + 2] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), mask)


def make_sirst(root: Path) -> Path:
    """SIRST v1 with three frames and three lists."""
    for number in (1, 2, 10):
        touch(root, f"images/Misc_{number}.png", f"masks/Misc_{number}_pixels0.png")
        touch(root, f"masks/Misc_{number}.xml")
    write(root / "idx_427/trainval.txt", "Misc_10\nMisc_1\n")
    write(root / "idx_427/test.txt", "Misc_2\n")
    write(root / "idx_320/test.txt", "Misc_1\n")
    return root


def names(dataset: Dataset) -> list[str]:
    """Of the samples, in their order."""
    return [sample.name for sample in dataset]


def pairs(dataset: Dataset) -> list[tuple[str, str]]:
    """Frame and mask of each sample, from the dataset's folder."""
    found = []
    for sample in dataset:
        assert sample.mask is not None and sample.points is None
        found.append(
            (
                sample.image.relative_to(dataset.root).as_posix(),
                sample.mask.relative_to(dataset.root).as_posix(),
            )
        )
    return found
