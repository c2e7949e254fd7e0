"""What the runtime asks of a GPU, whichever library drives it: CuPy or PyCUDA.

Errors of the library pass through as they are (`Device.failures`): whoever runs a frame catches
them once for the frame, not once for each call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import EngineError

Number: TypeAlias = np.int32 | np.uint32 | np.float32 | np.uintp
Bytes: TypeAlias = npt.NDArray[np.uint8]
Close: TypeAlias = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory that kernels see, contiguous; close it before its device."""

    address: int
    nbytes: int
    close: Close


@dataclass(frozen=True, slots=True)
class Pinned:
    """Memory of the host that is never paged out, so that the device can copy by itself.

    Attributes:
        array: (n,) uint8, what the host sees.
        address: where kernels see the same bytes, through the bus.
        close: frees it; the array must not be touched afterwards.
    """

    array: Bytes
    address: int
    close: Close


@dataclass(frozen=True, slots=True)
class Stream:
    """Work that the device does in order; streams wait for each other only by events."""

    handle: int
    close: Close


@dataclass(frozen=True, slots=True)
class Event:
    """A place in a stream; recording it again moves it."""

    handle: int
    close: Close


@dataclass(frozen=True, slots=True)
class Graph:
    """Captured work, to be replayed by one call."""

    handle: int
    close: Close


class Kernel(Protocol):
    """Queues a launch: grid (x, y), block (x, y), the kernel's arguments, a stream."""

    def __call__(
        self,
        grid: tuple[int, int],
        block: tuple[int, int],
        arguments: Sequence[Number],
        stream: Stream,
    ) -> None:
        """Launch."""
        ...


class Device(Protocol):
    """A GPU. Enter it (`with device:`) around everything else; a `with` holds for one thread.

    Attributes:
        description: GPU and library, for a person to read.
        architecture: as compilers name it, "sm_87".
        is_integrated: whether host and device share one memory (Jetson), so that copies between
            them are waste.
        failures: what the library raises.
    """

    description: str
    architecture: str
    is_integrated: bool
    failures: tuple[type[Exception], ...]

    def __enter__(self) -> Device:
        """Make the device's primary context current in this thread."""
        ...

    def __exit__(self, *_: object) -> None:
        """Give the thread the context back that it had."""
        ...

    def memory_info(self) -> tuple[int, int]:
        """Bytes free and in all."""
        ...

    def allocate(self, nbytes: int) -> Memory:
        """Memory of the device, by no pool."""
        ...

    def allocate_pinned(self, nbytes: int) -> Pinned:
        """Memory of the host, pinned and mapped."""
        ...

    def create_stream(self) -> Stream:
        """A stream that does not wait for the default stream."""
        ...

    def create_event(self) -> Event:
        """An event that also takes the time."""
        ...

    def load(
        self, code: str, options: tuple[str, ...], kernels: Sequence[str]
    ) -> dict[str, Kernel]:
        """Compile CUDA C++ for this GPU; gives the kernels by name.

        Raises:
            DeviceError: the compiler is missing or refuses.
        """
        ...

    def upload(self, memory: Memory, pinned: Pinned, stream: Stream) -> None:
        """Queue a copy of all of `pinned` to the device."""
        ...

    def download(self, pinned: Pinned, memory: Memory, stream: Stream) -> None:
        """Queue a copy that fills `pinned` from the device."""
        ...

    def clear(self, memory: Memory, stream: Stream) -> None:
        """Queue setting all bytes to zero."""
        ...

    def record(self, event: Event, stream: Stream) -> None:
        """Put the event behind what is in the stream."""
        ...

    def wait(self, event: Event, stream: Stream) -> None:
        """Let what is queued next in the stream wait for the event."""
        ...

    def synchronise(self, event: Event) -> None:
        """Let the host wait for the event."""
        ...

    def milliseconds(self, start: Event, end: Event) -> float:
        """Time between two events that have come."""
        ...

    def capture(self, queue: Callable[[], None], stream: Stream) -> Graph:
        """Call `queue`, which queues work in `stream`, and keep the work instead of doing it.

        Raises:
            DeviceError: the library has no graphs; other failures are the library's own.
        """
        ...

    def replay(self, graph: Graph, stream: Stream) -> None:
        """Queue the work of a graph."""
        ...

    def close(self) -> None:
        """Let the context go; everything made by the device must be closed before."""
        ...


def open_device(number: int = 0) -> Device:
    """Open a GPU with the library that is installed, CuPy before PyCUDA.

    Args:
        number: which GPU, as the driver counts.

    Raises:
        EngineError: no library is installed, there is no such GPU, or its driver is too old.
    """
    if number < 0:
        raise ValueError(f"device is {number}, expected 0 or more")
    missing = []
    try:
        from .device_cupy import CupyDevice
    except ImportError as err:
        missing.append(f"CuPy ({_first_line(err)})")
    else:
        return CupyDevice(number)
    try:
        from .device_pycuda import PycudaDevice
    except ImportError as err:
        missing.append(f"PyCUDA ({_first_line(err)})")
    else:
        return PycudaDevice(number)
    raise EngineError(
        f"neither {' nor '.join(missing)} can be loaded, and one of them must drive the GPU; "
        "pip install 'irstd[cuda12]' for CUDA 12 (JetPack 6), 'irstd[cuda13]' for CUDA 13 "
        "(JetPack 7), or 'irstd[pycuda]', which compiles itself where the CUDA toolkit is"
    )


def check_number(number: int, count: int) -> None:
    """Refuse a GPU that is not there.

    Raises:
        EngineError: it is not.
    """
    if number >= count:
        there = "one, device 0" if count == 1 else f"{count}, devices 0 to {count - 1}"
        raise EngineError(
            f"there is no device {number}: this machine has {there or 'none'}; name another, and "
            "see CUDA_VISIBLE_DEVICES if one is missing"
        )


def _first_line(err: ImportError) -> str:
    lines = str(err).strip().splitlines()
    return lines[0] if lines else type(err).__name__
