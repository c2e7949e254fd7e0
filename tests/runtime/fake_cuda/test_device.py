"""CuPy's and PyCUDA's devices against a driver that stops at what CUDA leaves undefined."""

import importlib
import sys
import threading

import numpy as np
import pytest

from irstd.runtime.device import open_device
from irstd.runtime.errors import DeviceError, EngineError
from irstd.runtime.nvrtc import compile_cuda, find_nvrtc
from irstd.runtime.pipeline_gpu import on_device
from irstd.tests.runtime.fake_cuda.fake_cupy import fake_cupy
from irstd.tests.runtime.fake_cuda.parts import DESKTOP, ORIN, Fault

KERNEL = 'extern "C" __global__ void twice(const unsigned int* in, unsigned int* out, int n) {\n'
KERNEL += (
    "    const int i = blockIdx.x * 32 + threadIdx.x;\n    if (i < n) out[i] = 2 * in[i];\n}\n"
)
SIZE = 256


@pytest.fixture
def opened(bench, library):
    """A device, a stream, an event, and 256 bytes on either side."""
    bench.install(library)
    device = bench.open()
    with device:
        things = [device.create_stream(), device.create_event()]
        things += [device.allocate(SIZE), device.allocate_pinned(SIZE)]
        yield device, *things
        assert len(bench.driver.contexts) == 1
    assert bench.driver.contexts == []


def test_a_round_trip_leaves_nothing_behind(bench, library):
    bench.install(library)
    device = bench.open()
    with device:
        stream, event = device.create_stream(), device.create_event()
        memory, pinned, back = (
            device.allocate(SIZE),
            device.allocate_pinned(SIZE),
            device.allocate_pinned(SIZE),
        )
        pinned.array[:] = np.arange(SIZE)
        device.upload(memory, pinned, stream)
        device.download(back, memory, stream)
        device.record(event, stream)
        assert not np.array_equal(back.array, pinned.array)  # not yet: nobody waited
        device.synchronise(event)
        np.testing.assert_array_equal(back.array, np.arange(SIZE))
        device.clear(memory, stream)
        device.download(back, memory, stream)
        device.record(event, stream)
        device.synchronise(event)
        assert not back.array.any()
        for thing in (stream, event, memory, pinned, back):
            thing.close()
    device.close()
    bench.driver.assert_clean()


