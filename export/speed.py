"""Speed on a CPU: latencies measured in turn, and which precision runs there because of them."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import onnxruntime

from ..runtime.bundle import CpuChoice, Latency, Precision
from ..runtime.engine import Engine, load_engine, usable_threads
from ..runtime.frame import FloatMap

Name = TypeVar("Name")

WARM_UP = 3
FEWEST, MOST = 5, 20  # rounds
BUDGET_S = 10.0  # of the slowest engine; a run of up to a second gets 10 rounds or more


def choose_for_cpu(graphs: Mapping[Precision, onnx.ModelProto], precision: Precision) -> CpuChoice:
    """Run the graphs of a bundle in ONNX Runtime on this CPU and choose which a CPU shall run.

    Args:
        graphs: with "fp32" and `precision`, all of one input shape.
        precision: that the bundle is for.

    Raises:
        EngineError: a graph cannot be loaded or run.
    """
    threads = usable_threads()
    with ExitStack() as stack:
        engines: dict[Precision, Engine] = {
            name: stack.enter_context(
                closing(load_engine(graph.SerializeToString(), threads=threads))
            )
            for name, graph in graphs.items()
        }
        slowest = max(warm_up(engine) for engine in engines.values())
        latency_ms = time_in_turn(engines, rounds=count_rounds(slowest))
    return decide(latency_ms, precision, machine=name_machine(threads))


def decide(
    latency_ms: dict[Precision, Latency], precision: Precision, *, machine: str
) -> CpuChoice:
    """Choose FP32 for the CPU unless the bundle's own precision takes no longer.

    Args:
        latency_ms: of "fp32" and of `precision`.
        precision: that the bundle is for.
        machine: what was measured on.
    """
    full, lower = latency_ms["fp32"].median, latency_ms[precision].median
    chosen: Precision = precision if lower <= full else "fp32"
    if precision == "fp32":
        reason = f"at export fp32, the only precision here, took {full:.1f} ms on {machine}"
    elif chosen == precision:
        reason = f"at export {precision} took {lower:.1f} ms, fp32 {full:.1f} ms on {machine}"
    else:
        reason = (
            f"at export {precision} took {lower:.1f} ms, fp32 {full:.1f} ms on {machine}, "
            f"so CPUs run fp32; TensorRT builds from {precision}"
        )
    return CpuChoice(precision=chosen, reason=reason, latency_ms=latency_ms, machine=machine)


def distrust(cpu: CpuChoice, losses: Sequence[str]) -> CpuChoice:
    """Let CPUs run FP32 because the lower precision, as ONNX Runtime computes it, loses targets."""
    reason = f"as ONNX Runtime computes the lower precision it loses targets: {'; '.join(losses)}"
    return replace(cpu, precision="fp32", reason=f"{reason}; {cpu.reason}")


def count_rounds(slowest_s: float) -> int:
    """Rounds for engines of which the slowest takes this many seconds.

    Example:
        >>> [count_rounds(seconds) for seconds in (0.001, 1.0, 1.5, 60.0)]
        [20, 10, 6, 5]
    """
    return max(FEWEST, min(MOST, int(BUDGET_S / slowest_s)))


def warm_up(engine: Engine) -> float:
    """Run an engine until caches and threads are warm; seconds of the last run."""
    frame = _any_frame(engine)
    return [_run_seconds(engine, frame) for _ in range(WARM_UP)][-1]


def time_in_turn(engines: Mapping[Name, Engine], *, rounds: int) -> dict[Name, Latency]:
    """Time warm engines in turn, so that a busy machine is busy for all.

    Args:
        engines: by name, all of one input shape; they see the same random frame.
        rounds: runs of each.

    Returns:
        Latency of each, in milliseconds to the microsecond.
    """
    frame = _any_frame(next(iter(engines.values())))
    times: dict[Name, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            times[name].append(_run_seconds(engine, frame) * 1e3)
    return {name: _latency(taken) for name, taken in times.items()}


def _latency(times_ms: list[float]) -> Latency:
    median = statistics.median(times_ms)
    return Latency(round(median, 3), round(min(times_ms), 3), round(max(times_ms), 3))


def _any_frame(engine: Engine) -> FloatMap:
    return np.random.default_rng(0).random(engine.input_shape, np.float32)


def _run_seconds(engine: Engine, frame: FloatMap) -> float:
    begun = time.perf_counter()
    engine.run(frame)
    return time.perf_counter() - begun


def name_machine(threads: int) -> str:
    """Processor, ONNX Runtime's version and threads: what a latency was measured on."""
    unit = "thread" if threads == 1 else "threads"
    return f"{_processor()}, ONNX Runtime {onnxruntime.__version__}, {threads} {unit}"


def _processor() -> str:
    """What the processor calls itself, where it says so."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
