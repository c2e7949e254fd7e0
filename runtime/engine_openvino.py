"""The engine that is faster than ONNX Runtime on most CPUs, above all in INT8: OpenVINO."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import EngineError
from .frame import FloatMap
from .outputs import check_output

OLDEST = (2024, 4)  # year and release
PLACES = ("Exception from ", "Check '", "FrontEnd API failed ")  # lines of its errors


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Let a package look as if it were not installed: None in its place is an ImportError."""
    found = {name: sys.modules.pop(name) for name in [package] if name in sys.modules}
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
        sys.modules.update(found)


# Its first import writes into the home folder and reports to a server; without that package
# OpenVINO has a stub for it, which does neither. Nothing can be done where it is imported already.
with _hidden("openvino_telemetry"):
    import openvino


def _check_version(version: str) -> None:
    """Refuse what the extra would not install.

    Raises:
        ImportError: the version is too old, or tells nothing.
    """
    release = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if release < OLDEST:
        raise ImportError(f"OpenVINO {version} is here, {OLDEST[0]}.{OLDEST[1]} or newer is needed")


_check_version(getattr(openvino, "__version__", "of unknown version"))
VERSION = openvino.__version__.partition("-")[0]  # without the build


class OpenVinoEngine:
    """Runs an ONNX model on the CPU, FP32 in FP32 and INT8 in INT8, for the least latency."""

    def __init__(self, model: bytes, *, threads: int) -> None:
        """Load a model; nothing is kept on disk.

        Args:
            model: serialised ONNX with one input (1, T, H', W') and one output: "boxes"
                (1, A, 5), or confidence (1, 1, H', W').
            threads: threads inside an operator; OpenVINO takes no more than there are cores.

        Raises:
            EngineError: OpenVINO cannot load the model.
        """
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            # Where the CPU can, OpenVINO would compute FP32 in bfloat16, with 8 bits of mantissa.
            "INFERENCE_PRECISION_HINT": "f32",
            # A thread bound to a core waits for it while others are free, and so do two detectors.
            "ENABLE_CPU_PINNING": False,
        }
        # OpenVINO's errors are plain RuntimeErrors.
        try:
            core = openvino.Core()
            self._model = core.compile_model(core.read_model(model), "CPU", settings)
            self._shape = tuple(self._model.input(0).shape)
            self._output: str = self._model.output(0).get_any_name()
            self._threads: int = self._model.get_property("INFERENCE_NUM_THREADS")
        except RuntimeError as err:
            raise EngineError(f"OpenVINO cannot load the model: {_plain(err)}") from err

    @property
    def description(self) -> str:
        """Library, version, device and threads."""
        return f"OpenVINO {VERSION}, CPU, {self._threads} threads"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the prepared frame."""
        return self._shape

    def run(self, prepared: FloatMap) -> FloatMap:
        """Map (1, T, H', W') float32 to confidence (H', W') or boxes (A, 5), float32."""
        try:
            output: FloatMap = self._model(prepared)[0]
        except RuntimeError as err:
            raise EngineError(f"OpenVINO failed: {_plain(err)}") from err
        return check_output(output, self._output, prepared.shape[-2:])

    def close(self) -> None:
        """Free the model."""
        del self._model


def _plain(err: Exception) -> str:
    """What went wrong, in one line without the places in OpenVINO's source."""
    lines = [line.strip() for line in str(err).splitlines()]
    said = [line for line in lines if line and not line.startswith(PLACES)]
    return " ".join(said) or type(err).__name__
