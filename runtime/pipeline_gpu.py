"""From a frame to its targets on a GPU: upload, prepare, engine, extract, read back.

Each of these is queued; the host waits only for the targets, a few kilobytes. Three streams let
the upload of one frame, the work on the one before and the reading of the one before that go on
at once. Memory is allocated when a slot meets its first frame, and again only for frames of
another shape. What a frame takes on the GPU becomes one CUDA graph after a frame or two. Clips:
clip_gpu.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Protocol

import numpy as np

from .device import Device, Event, Kernel, Memory, Pinned, Stream
from .errors import DeviceError, OutputError
from .frame import FloatMap, Frame, FrameContract, check_brightest, check_form, fit_geometry
from .graph_gpu import Graphs, Repeated
from .launches import Stage, extract_stage, is_complete, prepare_stage
from .measurements import MEASUREMENT, to_targets
from .pipeline import Confidence
from .stage_gpu import Exchange, StageOnDevice, read_back
from .targets import Extraction, Targets, extract

AHEAD = 3  # one uploading, one at work, one read back


class Network(Protocol):
    """A network on a device.

    Attributes:
        device: where it is.
        is_half: whether it takes FP16 in place of FP32.
    """

    device: Device
    is_half: bool

    def queue(self, prepared: Memory, confidence: Memory, stream: Stream) -> None:
        """Queue a run, (1, T, H', W') of its type in, (H', W') float32 out.

        Raises:
            DeviceError: it cannot be queued.
        """
        ...


class DevicePipeline:
    """A `Pipeline` of single frames around a network; close it before the network."""

    ahead = AHEAD

    def __init__(self, network: Network, contract: FrameContract, extraction: Extraction) -> None:
        """Create the streams.

        Raises:
            DeviceError: the device failed.
        """
        self.network = network
        self.device = network.device
        self.contract = contract
        self.extraction = extraction
        self.graphs = Graphs(network.device)
        self._kernels: dict[tuple[str, tuple[str, ...], tuple[str, ...]], dict[str, Kernel]] = {}
        self._stack = ExitStack()
        with on_device(self.device):
            self.incoming, self.work, self.outgoing = (self._stream() for _ in range(3))

    def _stream(self) -> Stream:
        stream = self.device.create_stream()
        self._stack.callback(stream.close)
        return stream

    def kernels(self, stage: Stage) -> dict[str, Kernel]:
        """The kernels of a stage, compiled once for all slots."""
        names = tuple(launch.kernel for launch in stage.launches)
        program = (stage.read_code(), stage.options, names)
        if program not in self._kernels:
            self._kernels[program] = self.device.load(*program)
        return self._kernels[program]

    def open_slot(self) -> DeviceSlot:
        """A slot."""
        return DeviceSlot(self)

    def check(self, frame: Frame) -> None:
        """Refuse a frame before anything is queued for it; its pixels are looked at later.

        Raises:
            TypeError: `frame` is no numpy array, or of another sample type.
            ValueError: wrong shape.
        """
        check_form(frame, self.contract.bit_depth)

    def open_lane(self, shape: tuple[int, int]) -> Lane:
        """Memory for frames of one shape."""
        return Lane(self, shape)

    def reset(self) -> None:
        """Nothing to forget: a single frame has none before it."""

    def close(self) -> None:
        """End the streams."""
        with on_device(self.device):
            self._kernels.clear()
            self._stack.close()


class DeviceSlot:
    """A `Slot` on a GPU; its memory fits the shape of the frames that come."""

    def __init__(self, pipeline: DevicePipeline) -> None:
        self._pipeline = pipeline
        self._lane: Lane | None = None

    def submit(self, frame: Frame) -> None:
        """Queue all that a frame takes."""
        self._pipeline.check(frame)
        shape = (frame.shape[0], frame.shape[1])
        with on_device(self._pipeline.device):
            if self._lane is None or self._lane.shape != shape:
                self._close_lane()
                self._lane = self._pipeline.open_lane(shape)
            self._lane.submit(frame)

    def targets(self) -> Targets:
        """Wait for the frame's targets."""
        with on_device(self._pipeline.device):
            return self._under_way().targets()

    def confidence(self) -> Confidence:
        """Wait for the frame, and read the whole map back."""
        with on_device(self._pipeline.device):
            return self._under_way().confidence()

    def stages(self) -> dict[str, float]:
        """Milliseconds of the lane's `STAGES` on the GPU's clock."""
        with on_device(self._pipeline.device):
            return self._under_way().stages()

    def _under_way(self) -> Lane:
        if self._lane is None:
            raise ValueError("no frame is under way; submit one first")
        return self._lane

    def _close_lane(self) -> None:
        if self._lane is not None:
            lane, self._lane = self._lane, None
            lane.close()

    def close(self) -> None:
        """Wait for what is under way, and free the memory."""
        with on_device(self._pipeline.device):
            self._close_lane()


