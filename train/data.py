"""Training data: labelled frames in memory, and crops that follow from (seed, index) alone."""

from __future__ import annotations

import signal
from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..runtime.datasets import find_images, open_dataset
from ..runtime.evaluation import LabelledFrame, read_labelled
from ..runtime.frame import (
    FloatMap,
    Frame,
    FrameContract,
    check_frame,
    fit_geometry,
    normalise,
    resize_bilinear,
)
from ..runtime.media_cv2 import read_image
from .augment import Pair, cut_window, dihedral, draw_fit, draw_zoom, fit_mask, fit_square
from .degrade import blur, defects, finer_levels, gain_offset, noise
from .inject import Transplant, collect_transplants, inject_target, transplant_target
from .recipe import Recipe
from .symbols import burn_in

Batch = tuple[Tensor, Tensor]  # frames and masks
Zoom = tuple[float, float]  # of rows and columns

HIGHEST_SCR = 12.0  # of injected targets; above that nothing is to be learned
# How often a crop meets a part of the augmentation whose amplitude the recipe gives.
GAIN_CHANCE, BLUR_CHANCE, NOISE_CHANCE, DEFECTS_CHANCE = 0.5, 0.15, 0.3, 0.1
SHUFFLE, CROP, MOSAIC = 0, 1, 2  # streams of randomness


@dataclass(frozen=True, slots=True)
class TrainingFrame:
    """A frame as the network sees it, at the sensor's resolution, and its mask.

    Attributes:
        frame: (H, W) float32, 0..1.
        mask: (H, W) float32, 0 or 1.
        fit: what brings (rows, columns) to the network's input in flight; 1 where frames are
            padded.
    """

    frame: FloatMap
    mask: FloatMap
    fit: tuple[float, float] = (1.0, 1.0)


def read_split(root: Path, split: str) -> list[LabelledFrame]:
    """Read the labelled frames of a dataset's list, e.g. "train" or "val".

    Raises:
        FileNotFoundError: the folder, a frame or a mask is missing, or the layout is unknown.
        ValueError: no such list, an empty one, or a mask that is none.
    """
    return list(read_labelled(open_dataset(root, split=split)))


def as_training_frames(
    labelled: Sequence[LabelledFrame], contract: FrameContract
) -> list[TrainingFrame]:
    """Normalise frames as in flight; crops are cut from the sensor's own pixels, then fitted."""
    return [_as_training_frame(one, contract) for one in labelled]


def _as_training_frame(labelled: LabelledFrame, contract: FrameContract) -> TrainingFrame:
    try:
        frame = _normalise(labelled.frame, contract)
    except (TypeError, ValueError) as err:
        raise ValueError(f"{labelled.name}: {err}") from err
    geometry = fit_geometry((frame.shape[0], frame.shape[1]), contract)
    fit = 1.0 / geometry.row_scale, 1.0 / geometry.column_scale
    return TrainingFrame(frame, labelled.mask.astype(np.float32), fit)


def as_recorded(contract: FrameContract, frame: Frame) -> FrameContract:
    """The contract at the bit depth that a frame's sample type declares.

    A stretch needs no more than that, so sets of 8, 14 and 16 bits train together; a division by
    the full scale keeps the contract's own depth.
    """
    if contract.normalisation == "full-scale":
        return contract
    return replace(contract, bit_depth=8 if frame.dtype == np.uint8 else 16)


def _normalise(frame: Frame, contract: FrameContract) -> FloatMap:
    recorded = as_recorded(contract, frame)
    check_frame(frame, recorded.bit_depth)
    return normalise(frame, recorded)


def fit_spread(
    frames: Sequence[TrainingFrame], contract: FrameContract, *, most: int
) -> list[Tensor]:
    """Evenly spaced ones of some frames, whole, as the network gets them in flight.

    Args:
        frames: of one dataset.
        contract: of the network's input, which frames are resized to.
        most: how many, at most.

    Returns:
        (1, 1, height, width) float32 each.
    """
    places = np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int)
    side = contract.height, contract.width
    fitted = (resize_bilinear(frames[place].frame, side) for place in places)
    return [torch.from_numpy(frame)[None, None] for frame in fitted]


