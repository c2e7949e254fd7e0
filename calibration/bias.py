"""Bias correction: what rounding shifts a layer's maps by on average is taken back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from ..runtime.engine import usable_threads
from ..runtime.frame import FloatMap
from .quantize import DQ, Q, to_int8

ROUNDED, LOST, MEAN = "_rounded", "_lost", "_shift"  # what is added to the name of a map


def find_shifts(
    graph: onnx.ModelProto,
    ranges: Mapping[str, float],
    layers: Collection[str],
    frames: Sequence[FloatMap],
    *,
    threads: int | None = None,
) -> dict[str, FloatMap]:
    """What each convolution loses on average by the rounding of its own input and weights.

    Rounded weights have other sums than the weights, and background has a mean, so whole maps are
    shifted, by less than a step and over the whole frame: enough to bring clutter over the
    threshold. This is the bias that Nagel et al. take back (Data-Free Quantization Through Weight
    Equalization and Bias Correction, ICCV 2019, section 4.2), measured on frames. Every layer reads
    exact values here, so shifts of layers do not depend on which others are rounded.

    Args:
        graph: FP32.
        ranges: largest absolute value that each convolution's input shall carry, by tensor name.
        layers: names of the convolutions.
        frames: prepared, (1, T, H', W').
        threads: of the arithmetic; None takes those this process may use.

    Returns:
        (channels,) by convolution: mean of the exact map less that of the rounded one.

    Raises:
        ValueError: no frames; else as `to_int8`.
    """
    if not layers:
        return {}
    if not frames:
        raise ValueError("there are no frames to compare on")
    session = _compare(graph, to_int8(graph, ranges, layers), threads or usable_threads())
    outputs = [value.name for value in session.get_outputs()]
    total = {name: np.zeros((), np.float64) for name in outputs}
    for frame in frames:
        means = session.run(outputs, {session.get_inputs()[0].name: frame})
        for name, mean in zip(outputs, means, strict=True):
            total[name] = total[name] + mean
    return {
        name.removesuffix(MEAN): (value / len(frames)).astype(np.float32)
        for name, value in total.items()
    }


def _compare(
    exact: onnx.ModelProto, rounded: onnx.ModelProto, threads: int
) -> onnxruntime.InferenceSession:
    """A session that gives, for each convolution that is rounded, the mean of what it loses.

    The pairs of the rounded graph read tensors by the names that the exact one has, so put into
    the exact graph they round exact values.
    """
    both = onnx.ModelProto()
    both.CopyFrom(exact)
    graph = both.graph
    known = {tensor.name for tensor in graph.initializer}
    graph.initializer.extend(one for one in rounded.graph.initializer if one.name not in known)
    exact_nodes = {node.name for node in graph.node}
    pairs = [node for node in rounded.graph.node if node.op_type in (Q, DQ)]
    graph.node.extend(node for node in pairs if node.name not in exact_nodes)
    read = {name for node in pairs for name in node.output}
    for node in rounded.graph.node:
        if node.op_type == "Conv" and node.input[0] in read:
            graph.node.extend(_lose(node))
            graph.output.append(
                helper.make_tensor_value_info(f"{node.name}{MEAN}", TensorProto.FLOAT, None)
            )
    del graph.output[: len(exact.graph.output)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    # An optimiser would make integers of the pairs, with rounding of its own.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        both.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _lose(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The convolution as it is rounded, and the mean over the frame of what that loses."""
    exact = node.output[0]
    rounded, lost, mean = f"{exact}{ROUNDED}", f"{exact}{LOST}", f"{node.name}{MEAN}"
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name, copy.output[0] = f"{node.name}{ROUNDED}", rounded
    return [
        copy,
        helper.make_node("Sub", [exact, rounded], [lost], name=lost),
        helper.make_node("ReduceMean", [lost], [mean], name=mean, axes=[0, 2, 3], keepdims=0),
    ]


def take_back(graph: onnx.ModelProto, shifts: Mapping[str, FloatMap]) -> onnx.ModelProto:
    """Add shifts to the biases of convolutions, which stay FP32.

    Args:
        graph: left as it is; a bias that several convolutions share is not shared any more.
        shifts: (channels,) by the name of a convolution.
    """
    corrected = onnx.ModelProto()
    corrected.CopyFrom(graph)
    biases = {tensor.name: tensor for tensor in corrected.graph.initializer}
    for node in corrected.graph.node:
        if node.name not in shifts:
            continue
        shift = shifts[node.name]
        before = numpy_helper.to_array(biases[node.input[2]]) if len(node.input) > 2 else 0.0
        name = f"{node.name}_bias"
        while name in biases:  # a network may have a parameter of that name
            name += "_"
        corrected.graph.initializer.append(
            numpy_helper.from_array((before + shift).astype(np.float32), name)
        )
        del node.input[2:]
        node.input.append(name)
    read = {name for node in corrected.graph.node for name in node.input}
    for tensor in [one for one in corrected.graph.initializer if one.name not in read]:
        corrected.graph.initializer.remove(tensor)
    return corrected
