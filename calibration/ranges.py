"""Ranges: what tensors take on calibration frames, and how much of it INT8 keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.calibrate import HistogramCollector

from ..runtime.engine import usable_threads
from ..runtime.frame import FloatMap
from .quantize import LEVELS

Method: TypeAlias = Literal["target", "minmax", "mse", "entropy", "percentile"]
METHODS: tuple[Method, ...] = get_args(Method)
Counts: TypeAlias = npt.NDArray[np.int64]

BINS = 4096  # of a histogram, both signs together
ENTROPY_BINS = 512  # the library's search takes a minute a tensor with more
PERCENTILE = 99.999
SMALLEST_EDGE = 2.0**-100  # of a histogram; all below is counted beside zero
# Ranges that are tried for the least error, as parts of the largest value. One hot pixel in some
# million values makes the best one a tenth of it.
MSE_PARTS = np.geomspace(0.02, 1.0, 161)
# A pixel is moved by a target when it changes by this part of the tensor's largest change.
MOVED = 0.1
EXTREMES = ("ReduceMin", "ReduceMax")
MOST_VALUES = 2**27  # fetched in one run: 512 MiB
CACHED = 2**15  # values that are counted at once, which a processor's cache holds in every step


@dataclass(frozen=True, slots=True)
class Observation:
    """What one tensor took on all calibration frames.

    Attributes:
        counts: (BINS,) values in each of the equal bins of -edge..edge.
        edge: a power of two.
        largest: largest absolute value.
        target: largest absolute value where a target changes the tensor; 0 where none does.
    """

    counts: Counts
    edge: float
    largest: float
    target: float


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The outcome of a calibration.

    Attributes:
        ranges: largest absolute value that each tensor shall carry, by name.
        observed: what the tensor took.
        shifts: (channels,) that each convolution's maps lose on average by the rounding, by its
            name.
    """

    ranges: dict[str, float]
    observed: dict[str, Observation]
    shifts: dict[str, FloatMap]


def observe(
    graph: onnx.ModelProto,
    tensors: Sequence[str],
    pairs: Iterable[tuple[FloatMap, FloatMap]],
    *,
    threads: int | None = None,
) -> dict[str, Observation]:
    """Run pairs of frames through a graph and collect what tensors take.

    The two frames of a pair differ by their targets alone, so the difference of an activation is
    what the targets cause in it.

    Args:
        graph: FP32.
        tensors: names of values inside the graph, or of its input.
        pairs: prepared frames (1, 1, H', W'), with targets and without; gone through once for
            every 2**27 values that the tensors hold.
        threads: of the arithmetic; None takes those this process may use.

    Raises:
        ValueError: no pairs, an unknown tensor, or NaN in one.
    """
    kept = list(pairs) if not isinstance(pairs, Sequence) else pairs
    if not kept:
        raise ValueError("there are no frames to observe")
    found: dict[str, Observation] = {}
    for group in _groups(graph, list(dict.fromkeys(tensors))):
        session = _expose(graph, group, threads=threads or usable_threads())
        name = session.get_inputs()[0].name
        for seen, empty in kept:
            with_targets = _fetch(session, name, group, seen)
            without = _fetch(session, name, group, empty)
            for tensor in group:
                observation = _look(tensor, with_targets[tensor], without[tensor])
                found[tensor] = _merge(found.get(tensor), observation)
    return found


def _groups(graph: onnx.ModelProto, tensors: Sequence[str]) -> list[list[str]]:
    """Split tensors so that one run fetches no more than `MOST_VALUES` values."""
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    sizes: dict[str, int] = {}
    for info in (*inferred.input, *inferred.value_info, *inferred.output):
        sides = [side.dim_value for side in info.type.tensor_type.shape.dim]
        sizes[info.name] = int(np.prod(sides, dtype=np.int64))
    groups: list[list[str]] = []
    filled = MOST_VALUES
    for tensor in tensors:
        if tensor not in sizes:
            raise ValueError(f"the graph has no value called {tensor!r}")
        if filled + sizes[tensor] > MOST_VALUES:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += sizes[tensor]
    return groups