def read_empty(folder: Path, contract: FrameContract) -> list[TrainingFrame]:
    """Read the images of a folder as frames without target: hard negatives.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no image.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; pass a folder of target-free frames")
    images = find_images(folder, required=True).values()
    return [_as_empty(path, contract) for path in images]


def _as_empty(path: Path, contract: FrameContract) -> TrainingFrame:
    try:
        frame = _normalise(read_image(path), contract)
    except (TypeError, ValueError) as err:
        raise ValueError(f"{path}: {err}") from err
    return TrainingFrame(frame, np.zeros_like(frame))


class Examples(Dataset[Pair]):
    """What batches are drawn from: example number `index` is the same whoever draws it, and when.

    Attributes:
        recipe: batch, crop size, seed.
    """

    recipe: Recipe

    @abstractmethod
    def __len__(self) -> int:
        """Examples of an epoch."""

    @abstractmethod
    def __getitem__(self, index: int) -> Pair:
        """Frames and mask, (T, side, side) and (1, side, side) float32."""

    @abstractmethod
    def spread(self, contract: FrameContract, *, most: int) -> Iterator[Tensor]:
        """Some that stand for all, (1, T, height, width) float32, for the ranges of INT8.

        Args:
            contract: of the network's input.
            most: how many of each dataset, at most.
        """


class CropSet(Examples):
    """Augmented crops; number `index` is the same whoever draws it, and when.

    Every dataset gives equally many crops, however large it is. Its frames come in turn; where an
    empty frame is drawn, it takes the place of one of them.

    Attributes:
        datasets: labelled frames, one list a dataset.
        empty: target-free frames.
        recipe: crop size, augmentation, seed.
    """

    def __init__(
        self,
        datasets: Sequence[Sequence[TrainingFrame]],
        empty: Sequence[TrainingFrame],
        recipe: Recipe,
    ) -> None:
        sizes = [len(frames) for frames in datasets]
        if not sizes or 0 in sizes:
            raise ValueError(
                f"datasets hold {sizes} frames, expected one dataset or more, none empty"
            )
        self.datasets = datasets
        self.empty = empty
        self.recipe = recipe
        self._transplants = [
            [taken for one in frames for taken in collect_transplants(one.frame, one.mask)]
            for frames in datasets
        ]

    def __len__(self) -> int:
        """As many as there are frames in all datasets together."""
        return sum(map(len, self.datasets))

    def spread(self, contract: FrameContract, *, most: int) -> Iterator[Tensor]:
        """Whole frames, fitted as in flight."""
        for dataset in self.datasets:
            yield from fit_spread(dataset, contract, most=most)

    def __getitem__(self, index: int) -> Pair:
        """Crop number `index`: frame and mask, (1, side, side) float32 each."""
        rng = _random(self.recipe.seed, CROP, index)
        chance = _random(self.recipe.seed, MOSAIC, index).random()
        if chance < self.recipe.augmentation.mosaic:
            frame, mask = self._mosaic(index, rng)
        else:
            frame, mask = self._draw(index, self.recipe.crop, rng)
        return frame[None], mask[None]

    def _mosaic(self, index: int, rng: np.random.Generator) -> Pair:
        """Four crops at half their size: of this frame, and of the next three of its dataset."""
        indices = index + len(self.datasets) * rng.permutation(4)
        parts = [self._draw(int(one), self.recipe.crop // 2, rng) for one in indices]
        frames, masks = [part[0] for part in parts], [part[1] for part in parts]
        return np.block([frames[:2], frames[2:]]), np.block([masks[:2], masks[2:]])

    def _draw(self, index: int, side: int, rng: np.random.Generator) -> Pair:
        """A crop of a frame, (side, side); what is cut is that of the recipe's side."""
        wanted = self.recipe.augmentation
        source = index % len(self.datasets)
        labelled = self._choose(index, rng)
        if rng.random() < wanted.share:
            # Before the fit, because optics and sensor come before it in flight too.
            frame, mask = self._cut(labelled, self._draw_scale(labelled.fit, rng), rng)
            frame, mask = self._add_targets(frame, mask, self._transplants[source], rng)
            frame = self._degrade(frame, mask, rng)
        else:
            frame, mask = self._cut(labelled, labelled.fit, rng)
        return fit_square(frame, side), fit_mask(mask, side)

    def _choose(self, index: int, rng: np.random.Generator) -> TrainingFrame:
        source, turn = index % len(self.datasets), index // len(self.datasets)
        if self.empty and rng.random() < self.recipe.augmentation.empty_share:
            return self.empty[int(rng.integers(len(self.empty)))]
        frames = self.datasets[source]
        order = _order(self.recipe.seed, source, turn // len(frames), len(frames))
        return frames[int(order[turn % len(frames)])]

    def _draw_scale(self, fit: Zoom, rng: np.random.Generator) -> Zoom:
        wanted = self.recipe.augmentation
        zoom = draw_zoom(wanted.zoom, rng)
        if rng.random() < wanted.sharper_sensors:
            fit = draw_fit(fit, rng)
        return zoom[0] * fit[0], zoom[1] * fit[1]

    def _cut(self, labelled: TrainingFrame, zoom: Zoom, rng: np.random.Generator) -> Pair:
        frame, mask = cut_window(
            labelled.frame,
            labelled.mask,
            side=self.recipe.crop,
            zoom=zoom,
            target_share=self.recipe.target_share,
            rng=rng,
        )
        return dihedral(frame, mask, rng=rng)

    def _add_targets(
        self, frame: FloatMap, mask: FloatMap, bank: Sequence[Transplant], rng: np.random.Generator
    ) -> Pair:
        wanted = self.recipe.augmentation
        for _ in range(rng.poisson(wanted.transplants) if bank else 0):
            frame, mask = transplant_target(
                frame, mask, bank, lowest_scr=wanted.lowest_scr, rng=rng
            )
        for _ in range(rng.poisson(wanted.injected)):
            frame, mask = inject_target(frame, mask, scr=(wanted.lowest_scr, HIGHEST_SCR), rng=rng)
        return frame, mask

    def _degrade(self, frame: FloatMap, mask: FloatMap, rng: np.random.Generator) -> FloatMap:
        """Optics, then sensor, then gain control, then the camera's character generator."""
        wanted = self.recipe.augmentation
        if rng.random() < BLUR_CHANCE:
            frame = blur(frame, sigma=wanted.blur, rng=rng)
        if rng.random() < NOISE_CHANCE:
            frame = noise(frame, sigma=wanted.noise, rng=rng)
        if rng.random() < DEFECTS_CHANCE:
            frame = defects(frame, share=wanted.defects, rng=rng)
        if rng.random() < wanted.finer_levels:
            frame = finer_levels(frame, rng=rng)
        if rng.random() < GAIN_CHANCE:
            frame = gain_offset(frame, strength=wanted.gain, rng=rng)
        if rng.random() < wanted.symbols:
            frame = burn_in(frame, mask, rng=rng)
        return frame


def _ignore_signals(_: int) -> None:
    """Ctrl-C and a polite kill are for the training to hear; it ends its workers itself."""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)


