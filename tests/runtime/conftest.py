"""Fixtures of several tests of the runtime."""

import pytest

from irstd.runtime import engine_choice
from irstd.runtime.engine import load_engine
from irstd.tests.runtime.engine_trials import ORT32, OV8, OV32, latency


@pytest.fixture
def measured(monkeypatch, openvino_installed):
    """Latencies that a test sets in place of this machine's; counts how often they are taken."""

    class Measured(dict):
        times = 0

    latencies = Measured({ORT32: 27.0, OV32: 20.0, OV8: 14.2})

    def time_in_turn(engines, *, rounds):
        latencies.times += 1
        return {candidate: latency(latencies[candidate]) for candidate in engines}

    monkeypatch.setattr(engine_choice, "time_in_turn", time_in_turn)
    return latencies


@pytest.fixture
def broken_openvino(monkeypatch, measured):
    """Lets OpenVINO, but nothing else, be loaded as a test says."""

    def break_with(make):
        def load(model, *, threads, name="onnxruntime"):
            engine = None if name == "openvino" else load_engine(model, threads=threads)
            return make(model) if engine is None else engine

        monkeypatch.setattr(engine_choice, "load_engine", load)

    return break_with
