"""What a network of clips learns from and is validated on: generated scenes, recorded sequences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..runtime.evaluation import LabelledFrame
from ..runtime.frame import FloatMap, FrameContract
from .clips import ClipSet, ClipSource, GeneratedClips, scene_frames
from .data import read_empty
from .recipe import Recipe
from .recorded import RecordedClips, as_recordings, read_sequences

SCENES = "scenes"  # what validations on generated scenes are called, before their bit depth
SCENE_DEPTHS = 8, 14  # bits of the generated scenes that are validated on
HELD_OUT = 4  # of so many target-free frames, one is for validation


def read_clips(
    data: Sequence[Path],
    backgrounds: Sequence[Path],
    contract: FrameContract,
    recipe: Recipe,
) -> tuple[ClipSet, tuple[Sequence[LabelledFrame], ...]]:
    """Read what a network of clips learns from, and what it is validated on.

    With backgrounds, scenes are generated over them to learn from; others, of another seed and over
    the backgrounds that are held out, validate. Recorded sequences add their own lists.

    Args:
        data: datasets with sequences and masks.
        backgrounds: folders of target-free frames.
        contract: of the network's input, with its clip.
        recipe: batch, crop size, seed.

    Returns:
        Clips, and labelled frames for each validation.

    Raises:
        FileNotFoundError: a folder, a list or a file is missing.
        ValueError: no clip is long enough, a frame or mask is none, or frames change their size.
    """
    clip = contract.clip
    if clip is None:
        raise ValueError("the contract has no clip; single frames are read by read_split")
    sources: list[ClipSource] = []
    validation: list[Sequence[LabelledFrame]] = []
    if backgrounds:
        training, held_out = part_backgrounds(backgrounds, contract)
        sources.append(GeneratedClips(training, clip, recipe))
        for depth in SCENE_DEPTHS:
            validation.append(list(scene_frames(held_out, contract, clip, bit_depth=depth)))
    for root in data:
        recordings = as_recordings(read_sequences(root, "train", clip), contract, clip)
        sources.append(RecordedClips(recordings, clip, recipe))
        validation.append(read_sequences(root, "val", clip))
    return ClipSet(sources, recipe), tuple(validation)


def part_backgrounds(
    folders: Sequence[Path], contract: FrameContract
) -> tuple[list[FloatMap], list[FloatMap]]:
    """Frames to learn from, and the last quarter of each folder: names go by scene.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no image.
    """
    training: list[FloatMap] = []
    held_out: list[FloatMap] = []
    for folder in folders:
        frames = [one.frame for one in read_empty(folder, contract)]
        kept = len(frames) - len(frames) // HELD_OUT
        training += frames[:kept]
        held_out += frames[kept:]
    return training, held_out
