"""A GPU driven by PyCUDA, in the primary context that TensorRT and everybody else uses too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pycuda.compiler
import pycuda.driver as driver

from .device import Event, Graph, Kernel, Memory, Number, Pinned, Stream, check_number
from .errors import DeviceError, EngineError
from .nvrtc import compile_cuda, find_nvrtc

FAILURES = (driver.Error,)


class PycudaDevice:
    """A `Device`. PyCUDA's streams and events end when nobody holds them any more."""

    failures: tuple[type[Exception], ...] = FAILURES

    def __init__(self, number: int) -> None:
        """Open a GPU.

        Raises:
            EngineError: there is no driver, or no such GPU.
        """
        try:
            driver.init()
            check_number(number, driver.Device.count())
            device = driver.Device(number)
            self._context = device.retain_primary_context()
        except FAILURES as err:
            raise EngineError(
                f"device {number} cannot be opened: {err}; is the NVIDIA driver installed, and "
                "new enough for the CUDA version that PyCUDA was compiled with?"
            ) from err
        self._streams: dict[int, driver.Stream] = {}
        self._events: dict[int, driver.Event] = {}
        major, minor = device.compute_capability()
        self.architecture = f"sm_{major}{minor}"
        self.is_integrated = bool(device.get_attribute(driver.device_attribute.INTEGRATED))
        version = ".".join(map(str, pycuda.VERSION))
        self.description = f"{device.name()} ({self.architecture}), PyCUDA {version}"

    def __enter__(self) -> PycudaDevice:
        self._context.push()
        return self

    def __exit__(self, *_: object) -> None:
        driver.Context.pop()

    def memory_info(self) -> tuple[int, int]:
        """Bytes free and in all."""
        free, total = driver.mem_get_info()
        return free, total

    def allocate(self, nbytes: int) -> Memory:
        """Memory of the device."""
        allocation = driver.mem_alloc(nbytes)
        return Memory(int(allocation), nbytes, allocation.free)

    def allocate_pinned(self, nbytes: int) -> Pinned:
        """Memory of the host, pinned and mapped."""
        flags = driver.host_alloc_flags.DEVICEMAP
        array = driver.pagelocked_empty(nbytes, np.uint8, mem_flags=flags)
        return Pinned(array, int(array.base.get_device_pointer()), array.base.free)

    def create_stream(self) -> Stream:
        """A stream that does not wait for the default stream."""
        stream = driver.Stream(flags=1)  # CU_STREAM_NON_BLOCKING, which PyCUDA gives no name
        self._streams[stream.handle] = stream
        return Stream(stream.handle, partial(self._streams.__delitem__, stream.handle))

    def create_event(self) -> Event:
        """An event that also takes the time."""
        event = driver.Event()
        self._events[id(event)] = event
        return Event(id(event), partial(self._events.__delitem__, id(event)))

    def load(
        self, code: str, options: tuple[str, ...], kernels: Sequence[str]
    ) -> dict[str, Kernel]:
        """Compile by NVRTC, or by nvcc where there is no NVRTC."""
        module = driver.module_from_buffer(self._compile(code, options))
        return {name: self._kernel(module.get_function(name)) for name in kernels}

    def _compile(self, code: str, options: tuple[str, ...]) -> bytes:
        library = find_nvrtc()
        if library is not None:
            return compile_cuda(library, code, (f"-arch={self.architecture}", *options)).cubin
        try:
            cubin: bytes = pycuda.compiler.compile(
                code, options=list(options), arch=self.architecture, no_extern_c=True
            )
        except (*FAILURES, OSError) as err:
            raise DeviceError(
                f"there is no NVRTC, and nvcc does not compile the kernels: {err}; install the "
                "CUDA toolkit and put its bin folder on PATH, or pip install nvidia-cuda-nvrtc"
            ) from err
        return cubin

    def _kernel(self, function: driver.Function) -> Kernel:
        def launch(
            grid: tuple[int, int],
            block: tuple[int, int],
            arguments: Sequence[Number],
            stream: Stream,
        ) -> None:
            function(*arguments, grid=grid, block=(*block, 1), stream=self._streams[stream.handle])

        return launch

    def upload(self, memory: Memory, pinned: Pinned, stream: Stream) -> None:
        """Queue a copy of all of `pinned` to the device."""
        driver.memcpy_htod_async(memory.address, pinned.array, self._streams[stream.handle])

    def download(self, pinned: Pinned, memory: Memory, stream: Stream) -> None:
        """Queue a copy that fills `pinned` from the device."""
        driver.memcpy_dtoh_async(pinned.array, memory.address, self._streams[stream.handle])

    def clear(self, memory: Memory, stream: Stream) -> None:
        """Queue setting all bytes to zero."""
        driver.memset_d8_async(memory.address, 0, memory.nbytes, self._streams[stream.handle])

    def record(self, event: Event, stream: Stream) -> None:
        """Put the event behind what is in the stream."""
        self._events[event.handle].record(self._streams[stream.handle])

    def wait(self, event: Event, stream: Stream) -> None:
        """Let what is queued next in the stream wait for the event."""
        self._streams[stream.handle].wait_for_event(self._events[event.handle])

    def synchronise(self, event: Event) -> None:
        """Let the host wait for the event."""
        self._events[event.handle].synchronize()

    def milliseconds(self, start: Event, end: Event) -> float:
        """Time between two events that have come."""
        return float(self._events[end.handle].time_since(self._events[start.handle]))

    def capture(self, queue: Callable[[], None], stream: Stream) -> Graph:
        """PyCUDA has no graphs."""
        raise DeviceError("PyCUDA has no CUDA graphs; CuPy has")

    def replay(self, graph: Graph, stream: Stream) -> None:
        """PyCUDA has no graphs."""
        raise DeviceError("PyCUDA has no CUDA graphs; CuPy has")

    def close(self) -> None:
        """Let the primary context go."""
        self._context.detach()
