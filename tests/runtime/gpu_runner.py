"""Runs the stages of irstd.runtime.launches on a GPU, as shim/simulation.py does on the CPU."""

from contextlib import ExitStack

import numpy as np

from irstd.runtime.clip_gpu import open_device_pipeline
from irstd.runtime.pipeline_gpu import on_device
from irstd.runtime.stage_gpu import StageOnDevice, read_back
from irstd.tests.runtime.shim.simulation import GARBAGE, Outcome

COPY = """
extern "C" __global__ void copy(const float* in, float* out, int n) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    if (i < n) out[i] = in[i];
}
"""


class GpuRunner:
    """Has the `run` of a `Simulation`."""

    def __init__(self, device):
        self.device = device

    def run(self, stage, given, *, seed=0, code=None):
        """Run a stage on the arrays of `given`, by buffer name; what is not given is garbage."""
        with on_device(self.device), ExitStack() as stack:
            bound, stream, pinned = self.bind(stage, given, stack, code=code)
            bound.queue(stream)
            for name, memory in bound.memory.items():
                read_back(self.device, memory, pinned[name], stream)
            seen = {
                b.name: pinned[b.name].array.copy().view(b.dtype).reshape(b.shape)
                for b in stage.buffers
            }
        return Outcome(seen, "")

    def bind(self, stage, given, stack, *, code=None):
        """A stage with its memory filled, a stream, and pinned memory for each buffer."""
        device = self.device
        code = stage.read_code() if code is None else code
        stream = device.create_stream()
        stack.callback(stream.close)
        kernels = device.load(code, stage.options, [one.kernel for one in stage.launches])
        bound = StageOnDevice(device, stage, kernels, {}, stack)
        pinned = {}
        for buffer in stage.buffers:
            pinned[buffer.name] = device.allocate_pinned(buffer.nbytes)
            stack.callback(pinned[buffer.name].close)
            content = np.full(buffer.nbytes, GARBAGE, np.uint8)
            if buffer.name in given:
                content = np.ascontiguousarray(given[buffer.name]).reshape(-1).view(np.uint8)
            pinned[buffer.name].array[:] = content
            device.upload(bound.memory[buffer.name], pinned[buffer.name], stream)
        event = device.create_event()
        stack.callback(event.close)
        device.record(event, stream)
        device.synchronise(event)
        bound.fill(stream)
        return bound, stream, pinned


class CopyNetwork:
    """A `Network` whose confidence is the prepared frame, of a clip the first, and an `Engine`."""

    description = "a copy"
    is_half = False

    def __init__(self, device, size, *, length=1):
        self.device = device
        self.input_shape = (1, length, *size)
        self.pixels = size[0] * size[1]
        with on_device(device):
            self.kernel = device.load(COPY, (), ["copy"])["copy"]

    def open_pipeline(self, contract, extraction):
        return open_device_pipeline(self, contract, extraction)

    def queue(self, prepared, confidence, stream):
        grid = (-(-self.pixels // 256), 1)
        places = (np.uintp(prepared.address), np.uintp(confidence.address), np.int32(self.pixels))
        self.kernel(grid, (256, 1), places, stream)

    def run(self, prepared):
        return prepared[0, 0]

    def close(self):
        self.device.close()
