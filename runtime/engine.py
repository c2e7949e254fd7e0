"""What an engine is, and the one place that chooses and loads one."""

from __future__ import annotations

import os
from typing import Protocol

from .errors import EngineError
from .frame import FloatMap


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

        Raises:
            OutputError: its output is no confidence.
            EngineError: the engine failed.
        """
        ...

    def close(self) -> None:
        """Give memory and threads back; the engine cannot run afterwards."""
        ...


def load_engine(model: bytes, *, threads: int | None = None) -> Engine:
    """Load the ONNX model of a bundle into the best engine of this machine.

    Args:
        model: the serialised ONNX model, its hash already checked.
        threads: CPU threads of the engine; None takes those this process may use.

    Raises:
        EngineError: no engine is installed, or the model cannot be loaded.
        ValueError: `threads` is below 1.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}, expected 1 or more")
    try:
        from .engine_onnxruntime import OnnxRuntimeEngine
    except ImportError as err:
        raise EngineError(
            f"no engine can be loaded ({err}); install ONNX Runtime: pip install 'irstd[cpu]'"
        ) from err
    return OnnxRuntimeEngine(model, threads=threads or usable_threads())


def usable_threads() -> int:
    """CPU threads that this process may use, which a container may hold below the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
