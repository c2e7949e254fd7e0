"""Training data: labelled frames, prepared as in flight, held in memory, drawn in balance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..runtime.datasets import Dataset, Sample, check_mask, open_dataset
from ..runtime.frame import FloatMap, FrameContract, prepare
from ..runtime.media_cv2 import read_image
from .augment import dihedral, target_aware_crop


@dataclass(frozen=True, slots=True)
class TrainingFrame:
    """A frame as the network sees it, and its mask fitted alike.

    Attributes:
        frame: (H', W') float32, 0..1.
        mask: (H', W') float32, 0..1, soft at edges that the fit interpolated.
    """

    frame: FloatMap
    mask: FloatMap


def load_frames(dataset: Dataset, contract: FrameContract) -> list[TrainingFrame]:
    """Read and prepare every labelled frame of a dataset.

    Raises:
        ValueError: the dataset has no masks, or a mask has not its frame's size.
    """
    return [_load(sample, contract) for sample in dataset]


def _load(sample: Sample, contract: FrameContract) -> TrainingFrame:
    if sample.mask is None:
        raise ValueError(f"{sample.image} has no mask; training needs a dataset with masks")
    frame = read_image(sample.image)
    mask = check_mask(read_image(sample.mask), (frame.shape[0], frame.shape[1]), name=sample.name)
    return TrainingFrame(prepare(frame, contract)[0, 0], _fit_mask(mask, contract))


def _fit_mask(mask: npt.NDArray[np.bool_], contract: FrameContract) -> FloatMap:
    """Resize or pad a mask as `prepare` does with its frame."""
    as_frame = replace(contract, bit_depth=8, normalisation="full-scale")
    fitted: FloatMap = prepare(mask * np.uint8(255), as_frame)[0, 0]
    return fitted


def open_split(roots: Sequence[Path], split: str) -> list[Dataset]:
    """Open the same split of several datasets, e.g. "train" or "val"."""
    return [open_dataset(root, split=split) for root in roots]


@dataclass(frozen=True, slots=True)
class CropSampler:
    """Draws augmented crops; every dataset gives equally many, however large it is.

    Attributes:
        datasets: labelled frames, one list a dataset.
        side: side of the crops in pixels.
        target_share: probability that a crop must hold a target.
    """

    datasets: Sequence[Sequence[TrainingFrame]]
    side: int
    target_share: float

    def __post_init__(self) -> None:
        sizes = [len(frames) for frames in self.datasets]
        if not sizes or 0 in sizes:
            raise ValueError(
                f"datasets hold {sizes} frames, expected one dataset or more, none empty"
            )

    def batches(
        self, *, size: int, count: int, rng: np.random.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield `count` batches of frames and masks, (size, 1, side, side) float32 each."""
        orders = [_endless_order(len(frames), rng) for frames in self.datasets]
        for step in range(count):
            pairs = []
            for place in range(size):
                source = (step * size + place) % len(self.datasets)
                labelled = self.datasets[source][next(orders[source])]
                pairs.append(self._draw(labelled, rng))
            frames, masks = zip(*pairs, strict=True)
            yield _as_batch(frames), _as_batch(masks)

    def _draw(self, labelled: TrainingFrame, rng: np.random.Generator) -> tuple[FloatMap, FloatMap]:
        frame, mask = target_aware_crop(
            labelled.frame, labelled.mask, side=self.side, target_share=self.target_share, rng=rng
        )
        return dihedral(frame, mask, rng=rng)


def _endless_order(count: int, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(count).tolist()


def _as_batch(maps: Sequence[FloatMap]) -> Tensor:
    return torch.from_numpy(np.stack(maps)[:, None])
