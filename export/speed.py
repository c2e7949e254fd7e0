"""Speed on a CPU: latencies measured in turn, and which precision runs there because of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace

import onnx
import onnxruntime

from ..runtime.bundle import CpuChoice, Latency, Precision
from ..runtime.engine import Engine, load_engine, processor_name, usable_threads
from ..runtime.timing import time_in_turn, warm_up

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


def name_machine(threads: int) -> str:
    """Processor, ONNX Runtime's version and threads: what a latency was measured on."""
    unit = "thread" if threads == 1 else "threads"
    return f"{processor_name()}, ONNX Runtime {onnxruntime.__version__}, {threads} {unit}"
