"""Clips: the newest frame and those before it, registered, as networks for sequences take them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from .frame import ClipContract, FloatMap, Frame, FrameContract, Geometry, fit_geometry, prepare
from .interpolation import move
from .registration import Shift, load_registration


@dataclass(frozen=True, slots=True)
class ClipState:
    """What is known of a clip besides its frames; part of every result of a network for sequences.

    Attributes:
        frames_missing: frames that must come before there can be targets; 0 for a whole clip.
        shift: how the scene moved from the frame before, in the network's pixels; None for the
            first frame, and where the contract leaves frames as they are.
    """

    frames_missing: int
    shift: Shift | None


@dataclass(slots=True)
class _Kept:
    """A prepared frame without padding, and how far the scene has moved since."""

    seen: FloatMap
    row: float = 0.0
    column: float = 0.0


class Clip:
    """Keeps the prepared frames that a clip is made of; takes one new frame at a time.

    Shifts from frame to frame add up, and a frame is resampled once, from what was prepared,
    however far it has moved. Where it did not see what the newest frame sees, the newest frame's
    own pixels stand in, so that a border that comes into view is no news. Mean and deviation of
    each frame are brought to the newest frame's, since gain and stretch may change.
    """

    def __init__(self, contract: ClipContract) -> None:
        self._contract = contract
        self._kept: deque[_Kept] = deque(maxlen=contract.span)
        self._registration = load_registration() if contract.registration != "none" else None
        self._texture: FloatMap | None = None
        self._geometry: Geometry | None = None
        self._newest: FloatMap | None = None

    def add(self, prepared: FloatMap, geometry: Geometry) -> ClipState:
        """Take the next frame.

        Args:
            prepared: (1, 1, H', W') float32, from `prepare`; it is kept.
            geometry: how it lies on the sensor's frame.

        Raises:
            ValueError: the frame has another size than those before it.
        """
        if self._geometry not in (None, geometry):
            raise ValueError(_other_size(self._geometry, geometry))
        seen: FloatMap = prepared[0, 0, : geometry.height, : geometry.width]
        shift = self._register(seen)
        if shift is not None:
            for kept in self._kept:
                kept.row += shift.row
                kept.column += shift.column
        self._kept.append(_Kept(seen))
        self._geometry, self._newest = geometry, prepared
        return ClipState(self._contract.span - len(self._kept), shift)

    def _register(self, seen: FloatMap) -> Shift | None:
        if self._registration is None:
            return None
        before, self._texture = self._texture, self._registration.extract_texture(seen)
        if before is None:
            return None
        shift: Shift = self._registration.estimate_shift(before, self._texture)
        return shift

    def stack(self) -> FloatMap:
        """The clip: (1, T, H', W') float32, oldest frame first, all in the newest frame's pixels.

        Raises:
            ValueError: frames are missing.
        """
        if self._newest is None or len(self._kept) < self._contract.span:
            raise ValueError(f"the clip has {len(self._kept)} of {self._contract.span} frames")
        stack = np.repeat(self._newest, self._contract.length, axis=1)
        newest = self._kept[-1].seen
        rows, columns = newest.shape
        for place in range(self._contract.length - 1):
            kept = self._kept[place * self._contract.stride]
            stack[0, place, :rows, :columns] = self._fit(kept, newest)
        return stack

    def _fit(self, kept: _Kept, newest: FloatMap) -> FloatMap:
        if self._registration is None:
            return kept.seen
        return fit_older(kept.seen, newest, (kept.row, kept.column))

    def reset(self) -> None:
        """Forget every frame: the next one begins a new clip."""
        self._kept.clear()
        self._texture = self._geometry = self._newest = None


def prepare_input(frames: Sequence[Frame], contract: FrameContract) -> FloatMap:
    """Prepare what a network takes at once: the last frame, or the clip that it ends.

    Args:
        frames: (H, W) uint8 or uint16 each, one after another; at least as many as the clip spans.
        contract: of the network's input.

    Returns:
        (1, T, H', W') float32, 0..1.

    Raises:
        TypeError: a frame is of another sample type.
        ValueError: there are too few frames, they differ in size, or do not fit the contract.
    """
    if contract.clip is None:
        return prepare(frames[-1], contract)
    clip = Clip(contract.clip)
    for frame in frames[-contract.clip.span :]:
        prepared = prepare(frame, contract)
        clip.add(prepared, fit_geometry((frame.shape[0], frame.shape[1]), contract))
    return clip.stack()


def fit_older(older: FloatMap, newest: FloatMap, shift: tuple[float, float]) -> FloatMap:
    """Bring an older frame to the newest one: level, contrast and place.

    Args:
        older: (H, W) float32, prepared, without padding.
        newest: the same.
        shift: (rows, columns) that the scene has moved from the one to the other.

    Returns:
        (H, W) float32, the newest frame's own pixels where the older one did not see.
    """
    return move(_match_levels(older, newest), shift, outside=newest)


def _match_levels(older: FloatMap, newest: FloatMap) -> FloatMap:
    """Bring mean and deviation of a frame to those of another."""
    deviation = float(older.std())
    gain = float(newest.std()) / deviation if deviation > 0.0 else 1.0
    offset = float(newest.mean()) - gain * float(older.mean())
    return older * np.float32(gain) + np.float32(offset)


def _other_size(before: Geometry | None, now: Geometry) -> str:
    sizes = [
        f"{one.height * one.row_scale:.0f}x{one.width * one.column_scale:.0f}"
        for one in (now, before)
        if one is not None
    ]
    return (
        f"frame is {sizes[0]}, the frames of the clip before it are {sizes[1]}; "
        "call reset() where a new sequence begins"
    )


class Step(Enum):
    """How a numbered frame follows the one before it."""

    NEXT = "next"
    GAP = "gap"
    NEW = "new"


class Numbering:
    """Watches the numbers of frames for gaps and disorder.

    A gap shorter than the clip leaves it be: registration bridges it. A longer one, any step back,
    and another sequence's name mean another sequence.

    Example:
        >>> numbering = Numbering(5)
        >>> [numbering.follow(number).value for number in (1, 2, 4, 5, 50, 3)]
        ['next', 'next', 'gap', 'next', 'new', 'new']
    """

    def __init__(self, span: int) -> None:
        self._span = span
        self._last: int | None = None
        self._step: int | None = None
        self._sequence: str | None = None

    def follow(self, number: int, *, sequence: str | None = None) -> Step:
        """Say how the next frame follows; the first two of a sequence set what a step is.

        Args:
            number: of the frame.
            sequence: that the frame belongs to, where that is known.
        """
        last, self._last = self._last, number
        same, self._sequence = sequence == self._sequence, sequence
        if last is None:
            return Step.NEXT
        step = number - last
        if not same or not 0 < step < self._span:
            self._step = None
            return Step.NEW
        expected, self._step = self._step or step, self._step or step
        return Step.NEXT if step == expected else Step.GAP