def test_a_kernel_of_ours(bench, opened):
    device, stream, event, memory, pinned = opened
    result = device.allocate(SIZE)
    kernels = device.load(KERNEL, (), ["twice"])
    pinned.array.view(np.uint32)[:] = np.arange(SIZE // 4)
    device.upload(memory, pinned, stream)
    arguments = (np.uintp(memory.address), np.uintp(result.address), np.int32(SIZE // 4))
    kernels["twice"]((2, 1), (32, 1), arguments, stream)
    device.download(pinned, result, stream)
    device.record(event, stream)
    device.synchronise(event)
    np.testing.assert_array_equal(pinned.array.view(np.uint32), 2 * np.arange(SIZE // 4))


def test_streams_are_ordered_by_events_alone(opened):
    device, stream, event, memory, pinned = opened
    other = device.create_stream()
    device.upload(memory, pinned, stream)
    with pytest.raises(Fault, match="race: clear is not ordered after upload"):
        device.clear(memory, other)
    device.record(event, stream)
    device.wait(event, other)
    device.clear(memory, other)
    with pytest.raises(Fault, match="race: upload is not ordered after clear"):
        device.upload(memory, pinned, stream)


def test_an_event_recorded_too_early_orders_nothing(opened):
    device, stream, event, memory, pinned = opened
    other = device.create_stream()
    device.record(event, stream)
    device.upload(memory, pinned, stream)
    device.wait(event, other)
    with pytest.raises(Fault, match="race"):
        device.clear(memory, other)


def test_copies_stay_inside_their_memory(opened):
    device, stream, _, memory, _ = opened
    large = device.allocate_pinned(SIZE + 1)
    with pytest.raises(Fault, match="257 bytes at 0 leave device memory of 256"):
        device.upload(memory, large, stream)
    with pytest.raises(Fault, match="257 bytes at 0 leave device memory of 256"):
        device.download(large, memory, stream)


def test_lifetimes(bench, opened):
    device, stream, event, memory, pinned = opened
    device.upload(memory, pinned, stream)
    with pytest.raises(Fault, match="device memory is freed while upload is under way"):
        memory.close()
    with pytest.raises(Fault, match="pinned memory is freed while upload is under way"):
        pinned.close()
    device.record(event, stream)
    device.synchronise(event)
    memory.close()
    with pytest.raises(Fault, match="freed twice"):
        memory.close()
    with pytest.raises(Fault, match="used after it was freed"):
        device.clear(memory, stream)
    with pytest.raises(Fault, match="left behind: {'memory': .'pinned 256'., 'streams'"):
        bench.driver.assert_clean()


def test_work_outside_the_context_is_refused(bench, library):
    bench.install(library)
    device = bench.open()
    with pytest.raises(Fault, match="no context is current"):
        device.allocate(SIZE)


def test_a_context_holds_for_its_thread_alone(bench, opened):
    device, *_ = opened
    seen = []

    def work():
        with device:
            device.allocate(SIZE).close()
            seen.append(list(bench.driver.contexts))
        seen.append(list(bench.driver.contexts))

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert seen == [[0], []]


def test_the_second_of_two_devices(bench, library):
    bench.install(library, devices=(DESKTOP, ORIN))
    first, second = bench.open(0), bench.open(1)
    assert (first.architecture, second.architecture) == ("sm_86", "sm_87")
    with first:
        memory = first.allocate(SIZE)
        with second:
            assert bench.driver.contexts == [0, 1]
            stream = second.create_stream()
            with pytest.raises(Fault, match="memory of device 0 is used in 1's context"):
                second.clear(memory, stream)
        if library == "cupy":  # PyCUDA's streams are objects that the other device does not know
            with pytest.raises(Fault, match="a stream of device 1 is used in 0's context"):
                first.clear(memory, stream)
        memory.close()
    assert "Fake GPU (sm_87), " in second.description


def test_a_device_that_is_not_there(bench, library):
    bench.install(library)
    with pytest.raises(EngineError, match="no device 1: this machine has one, device 0; name"):
        bench.open(1)
    bench.install(library, devices=(DESKTOP, DESKTOP))
    with pytest.raises(EngineError, match="no device 7: this machine has 2, devices 0 to 1;"):
        bench.open(7)
    with pytest.raises(ValueError, match="device is -1"):
        bench.open(-1)


def test_no_driver(bench, library):
    bench.install(library, version=0)
    with pytest.raises(EngineError, match="driver.*insufficient"):
        bench.open()


def test_a_driver_too_old_for_cupy(bench, monkeypatch):
    bench.install("cupy", version=0)
    bench.driver.version = 0
    runtime = sys.modules["cupy.cuda"].runtime
    monkeypatch.setattr(runtime, "driverGetVersion", lambda: 11040, raising=False)
    with pytest.raises(EngineError, match=r"driver is for CUDA 11\.4, CuPy 14\.2\.0 needs 13"):
        bench.open()


def test_memory_that_is_full(bench, library):
    bench.install(library, memory=1000)
    device = bench.open()
    with pytest.raises(DeviceError, match="Fake GPU .* failed: .*out of memory"):
        with on_device(device):
            device.allocate(600)
            device.allocate(600)
    with device:
        assert device.memory_info() == (400, 1000)
    assert bench.driver.contexts == []


def test_without_a_library_the_error_says_what_to_install(bench, monkeypatch):
    bench.install("cupy")
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(EngineError, match=r"neither CuPy .* nor PyCUDA .*irstd\[cuda13\]"):
        open_device()


def test_cupy_that_cannot_compile(bench, monkeypatch):
    bench.install("cupy")
    refusing = fake_cupy(bench.driver, refuses_to_compile=True)["cupy"]
    device = bench.open()
    home = importlib.import_module("irstd.runtime.device_cupy")
    monkeypatch.setattr(home.cupy, "RawModule", refusing.RawModule)
    monkeypatch.setattr(home, "COMPILER_FAILURES", (refusing.cuda.compiler.CompileException,))
    with device, pytest.raises(DeviceError, match="CuPy cannot compile.*no such thing; is NVRTC"):
        device.load(KERNEL, (), ["twice"])


@pytest.mark.skipif(find_nvrtc() is None, reason="no nvidia-cuda-nvrtc to compile with")
def test_pycuda_compiles_by_nvrtc_where_it_is(bench, monkeypatch):
    bench.install("pycuda")
    device = bench.open()
    home = importlib.import_module("irstd.runtime.device_pycuda")
    monkeypatch.setattr(home, "find_nvrtc", find_nvrtc)
    given = []

    class Module:
        def __init__(self, cubin):
            given.append(cubin)

        def get_function(self, name):
            return name

    monkeypatch.setattr(home.driver, "module_from_buffer", Module)
    with device:
        device.load(KERNEL, (), ["twice"])
    assert given[0] == compile_cuda(find_nvrtc(), KERNEL, ("-arch=sm_86",)).cubin
    with device, pytest.raises(DeviceError, match="NVRTC refuses the kernels for -arch=sm_86"):
        device.load("no program", (), [])


def test_nvcc_that_is_missing(bench, monkeypatch):
    bench.install("pycuda")
    device = bench.open()
    compiler = sys.modules["pycuda.compiler"]

    def compile(*_, **__):
        raise FileNotFoundError("No such file or directory: 'nvcc'")

    monkeypatch.setattr(compiler, "compile", compile)
    with device, pytest.raises(DeviceError, match="no NVRTC, and nvcc does not.*CUDA toolkit"):
        device.load(KERNEL, (), ["twice"])


def test_graphs_of_cupy(bench):
    bench.install("cupy")
    device = bench.open()
    with device:
        stream, event = device.create_stream(), device.create_event()
        memory, pinned = device.allocate(SIZE), device.allocate_pinned(SIZE)
        graph = device.capture(lambda: device.clear(memory, stream), stream)
        pinned.array[:] = 7
        for clears in (False, True):
            device.upload(memory, pinned, stream)
            if clears:
                device.replay(graph, stream)
            device.download(pinned, memory, stream)
            device.record(event, stream)
            device.synchronise(event)
            assert pinned.array.tolist() == [0 if clears else 7] * SIZE
        memory.close()
        with pytest.raises(Fault, match="used after it was freed"):
            device.replay(graph, stream)
        graph.close()
        with pytest.raises(sys.modules["cupy.cuda"].runtime.CUDARuntimeError, match="capturing"):
            device.capture(lambda: device.allocate(SIZE), stream)
        device.clear(device.allocate(SIZE), stream)  # the stream works on


def test_pycuda_has_no_graphs_and_keeps_the_primary_context(bench):
    bench.install("pycuda")
    device = bench.open()
    with device, pytest.raises(DeviceError, match="PyCUDA has no CUDA graphs"):
        device.capture(lambda: None, device.create_stream())
    assert sys.modules["pycuda"].retained == [0]
    device.close()
    assert sys.modules["pycuda"].retained == []
