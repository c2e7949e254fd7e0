"""Clips: the newest frame and those before it, registered, as networks for sequences take them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from .defects import repair_lasting
from .frame import ClipContract, FloatMap, Frame, FrameContract, Geometry, fit_geometry, prepare
from .interpolation import move
from .levels import Levels, match_levels, measure_levels
from .registration import Shift, load_registration

# By so much better must a frame correlate with the one before it than with the last one before the
# doubt, to be of another scene; by so much worse than frames did up to now, to be doubtful itself.
# Neighbours of the three real sequences correlate by 0.68 to 0.98,
# 95 of 100 pairs of unlike real frames by less than 0.39.
CUT_MARGIN = 0.25


@dataclass(frozen=True, slots=True)
class ClipState:
    """What is known of a clip besides its frames; part of every result of a network for sequences.

    Attributes:
        frames_missing: frames that must come before there can be targets; 0 for a whole clip.
        shift: how the scene moved from the frame before, in the network's pixels, or from the last
            frame that could be registered where those between could not; so shifts add up. None for
            the first frame, and where the contract leaves frames as they are.
        is_cut: whether this frame showed that the scene is another one since the frame before it;
            what was kept of the old scene is gone.
        is_doubtful: whether this frame looks like another scene, or like none. The next one tells;
            until then the clip's other frames say nothing about it, so it has no targets.
    """

    frames_missing: int
    shift: Shift | None
    is_cut: bool = False
    is_doubtful: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether the network is asked."""
        return not self.frames_missing and not self.is_doubtful


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a frame of the clip is kept, and how far the scene has moved since, in pixels."""

    place: int
    row: float = 0.0
    column: float = 0.0


class Alignment:
    """Keeps account of the frames of a clip: which are there, and how they lie to the newest one.

    Whoever keeps the pixels has `span` places for them, which are taken in turn.

    A frame that cannot be registered counts as not having moved, and is told (`Shift.reason`). The
    frames after it are also compared with the last one before it, as long as the clip holds that:

    - One of them lies well on it: what came between was bad (a flash, a shutter, noise), and the
      motion over it is known. Nothing is dropped.
    - One lies well on the frame just before, and worse by `CUT_MARGIN` on the last good one: the
      scene was cut. Frames before the cut are dropped, and the clip fills again.
    - Neither, as over a clear sky, where nothing can be registered: nothing is dropped.

    So of a new scene's first frame it is not known whose it is. Where frames could be registered
    until then, and better by `CUT_MARGIN`, it is doubtful, and so is a single bad one: targets
    would be what differs between two scenes.

    In doubt a frame is registered twice, which takes twice the time, for a clip's length at most.
    """

    def __init__(self, contract: ClipContract) -> None:
        """Begin a clip.

        Raises:
            EngineError: frames are to be registered, and OpenCV is not installed.
        """
        self._contract = contract
        self._registration = load_registration() if contract.registration != "none" else None
        self.reset()

    @property
    def is_registered(self) -> bool:
        """Whether `add` looks at pixels."""
        return self._registration is not None

    def reset(self) -> None:
        """Forget every frame: the next one begins a new clip."""
        self._moved: deque[list[float]] = deque(maxlen=self._contract.span)
        self._count = 0
        self._geometry: Geometry | None = None
        self._texture: FloatMap | None = None  # of the newest frame
        self._good: FloatMap | None = None  # of the last frame before the doubtful ones
        self._doubtful = 0
        self._usual: float | None = None  # correlation of the last shift that was trusted

    def check(self, geometry: Geometry) -> None:
        """Refuse a frame of another size than those before it.

        Raises:
            ValueError: it is.
        """
        if self._geometry not in (None, geometry):
            raise ValueError(_other_size(self._geometry, geometry))

    def add(self, seen: FloatMap | None, geometry: Geometry) -> ClipState:
        """Take the next frame.

        Args:
            seen: (H, W) float32, as prepared, without padding; None where nothing is registered.
            geometry: how it lies on the sensor's frame.

        Raises:
            ValueError: the frame has another size than those before it.
        """
        self.check(geometry)
        shift, is_cut, is_doubtful, before = None, False, False, self._texture
        if self._registration is not None:
            self._texture = self._registration.extract_texture(seen)
            if before is not None:
                step = self._registration.estimate_shift(before, self._texture)
                bridge = None
                if self._good is not None:
                    bridge = self._registration.estimate_shift(self._good, self._texture)
                is_doubtful = self._is_doubtful(step)
                shift, is_cut = self._follow(before, step, bridge)
        self._moved.append([0.0, 0.0])
        self._count += 1
        self._geometry = geometry
        return ClipState(self._contract.span - len(self._moved), shift, is_cut, is_doubtful)

    def _is_doubtful(self, step: Shift) -> bool:
        """Whether a frame is the first that does not fit those before it."""
        if self._doubtful or step.is_trusted or self._usual is None:
            return False
        return self._usual - step.correlation >= CUT_MARGIN

    def _follow(self, before: FloatMap, step: Shift, bridge: Shift | None) -> tuple[Shift, bool]:
        """How the scene moved, and whether it is another one.

        Args:
            before: texture of the frame before.
            step: from that frame to the newest.
            bridge: from the last good frame, where those after it are doubtful.
        """
        if bridge is not None and bridge.is_trusted:
            self._move(bridge, until=len(self._moved) - self._doubtful)
            self._move(step, since=len(self._moved) - self._doubtful)
            self._trust(bridge)
            return bridge, False
        self._move(step)
        if not step.is_trusted:
            self._doubt(before)
            return step, False
        is_cut = bridge is not None and step.correlation - bridge.correlation >= CUT_MARGIN
        while is_cut and len(self._moved) > 1:
            self._moved.popleft()
        self._trust(step)
        return step, is_cut

    def _move(self, shift: Shift, *, since: int = 0, until: int | None = None) -> None:
        for moved in list(self._moved)[since:until]:
            moved[0] += shift.row
            moved[1] += shift.column

    def _trust(self, shift: Shift) -> None:
        self._good, self._doubtful, self._usual = None, 0, shift.correlation

    def _doubt(self, before: FloatMap) -> None:
        if self._doubtful == 0:
            self._good = before
        self._doubtful += 1
        if self._doubtful >= self._contract.span:
            self._good = None  # and it stays so until something can be registered

    @property
    def newest(self) -> int:
        """The place of the newest frame."""
        return (self._count - 1) % self._contract.span

    def frames(self) -> list[Placed]:
        """The frames of the clip, the newest last; it stands for those that are missing."""
        newest = Placed(self.newest)
        missing = self._contract.span - len(self._moved)
        placed = []
        for number in range(self._contract.length - 1):
            kept = number * self._contract.stride - missing
            place = (self._count - len(self._moved) + kept) % self._contract.span
            placed.append(Placed(place, *self._moved[kept]) if kept >= 0 else newest)
        return [*placed, newest]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A prepared frame without padding, and its levels where they are to be matched."""

    seen: FloatMap
    levels: Levels | None