def _expose(
    graph: onnx.ModelProto, tensors: Sequence[str], *, threads: int
) -> onnxruntime.InferenceSession:
    """A session that can return inner values."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(graph)
    given = {value.name for value in (*graph.graph.input, *graph.graph.output)}
    for tensor in tensors:
        if tensor not in given:
            info = helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None)
            exposed.graph.output.append(info)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        exposed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _fetch(
    session: onnxruntime.InferenceSession, name: str, tensors: Sequence[str], prepared: FloatMap
) -> dict[str, FloatMap]:
    inner = [tensor for tensor in tensors if tensor != name]
    values = dict(zip(inner, session.run(inner, {name: prepared}), strict=True)) if inner else {}
    return {tensor: values.get(tensor, prepared) for tensor in tensors}


def find_largest(
    graph: onnx.ModelProto, frames: Iterable[FloatMap], *, threads: int | None = None
) -> dict[str, float]:
    """The largest absolute value of every floating-point value of a graph, over some frames.

    Args:
        graph: FP32.
        frames: prepared, (1, 1, H', W').
        threads: of the arithmetic; None takes those this process may use.

    Returns:
        By name, constants included.

    Raises:
        ValueError: infinity in one.
    """
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    inner = (*inferred.input, *inferred.value_info, *inferred.output)
    names = [info.name for info in inner if info.type.tensor_type.elem_type == TensorProto.FLOAT]
    reduced = onnx.ModelProto()
    reduced.CopyFrom(graph)
    for number, name in enumerate(names):
        for kind in EXTREMES:
            extreme = f"{kind}_{number}"
            node = helper.make_node(kind, [name], [extreme], name=extreme, keepdims=0)
            reduced.graph.node.append(node)
            reduced.graph.output.append(
                helper.make_tensor_value_info(extreme, TensorProto.FLOAT, [])
            )
    session = _expose(reduced, [], threads=threads or usable_threads())
    outputs = [f"{kind}_{number}" for number in range(len(names)) for kind in EXTREMES]
    largest = dict.fromkeys(names, 0.0)
    for frame in frames:
        values = np.abs(session.run(outputs, {session.get_inputs()[0].name: frame}))
        for name, value in zip(names, values.reshape(-1, 2).max(axis=1), strict=True):
            _refuse_infinite(name, float(value))
            largest[name] = max(largest[name], float(value))
    for tensor in graph.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and math.prod(tensor.dims):
            largest[tensor.name] = float(np.abs(numpy_helper.to_array(tensor)).max())
    return largest


def _refuse_infinite(tensor: str, largest: float) -> None:
    if not math.isfinite(largest):
        raise ValueError(f"{tensor} holds NaN or infinity on a calibration frame")


def _look(tensor: str, seen: FloatMap, empty: FloatMap) -> Observation:
    # The maximum of NumPy, unlike Python's, is NaN where one of both is.
    largest = float(np.maximum(_magnitude(seen), _magnitude(empty)))
    _refuse_infinite(tensor, largest)
    edge = float(2.0 ** np.ceil(np.log2(max(largest, SMALLEST_EDGE))))
    change = np.subtract(seen, empty)
    np.abs(change, out=change)
    moved = seen[change > MOVED * change.max()]
    target = float(_magnitude(moved)) if moved.size else 0.0
    return Observation(_count(seen, edge) + _count(empty, edge), edge, largest, target)


def _magnitude(values: FloatMap) -> np.float32:
    """The largest absolute value, without a copy."""
    largest: np.float32 = np.maximum(values.max(), -values.min())
    return largest


def _count(values: FloatMap, edge: float) -> Counts:
    counts = np.zeros(BINS + 1, np.int64)  # the last one of those that lie on the edge itself
    flat = values.ravel()
    for start in range(0, flat.size, CACHED):
        # A power of two scales without rounding, so a value falls into the same bin of any edge.
        scaled = flat[start : start + CACHED] * np.float32(BINS / 2 / edge)
        places = np.floor(scaled, out=scaled).astype(np.intp)
        places += BINS // 2
        counts += np.bincount(places, minlength=BINS + 1)
    counts[BINS - 1] += counts[BINS]
    return counts[:BINS]


def _merge(first: Observation | None, second: Observation) -> Observation:
    if first is None:
        return second
    edge = max(first.edge, second.edge)
    return Observation(
        counts=_widen(first, edge) + _widen(second, edge),
        edge=edge,
        largest=max(first.largest, second.largest),
        target=max(first.target, second.target),
    )


def _widen(observation: Observation, edge: float) -> Counts:
    """The same values counted in wider bins; edges are powers of two, so bins join exactly."""
    joined = int(edge / observation.edge)
    counts = np.zeros(BINS, np.int64)
    # More than all bins of one sign joined: everything lies beside zero.
    if joined >= BINS // 2:
        counts[BINS // 2 - 1] = observation.counts[: BINS // 2].sum()
        counts[BINS // 2] = observation.counts[BINS // 2 :].sum()
        return counts
    narrow = observation.counts.reshape(-1, joined).sum(axis=1)
    start = (BINS - narrow.size) // 2
    counts[start : start + narrow.size] = narrow
    return counts


def estimate(observed: Mapping[str, Observation], method: Method) -> dict[str, float]:
    """The largest absolute value that each tensor shall carry; larger ones are clipped to it.

    Args:
        observed: by tensor.
        method: "minmax" clips nothing; "percentile" keeps 99.999 % of the values; "entropy" loses
            least information about the histogram (TensorRT's calibrator, GTC 2017 S7310); "mse"
            has the least squared error of rounding and clipping together; "target" is "mse", but
            never clips what a target causes.
    """
    rule = RULES[method]
    return {tensor: rule(observation) for tensor, observation in observed.items()}


def _minmax(observation: Observation) -> float:
    return observation.largest


def _magnitudes(observation: Observation) -> tuple[Counts, npt.NDArray[np.float64]]:
    """Counts of absolute values, and the upper end of each bin."""
    half = BINS // 2
    counts = observation.counts[half:] + observation.counts[:half][::-1]
    return counts, observation.edge * np.arange(1, half + 1) / half


def _percentile(observation: Observation) -> float:
    counts, ends = _magnitudes(observation)
    place = np.searchsorted(np.cumsum(counts), PERCENTILE / 100.0 * counts.sum())
    return min(float(ends[place]), observation.largest)


def _mse(observation: Observation) -> float:
    counts, ends = _magnitudes(observation)
    centres = ends - ends[0] / 2
    centres[0] = 0.0  # most of what lies there are the zeros of a ReLU
    candidates = observation.largest * MSE_PARTS[:, None]
    steps = candidates / LEVELS
    # Less than half a step becomes zero; else rounding has the variance of a uniform error.
    rounding = np.where(centres < steps / 2, centres**2, steps**2 / 12)
    beyond = np.maximum(centres - candidates, 0.0)
    errors = (counts * np.where(beyond > 0, beyond**2, rounding)).sum(axis=1)
    return float(candidates[np.argmin(errors), 0])


def _target(observation: Observation) -> float:
    return max(_mse(observation), observation.target)


def _entropy(observation: Observation) -> float:
    if not observation.largest:
        return 0.0
    counts = observation.counts.reshape(ENTROPY_BINS, -1).sum(axis=1)
    ends = observation.edge * np.linspace(-1.0, 1.0, ENTROPY_BINS + 1, dtype=np.float32)
    top = np.float32(observation.largest)
    collector = HistogramCollector("entropy", True, ENTROPY_BINS, 128, None, None)
    low, high = collector.get_entropy_threshold((counts, ends, -top, top, top), 128)
    return float(max(abs(low), abs(high)))


RULES: dict[Method, Callable[[Observation], float]] = {
    "target": _target,
    "minmax": _minmax,
    "mse": _mse,
    "entropy": _entropy,
    "percentile": _percentile,
}
