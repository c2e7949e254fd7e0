"""The calibration cache: ranges kept under a key of everything that they follow from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime

from .. import __version__
from ..runtime.files import user_cache, write_whole
from ..runtime.frame import FrameContract
from .frames import CalibrationSet
from .ranges import Calibrated, Method, Observation

FORMAT = 2  # of the file, and of how ranges and shifts are computed


class Counted(msgspec.Struct, frozen=True):
    """An `Observation` in plain numbers."""

    counts: list[int]
    edge: float
    largest: float
    target: float


class CacheFile(msgspec.Struct, frozen=True):
    """A file of the cache.

    Attributes:
        key: what it was computed from; the file's name says the same.
        ranges: largest absolute value to be carried, by tensor.
        observed: what the tensor took.
        shifts: what each convolution's maps lose on average.
    """

    key: str
    ranges: dict[str, float]
    observed: dict[str, Counted]
    shifts: dict[str, list[float]]


def range_key(
    graph: onnx.ModelProto, contract: FrameContract, frames: CalibrationSet, method: Method
) -> str:
    """Hash everything that ranges follow from: another graph, frame or version is another key."""
    parts = (
        f"format {FORMAT}, irstd {__version__}, ONNX Runtime {onnxruntime.__version__}".encode(),
        hashlib.sha256(graph.SerializeToString(deterministic=True)).digest(),
        msgspec.json.encode(contract),
        frames.sha256.encode(),
        method.encode(),
    )
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def cache_folder() -> Path:
    """Where the ranges of this user lie."""
    return user_cache("ranges")


def read_ranges(folder: Path, key: str) -> Calibrated | None:
    """Ranges from the cache; None where there are none, or the file is damaged or another's."""
    try:
        found = msgspec.json.decode(_path(folder, key).read_bytes(), type=CacheFile)
    except (OSError, ValueError):  # none, out of reach, no JSON, no UTF-8, or not these fields
        return None
    return _restore(found) if found.key == key else None


def _restore(found: CacheFile) -> Calibrated:
    observed = {
        tensor: Observation(np.array(one.counts, np.int64), one.edge, one.largest, one.target)
        for tensor, one in found.observed.items()
    }
    shifts = {name: np.array(values, np.float32) for name, values in found.shifts.items()}
    return Calibrated(ranges=found.ranges, observed=observed, shifts=shifts)


def write_ranges(folder: Path, key: str, calibrated: Calibrated) -> None:
    """Put ranges into the cache.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    observed = {
        tensor: Counted(one.counts.tolist(), one.edge, one.largest, one.target)
        for tensor, one in calibrated.observed.items()
    }
    shifts = {name: values.tolist() for name, values in calibrated.shifts.items()}
    content = msgspec.json.encode(CacheFile(key, dict(calibrated.ranges), observed, shifts))
    write_whole(_path(folder, key), content)


def _path(folder: Path, key: str) -> Path:
    return folder / f"{key}.json"
