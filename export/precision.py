"""FP16: casts in the graph, so that every TensorRT builds what was measured here."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..runtime.bundle import Precision
from ..runtime.outputs import BOXES

# Sums of squares over a whole frame overflow or lose their digits in FP16; softmax and sigmoid
# decide the confidence itself. All are cheap beside the convolutions.
KEPT_IN_FP32 = ("ReduceMean", "Softmax", "Sigmoid")
FLOAT_ONLY_INPUTS = {("Resize", 1), ("Resize", 2)}  # region and scales, FP32 by definition
COUNTED = ("Conv", "MatMul", "Gemm")


def to_fp16(
    model: onnx.ModelProto, *, islands: Collection[str] = (), kept_layers: Collection[str] = ()
) -> onnx.ModelProto:
    """Convert a graph to FP16 arithmetic with FP32 input, output and statistics.

    Norm statistics, softmax and sigmoid stay in FP32, and so does what reads nothing but them. Of a
    network that gives boxes the last layers do, too, and what makes pixels of what they say: FP16
    knows a place in a frame of 512 pixels to a quarter of one, and targets have three.

    Args:
        model: FP32 graph without Constant nodes and Casts; left as it is.
        islands: names of nodes that stay in FP32 too; behind them FP16 goes on.
        kept_layers: names of convolutions and matrix products that stay in FP32, with all that
            is made of what they say until the next layer: rounded at once, it would be no better
            than from FP16.

    Returns:
        A graph with the same input and output, Cast nodes where the type changes.

    Raises:
        ValueError: no node has the name of an island or of a layer.
    """
    if unknown := sorted({*islands, *kept_layers} - {node.name for node in model.graph.node}):
        raise ValueError(f"no node is called {unknown[0]!r}, so it cannot stay in FP32")
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    graph = converted.graph
    del graph.node[:], graph.value_info[:]
    caster = _Caster(graph, _float_names(model))
    kept = _statistics(model.graph)
    shores = {name for node in model.graph.node if node.name in islands for name in node.output}
    shores |= _behind(model.graph, {*kept_layers, *_locating(model.graph)})
    kept |= shores
    caster.inputs |= shores  # behind an island FP16 goes on, as it starts behind the input
    for node in model.graph.node:
        caster.add(node, is_half=node.output[0] not in kept and caster.reads_half(node))
    for value in graph.output:
        caster.restore(value.name)
    return converted


class _Caster:
    """Copies nodes into a graph in order and casts what they read to the type they compute in."""

    def __init__(self, graph: onnx.GraphProto, floats: set[str]) -> None:
        self.graph = graph
        self.floats = floats
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.is_half = dict.fromkeys((value.name for value in graph.input), False)
        self.inputs = set(self.is_half)
        self.casts: dict[tuple[str, bool], str] = {}

    def reads_half(self, node: onnx.NodeProto) -> bool:
        """Whether some value that the node reads is in FP16; inputs and islands count as such."""
        return any(self.is_half.get(name, False) or name in self.inputs for name in node.input)

    def add(self, node: onnx.NodeProto, *, is_half: bool) -> None:
        """Append a copy of a node that computes in FP16 or FP32."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for place, name in enumerate(node.input):
            if name in self.floats and (node.op_type, place) not in FLOAT_ONLY_INPUTS:
                copy.input[place] = self._typed(name, is_half=is_half)
        self.graph.node.append(copy)
        self.is_half.update(dict.fromkeys(node.output, is_half))

    def _typed(self, name: str, *, is_half: bool) -> str:
        if self.is_half.get(name, False) == is_half:
            return name
        if (name, is_half) not in self.casts:
            typed = f"{name}_{'fp16' if is_half else 'fp32'}"
            self.casts[name, is_half] = typed
            if name in self.constants:
                values = numpy_helper.to_array(self.constants[name]).astype(np.float16)
                self.graph.initializer.append(numpy_helper.from_array(values, typed))
            else:
                kind = TensorProto.FLOAT16 if is_half else TensorProto.FLOAT
                self.graph.node.append(
                    helper.make_node("Cast", [name], [typed], name=f"{typed}_cast", to=kind)
                )
        return self.casts[name, is_half]

    def restore(self, output: str) -> None:
        """Make an output of the graph FP32 again, and drop constants that nothing reads."""
        if self.is_half[output]:
            half = f"{output}_fp16"
            for node in self.graph.node:
                for names in (node.input, node.output):
                    names[:] = [half if name == output else name for name in names]
            cast = helper.make_node("Cast", [half], [output], to=TensorProto.FLOAT)
            self.graph.node.append(cast)
        read = {name for node in self.graph.node for name in node.input}
        for tensor in [tensor for tensor in self.graph.initializer if tensor.name not in read]:
            self.graph.initializer.remove(tensor)


