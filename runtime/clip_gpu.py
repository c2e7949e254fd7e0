"""Clips on a GPU: prepared frames stay there in a ring; the host only says how the scene moved.

A frame is uploaded and prepared in the incoming stream, while the network still works on the
frame before. Where frames are registered, the host reads the prepared one back and measures the
shift: 256 KiB at 256x256, 21 us over a bus of 12.5 GB/s (PCIe 3.0, 16 lanes), and nothing on a
Jetson, where the host sees the same memory; preparing the frame by the host's own means would take
it milliseconds. What moved goes up as a table of 60 bytes a frame. All that follows, from keeping
the frame to its targets, is one CUDA graph in the one stream that touches the ring, so frames come
into it in the order in which they were submitted, whichever slot they are in.

So the shortest time from frame to frame is that of the registration, or of the network where that
is longer; a single frame waits for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .clip import Alignment, ClipState, Placed
from .device import Event, Memory
from .frame import ClipContract, FloatMap, Frame, FrameContract, check_frame, fit_geometry
from .interpolation import move_side
from .launches import PLACED, SIDE, Stage, clip_stages
from .pipeline import Confidence, read_targets
from .pipeline_gpu import DevicePipeline, Lane, Network
from .stage_gpu import Exchange
from .targets import Extraction, Targets


def open_device_pipeline(
    network: Network, contract: FrameContract, extraction: Extraction
) -> DevicePipeline:
    """The way on a network's device, of single frames or of clips.

    Raises:
        DeviceError: the device failed.
        EngineError: frames are to be registered, and OpenCV is not installed.
    """
    if contract.clip is None:
        return DevicePipeline(network, contract, extraction)
    return ClipPipeline(network, contract, extraction, contract.clip)


class ClipPipeline(DevicePipeline):
    """A `Pipeline` around a network for sequences; its slots share one clip.

    Attributes:
        alignment: how the frames of the ring lie to each other.
    """

    def __init__(
        self,
        network: Network,
        contract: FrameContract,
        extraction: Extraction,
        clip: ClipContract,
    ) -> None:
        """Begin a clip; errors as in `open_device_pipeline`."""
        self.alignment = Alignment(clip)
        self._shared: dict[str, Memory] = {}
        super().__init__(network, contract, extraction)

    def check(self, frame: Frame) -> None:
        """Refuse a frame before it can get into the clip: here its brightest pixel is looked for.

        Raises:
            TypeError: `frame` is no numpy array, or of another sample type.
            ValueError: wrong shape, bits above the declared depth, or another size than the frames
                of the clip before it.
        """
        check_frame(frame, self.contract.bit_depth)
        self.alignment.check(fit_geometry((frame.shape[0], frame.shape[1]), self.contract))

    def open_lane(self, shape: tuple[int, int]) -> Lane:
        """Memory for frames of one shape."""
        return ClipLane(self, shape)

    def share(self, stage: Stage, names: Sequence[str]) -> dict[str, Memory]:
        """Memory of a stage's buffers that is the same for all lanes; kept until `close`."""
        for buffer in stage.buffers:
            if buffer.name in names and buffer.name not in self._shared:
                self._shared[buffer.name] = self.device.allocate(buffer.nbytes)
                self._stack.callback(self._shared[buffer.name].close)
        return {name: memory for name, memory in self._shared.items() if name in names}

    def reset(self) -> None:
        """Forget the frames of the clip: the next frame begins another sequence."""
        self.alignment.reset()


