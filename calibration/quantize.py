"""Q/DQ insertion: explicit symmetric INT8, in the form that TensorRT 8.6 to 11 read."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import QuantType

LEVELS = 127  # of each sign; symmetric, so only what is beyond the range becomes -128
SMALLEST_RANGE = LEVELS * float(np.finfo(np.float32).tiny)  # whose step is an FP32 number
Q, DQ = "QuantizeLinear", "DequantizeLinear"

# Activations and weights symmetric with a zero point that is written out, biases in FP32, weights
# as FP32 with their own pair: what TensorRT 8.6 parses. Outputs of convolutions stay as they are,
# or the sum or activation behind them could not be fused.
OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "AddQDQPairToWeight": True,
    "OpTypesToExcludeOutputQuantization": ["Conv"],
}


def list_layers(graph: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The convolutions that can be quantised, in graph order.

    Their weights are constant; what they read is neither that nor an output of the graph, which
    must not be rounded.
    """
    constants = {tensor.name for tensor in graph.graph.initializer}
    kept = constants | {value.name for value in graph.graph.output}
    return [
        node
        for node in graph.graph.node
        if node.op_type == "Conv" and node.input[1] in constants and node.input[0] not in kept
    ]


def list_candidates(graph: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Those of them that gain by it: all but filters from one map to one map.

    Such as the blurs of a structure tensor, which hold next to no arithmetic, while 127 steps are
    too few for the derivatives that they average.
    """
    maps = {tensor.name: list(tensor.dims[:2]) for tensor in graph.graph.initializer}
    return [node for node in list_layers(graph) if maps[node.input[1]] != [1, 1]]


def to_int8(
    graph: onnx.ModelProto, ranges: Mapping[str, float], layers: Collection[str]
) -> onnx.ModelProto:
    """Make chosen convolutions INT8; all else reads the floating-point values that it read before.

    Args:
        graph: FP32, left as it is.
        ranges: largest absolute value that each convolution's input shall carry, by tensor name.
        layers: names of the convolutions.

    Returns:
        A graph with the same input and output. Each chosen convolution reads its input and its
        weights (a scale for each output channel) through QuantizeLinear and DequantizeLinear;
        convolutions that read the same tensor share its pair.

    Raises:
        ValueError: a name is no quantisable convolution, its input has no positive range, or a
            constant has the name that a scale would get.
    """
    chosen = _check(graph, ranges, layers)
    if not chosen:
        return _copy(graph)
    extremes = {
        node.input[0]: (np.float32(-ranges[node.input[0]]), np.float32(ranges[node.input[0]]))
        for node in chosen
    }
    quantizer = QDQQuantizer(
        _copy(graph),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, extremes),
        nodes_to_quantize=[node.name for node in chosen],
        nodes_to_exclude=[],
        op_types_to_quantize=["Conv"],
        extra_options=OPTIONS,
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantised: onnx.ModelProto = quantizer.model.model
    _restore_others(quantised.graph, layers)
    _strip_opsets(quantised)
    return quantised


def _check(
    graph: onnx.ModelProto, ranges: Mapping[str, float], layers: Collection[str]
) -> list[onnx.NodeProto]:
    known = {node.name: node for node in list_layers(graph)}
    if unknown := sorted(set(layers) - known.keys()):
        raise ValueError(f"no quantisable convolution is called {unknown[0]!r}")
    chosen = [node for name, node in known.items() if name in set(layers)]
    for node in chosen:
        value = ranges.get(node.input[0], 0.0)
        if not SMALLEST_RANGE <= value < np.inf:
            raise ValueError(
                f"the input {node.input[0]!r} of {node.name} has the range {value}, expected more "
                "than 0: it is constant on all calibration frames, or was not observed"
            )
    _check_names(graph, chosen)
    return chosen


def _check_names(graph: onnx.ModelProto, chosen: Collection[onnx.NodeProto]) -> None:
    """The library would take a constant that has the name of its scale for the scale."""
    taken = {tensor.name for tensor in graph.graph.initializer}
    for name in (name for node in chosen for name in node.input[:2]):
        if clash := sorted(taken & {f"{name}_scale", f"{name}_zero_point"}):
            raise ValueError(f"the constant {clash[0]!r} has a name of the pair of {name!r}")


def _copy(graph: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy


def _restore_others(graph: onnx.GraphProto, layers: Collection[str]) -> None:
    """Let nodes that stay in floating point read what was there before the pair.

    The library lets every reader of a tensor read the rounded one; a subtraction of the background
    would then lose exactly the digits that a dim target lives in.
    """
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.name in layers or node.op_type in (Q, DQ):
            continue
        for place, name in enumerate(node.input):
            maker = makers.get(name)
            if maker is not None and maker.op_type == DQ:
                node.input[place] = makers[maker.input[0]].input[0]


def _strip_opsets(graph: onnx.ModelProto) -> None:
    """Drop the domains that the library adds and nothing uses: old parsers refuse them."""
    kept = [entry for entry in graph.opset_import if entry.domain in ("", "ai.onnx")]
    del graph.opset_import[:]
    graph.opset_import.extend(kept)
