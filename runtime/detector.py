"""The detector: what onboard software embeds. A frame in, targets out."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .bundle import Manifest, Precision, read_file, read_manifest
from .clip import Clip, ClipState
from .engine import Engine, load_engine
from .errors import EngineError
from .frame import FloatMap, Frame, FrameContract, Geometry, fit_geometry, prepare, resize_bilinear
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
    """

    values: FloatMap
    geometry: Geometry
    frame_shape: tuple[int, int]
    clip: ClipState | None = None

    def on_sensor(self) -> FloatMap:
        """(H, W) float32: the confidence of each pixel of the sensor frame."""
        seen = self.values[: self.geometry.height, : self.geometry.width]
        return seen if seen.shape == self.frame_shape else resize_bilinear(seen, self.frame_shape)


@dataclass(frozen=True, slots=True)
class Taken:
    """A frame on its way to the engine.

    Attributes:
        values: (1, T, H', W') float32, what the engine takes; None before a clip is whole.
        geometry: how the network's pixels lie on the sensor's.
        frame_shape: (H, W) of the sensor frame.
        clip: as in `Confidence`.
    """

    values: FloatMap | None
    geometry: Geometry
    frame_shape: tuple[int, int]
    clip: ClipState | None


class Detector:
    """Finds small targets in infrared frames.

    Use each detector from one thread at a time; a process may hold many. Close it, or use it in a
    `with` statement.

    Attributes:
        engine: runs the network.
        contract: what the network expects.
        extraction: how targets are read out of its confidence.
        precision: of the graph that the engine runs; None where the parts do not say.
        reason: why it is not the bundle's own precision; empty where nothing needs saying.

    Example:
        >>> with Detector.load("lrrnet") as detector:  # doctest: +SKIP
        ...     for target in detector(frame):
        ...         print(target.row, target.column, target.score)
    """

    def __init__(
        self,
        engine: Engine,
        contract: FrameContract,
        extraction: Extraction,
        *,
        precision: Precision | None = None,
        reason: str = "",
    ) -> None:
        """Put a detector together from parts; `Detector.load` does it from a bundle.

        Raises:
            EngineError: the engine takes another size than the contract prepares.
        """
        if engine.input_shape != contract.input_shape:
            raise EngineError(
                f"the engine takes frames of shape {engine.input_shape}, "
                f"the frame contract prepares {contract.input_shape}; export the bundle again"
            )
        self.engine = engine
        self.contract = contract
        self.extraction = extraction
        self.precision = precision
        self.reason = reason
        self._clip = None if contract.clip is None else Clip(contract.clip)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        precision: Precision | None = None,
        threads: int | None = None,
        threshold: float | None = None,
        bit_depth: int | None = None,
        min_area: float = 0.0,
        max_targets: int = 1000,
    ) -> Detector:
        """Load a bundle, check its hashes, and take the best engine of this machine.

        Args:
            folder: the bundle, made by `irstd-export`.
            precision: of the graph to run; None takes the fastest on a CPU, as measured at export.
            threads: CPU threads of the engine; None takes those this process may use.
            threshold: confidence above which a pixel belongs to a target; None takes the bundle's.
            bit_depth: bits of the sensor, 8 to 16; None takes the bundle's.
            min_area: smallest target in sensor pixels.
            max_targets: bound on the targets of one frame.

        Raises:
            FileNotFoundError: the folder is missing, is no bundle, or lacks a file.
            ValueError: a file or the manifest was changed, the bundle lacks the precision, or an
                argument is out of range.
            EngineError: no engine of this machine can run the bundle.
        """
        manifest = read_manifest(Path(folder))
        contract = _with_bit_depth(manifest, bit_depth)
        extraction = Extraction(
            threshold=manifest.threshold if threshold is None else threshold,
            min_area=min_area,
            max_targets=max_targets,
        )
        chosen = manifest.cpu.precision if precision is None else precision
        if chosen not in manifest.graphs:
            raise ValueError(
                f"bundle {folder} has no graph in {chosen}, only in {', '.join(manifest.graphs)}; "
                "take one of these, or export the bundle again"
            )
        model = read_file(Path(folder), manifest, manifest.graphs[chosen])
        is_stand_in = precision is None and chosen != manifest.precision
        return cls(
            load_engine(model, threads=threads),
            contract,
            extraction,
            precision=chosen,
            reason=manifest.cpu.reason if is_stand_in else "",
        )

    @property
    def description(self) -> str:
        """Engine, precision, and why that one, for a person to read."""
        said = self.engine.description + (f", {self.precision}" if self.precision else "")
        return said + (f": {self.reason}" if self.reason else "")

    def __call__(self, frame: Frame) -> Targets:
        """Find the targets of a frame.

        A network for sequences also sees the frames of the calls before, up to the last `reset`.

        Args:
            frame: (H, W) uint8 or uint16 as the bundle's bit depth says, raw sensor counts.

        Returns:
            Targets in the frame's own pixels, best score first.

        Raises:
            TypeError: `frame` is no numpy array, or of another sample type.
            ValueError: wrong shape or size, bits above the declared depth, or another size than
                the frames of the clip before it.
            EngineError: the engine failed.
        """
        return self.targets(self.confidence(frame))

    def confidence(self, frame: Frame) -> Confidence:
        """Run the network on a frame; arguments and errors as in a call."""
        return self.run(self.take(frame))

    def take(self, frame: Frame) -> Taken:
        """Prepare a frame, and register a clip onto it; arguments and errors as in a call."""
        prepared = prepare(frame, self.contract)
        shape = (frame.shape[0], frame.shape[1])
        geometry = fit_geometry(shape, self.contract)
        if self._clip is None:
            return Taken(prepared, geometry, shape, None)
        state = self._clip.add(prepared, geometry)
        return Taken(None if state.frames_missing else self._clip.stack(), geometry, shape, state)

    def run(self, taken: Taken) -> Confidence:
        """Run the network on what was taken; a clip that is not whole has no confidence at all."""
        if taken.values is None:
            values = np.zeros((self.contract.height, self.contract.width), np.float32)
        else:
            values = self.engine.run(taken.values)
        return Confidence(values, taken.geometry, taken.frame_shape, taken.clip)

    def targets(self, confidence: Confidence) -> Targets:
        """Read the targets out of a confidence map."""
        targets = extract(confidence.values, confidence.geometry, self.extraction)
        return replace(targets, clip=confidence.clip)

    def reset(self) -> None:
        """Forget the frames of the clip: the next frame begins another sequence."""
        if self._clip is not None:
            self._clip.reset()

    def close(self) -> None:
        """Give the engine's memory and threads back."""
        self.engine.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _with_bit_depth(manifest: Manifest, bit_depth: int | None) -> FrameContract:
    return manifest.frame if bit_depth is None else replace(manifest.frame, bit_depth=bit_depth)