class ClipLane(Lane):
    """A `Lane` for frames of a clip."""

    STAGES = ("prepare", "register", "compute", "read back")

    def __init__(self, pipeline: ClipPipeline, shape: tuple[int, int]) -> None:
        """Allocate; errors as in `Lane`."""
        self._clip = pipeline
        self._state = ClipState(0, None)
        self._keep, self._stacking = clip_stages(
            pipeline.contract,
            fit_geometry(shape, pipeline.contract),
            is_half=pipeline.network.is_half,
        )
        super().__init__(pipeline, shape)

    def _stages(self) -> tuple[Stage, ...]:
        return (*super()._stages(), self._keep, self._stacking)

    def _allocate(self) -> None:
        device, pipeline = self._device, self._clip
        self._input = Exchange(
            device,
            self._prepare.buffer("input").nbytes,
            self._stack,
            is_shared=device.is_integrated,
        )
        super()._allocate()
        self._prepared = self._event()
        self._places = Exchange(device, self._keep.buffer("places").nbytes, self._stack)
        shared = pipeline.share(self._keep, ("ring", "levels"))
        places = {"places": self._places.memory}
        self._keeping = self._on_device(
            self._keep, shared | places | {"prepared": self._input.memory}
        )
        kept = {name: memory for name, memory in self._keeping.memory.items() if name == "match"}
        self._clip_stage = self._on_device(self._stacking, shared | places | kept)
        self._front = self._repeat(self._queue_prepare, pipeline.incoming)

    def _exchanged(self) -> dict[str, Memory]:
        return super()._exchanged() | {"input": self._input.memory}

    def _queue_prepare(self) -> None:
        self._preparing.queue(self._pipeline.incoming)

    def _feed(self) -> None:
        """Prepare the frame, and wait for that where it is to be registered."""
        device, incoming, alignment = self._device, self._pipeline.incoming, self._clip.alignment
        self._front.queue()
        if alignment.is_registered:
            self._input.download(incoming)
        device.record(self._prepared, incoming)
        seen: FloatMap | None = None
        if alignment.is_registered:
            device.synchronise(self._prepared)
            size = self._pipeline.contract.height, self._pipeline.contract.width
            prepared: FloatMap = self._input.array.view(np.float32).reshape(size)
            seen = prepared[: self._geometry.height, : self._geometry.width]
        self._state = alignment.add(seen, self._geometry)
        size = self._geometry.height, self._geometry.width
        self._places.array.view(PLACED)[:] = to_table(alignment.frames(), size)
        self._places.upload(incoming)

    def _queue_work(self) -> None:
        if not self._state.is_whole:
            self._keeping.queue(self._pipeline.work)
            return
        super()._queue_work()

    def _queue_input(self) -> Memory:
        self._keeping.queue(self._pipeline.work)
        self._clip_stage.queue(self._pipeline.work)
        return self._clip_stage.memory["input"]

    def targets(self) -> Targets:
        """Wait for the frame's targets; there are none where the clip is not whole."""
        if not self._state.is_whole:
            return read_targets(self.confidence(), self._pipeline.extraction)
        return replace(super().targets(), clip=self._state)

    def confidence(self) -> Confidence:
        """Wait for the frame's confidence, 0 where the clip is not whole."""
        if self._state.is_whole:
            return replace(super().confidence(), clip=self._state)
        self._device.synchronise(self._done)
        size = self._pipeline.contract.height, self._pipeline.contract.width
        return Confidence(np.zeros(size, np.float32), self._geometry, self.shape, self._state)

    def _marks(self) -> tuple[Event, ...]:
        return (self._started, self._prepared, self._uploaded, self._computed, self._done)


def to_table(frames: Sequence[Placed], size: tuple[int, int]) -> npt.NDArray[np.void]:
    """What kernels/stack.cu must know of the frames of a clip.

    Args:
        frames: the newest last.
        size: (rows, columns) of what shows the sensor's frame.

    Returns:
        (T,) PLACED.
    """
    table = np.zeros(len(frames), PLACED)
    for entry, frame in zip(table, frames, strict=True):
        entry["frame"] = frame.place
        for name, side, by in zip(
            ("rows", "columns"), size, (frame.row, frame.column), strict=True
        ):
            moved = move_side(side, by)
            for field in SIDE.names or ():
                entry[name][field] = getattr(moved, field)
    return table
