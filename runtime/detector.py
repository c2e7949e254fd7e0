"""The detector: what onboard software embeds. A frame in, targets out."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from .bundle import Manifest, Precision, read_manifest
from .engine import Engine, EngineName
from .engine_choice import load_for
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
    """

    values: FloatMap
    geometry: Geometry
    frame_shape: tuple[int, int]

    def on_sensor(self) -> FloatMap:
        """(H, W) float32: the confidence of each pixel of the sensor frame."""
        seen = self.values[: self.geometry.height, : self.geometry.width]
        return seen if seen.shape == self.frame_shape else resize_bilinear(seen, self.frame_shape)


class Detector:
    """Finds small targets in infrared frames.

    Use each detector from one thread at a time; a process may hold many. Close it, or use it in a
    `with` statement.

    Attributes:
        engine: runs the network.
        contract: what the network expects.
        extraction: how targets are read out of its confidence.
        precision: of the graph that the engine runs; None where the parts do not say.
        reason: why this engine and precision run; empty where nothing needs saying.

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
        expected = (1, 1, contract.height, contract.width)
        if engine.input_shape != expected:
            raise EngineError(
                f"the engine takes frames of shape {engine.input_shape}, "
                f"the frame contract prepares {expected}; export the bundle again"
            )
        self.engine = engine
        self.contract = contract
        self.extraction = extraction
        self.precision = precision
        self.reason = reason

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        engine: EngineName | None = None,
        precision: Precision | None = None,
        threads: int | None = None,
        threshold: float | None = None,
        bit_depth: int | None = None,
        min_area: float = 0.0,
        max_targets: int = 1000,
    ) -> Detector:
        """Load a bundle, check its hashes, and take the best engine of this machine.

        Where OpenVINO is installed, the first load measures it against ONNX Runtime, which takes
        seconds, and keeps the outcome in the user's cache (irstd/engines).

        Args:
            folder: the bundle, made by `irstd-export`.
            engine: "onnxruntime", or "openvino", which is then not checked against it; None takes
                OpenVINO where it is installed, faster, and agrees with ONNX Runtime.
            precision: of the graph to run; None takes what is fastest on this CPU, in ONNX Runtime
                as measured at export, and in an OpenVINO that is named the bundle's own.
            threads: CPU threads of the engine; None takes those this process may use.
            threshold: confidence above which a pixel belongs to a target; None takes the bundle's.
            bit_depth: bits of the sensor, 8 to 16; None takes the bundle's.
            min_area: smallest target in sensor pixels.
            max_targets: bound on the targets of one frame.

        Raises:
            FileNotFoundError: the folder is missing, is no bundle, or lacks a file.
            ValueError: a file or the manifest was changed, the bundle lacks the precision, or an
                argument is out of range.
            EngineError: no engine of this machine, or not the one named, can run the bundle.
        """
        manifest = read_manifest(Path(folder))
        contract = _with_bit_depth(manifest, bit_depth)
        extraction = Extraction(
            threshold=manifest.threshold if threshold is None else threshold,
            min_area=min_area,
            max_targets=max_targets,
        )
        loaded = load_for(Path(folder), manifest, name=engine, precision=precision, threads=threads)
        return cls(
            loaded.engine,
            contract,
            extraction,
            precision=loaded.precision,
            reason=loaded.reason,
        )

    @property
    def description(self) -> str:
        """Engine, precision, and why that one, for a person to read."""
        said = self.engine.description + (f", {self.precision}" if self.precision else "")
        return said + (f": {self.reason}" if self.reason else "")

    def __call__(self, frame: Frame) -> Targets:
        """Find the targets of a frame.

        Args:
            frame: (H, W) uint8 or uint16 as the bundle's bit depth says, raw sensor counts.

        Returns:
            Targets in the frame's own pixels, best score first.

        Raises:
            TypeError: `frame` is no numpy array, or of another sample type.
            ValueError: wrong shape or size, or bits above the declared depth.
            EngineError: the engine failed.
        """
        return self.targets(self.confidence(frame))

    def confidence(self, frame: Frame) -> Confidence:
        """Run the network on a frame; arguments and errors as in a call."""
        prepared = prepare(frame, self.contract)
        shape = (frame.shape[0], frame.shape[1])
        geometry = fit_geometry(shape, self.contract)
        return Confidence(self.engine.run(prepared), geometry, shape)

    def targets(self, confidence: Confidence) -> Targets:
        """Read the targets out of a confidence map."""
        return extract(confidence.values, confidence.geometry, self.extraction)

    def close(self) -> None:
        """Give the engine's memory and threads back."""
        self.engine.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _with_bit_depth(manifest: Manifest, bit_depth: int | None) -> FrameContract:
    return manifest.frame if bit_depth is None else replace(manifest.frame, bit_depth=bit_depth)
