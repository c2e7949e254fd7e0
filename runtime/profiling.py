"""Profiling: what each stage of a detector takes, frame by frame, with nothing left out."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .bundle import Precision
from .detector import Detector
from .frame import Frame
from .sources import SourceFrame
from .streaming import Detection


@dataclass(frozen=True, slots=True)
class StageLatency:
    """Latency of one stage over all profiled frames, outliers included."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Profile:
    """What a detector took on this machine.

    Attributes:
        engine: library, version, device, threads.
        precision: of the graph that it ran; None where the detector does not know.
        frames: profiled frames, without the warm-up.
        warm_up: frames run before.
        frame_shape: (H, W) of the sensor frames.
        network_shape: (H', W') of the network's input.
        stages: latency of "read", of what the detector tells ("prepare", "engine" and "extract" on
            a CPU, "upload", "compute" and "read back" on a GPU), and of a frame in all, "total".
        fps: frames divided by the time from the first to the last, pauses for the rate included.
        throughput_fps: the same with as many frames under way at once as the detector likes; None
            where that is one, so that `fps` says it, or at a pace.
        rate_hz: asked pace; None where frames followed one another at once.
        late: frames not finished when the next was due at that pace.
        cpu_cores: CPU time of the process divided by the time passed.
        peak_memory_mib: largest resident memory of the process so far.
    """

    engine: str
    precision: Precision | None
    frames: int
    warm_up: int
    frame_shape: tuple[int, int]
    network_shape: tuple[int, int]
    stages: dict[str, StageLatency]
    fps: float
    throughput_fps: float | None
    rate_hz: float | None
    late: int
    cpu_cores: float
    peak_memory_mib: float


def profile(
    detector: Detector,
    frames: Iterator[Frame],
    *,
    count: int,
    warm_up: int,
    rate_hz: float | None = None,
) -> Iterator[Profile]:
    """Run a detector on frames and time every stage on the monotonic clock.

    Frames go one after another, each until its targets are there; where the detector takes several
    at once, as many more frames then show its throughput.

    Args:
        detector: what is profiled.
        frames: at least `warm_up + 2 * count` of them, and a few more; taking the next one is the
            stage "read".
        count: frames to time.
        warm_up: frames to run before; at least a whole clip.
        rate_hz: pace of the frames; None runs them one after another.

    Yields:
        What is known after each timed frame; the last is the whole profile.

    Raises:
        ValueError: a number is out of range, or the frames end too early.
    """
    if count < 1 or warm_up < 0:
        raise ValueError(f"{count} frames after {warm_up} to warm up; expected 1 or more after 0")
    if rate_hz is not None and not rate_hz > 0:
        raise ValueError(f"rate is {rate_hz} Hz, expected more than 0")
    clip = detector.contract.clip
    for _ in range(warm_up if clip is None else max(warm_up, clip.span)):
        _time_stages(detector, frames)
    return _profile_warm(detector, frames, count=count, warm_up=warm_up, rate_hz=rate_hz)


def _profile_warm(
    detector: Detector, frames: Iterator[Frame], *, count: int, warm_up: int, rate_hz: float | None
) -> Iterator[Profile]:
    times: list[dict[str, float]] = []
    late = 0
    throughput: float | None = None
    began, cpu_began = time.perf_counter(), time.process_time()
    for index in range(count):
        if rate_hz is not None:
            due = began + index / rate_hz
            late += index > 0 and time.perf_counter() > due
            time.sleep(max(0.0, due - time.perf_counter()))
        stages, shape = _time_stages(detector, frames)
        times.append(stages)
        passed, cpu_passed = time.perf_counter() - began, time.process_time() - cpu_began
        is_last = index == count - 1
        if is_last and rate_hz is None and detector.frames_ahead > 1:
            throughput = _throughput_fps(detector, frames, count)
        yield Profile(
            engine=detector.engine.description,
            precision=detector.precision,
            frames=len(times),
            warm_up=warm_up,
            frame_shape=shape,
            network_shape=(detector.contract.height, detector.contract.width),
            stages=_latencies(times) if is_last else {},
            fps=len(times) / passed,
            throughput_fps=throughput,
            rate_hz=rate_hz,
            late=late,
            cpu_cores=cpu_passed / passed,
            peak_memory_mib=_peak_memory_mib(),
        )


def _time_stages(
    detector: Detector, frames: Iterator[Frame]
) -> tuple[dict[str, float], tuple[int, int]]:
    """Milliseconds of each stage for the next frame, and the frame's shape."""
    start = time.perf_counter()
    frame = _next(frames)
    read = time.perf_counter()
    detector(frame)
    end = time.perf_counter()
    stages = {"read": (read - start) * 1e3} | detector.stages() | {"total": (end - start) * 1e3}
    return stages, (frame.shape[0], frame.shape[1])


def _throughput_fps(detector: Detector, frames: Iterator[Frame], count: int) -> float:
    """Frames a second with several under way; filling the pipeline at first is not counted."""
    ahead = detector.frames_ahead
    source = (SourceFrame(index, str(index), _next(frames)) for index in range(ahead + count))
    results = detector.stream(source)
    for _ in range(ahead):
        next(results)
    began = time.perf_counter()
    done = sum(isinstance(result, Detection) for result in results)
    return done / (time.perf_counter() - began)


def _next(frames: Iterator[Frame]) -> Frame:
    frame = next(frames, None)
    if frame is None:
        raise ValueError("the source ended before enough frames were profiled; ask for fewer")
    return frame


def _latencies(times: list[dict[str, float]]) -> dict[str, StageLatency]:
    latencies = {}
    for stage in times[0]:
        taken = [stages[stage] for stages in times]
        # "higher" names a latency that did occur, not one between two.
        p50, p90, p99 = np.percentile(taken, [50, 90, 99], method="higher").tolist()
        latencies[stage] = StageLatency(p50, p90, p99, max(taken))
    return latencies


def _peak_memory_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
