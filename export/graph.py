"""Graph passes: exact rewrites of an ONNX graph."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Collection

import numpy as np
import onnx
from onnx import numpy_helper

CALLED_AGAIN = re.compile(r"_\d+$")  # what tracing adds to a module from its second call on


def fold_scales(model: onnx.ModelProto) -> int:
    """Fold every constant per-channel factor behind a convolution into its weights and bias.

    Args:
        model: changed in place.

    Returns:
        How many factors were folded.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    makers = {name: node for node in graph.node for name in node.output}
    folded = []
    for node in graph.node:
        if node.op_type != "Mul":
            continue
        scale = next((constants[name] for name in node.input if name in constants), None)
        conv = next((makers[name] for name in node.input if name in makers), None)
        if scale is None or conv is None or not _is_foldable(conv, scale, constants, readers):
            continue
        _scale_conv(conv, numpy_helper.to_array(scale), constants)
        conv.output[0] = node.output[0]
        folded.append(node)
    for node in folded:
        graph.node.remove(node)
    _drop_unread(graph)
    return len(folded)


def _is_foldable(
    conv: onnx.NodeProto,
    scale: onnx.TensorProto,
    constants: dict[str, onnx.TensorProto],
    readers: Counter[str],
) -> bool:
    """Whether `scale` is one factor a channel and nothing else reads the convolution's parts."""
    if conv.op_type != "Conv" or readers[conv.output[0]] != 1:
        return False
    if any(name not in constants or readers[name] != 1 for name in conv.input[1:]):
        return False
    channels = constants[conv.input[1]].dims[0]
    return tuple(scale.dims) == (1, channels, 1, 1)


def _scale_conv(
    conv: onnx.NodeProto, scale: np.ndarray, constants: dict[str, onnx.TensorProto]
) -> None:
    for name, shape in zip(conv.input[1:], ((-1, 1, 1, 1), (-1,)), strict=False):
        values = numpy_helper.to_array(constants[name]) * scale.reshape(shape)
        constants[name].CopyFrom(numpy_helper.from_array(values, name))


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def count_operators(model: onnx.ModelProto) -> dict[str, int]:
    """How often each operator occurs, most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


def lift_constants(model: onnx.ModelProto) -> None:
    """Turn Constant nodes into initializers, in place: one kind of constant for later passes."""
    graph = model.graph
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        tensor = onnx.TensorProto()
        tensor.CopyFrom(next(entry.t for entry in node.attribute if entry.name == "value"))
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def share_constants(model: onnx.ModelProto) -> int:
    """Keep one of every kind of equal constants, in place; says how many are gone.

    Unrolled loops repeat what they multiply with, whole matrices among it.
    """
    graph = model.graph
    first: dict[bytes, str] = {}
    renamed: dict[str, str] = {}
    for tensor in graph.initializer:
        anonymous = onnx.TensorProto()
        anonymous.CopyFrom(tensor)
        anonymous.name = ""
        content = hashlib.sha256(anonymous.SerializeToString(deterministic=True)).digest()
        renamed[tensor.name] = first.setdefault(content, tensor.name)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    before = len(graph.initializer)
    _drop_unread(graph)
    return before - len(graph.initializer)


def list_modules(name: str) -> list[str]:
    """The modules that a node was traced inside, outermost first, as their parents call them.

    Tracing writes every module with all of its parents, and a child of a Sequential with the
    Sequential's name once more.

    Example:
        >>> list_modules("/network/down_4/down_4.1/first/first.0/Conv")
        ['down_4.1', 'first.0']
    """
    parts = name.strip("/").removeprefix("network/").split("/")[:-1]
    following = [*parts, ""][1:]
    return [
        part
        for part, child in zip(parts, following, strict=True)
        if not child.startswith(f"{part}.")
    ]


def find_module(name: str, known: Collection[str]) -> str | None:
    """The module that a node was traced from, by its name in the network.

    Args:
        name: of the node.
        known: modules, as `named_modules` calls them.

    Example:
        >>> find_module("/network/fc/fc.2_1/Conv", ["fc.2"])  # that is called for the second time
        'fc.2'
    """
    module = ".".join(list_modules(name))
    again = CALLED_AGAIN.sub("", module)
    return next((one for one in (module, again) if one in known), None)


def count_flop(model: onnx.ModelProto) -> int:
    """Floating-point operations of a graph's convolutions and matrix products.

    A multiply-add counts as two; everything else is left out, as the field does.

    Raises:
        ValueError: a shape cannot be inferred, because the graph has dynamic sizes.
    """
    return sum(flop for _, flop in _count(model))


def count_layer_flop(model: onnx.ModelProto) -> dict[str, int]:
    """The same for each convolution and matrix product, by node name."""
    return {node.name: flop for node, flop in _count(model)}


def _count(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, int]]:
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for info in (*inferred.input, *inferred.value_info, *inferred.output):
        shapes[info.name] = [entry.dim_value for entry in info.type.tensor_type.shape.dim]
    return [(node, flop) for node in model.graph.node if (flop := _flop(node, shapes))]


def _flop(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    if node.op_type not in ("Conv", "MatMul"):
        return 0
    result, second = shapes.get(node.output[0], []), shapes.get(node.input[1], [])
    if not result or 0 in result:
        raise ValueError(f"the shape of {node.output[0]} is not fixed; trace at a fixed size")
    # A convolution's weights are (outputs, inputs / groups, rows, columns).
    terms = math.prod(second[1:]) if node.op_type == "Conv" else second[-2]
    return 2 * terms * math.prod(result)
