"""A module `pycuda` with the part of PyCUDA that irstd calls, on a fake driver.

`pycuda-2026.1.json` lists that part as PyCUDA itself has it; test_surfaces.py holds this module to
it. Arguments are taken as narrowly as the compiled module takes them.
"""

from __future__ import annotations

import ctypes
from functools import wraps
from types import ModuleType, SimpleNamespace

import numpy as np

from irstd.tests.runtime.fake_cuda.driver import Driver
from irstd.tests.runtime.fake_cuda.parts import CudaError

NON_BLOCKING = 1


class Error(Exception):
    pass


class DeviceMemoryError(Error):
    pass


def fake_pycuda(driver: Driver) -> dict[str, ModuleType]:
    """The module and its submodules, by the names they are imported by."""
    retained: list[int] = []

    def told(call):
        """A function whose errors are PyCUDA's."""

        @wraps(call)
        def function(*given, **named):
            try:
                return call(*given, **named)
            except CudaError as err:
                kind = DeviceMemoryError if err.name == "MemoryAllocation" else Error
                raise kind(f"cuda call failed: {err.text}") from None

        return function

    class Context:
        def __init__(self, number):
            self.number = number
            retained.append(number)

        def push(self):
            driver.contexts.append(self.number)

        @staticmethod
        def pop():
            driver.contexts.pop()

        def detach(self):
            assert not driver.contexts, "a context that is current is detached"
            retained.remove(self.number)

    class Device:
        def __init__(self, number):
            assert number < len(driver.devices)
            self.number = number

        count = staticmethod(told(lambda: driver.count()))

        def name(self):
            return "Fake GPU"

        def compute_capability(self):
            return driver.devices[self.number]

        def get_attribute(self, attr):
            assert attr == "INTEGRATED"
            return int(driver.is_integrated)

        def retain_primary_context(self):
            return Context(self.number)

    class DeviceAllocation:
        def __init__(self, nbytes):
            self.address = told(driver.allocate)(nbytes, "device")

        def __int__(self):
            return self.address

        def free(self):
            told(driver.free)(self.address, "device")

    class HostAllocation:
        def __init__(self, nbytes):
            self.address = told(driver.allocate)(nbytes, "pinned")

        def get_device_pointer(self):
            return self.address

        def free(self):
            told(driver.free)(self.address, "pinned")

    class Pagelocked(np.ndarray):
        """numpy lets nobody name the base of an array; the real one is set in C."""

        @property
        def base(self):
            return self.allocation

        def __array_finalize__(self, other):
            self.allocation = getattr(other, "allocation", None)

    def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
        assert mem_flags == "DEVICEMAP"
        allocation = HostAllocation(shape * np.dtype(dtype).itemsize)
        place = (ctypes.c_uint8 * shape).from_address(allocation.address)
        array = np.frombuffer(memoryview(place), dtype).view(Pagelocked)
        array.allocation = allocation
        return array

    class Stream:
        def __init__(self, flags=0):
            assert flags == NON_BLOCKING, "the stream would wait for the default stream"
            self.handle = 0
            self.handle = told(driver.create_queue)()

        def __del__(self):
            if self.handle:
                driver.destroy(driver.queues, self.handle)

        def wait_for_event(self, event):
            told(driver.wait)(event.number, self.handle)

    class Event:
        def __init__(self, flags=0):
            self.number = 0
            self.number = told(driver.create_mark)()

        def __del__(self):
            if self.number:
                driver.destroy(driver.marks, self.number)

        def record(self, stream=None):
            told(driver.record)(self.number, stream.handle)
            return self

        def synchronize(self):
            told(driver.synchronise)(self.number)
            return self

        def time_since(self, event):
            return told(driver.milliseconds)(event.number, self.number)

    def memcpy_htod_async(dest, src, stream=None):
        source = np.asarray(src)
        told(driver.copy)(
            _address(dest), source.ctypes.data, source.nbytes, "upload", stream.handle
        )

    def memcpy_dtoh_async(dest, src, stream=None):
        target = np.asarray(dest)
        told(driver.copy)(
            target.ctypes.data, _address(src), target.nbytes, "download", stream.handle
        )

    def memset_d8_async(dest, data, size, stream=None):
        assert data == 0
        told(driver.clear)(_address(dest), size, stream.handle)

    class Function:
        def __init__(self, module, name):
            self.module, self.name = module, name
            told(module.pointers)(name)

        def __call__(self, *args, grid=(1, 1), block=None, stream=None):
            assert len(block) == 3
            assert all(isinstance(value, np.number) for value in args)
            told(driver.launch)(self.module, self.name, grid, block, args, stream.handle)

    class Module:
        def __init__(self, buffer):
            self.compiled = buffer.compiled

        def get_function(self, name):
            return Function(self.compiled, name)

    class Cubin(bytes):
        """Machine code that knows what it was compiled from."""

    def compile(source, nvcc="nvcc", options=None, arch=None, no_extern_c=False):
        assert no_extern_c
        assert arch == "sm_{}{}".format(*driver.devices[driver.current()])
        cubin = Cubin(b"\x7fELF")
        cubin.compiled = told(driver.compile)(source, tuple(options))
        return cubin

    pycuda, real, compiler = (
        ModuleType(name) for name in ("pycuda", "pycuda.driver", "pycuda.compiler")
    )
    pycuda.VERSION, pycuda.driver, pycuda.compiler = (2026, 1), real, compiler
    compiler.compile = compile
    real.init = told(lambda flags=0: driver.count())
    real.Error, real.MemoryError = Error, DeviceMemoryError
    real.Device, real.Context, real.Stream, real.Event = Device, Context, Stream, Event
    real.device_attribute = SimpleNamespace(INTEGRATED="INTEGRATED")
    real.host_alloc_flags = SimpleNamespace(DEVICEMAP="DEVICEMAP")
    real.mem_alloc = lambda arg1: DeviceAllocation(arg1)
    real.mem_get_info = told(lambda: driver.memory_info())
    real.pagelocked_empty, real.module_from_buffer = pagelocked_empty, Module
    real.memcpy_htod_async, real.memcpy_dtoh_async = memcpy_htod_async, memcpy_dtoh_async
    real.memset_d8_async, real.Function = memset_d8_async, Function
    pycuda.retained = retained
    return {"pycuda": pycuda, "pycuda.driver": real, "pycuda.compiler": compiler}


def _address(place):
    assert type(place) is int, "an address is a whole number"
    return place