class Clip:
    """Keeps the prepared frames that a clip is made of; takes one new frame at a time.

    Shifts from frame to frame add up, and a frame is resampled once, from what was prepared,
    however far it has moved. Where it did not see what the newest frame sees, the newest frame's
    own pixels stand in, so that a border that comes into view is no news. Mean and deviation of
    each frame are brought to the newest frame's, since gain and stretch may change.

    A GPU does the same (kernels/stack.cu), to the last bit.
    """

    def __init__(self, contract: ClipContract) -> None:
        self._contract = contract
        self._alignment = Alignment(contract)
        self._kept: dict[int, _Kept] = {}
        self._newest: FloatMap | None = None
        self._missing = contract.span

    def add(self, prepared: FloatMap, geometry: Geometry) -> ClipState:
        """Take the next frame.

        Args:
            prepared: (1, 1, H', W') float32, from `prepare`; it is kept.
            geometry: how it lies on the sensor's frame.

        Raises:
            ValueError: the frame has another size than those before it.
        """
        seen: FloatMap = prepared[0, 0, : geometry.height, : geometry.width]
        state = self._alignment.add(seen, geometry)
        levels = measure_levels(seen) if self._alignment.is_registered else None
        self._kept[self._alignment.newest] = _Kept(seen, levels)
        self._newest, self._missing = prepared, state.frames_missing
        return state

    def stack(self) -> FloatMap:
        """The clip: (1, T, H', W') float32, oldest frame first, all in the newest frame's pixels.

        Raises:
            ValueError: frames are missing.
        """
        if self._newest is None or self._missing:
            there = self._contract.span - self._missing
            raise ValueError(f"the clip has {there} of {self._contract.span} frames")
        stack = np.repeat(self._newest, self._contract.length, axis=1)
        *older, last = self._alignment.frames()
        newest = self._repaired(self._kept[last.place])
        rows, columns = newest.seen.shape
        stack[0, -1, :rows, :columns] = newest.seen
        for place, frame in enumerate(older):
            stack[0, place, :rows, :columns] = _fit(self._kept[frame.place], frame, newest)
        return stack

    def _repaired(self, newest: _Kept) -> _Kept:
        if self._contract.defects == "each frame":
            return newest
        frames = [kept.seen for kept in self._kept.values()]
        return replace(newest, seen=repair_lasting(newest.seen, frames))

    def reset(self) -> None:
        """Forget every frame: the next one begins a new clip."""
        self._alignment.reset()
        self._kept.clear()
        self._newest, self._missing = None, self._contract.span


