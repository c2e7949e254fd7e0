"""What an engine is, and the one place that loads one."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, get_args

from .errors import EngineError
from .frame import FloatMap

if TYPE_CHECKING:
    from .engine_onnxruntime import OnnxRuntimeEngine
    from .engine_openvino import OpenVinoEngine

EngineName: TypeAlias = Literal["onnxruntime", "openvino"]  # those that run ONNX, on a CPU
EngineOption: TypeAlias = Literal["onnxruntime", "openvino", "tensorrt"]


class Engine(Protocol):
    """Runs a network on prepared frames. Use from one thread at a time; close when done."""

    @property
    def description(self) -> str:
        """Library, version, device and threads, for a person to read."""
        ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the prepared frame, or clip of T frames, that the network takes."""
        ...

    def run(self, prepared: FloatMap) -> FloatMap:
        """Map (1, T, H', W') float32 in 0..1 to confidence (H', W') float32 in 0..1.

        A network whose output is named "boxes" gives (A, 5) float32 in its place, see `boxes`.

        Raises:
            OutputError: its output is neither.
            EngineError: the engine failed.
        """
        ...

    def close(self) -> None:
        """Give memory and threads back; the engine cannot run afterwards."""
        ...


def load_engine(
    model: bytes, *, threads: int | None = None, name: EngineName = "onnxruntime"
) -> Engine:
    """Load the ONNX model of a bundle into an engine.

    Args:
        model: the serialised ONNX model, its hash already checked.
        threads: CPU threads of the engine; None takes those this process may use.
        name: of the engine.

    Raises:
        EngineError: the engine is not installed, or the model cannot be loaded.
        ValueError: `threads` is below 1, or there is no engine of that name.
    """
    if name not in get_args(EngineName):
        raise ValueError(f"engine is {name!r}, expected one of {', '.join(get_args(EngineName))}")
    find = _find_openvino if name == "openvino" else _find_onnxruntime
    return find()(model, threads=count_threads(threads))


def load_as_written(model: bytes, *, threads: int) -> Engine:
    """Load a model into ONNX Runtime such that it computes the graph as written; slow, but true.

    Raises:
        EngineError: ONNX Runtime is not installed, or the model cannot be loaded.
    """
    return _find_onnxruntime()(model, threads=threads, is_optimised=False)


def _find_onnxruntime() -> type[OnnxRuntimeEngine]:
    try:
        from .engine_onnxruntime import OnnxRuntimeEngine
    except (ImportError, OSError) as err:
        raise EngineError(
            f"no engine can be loaded ({err}); install ONNX Runtime: pip install 'irstd[cpu]'"
        ) from err
    return OnnxRuntimeEngine


def _find_openvino() -> type[OpenVinoEngine]:
    try:
        from .engine_openvino import OpenVinoEngine
    except (ImportError, OSError) as err:
        raise EngineError(
            f"OpenVINO cannot be loaded ({err}); install it: pip install 'irstd[openvino]'"
        ) from err
    return OpenVinoEngine


def count_threads(asked: int | None) -> int:
    """The threads that are asked for; None stands for those this process may use.

    Raises:
        ValueError: less than 1 is asked for.
    """
    if asked is None:
        return usable_threads()
    if asked < 1:
        raise ValueError(f"threads is {asked}, expected 1 or more")
    return asked


def usable_threads() -> int:
    """CPU threads that this process may use, which a container may hold below the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """What the processor calls itself, where it says so."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
