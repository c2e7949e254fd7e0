"""Latency of engines, measured in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from .bundle import Latency
from .engine import Engine
from .frame import FloatMap

Name = TypeVar("Name")


def warm_up(engine: Engine, *, runs: int = 3) -> float:
    """Run an engine until caches and threads are warm; seconds of the last run."""
    frame = _any_frame(engine)
    return [_run_seconds(engine, frame) for _ in range(runs)][-1]


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
