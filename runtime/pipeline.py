"""From a frame to its targets: what a detector asks of the way there, and the way on a CPU."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from .boxes import Boxes, paint, read_boxes, suppress
from .clip import Clip, ClipState
from .engine import Engine
from .errors import OutputError
from .frame import FloatMap, Frame, FrameContract, Geometry, fit_geometry, prepare, resize_bilinear
from .outputs import COLUMNS
from .targets import Extraction, Targets, extract


@dataclass(frozen=True, slots=True)
class Confidence:
    """The network's answer to one frame.

    Attributes:
        values: (H', W') float32, 0..1, at the network's resolution, padding included.
        geometry: how the network's pixels lie on the sensor's.
        frame_shape: (H, W) of the sensor frame.
        clip: frames that are missing (`values` are 0 then) and how the scene moved, for a network
            for sequences.
        boxes: of a network that gives boxes; `values` show them, filled with their scores.
    """

    values: FloatMap
    geometry: Geometry
    frame_shape: tuple[int, int]
    clip: ClipState | None = None
    boxes: Boxes | None = None

    def on_sensor(self) -> FloatMap:
        """(H, W) float32: the confidence of each pixel of the sensor frame."""
        seen = self.values[: self.geometry.height, : self.geometry.width]
        return seen if seen.shape == self.frame_shape else resize_bilinear(seen, self.frame_shape)


class Slot(Protocol):
    """A place for one frame under way."""

    def submit(self, frame: Frame) -> None:
        """Start with a frame, which may change afterwards; the frame before is forgotten.

        Raises:
            TypeError: `frame` is no numpy array, or of another sample type.
            ValueError: wrong shape or size, or bits above the declared depth.
            EngineError: the engine or the device failed.
        """
        ...

    def targets(self) -> Targets:
        """Wait for the frame's targets; errors as those of `submit` that show only now."""
        ...

    def confidence(self) -> Confidence:
        """Wait for the frame's confidence; errors as in `targets`."""
        ...

    def stages(self) -> dict[str, float]:
        """Milliseconds of each stage of the frame, once its targets have come."""
        ...

    def close(self) -> None:
        """Wait for what is under way, and give memory back."""
        ...


class Pipeline(Protocol):
    """Makes slots. Frames go through in the order in which they are submitted.

    Attributes:
        ahead: frames worth having under way at once.
    """

    ahead: int

    def open_slot(self) -> Slot:
        """A slot; close it before the pipeline."""
        ...

    def reset(self) -> None:
        """Forget the frames of the clip: the next frame begins another sequence."""
        ...

    def close(self) -> None:
        """Give back what slots share."""
        ...


@runtime_checkable
class DeviceEngine(Protocol):
    """An engine whose device also prepares frames and extracts targets."""

    def open_pipeline(self, contract: FrameContract, extraction: Extraction) -> Pipeline:
        """The way on the device; close it before the engine."""
        ...


def open_pipeline(engine: Engine, contract: FrameContract, extraction: Extraction) -> Pipeline:
    """The shortest way that an engine offers."""
    # Boxes are compared by the host, wherever the network runs: little work beside it.
    if isinstance(engine, DeviceEngine) and contract.answer == "confidence":
        return engine.open_pipeline(contract, extraction)
    return HostPipeline(engine, contract, extraction)


class HostPipeline:
    """Prepares and extracts on the CPU; one frame after another, since they share its cores."""

    ahead = 1

    def __init__(self, engine: Engine, contract: FrameContract, extraction: Extraction) -> None:
        self.engine = engine
        self.contract = contract
        self.extraction = extraction
        self.clip = None if contract.clip is None else Clip(contract.clip)

    def open_slot(self) -> HostSlot:
        """A slot."""
        return HostSlot(self)

    def reset(self) -> None:
        """Forget the frames of the clip."""
        if self.clip is not None:
            self.clip.reset()

    def close(self) -> None:
        """Nothing is shared but the engine, which is its owner's."""


class HostSlot:
    """A `Slot` that prepares at once, and runs the engine when it is asked for the result."""

    def __init__(self, pipeline: HostPipeline) -> None:
        self._pipeline = pipeline
        self._taken: _Taken | None = None
        self._confidence: Confidence | None = None
        self._stages: dict[str, float] = {}

    def submit(self, frame: Frame) -> None:
        """Prepare a frame, and register the clip onto it."""
        start = time.perf_counter()
        self._taken = self._confidence = None
        pipeline = self._pipeline
        prepared, state = prepare(frame, pipeline.contract), None
        shape = (frame.shape[0], frame.shape[1])
        geometry = fit_geometry(shape, pipeline.contract)
        values: FloatMap | None = prepared
        if pipeline.clip is not None:
            state = pipeline.clip.add(prepared, geometry)
            values = pipeline.clip.stack() if state.is_whole else None
        self._taken = _Taken(values, geometry, shape, state)
        self._stages = {"prepare": _since(start)}

    def confidence(self) -> Confidence:
        """Run the engine, once for a frame; a clip that is not whole has no confidence at all."""
        if self._confidence is None:
            if self._taken is None:
                raise ValueError("no frame is under way; submit one first")
            start = time.perf_counter()
            self._confidence = self._ask(self._taken)
            self._stages["engine"] = _since(start)
        return self._confidence

    def _ask(self, taken: _Taken) -> Confidence:
        pipeline, boxes = self._pipeline, None
        size = pipeline.contract.height, pipeline.contract.width
        if taken.values is None:
            values = np.zeros(size, np.float32)
        elif pipeline.contract.answer == "boxes":
            boxes = suppress(_check_boxes(pipeline.engine.run(taken.values)))
            values = paint(boxes, size)
        else:
            values = pipeline.engine.run(taken.values)
        return Confidence(values, taken.geometry, taken.frame_shape, taken.clip, boxes)

    def targets(self) -> Targets:
        """Read the targets out of the confidence."""
        confidence = self.confidence()
        start = time.perf_counter()
        targets = read_targets(confidence, self._pipeline.extraction)
        self._stages["extract"] = _since(start)
        return targets

    def stages(self) -> dict[str, float]:
        """Milliseconds of "prepare", "engine" and "extract"."""
        return self._stages

    def close(self) -> None:
        """Forget the frame."""
        self._taken = self._confidence = None


@dataclass(frozen=True, slots=True)
class _Taken:
    """A frame on its way to the engine.

    Attributes:
        values: (1, T, H', W') float32, what the engine takes; None before a clip is whole.
        geometry, frame_shape, clip: as in `Confidence`.
    """

    values: FloatMap | None
    geometry: Geometry
    frame_shape: tuple[int, int]
    clip: ClipState | None


def read_targets(confidence: Confidence, extraction: Extraction) -> Targets:
    """Read the targets out of a network's answer."""
    if confidence.boxes is None:
        targets = extract(confidence.values, confidence.geometry, extraction)
    else:
        targets = read_boxes(confidence.boxes, confidence.geometry, extraction)
    return replace(targets, clip=confidence.clip) if confidence.clip is not None else targets


def _check_boxes(answer: FloatMap) -> FloatMap:
    if answer.shape[1] != COLUMNS:
        raise OutputError(
            f"the engine gives {answer.shape}, the frame contract expects boxes (A, {COLUMNS}); "
            "export the bundle again"
        )
    return answer


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1e3
