"""What a network is measured on: prepared frames, or prepared and registered clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from ..runtime.clip import prepare_input
from ..runtime.evaluation import LabelledFrame
from ..runtime.frame import ClipContract, FloatMap, FrameContract, prepare

Item = TypeVar("Item")


def prepare_inputs(
    frames: Sequence[LabelledFrame], contract: FrameContract, *, most: int
) -> list[FloatMap]:
    """Prepare some of the frames, or make clips of all and keep some of those.

    Args:
        frames: in their order; a clip takes those behind one another.
        contract: how.
        most: how many to give, spread evenly.

    Returns:
        (1, T, H, W) float32 each.
    """
    if contract.clip is None:
        return [prepare(labelled.frame, contract) for labelled in _spread(frames, most)]
    ends = _spread(_whole(frames, contract.clip), most)
    clips = (_make_clip(frames, end, contract, contract.clip) for end in ends)
    return [clip for clip in clips if clip is not None]


def _whole(frames: Sequence[LabelledFrame], clip: ClipContract) -> list[int]:
    """Places of the frames that end a whole clip."""
    ends, first = [], 0
    for place, labelled in enumerate(frames):
        first = place if labelled.begins else first
        if place - first + 1 >= clip.span:
            ends.append(place)
    return ends


def _make_clip(
    frames: Sequence[LabelledFrame], end: int, contract: FrameContract, clip: ClipContract
) -> FloatMap | None:
    seen = frames[end + 1 - clip.span : end + 1]
    return prepare_input([labelled.frame for labelled in seen], contract)


def _spread(items: Sequence[Item], most: int) -> list[Item]:
    return list(items)[:: max(1, len(items) // most)][:most]