def emulate_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make CPUs compute what an FP16 graph says: in FP32, rounded to FP16 after every operator.

    ONNX Runtime has no FP16 convolution for CPUs; it computes in FP32, keeps that between
    operators, and would call a graph safe that overflows on a GPU.

    Args:
        model: from `to_fp16`; left as it is. A graph without FP16 comes back as it is.
    """
    halves = {name for name, kind in _types(model).items() if kind == TensorProto.FLOAT16}
    emulated = onnx.ModelProto()
    emulated.CopyFrom(model)
    if not halves:
        return emulated
    graph = emulated.graph
    del graph.node[:], graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.name in halves:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in model.graph.node:
        graph.node.extend(_rounded(node, halves))
    return emulated


def _rounded(node: onnx.NodeProto, halves: set[str]) -> list[onnx.NodeProto]:
    """A node that computes in FP32, and casts to FP16 and back behind it."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    nodes = [copy]
    for place, name in enumerate(node.output):
        if name not in halves:
            continue
        wide, half = f"{name}_wide", f"{name}_half"
        if node.op_type == "Cast":
            nodes, wide = [], node.input[0]
        else:
            copy.output[place] = wide
        for source, target, kind in (
            (wide, half, TensorProto.FLOAT16),
            (half, name, TensorProto.FLOAT),
        ):
            nodes.append(helper.make_node("Cast", [source], [target], name=f"{target}_r", to=kind))
    return nodes


def _locating(graph: onnx.GraphProto) -> set[str]:
    """Names of the layers that no layer follows, in a graph whose answer is boxes."""
    if [value.name for value in graph.output] != [BOXES]:
        return set()
    last, read = set(), set()
    for node in reversed(graph.node):
        followed = any(name in read for name in node.output)
        if node.op_type in COUNTED and not followed:
            last.add(node.name)
        if node.op_type in COUNTED or followed:
            read.update(node.input)
    return last


def _statistics(graph: onnx.GraphProto) -> set[str]:
    """What stays in FP32: statistics, and the centring and squaring in front of them."""
    kept = {node.output[0] for node in graph.node if node.op_type in KEPT_IN_FP32}
    averaged, squared = set[str](), set[str]()
    for node in reversed(graph.node):
        is_square = node.op_type == "Mul" and node.input[0] == node.input[1]
        if node.op_type == "ReduceMean":
            averaged.update(node.input)
        elif is_square and node.output[0] in averaged:
            kept.add(node.output[0])
            squared.update(node.input)
        elif node.op_type == "Sub" and node.output[0] in squared:
            kept.add(node.output[0])
    return kept


def _behind(graph: onnx.GraphProto, layers: Collection[str]) -> set[str]:
    """What layers make, and what is made of that until the next layer."""
    made: set[str] = set()
    for node in graph.node:
        if node.name in layers or (node.op_type not in COUNTED and made & {*node.input}):
            made.update(node.output)
    return made


def _types(model: onnx.ModelProto) -> dict[str, int]:
    typed = onnx.shape_inference.infer_shapes(model)
    values = (*typed.graph.value_info, *typed.graph.input, *typed.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types.update({tensor.name: tensor.data_type for tensor in typed.graph.initializer})
    return types


def _float_names(model: onnx.ModelProto) -> set[str]:
    return {name for name, kind in _types(model).items() if kind == TensorProto.FLOAT}


def layer_precisions(model: onnx.ModelProto) -> dict[str, Precision]:
    """The precision of each convolution and matrix product, by node name."""
    types = _types(model)
    makers = {name: node.op_type for node in model.graph.node for name in node.output}

    def precision(node: onnx.NodeProto) -> Precision:
        if makers.get(node.input[0]) == makers.get(node.input[1]) == "DequantizeLinear":
            return "int8"
        return "fp16" if types[node.output[0]] == TensorProto.FLOAT16 else "fp32"

    return {node.name: precision(node) for node in model.graph.node if node.op_type in COUNTED}
