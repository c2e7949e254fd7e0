"""Recorded sequences to train on: labelled frames in their order, registered as in flight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..runtime.clip import fit_older
from ..runtime.components import connect
from ..runtime.datasets import open_dataset
from ..runtime.evaluation import LabelledFrame, read_labelled
from ..runtime.frame import ClipContract, FloatMap, FrameContract, prepare, resize_nearest
from ..runtime.registration import load_registration
from .augment import choose_corner
from .clips import DrawnClip
from .data import as_recorded
from .moving import Box
from .recipe import Recipe


@dataclass(frozen=True, slots=True)
class Recording:
    """Frames of one sequence as the network sees them, in their order and without a long gap.

    Attributes:
        frames: (H', W') float32 in 0..1 each.
        masks: (H', W') bool each.
        offsets: (frames, 2) pixels that the scene has moved since the first, as measured.
    """

    frames: tuple[FloatMap, ...]
    masks: tuple[npt.NDArray[np.bool_], ...]
    offsets: npt.NDArray[np.float64]


def read_sequences(root: Path, split: str, clip: ClipContract) -> list[LabelledFrame]:
    """Read the labelled frames of sequences, each sequence's first one marked.

    What a sequence is, where it ends and which gaps are bridged is as in flight
    (`runtime.sequences.follow`).

    Raises:
        FileNotFoundError: the folder, a frame or a mask is missing, or the layout is unknown.
        ValueError: no such list, frames without masks or sequences, frames of a sequence that
            differ in size, or no sequence that is long enough for a clip.
    """
    frames, lengths = [], [0]
    for labelled in read_labelled(open_dataset(root, split=split), clip=clip):
        frames.append(labelled)
        begins = labelled.begins
        lengths = [*lengths, 1] if begins else [*lengths[:-1], lengths[-1] + 1]
        if not begins and labelled.frame.shape != frames[-2].frame.shape:
            raise ValueError(
                f"{root}: {labelled.name} is {_size(labelled)}, the frame before it "
                f"{_size(frames[-2])}; frames of a sequence have one size: put the others into a "
                "folder of their own"
            )
    if max(lengths) < clip.span:
        raise ValueError(
            f"the longest sequence of {root}, {split}, has {max(lengths)} frames in a row, the "
            f"clip needs {clip.span}; a list must name all frames of a sequence, not some of them"
        )
    return frames


def _size(labelled: LabelledFrame) -> str:
    return "x".join(map(str, labelled.frame.shape))


def as_recordings(
    labelled: Sequence[LabelledFrame], contract: FrameContract, clip: ClipContract
) -> list[Recording]:
    """Prepare frames as in flight, measure how the scene moved, and part them into sequences."""
    firsts = [place for place, one in enumerate(labelled) if one.begins]
    ends = [*firsts[1:], len(labelled)]
    return [
        _as_recording(labelled[first:end], contract, clip)
        for first, end in zip(firsts, ends, strict=True)
        if end - first >= clip.span
    ]


def _as_recording(
    labelled: Sequence[LabelledFrame], contract: FrameContract, clip: ClipContract
) -> Recording:
    size = contract.height, contract.width
    frames = [prepare(one.frame, as_recorded(contract, one.frame))[0, 0] for one in labelled]
    masks = tuple(resize_nearest(one.mask, size) for one in labelled)
    steps = np.zeros((len(frames), 2))
    if clip.registration != "none":
        registration = load_registration()
        textures = [registration.extract_texture(frame) for frame in frames]
        for place in range(1, len(frames)):
            shift = registration.estimate_shift(textures[place - 1], textures[place])
            steps[place] = shift.row, shift.column
    return Recording(tuple(frames), masks, np.cumsum(steps, axis=0))


class RecordedClips:
    """Crops of clips of recorded sequences, often around a target."""

    def __init__(self, recordings: Sequence[Recording], clip: ClipContract, recipe: Recipe) -> None:
        """Take the sequences.

        Raises:
            ValueError: they are smaller than the crop.
        """
        self._recordings, self._clip, self._recipe = recordings, clip, recipe
        self._ends = [
            (number, end)
            for number, one in enumerate(recordings)
            for end in range(clip.span - 1, len(one.frames))
        ]
        smallest = min(min(one.frames[0].shape) for one in recordings)
        if smallest < recipe.crop:
            raise ValueError(
                f"frames of {smallest} pixels' side come to the network, smaller than the crop of "
                f"{recipe.crop}; lower --crop"
            )

    def __len__(self) -> int:
        """Clips that there are."""
        return len(self._ends)

    def draw(self, number: int) -> DrawnClip:
        """Crop number `number`; it follows from the seed and the number alone."""
        key = np.random.SeedSequence(self._recipe.seed, spawn_key=(2, number))
        random = np.random.default_rng(key)
        recording, end = self._ends[int(random.integers(len(self._ends)))]
        stack, mask = self._stack(self._recordings[recording], end)
        side = self._recipe.crop
        corner = choose_corner(
            mask.astype(np.float32), (side, side), self._recipe.target_share, random
        )
        window = slice(corner[0], corner[0] + side), slice(corner[1], corner[1] + side)
        turns, mirrored = int(random.integers(4)), bool(random.integers(2))
        seen = np.rot90(stack[(slice(None), *window)], turns, axes=(1, 2))
        labelled = np.rot90(mask[window], turns)
        if mirrored:
            seen, labelled = seen[..., ::-1], labelled[..., ::-1]
        boxes = find_boxes(np.ascontiguousarray(labelled))
        return DrawnClip(np.ascontiguousarray(seen), labelled.astype(np.float32), boxes)

    def _stack(self, recording: Recording, end: int) -> tuple[FloatMap, npt.NDArray[np.bool_]]:
        """The whole clip that ends with a frame, and that frame's mask."""
        newest = recording.frames[end]
        places = range(end - self._clip.span + 1, end, self._clip.stride)
        frames = [recording.frames[place] for place in places]
        if self._clip.registration != "none":
            shifts = [recording.offsets[end] - recording.offsets[place] for place in places]
            frames = [
                fit_older(frame, newest, (float(shift[0]), float(shift[1])))
                for frame, shift in zip(frames, shifts, strict=True)
            ]
        return np.stack([*frames, newest]), recording.masks[end]


def find_boxes(mask: npt.NDArray[np.bool_]) -> tuple[Box, ...]:
    """(first row, first column, last row, last column) of each 8-connected target.

    Example:
        >>> find_boxes(np.eye(4, dtype=bool)[:, 1:])
        ((1, 0, 3, 2),)
    """
    found = connect(mask)
    boxes = []
    for label in range(found.count):
        rows, columns = found.rows[found.labels == label], found.columns[found.labels == label]
        ends = rows.min(), columns.min(), rows.max(), columns.max()
        boxes.append((int(ends[0]), int(ends[1]), int(ends[2]), int(ends[3])))
    return tuple(boxes)
