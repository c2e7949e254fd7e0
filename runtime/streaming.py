"""Frames under way: several at once where that is faster, their results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from .errors import DeviceError, EngineError
from .pipeline import Confidence, Slot
from .sources import BadFrame, SourceFrame
from .targets import Targets, add_note


@dataclass(frozen=True, slots=True)
class Detection:
    """What was found in a frame of a source.

    Attributes:
        source: the frame.
        targets: in its own pixels.
        confidence: the network's answer; None where it was not asked for.
    """

    source: SourceFrame
    targets: Targets
    confidence: Confidence | None


class Places(Protocol):
    """Where frames are detected in: what a stream asks of a detector."""

    @property
    def note(self) -> str:
        """For every result, see `Targets.note`."""
        ...

    def open_slot(self) -> Slot:
        """A slot of what runs now."""
        ...

    def stand_in(self, err: DeviceError, where: str) -> None:
        """Let another engine run after a device failed.

        Raises:
            DeviceError: there is none, or it is not allowed; the text says where.
        """
        ...


class FrameStream:
    """Keeps frames under way; whoever iterates closes it."""

    def __init__(self, places: Places, *, ahead: int, with_confidence: bool) -> None:
        if ahead < 1:
            raise ValueError(f"{ahead} frames under way, expected 1 or more")
        self._places = places
        self._ahead = ahead
        self._with_confidence = with_confidence
        self._idle: list[Slot] = []
        self._waiting: deque[tuple[SourceFrame, Slot] | BadFrame] = deque()

    def run(self, source: Iterable[SourceFrame | BadFrame]) -> Iterator[Detection | BadFrame]:
        """Take frames as places become free, give results in their order."""
        for item in source:
            self._waiting.append(self._take(item))
            while self._waiting and (self._is_full() or isinstance(self._waiting[0], BadFrame)):
                yield self._oldest()
        while self._waiting:
            yield self._oldest()

    def _is_full(self) -> bool:
        return sum(not isinstance(entry, BadFrame) for entry in self._waiting) >= self._ahead

    def _take(self, item: SourceFrame | BadFrame) -> tuple[SourceFrame, Slot] | BadFrame:
        if isinstance(item, BadFrame):
            return item
        slot = self._idle.pop() if self._idle else self._places.open_slot()
        try:
            slot.submit(item.frame)
        except (TypeError, ValueError) as err:
            self._idle.append(slot)
            return BadFrame(item.index, item.name, str(err))
        except DeviceError as err:
            self._idle.append(slot)
            self._recover(err, item)
            return self._take(item)
        except EngineError as err:
            raise type(err)(f"{_where(item)}: {err}") from err
        return item, slot

    def _oldest(self) -> Detection | BadFrame:
        entry = self._waiting.popleft()
        if isinstance(entry, BadFrame):
            return entry
        item, slot = entry
        self._idle.append(slot)
        try:
            targets = slot.targets()
            confidence = slot.confidence() if self._with_confidence else None
        except (TypeError, ValueError) as err:
            return BadFrame(item.index, item.name, str(err))
        except DeviceError as err:
            self._recover(err, item)
            self._waiting.appendleft(self._take(item))
            return self._oldest()
        except EngineError as err:
            raise type(err)(f"{_where(item)}: {err}") from err
        return Detection(item, add_note(targets, self._places.note), confidence)

    def _recover(self, err: DeviceError, item: SourceFrame) -> None:
        """Start the frames that were under way again, in places of what stands in."""
        entries = list(self._waiting)
        self._drop_slots()
        self._places.stand_in(err, _where(item))
        for entry in entries:
            self._waiting.append(entry if isinstance(entry, BadFrame) else self._take(entry[0]))

    def _drop_slots(self) -> None:
        slots = self._idle + [entry[1] for entry in self._waiting if isinstance(entry, tuple)]
        self._idle.clear()
        self._waiting.clear()
        for slot in slots:
            try:
                slot.close()
            except DeviceError:
                continue  # of the device that failed; what it held is lost with it

    def close(self) -> None:
        """Wait for what is under way, and free the places."""
        self._drop_slots()


def _where(item: SourceFrame) -> str:
    return f"frame {item.index} ({item.name})"
