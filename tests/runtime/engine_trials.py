"""Engines to choose among, and their latencies."""

from irstd.runtime.bundle import Latency
from irstd.runtime.engine_choice import Candidate
from irstd.runtime.files import user_cache

ORT32 = Candidate("onnxruntime", "fp32")
OV32 = Candidate("openvino", "fp32")
OV8 = Candidate("openvino", "int8")


def latency(median):
    return Latency(median, median - 0.5, median + 100.0)


def kept():
    folder = user_cache("engines")
    return sorted(folder.iterdir()) if folder.is_dir() else []


def raising(error):
    def make(model):
        raise error

    return make
