"""A module `cupy` with the part of CuPy that irstd calls, on a fake driver.

`cupy-14.2.0.json` lists that part as CuPy itself has it; test_surfaces.py holds this module to it.
"""

from __future__ import annotations

from functools import wraps
from types import ModuleType, SimpleNamespace

import numpy as np

from irstd.tests.runtime.fake_cuda.driver import Driver
from irstd.tests.runtime.fake_cuda.parts import CudaError

STATUS = {"MemoryAllocation": 2, "InsufficientDriver": 35, "NotReady": 600, "LaunchFailure": 719}


class CUDARuntimeError(RuntimeError):
    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"cudaError{name}: {text}")
        self.status = STATUS.get(name, 999)


class CUDADriverError(RuntimeError):
    pass


class CompileException(Exception):
    pass


def fake_cupy(driver: Driver, *, refuses_to_compile: bool = False) -> dict[str, ModuleType]:
    """The module and its submodules, by the names they are imported by."""

    def told(call):
        """A function whose errors are CuPy's."""

        @wraps(call)
        def function(*given, **named):
            try:
                return call(*given, **named)
            except CudaError as err:
                raise CUDARuntimeError(err.name, err.text) from None

        return function

    class Runtime(ModuleType):
        CUDARuntimeError = CUDARuntimeError
        hostAllocMapped = 2
        memcpyHostToDevice, memcpyDeviceToHost = 1, 2
        streamCaptureModeThreadLocal = 1

        @staticmethod
        def driverGetVersion():
            return driver.version

        @staticmethod
        def runtimeGetVersion():
            return 13020

        @staticmethod
        @told
        def getDeviceCount():
            return driver.count()

        @staticmethod
        @told
        def getDeviceProperties(device):
            major, minor = driver.devices[device]
            integrated = int(driver.is_integrated)
            return {"name": b"Fake GPU", "major": major, "minor": minor, "integrated": integrated}

        @staticmethod
        @told
        def memGetInfo():
            return driver.memory_info()

        @staticmethod
        @told
        def malloc(size):
            return driver.allocate(size, "device")

        @staticmethod
        @told
        def free(ptr):
            driver.free(ptr, "device")

        @staticmethod
        @told
        def hostAlloc(size, flags):
            assert flags == Runtime.hostAllocMapped
            return driver.allocate(size, "pinned")

        @staticmethod
        @told
        def freeHost(ptr):
            driver.free(ptr, "pinned")

        @staticmethod
        def pointerGetAttributes(ptr):
            return SimpleNamespace(devicePointer=ptr)

        @staticmethod
        @told
        def memcpyAsync(dst, src, size, kind, stream):
            driver.copy(dst, src, size, {1: "upload", 2: "download"}[kind], stream)

        @staticmethod
        @told
        def memsetAsync(ptr, value, size, stream):
            assert value == 0
            driver.clear(ptr, size, stream)

        @staticmethod
        @told
        def eventRecord(event, stream):
            driver.record(event, stream)

        @staticmethod
        @told
        def streamWaitEvent(stream, event, flags=0):
            driver.wait(event, stream)

        @staticmethod
        @told
        def eventSynchronize(event):
            driver.synchronise(event)

        @staticmethod
        @told
        def eventElapsedTime(start, end):
            return driver.milliseconds(start, end)

    class Device:
        def __init__(self, device=None):
            self.id = device

        def __enter__(self):
            driver.contexts.append(self.id)
            return self

        def __exit__(self, *_):
            assert driver.contexts.pop() == self.id

    class Stream:
        current: list = []

        def __init__(self, null=False, non_blocking=False, ptds=False):
            assert non_blocking, "the stream would wait for the default stream"
            self.ptr = 0
            self.ptr = told(driver.create_queue)()

        def __del__(self):
            if self.ptr:
                driver.destroy(driver.queues, self.ptr)

        def __enter__(self):
            Stream.current.append(self)
            return self

        def __exit__(self, *_):
            assert Stream.current.pop() is self

        def begin_capture(self, mode=None):
            assert mode == Runtime.streamCaptureModeThreadLocal
            told(driver.begin_capture)(self.ptr)

        def end_capture(self):
            return Graph(told(driver.end_capture)(self.ptr))

    class Graph:
        def __init__(self, graph):
            self.graph = graph

        def __del__(self):
            driver.destroy(driver.graphs, self.graph)

        def launch(self, stream=None):
            told(driver.replay)(self.graph, stream.ptr)

    class Event:
        def __init__(self, block=False, disable_timing=False, interprocess=False):
            self.ptr = 0
            self.ptr = told(driver.create_mark)()

        def __del__(self):
            if self.ptr:
                driver.destroy(driver.marks, self.ptr)

    class RawKernel:
        def __init__(self, module, name):
            self.module, self.name = module, name
            module.pointers(name)

        def __call__(self, grid, block, args, **kwargs):
            assert not kwargs
            assert isinstance(grid, tuple)
            assert isinstance(args, tuple)
            assert all(isinstance(value, np.generic) for value in args)
            stream = Stream.current[-1].ptr
            told(driver.launch)(self.module, self.name, grid, block, args, stream)

    class RawModule:
        def __init__(self, *, code=None, path=None, options=(), backend="nvrtc"):
            if refuses_to_compile:
                raise CompileException("kernels.cu(1): error: no such thing")
            self.compiled = told(driver.compile)(code, options)

        def get_function(self, name):
            return told(RawKernel)(self.compiled, name)

    cupy, cuda, runtime = ModuleType("cupy"), ModuleType("cupy.cuda"), Runtime("cupy.cuda.runtime")
    cupy.__version__ = "14.2.0"
    cupy.cuda, cupy.RawModule, cupy.RawKernel = cuda, RawModule, RawKernel
    cuda.runtime, cuda.Device, cuda.Stream = runtime, Device, Stream
    cuda.Event, cuda.Graph = Event, Graph
    cuda.driver = SimpleNamespace(CUDADriverError=CUDADriverError)
    cuda.compiler = SimpleNamespace(CompileException=CompileException)
    return {"cupy": cupy, "cupy.cuda": cuda, "cupy.cuda.runtime": runtime}