def prepare_input(frames: Sequence[Frame], contract: FrameContract) -> FloatMap | None:
    """Prepare what a network takes at once: the last frame, or the clip that it ends.

    Args:
        frames: (H, W) uint8 or uint16 each, one after another; at least as many as the clip spans.
        contract: of the network's input.

    Returns:
        (1, T, H', W') float32, 0..1; None where a cut of the scene left the clip short, or where
        the last frame looks like one.

    Raises:
        TypeError: a frame is of another sample type.
        ValueError: there are too few frames, they differ in size, or do not fit the contract.
    """
    if contract.clip is None:
        return prepare(frames[-1], contract)
    clip, was_cut, state = Clip(contract.clip), False, ClipState(0, None)
    for frame in frames[-contract.clip.span :]:
        prepared = prepare(frame, contract)
        state = clip.add(prepared, fit_geometry((frame.shape[0], frame.shape[1]), contract))
        was_cut = was_cut or state.is_cut
    return None if was_cut or state.is_doubtful else clip.stack()


def fit_older(older: FloatMap, newest: FloatMap, shift: tuple[float, float]) -> FloatMap:
    """Bring an older frame to the newest one: level, contrast and place.

    Args:
        older: (H, W) float32, prepared, without padding.
        newest: the same.
        shift: (rows, columns) that the scene has moved from the one to the other.

    Returns:
        (H, W) float32, the newest frame's own pixels where the older one did not see.
    """
    kept = [_Kept(frame, measure_levels(frame)) for frame in (older, newest)]
    return _fit(kept[0], Placed(0, *shift), kept[1])


def _fit(kept: _Kept, frame: Placed, newest: _Kept) -> FloatMap:
    if kept.levels is None or newest.levels is None:
        return kept.seen
    gain, offset = match_levels(kept.levels, newest.levels)
    return move(kept.seen * gain + offset, (frame.row, frame.column), outside=newest.seen)


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

    The first two frames of a sequence set what a step is. Where frames are missing between just
    these, nothing tells so; the step is mended once a smaller one comes twice running. Steps as
    long as a clip are known from the second one on.

    Example:
        >>> numbering = Numbering(5)
        >>> [numbering.follow(number).value for number in (1, 2, 4, 5, 50, 3)]
        ['next', 'next', 'gap', 'next', 'new', 'new']
        >>> numbering = Numbering(5)
        >>> [numbering.follow(number).value for number in (1, 3, 4, 5, 7)]
        ['next', 'next', 'next', 'next', 'gap']
    """

    def __init__(self, span: int) -> None:
        self._span = span
        self._last: int | None = None
        self._step: int | None = None  # of the sequence
        self._newest: int | None = None  # the last one seen
        self._sequence: str | None = None

    def follow(self, number: int, *, sequence: str | None = None) -> Step:
        """Say how the next frame follows.

        Args:
            number: of the frame.
            sequence: that the frame belongs to, where that is known.
        """
        last, self._last = self._last, number
        same, self._sequence = sequence == self._sequence, sequence
        if last is None:
            return Step.NEXT
        step = number - last
        newest, self._newest = self._newest, step if same else None
        if not same or not 0 < step < self._span * (self._step or 1):
            # Twice the same is no accident: so the sequence is numbered.
            is_regular = same and 0 < step == newest
            self._step = step if is_regular else None
            return Step.NEXT if is_regular else Step.NEW
        if self._step is None or (step == newest and step < self._step):
            self._step = step
        return Step.GAP if step > self._step else Step.NEXT