class Lane:
    """Everything for frames of one shape, one at a time: memory, events, launches, graph."""

    STAGES: tuple[str, ...] = ("upload", "compute", "read back")

    def __init__(self, pipeline: DevicePipeline, shape: tuple[int, int]) -> None:
        """Allocate.

        Raises:
            ValueError: frames of that shape do not fit the contract.
            DeviceError: the device's memory is full, or the kernels cannot be compiled.
        """
        self.shape = shape
        self._pipeline = pipeline
        self._device = device = pipeline.device
        contract = pipeline.contract
        self._geometry = fit_geometry(shape, contract)
        # The frames of a clip are kept in FP32, whatever the network takes.
        is_half = pipeline.network.is_half and contract.clip is None
        self._prepare = prepare_stage(shape, contract, is_half=is_half)
        self._extract = extract_stage(contract, self._geometry, pipeline.extraction)
        self._map: Pinned | None = None
        with ExitStack() as self._stack:
            try:
                self._allocate()
            except device.failures as err:
                raise DeviceError(self._need(err)) from err
            self._stack = self._stack.pop_all()

    def _stages(self) -> tuple[Stage, ...]:
        return (self._prepare, self._extract)

    def _allocate(self) -> None:
        device, prepare, extracting = self._device, self._prepare, self._extract
        self._limits, self._counts = (
            Exchange(device, stage.buffer(name).nbytes, self._stack)
            for stage, name in ((prepare, "limits"), (extracting, "counts"))
        )
        self._frame, self._records = (
            Exchange(device, stage.buffer(name).nbytes, self._stack, is_shared=device.is_integrated)
            for stage, name in ((prepare, "frame"), (extracting, "targets"))
        )
        self._started, self._uploaded, self._computed, self._done = (
            self._event() for _ in range(4)
        )
        self._preparing = self._on_device(prepare, self._exchanged())
        self._extracting = self._on_device(
            extracting, {"counts": self._counts.memory, "targets": self._records.memory}
        )
        self._preparing.fill(self._pipeline.incoming)
        self._work = self._repeat(self._queue_launches, self._pipeline.work)

    def _exchanged(self) -> dict[str, Memory]:
        """Memory for buffers of the preparation that the host uses too."""
        return {"frame": self._frame.memory, "limits": self._limits.memory}

    def _on_device(self, stage: Stage, given: Mapping[str, Memory]) -> StageOnDevice:
        kernels = self._pipeline.kernels(stage)
        return StageOnDevice(self._device, stage, kernels, given, self._stack)

    def _repeat(self, queue_launches: Callable[[], None], stream: Stream) -> Repeated:
        repeated = Repeated(self._pipeline.graphs, stream, queue_launches)
        self._stack.callback(repeated.close)
        return repeated

    def _event(self) -> Event:
        event = self._device.create_event()
        self._stack.callback(event.close)
        return event

    def _need(self, err: Exception) -> str:
        buffers = {(b.name, b.shape): b.nbytes for s in self._stages() for b in s.buffers}
        needed = sum(buffers.values())
        free, total = self._device.memory_info()
        return (
            f"{err}: {_mib(needed)} more are needed for frames of {self.shape[0]}x{self.shape[1]}, "
            f"{_mib(free)} of the GPU's {_mib(total)} are free; close other programs that use it, "
            "ask for fewer targets, or export with a smaller --size"
        )

    def submit(self, frame: Frame) -> None:
        """Queue all that a frame takes."""
        device, pipeline = self._device, self._pipeline
        device.synchronise(self._done)  # of a frame whose targets nobody wanted
        self._frame.array.view(frame.dtype).reshape(self.shape)[...] = frame
        device.record(self._started, pipeline.incoming)
        self._frame.upload(pipeline.incoming)
        self._feed()
        device.record(self._uploaded, pipeline.incoming)
        device.wait(self._uploaded, pipeline.work)
        self._queue_work()
        device.record(self._computed, pipeline.work)
        device.wait(self._computed, pipeline.outgoing)
        for exchange in (self._limits, self._counts, self._records):
            exchange.download(pipeline.outgoing)
        device.record(self._done, pipeline.outgoing)

    def _feed(self) -> None:
        """Queue what the work waits for beside the upload; of a single frame nothing."""

    def _queue_work(self) -> None:
        self._work.queue()

    def _queue_launches(self) -> None:
        taken, given = self._queue_input(), self._extracting.memory["confidence"]
        self._pipeline.network.queue(taken, given, self._pipeline.work)
        self._extracting.queue(self._pipeline.work)

    def _queue_input(self) -> Memory:
        """Queue what makes the network's input."""
        self._preparing.queue(self._pipeline.work)
        return self._preparing.memory["input"]

    def targets(self) -> Targets:
        """Wait for the frame's targets.

        Raises:
            ValueError: the frame has bits above the declared depth.
            OutputError: the network's output holds NaN or infinity.
        """
        self._wait()
        counts = self._counts.array.view(np.uint32)
        contract, extraction = self._pipeline.contract, self._pipeline.extraction
        if not is_complete(counts, self._extract):
            return extract(self._read_map(), self._geometry, extraction)
        records = self._records.array.view(MEASUREMENT)[: counts[1]]
        return to_targets(
            records, stride=contract.width, geometry=self._geometry, extraction=extraction
        )

    def confidence(self) -> Confidence:
        """Wait for the frame's confidence; errors as in `targets`."""
        self._wait()
        return Confidence(self._read_map(), self._geometry, self.shape)

    def _wait(self) -> None:
        self._device.synchronise(self._done)
        depth = self._pipeline.contract.bit_depth
        if 8 < depth < 16:
            check_brightest(int(self._limits.array.view(np.uint32)[2]), depth)
        if self._counts.array.view(np.uint32)[2]:
            raise OutputError("the network's output holds NaN or infinity; do not fly this bundle")

    def _read_map(self) -> FloatMap:
        memory = self._extracting.memory["confidence"]
        if self._map is None:
            self._map = self._device.allocate_pinned(memory.nbytes)
            self._stack.callback(self._map.close)
        read_back(self._device, memory, self._map, self._pipeline.outgoing)
        size = (self._pipeline.contract.height, self._pipeline.contract.width)
        values: FloatMap = self._map.array.view(np.float32).reshape(size).copy()
        return values

    def stages(self) -> dict[str, float]:
        """Milliseconds on the GPU's clock, the wait for the frame before included."""
        self._device.synchronise(self._done)
        marks = self._marks()
        times = map(self._device.milliseconds, marks[:-1], marks[1:])
        return dict(zip(self.STAGES, times, strict=True))

    def _marks(self) -> tuple[Event, ...]:
        """Events at the beginning and at the end of each of `STAGES`."""
        return (self._started, self._uploaded, self._computed, self._done)

    def close(self) -> None:
        """Wait for what is under way, and free the memory."""
        try:
            self._device.synchronise(self._done)
        finally:
            self._stack.close()


@contextmanager
def on_device(device: Device) -> Iterator[None]:
    """Work in the device's context; what its library raises becomes a `DeviceError`."""
    try:
        with device:
            yield
    except device.failures as err:
        raise DeviceError(f"{device.description} failed: {' '.join(str(err).split())}") from err


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB"
