"""Writes down how CuPy and PyCUDA themselves look where their fakes stand in for them.

Run it where both are installed; neither needs a GPU for it, PyCUDA a library that bears the names
of libcuda (LD_PRELOAD):

    python tests/runtime/fake_cuda/freeze.py
"""

import json
import re
from pathlib import Path

HERE = Path(__file__).parent
CUPY = """
RawModule RawModule.get_function RawKernel RawKernel.__call__ __version__
cuda.Device cuda.Device.__enter__ cuda.Device.__exit__ cuda.Device.id
cuda.Stream cuda.Stream.__init__ cuda.Stream.__enter__ cuda.Stream.__exit__
cuda.Stream.begin_capture cuda.Stream.end_capture
cuda.Event cuda.Event.__init__ cuda.Graph cuda.Graph.launch
cuda.driver.CUDADriverError cuda.compiler.CompileException
cuda.runtime.CUDARuntimeError cuda.runtime.hostAllocMapped
cuda.runtime.memcpyHostToDevice cuda.runtime.memcpyDeviceToHost
cuda.runtime.streamCaptureModeThreadLocal
cuda.runtime.driverGetVersion cuda.runtime.runtimeGetVersion cuda.runtime.getDeviceCount
cuda.runtime.getDeviceProperties cuda.runtime.memGetInfo cuda.runtime.malloc cuda.runtime.free
cuda.runtime.hostAlloc cuda.runtime.freeHost cuda.runtime.pointerGetAttributes
cuda.runtime.PointerAttributes.devicePointer
cuda.runtime.memcpyAsync cuda.runtime.memsetAsync cuda.runtime.eventRecord
cuda.runtime.streamWaitEvent cuda.runtime.eventSynchronize cuda.runtime.eventElapsedTime
""".split()
PYCUDA = """
VERSION driver.init driver.Error driver.MemoryError
driver.Device driver.Device.count driver.Device.name driver.Device.compute_capability
driver.Device.get_attribute driver.Device.retain_primary_context
driver.device_attribute.INTEGRATED driver.host_alloc_flags.DEVICEMAP
driver.Context driver.Context.push driver.Context.pop driver.Context.detach
driver.Stream driver.Stream.__init__ driver.Stream.handle driver.Stream.wait_for_event
driver.Event driver.Event.__init__ driver.Event.record driver.Event.synchronize
driver.Event.time_since
driver.mem_alloc driver.mem_get_info driver.pagelocked_empty driver.module_from_buffer
driver.DeviceAllocation driver.DeviceAllocation.free driver.DeviceAllocation.__int__
driver.HostAllocation driver.HostAllocation.free driver.HostAllocation.get_device_pointer
driver.memcpy_htod_async driver.memcpy_dtoh_async driver.memset_d8_async
driver.Function driver.Module driver.Module.get_function
compiler.compile
""".split()


def describe(thing):
    """A constant as it is; of what can be called the names of the parameters, where it tells."""
    if isinstance(thing, int):
        return int(thing)
    if not callable(thing) or isinstance(thing, type):
        return type(thing).__name__
    found = re.search(r"\((.*)\)", ((thing.__doc__ or "").strip().splitlines() or [""])[0])
    if found is None:
        return "callable"
    listed = re.sub(r"[\[\]]|\(\w+\)", "", found[1])
    names = [part.split("=")[0].split() for part in listed.split(",")]
    return [words[-1] for words in names if words]


def look_up(module, name):
    thing = module
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing


def freeze(module, names, title):
    listing = {name: describe(look_up(module, name)) for name in names}
    (HERE / f"{title}.json").write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    import cupy
    import pycuda.compiler
    import pycuda.driver

    freeze(cupy, CUPY, f"cupy-{cupy.__version__}")
    freeze(pycuda, PYCUDA, "pycuda-" + ".".join(map(str, pycuda.VERSION)))
