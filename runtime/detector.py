"""The detector: what onboard software embeds. A frame in, targets out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from .bundle import Manifest, Precision, read_manifest
from .engine import Engine, EngineOption
from .engine_choice import Loaded, load_for
from .engine_plan import load_fitting
from .errors import DeviceError, EngineError
from .frame import Frame, FrameContract
from .pipeline import Confidence, Slot, open_pipeline, read_targets
from .sources import BadFrame, SourceFrame
from .streaming import Detection, FrameStream
from .targets import Extraction, Targets, add_note

Result = TypeVar("Result", Targets, Confidence)


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
        note: what every result says since the CPU stands in for a GPU that failed.

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
        stand_in: Callable[[], Loaded] | None = None,
    ) -> None:
        """Put a detector together from parts; `Detector.load` does it from a bundle.

        Args:
            engine: runs the network; the detector closes it.
            contract: what the network expects.
            extraction: how targets are read out of its confidence.
            precision: of the graph that the engine runs.
            reason: why this engine and precision run.
            stand_in: loads what runs on when the engine's device fails; None lets that be an error.

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
        self.note = ""
        self._load_stand_in = stand_in
        self._pipeline = open_pipeline(engine, contract, extraction)
        self._slot: Slot | None = None
        self._count = 0  # of calls

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        engine: EngineOption | None = None,
        precision: Precision | None = None,
        threads: int | None = None,
        device: int | None = None,
        allow_cpu: bool = False,
        threshold: float | None = None,
        bit_depth: int | None = None,
        min_area: float = 0.0,
        max_targets: int = 1000,
    ) -> Detector:
        """Load a bundle, check its hashes, and take the best engine of this machine.

        That is TensorRT where the bundle has a plan that fits a GPU of this machine; where it has
        plans and none fits, `description` says why. On a CPU where OpenVINO is installed, the first
        load measures it against ONNX Runtime, which takes seconds, and keeps the outcome in the
        user's cache (irstd/engines).

        Args:
            folder: the bundle, made by `irstd-export`.
            engine: "tensorrt", for its two flavours, "onnxruntime", or "openvino", which is then
                not checked against it; None takes a plan that fits, else OpenVINO where it is
                installed, faster, and agrees with ONNX Runtime.
            precision: of the graph to run; None takes what is fastest on this CPU, in ONNX Runtime
                as measured at export, and in TensorRT or an OpenVINO that is named the bundle's.
            threads: CPU threads of the engine; None takes those this process may use.
            device: number of the GPU; None takes the first that a plan fits.
            allow_cpu: whether ONNX Runtime may stand in on the CPU when the GPU fails, at loading
                or later; every result then says so (`Targets.note`), and a clip begins anew.
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
        place = Path(folder)
        cpu = partial(load_for, place, manifest, precision=precision, threads=threads)
        loaded = load_fitting(
            place,
            manifest,
            name=engine,
            precision=precision,
            device=device,
            load_cpu=lambda: cpu(name=None if engine == "tensorrt" else engine),
            allow_cpu=allow_cpu,
        )
        detector = cls(
            loaded.engine,
            contract,
            extraction,
            precision=loaded.precision,
            reason=loaded.reason,
            stand_in=partial(cpu, name="onnxruntime") if allow_cpu else None,
        )
        detector.note = loaded.note
        return detector

    @property
    def description(self) -> str:
        """Engine, precision, and why that one, for a person to read."""
        said = self.engine.description + (f", {self.precision}" if self.precision else "")
        return said + (f": {self.reason}" if self.reason else "")

    def __call__(self, frame: Frame) -> Targets:
        """Find the targets of a frame.

        A network for sequences also sees the frames of the calls before, up to the last `reset` or
        cut of the scene; `Targets.clip` says what became of them.

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
        targets = self._run(frame, lambda slot: slot.targets())
        return add_note(targets, self.note)

    def confidence(self, frame: Frame) -> Confidence:
        """Run the network on a frame; arguments and errors as in a call."""
        return self._run(frame, lambda slot: slot.confidence())

    def targets(self, confidence: Confidence) -> Targets:
        """Read the targets out of a confidence map."""
        return read_targets(confidence, self.extraction)

    def reset(self) -> None:
        """Forget the frames of the clip: the next frame begins another sequence."""
        self._pipeline.reset()

    def stream(
        self,
        source: Iterable[SourceFrame | BadFrame],
        *,
        ahead: int | None = None,
        with_confidence: bool = False,
    ) -> Iterator[Detection | BadFrame]:
        """Find the targets of frame after frame; a GPU works on several at once.

        Args:
            source: from `open_source`, or any frames.
            ahead: frames under way at once. 1 gives each result before the next frame is taken,
                which suits a live source; None takes what makes the most frames a second.
            with_confidence: whether results hold the network's answer too.

        Yields:
            A result for each frame, in their order; a frame that cannot be used is a `BadFrame`.

        Raises:
            EngineError: the engine failed; the text says at which frame.
        """
        ahead = self._pipeline.ahead if ahead is None else ahead
        with closing(FrameStream(self, ahead=ahead, with_confidence=with_confidence)) as stream:
            yield from stream.run(source)

    @property
    def frames_ahead(self) -> int:
        """Frames that `stream` keeps under way unless told otherwise."""
        return self._pipeline.ahead

    def stages(self) -> dict[str, float]:
        """Milliseconds of each stage of the frame that was detected last, but for streams."""
        return self._slot.stages() if self._slot is not None else {}

    def open_slot(self) -> Slot:
        """A place for a frame under way, of what runs now; for streams."""
        return self._pipeline.open_slot()

    def stand_in(self, err: DeviceError, where: str) -> None:
        """Run on in the engine that stands in for one whose device failed.

        Raises:
            DeviceError: there is none, or it is not allowed; the text says where.
        """
        if self._load_stand_in is None:
            raise DeviceError(
                f"{where}: {err}; allow_cpu=True (--allow-cpu) would go on on the CPU"
            ) from err
        other, self._load_stand_in = self._load_stand_in(), None
        failed = self.engine.description
        with suppress(DeviceError):  # what the device held is lost with it
            self.close()
        self.engine, self.precision = other.engine, other.precision
        self._pipeline = open_pipeline(self.engine, self.contract, self.extraction)
        self.note = self.reason = f"{failed} failed at {where} ({err}); the CPU stands in"

    def _run(self, frame: Frame, read: Callable[[Slot], Result]) -> Result:
        try:
            return self._try(frame, read)
        except DeviceError as err:
            self.stand_in(err, f"frame {self._count}")
        finally:
            self._count += 1
        return self._try(frame, read)

    def _try(self, frame: Frame, read: Callable[[Slot], Result]) -> Result:
        if self._slot is None:
            self._slot = self._pipeline.open_slot()
        self._slot.submit(frame)
        return read(self._slot)

    def close(self) -> None:
        """Give the engine's memory and threads back."""
        with ExitStack() as stack:
            stack.callback(self.engine.close)
            stack.callback(self._pipeline.close)
            if self._slot is not None:
                stack.callback(self._slot.close)
                self._slot = None

    def __enter__(self) -> Detector:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with suppress(DeviceError) if kind is not None else nullcontext():
            self.close()  # of a device that is lost only the first error says something


def _with_bit_depth(manifest: Manifest, bit_depth: int | None) -> FrameContract:
    return manifest.frame if bit_depth is None else replace(manifest.frame, bit_depth=bit_depth)