def _random(seed: int, *stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=stream))


@lru_cache(maxsize=64)
def _order(seed: int, source: int, turn: int, count: int) -> npt.NDArray[np.intp]:
    """The order in which a dataset's frames come in one turn through it."""
    return _random(seed, SHUFFLE, source, turn).permutation(count)


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of every batch this process takes; the parts together are the batch.

    Attributes:
        rank: number of this process, from 0.
        processes: how many share the work.
    """

    rank: int = 0
    processes: int = 1

    def indices(self, step: int, batch: int) -> range:
        """Crop numbers of this process in step `step`, counted from 0."""
        size = batch // self.processes
        first = step * batch + self.rank * size
        return range(first, first + size)


def batches(
    crops: Examples, steps: range, share: Share, *, workers: int
) -> Generator[Batch, None, None]:
    """Draw the batches of some steps.

    Args:
        crops: where they come from.
        steps: numbers of the steps, from 0.
        share: the part of this process.
        workers: processes that draw ahead; 0 draws in this one.

    Yields:
        Frames and masks, (batch / processes, T, side, side) and (..., 1, side, side) float32.
    """
    numbers = [list(share.indices(step, crops.recipe.batch)) for step in steps]
    loader: DataLoader[Pair] = DataLoader(
        crops, batch_sampler=numbers, num_workers=workers, worker_init_fn=_ignore_signals
    )
    for frames, masks in loader:
        yield torch.as_tensor(frames), torch.as_tensor(masks)
