"""A GPU driven by CuPy, without its memory pools: what is allocated here is allocated once."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import cupy
import numpy as np
from cupy.cuda import runtime

from .device import Event, Graph, Kernel, Memory, Number, Pinned, Stream, check_number
from .errors import DeviceError, EngineError

FAILURES = (runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError)
COMPILER_FAILURES = (*FAILURES, cupy.cuda.compiler.CompileException)


class CupyDevice:
    """A `Device`."""

    failures: tuple[type[Exception], ...] = FAILURES

    def __init__(self, number: int) -> None:
        """Open a GPU.

        Raises:
            EngineError: there is no driver, it is too old, or there is no such GPU.
        """
        check_number(number, _count())
        self._number = number
        # CuPy's streams, events and graphs end when nobody holds them any more.
        self._streams: dict[int, cupy.cuda.Stream] = {}
        self._events: dict[int, cupy.cuda.Event] = {}
        self._graphs: dict[int, cupy.cuda.Graph] = {}
        self._entered: list[cupy.cuda.Device] = []
        try:
            properties = runtime.getDeviceProperties(number)
        except FAILURES as err:
            raise DeviceError(f"device {number} cannot be opened: {err}") from err
        self.architecture = f"sm_{properties['major']}{properties['minor']}"
        self.is_integrated = bool(properties["integrated"])
        self.description = (
            f"{properties['name'].decode()} ({self.architecture}), CuPy {cupy.__version__}"
        )

    def __enter__(self) -> CupyDevice:
        device = cupy.cuda.Device(self._number)
        device.__enter__()
        self._entered.append(device)
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.pop().__exit__(None, None, None)

    def memory_info(self) -> tuple[int, int]:
        """Bytes free and in all."""
        free, total = runtime.memGetInfo()
        return free, total

    def allocate(self, nbytes: int) -> Memory:
        """Memory of the device, by no pool."""
        address = runtime.malloc(nbytes)
        return Memory(address, nbytes, partial(runtime.free, address))

    def allocate_pinned(self, nbytes: int) -> Pinned:
        """Memory of the host, pinned and mapped."""
        place = runtime.hostAlloc(nbytes, runtime.hostAllocMapped)
        array = np.frombuffer(memoryview((ctypes.c_uint8 * nbytes).from_address(place)), np.uint8)
        address = runtime.pointerGetAttributes(place).devicePointer
        return Pinned(array, address, partial(runtime.freeHost, place))

    def create_stream(self) -> Stream:
        """A stream that does not wait for the default stream."""
        stream = cupy.cuda.Stream(non_blocking=True)
        self._streams[stream.ptr] = stream
        return Stream(stream.ptr, partial(self._streams.__delitem__, stream.ptr))

    def create_event(self) -> Event:
        """An event that also takes the time."""
        event = cupy.cuda.Event()
        self._events[event.ptr] = event
        return Event(event.ptr, partial(self._events.__delitem__, event.ptr))

    def load(
        self, code: str, options: tuple[str, ...], kernels: Sequence[str]
    ) -> dict[str, Kernel]:
        """Compile by NVRTC, which CuPy also asks for the architecture."""
        try:
            module = cupy.RawModule(code=code, options=options)
            return {name: self._kernel(module.get_function(name)) for name in kernels}
        except (*COMPILER_FAILURES, ImportError, RuntimeError) as err:
            raise DeviceError(
                f"CuPy cannot compile the kernels: {err}; is NVRTC installed "
                "(pip install nvidia-cuda-nvrtc, or the CUDA toolkit)?"
            ) from err

    def _kernel(self, function: cupy.RawKernel) -> Kernel:
        def launch(
            grid: tuple[int, int],
            block: tuple[int, int],
            arguments: Sequence[Number],
            stream: Stream,
        ) -> None:
            with self._streams[stream.handle]:
                function(grid, block, tuple(arguments))

        return launch

    def upload(self, memory: Memory, pinned: Pinned, stream: Stream) -> None:
        """Queue a copy of all of `pinned` to the device."""
        source, kind = pinned.array.ctypes.data, runtime.memcpyHostToDevice
        runtime.memcpyAsync(memory.address, source, pinned.array.nbytes, kind, stream.handle)

    def download(self, pinned: Pinned, memory: Memory, stream: Stream) -> None:
        """Queue a copy that fills `pinned` from the device."""
        target, kind = pinned.array.ctypes.data, runtime.memcpyDeviceToHost
        runtime.memcpyAsync(target, memory.address, pinned.array.nbytes, kind, stream.handle)

    def clear(self, memory: Memory, stream: Stream) -> None:
        """Queue setting all bytes to zero."""
        runtime.memsetAsync(memory.address, 0, memory.nbytes, stream.handle)

    def record(self, event: Event, stream: Stream) -> None:
        """Put the event behind what is in the stream."""
        runtime.eventRecord(event.handle, stream.handle)

    def wait(self, event: Event, stream: Stream) -> None:
        """Let what is queued next in the stream wait for the event."""
        runtime.streamWaitEvent(stream.handle, event.handle)

    def synchronise(self, event: Event) -> None:
        """Let the host wait for the event."""
        runtime.eventSynchronize(event.handle)

    def milliseconds(self, start: Event, end: Event) -> float:
        """Time between two events that have come."""
        return float(runtime.eventElapsedTime(start.handle, end.handle))

    def capture(self, queue: Callable[[], None], stream: Stream) -> Graph:
        """Keep the work that `queue` queues."""
        held = self._streams[stream.handle]
        # Other threads, a camera's say, may go on allocating meanwhile.
        held.begin_capture(runtime.streamCaptureModeThreadLocal)
        try:
            queue()
        except Exception:
            with suppress(*FAILURES):  # that the capture is broken; why is known
                held.end_capture()
            raise
        graph = held.end_capture()
        self._graphs[id(graph)] = graph
        return Graph(id(graph), partial(self._graphs.__delitem__, id(graph)))

    def replay(self, graph: Graph, stream: Stream) -> None:
        """Queue the work of a graph."""
        self._graphs[graph.handle].launch(self._streams[stream.handle])

    def close(self) -> None:
        """Nothing to let go: the primary context is the process's."""


def _count() -> int:
    try:
        return int(runtime.getDeviceCount())
    except FAILURES as err:
        driver = int(runtime.driverGetVersion())
        if driver == 0:
            raise EngineError(f"there is no NVIDIA driver ({err}); install one") from err
        raise EngineError(
            f"the driver is for CUDA {driver // 1000}.{driver % 1000 // 10}, CuPy "
            f"{cupy.__version__} needs {runtime.runtimeGetVersion() // 1000} ({err}); update the "
            "driver, or install the CuPy of its CUDA version"
        ) from err
