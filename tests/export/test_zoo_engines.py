"""Every network of the zoo becomes a real plan in every precision; no GPU is needed for it."""

import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch

from irstd.calibration.quantize import list_layers, to_int8
from irstd.calibration.ranges import estimate, observe
from irstd.export.bundling import make_graph
from irstd.export.lint import check_graph
from irstd.export.precision import layer_precisions, to_fp16
from irstd.train.zoo import MODELS

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = (64, 96)
TYPES = {"fp32": "Float", "fp16": "Half", "int8": "Int8"}  # as the builder calls them


@dataclass(frozen=True)
class Layer:
    """A layer of a plan, out of the builder's own list.

    Attributes:
        kind: "correlation" is a convolution; "kgen" and "runtime_fusion" are kernels made of
            several operators, also of convolutions.
        reads: types of its inputs.
        holds: types of its constants; the weights of a correlation come first.
        nodes: the ONNX nodes that went into it.
    """

    kind: str
    reads: list[str]
    holds: list[str]
    nodes: list[str]


@pytest.fixture(scope="module", params=[name for name, model in MODELS.items() if model.is_trained])
def graph(request):
    torch.manual_seed(0)
    return make_graph(MODELS[request.param].build().eval(), SIZE)


@pytest.fixture(scope="module")
def ranges(graph):
    """By tensor; a network that has learned nothing is silent in places, so these get any range."""
    frames = np.random.default_rng(0).random((2, 1, 1, *SIZE), dtype=np.float32)
    tensors = [node.input[0] for node in list_layers(graph)]
    observed = observe(graph, tensors, [(frames[0], frames[1])], threads=1)
    return {tensor: value or 1.0 for tensor, value in estimate(observed, "minmax").items()}


def build(graph):
    """Build a plan; gives its layers."""
    trt = pytest.importorskip(
        "tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install tensorrt-rtx"
    )
    dumps = []

    class Log(trt.ILogger):
        def log(self, severity, text):
            if text.startswith("Layers:"):
                dumps.append(text)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse(graph.SerializeToString())
    assert parsed, [str(parser.get_error(number)) for number in range(parser.num_errors)]
    assert tuple(network.get_output(0).shape) == (1, 1, *SIZE)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    assert builder.build_serialized_network(network, config) is not None
    (dump,) = dumps
    layers = [read_layer(line) for line in dump.splitlines() if line.startswith("Name: ")]
    assert layers
    return layers


def read_layer(line):
    """Name: n, LayerType: k, Inputs: [ {}], Constants: [ {}], Outputs: [ {}], .. Metadata: [][]."""
    front, _, back = line.partition("Outputs: [")
    inputs, _, constants = front.partition("Constants: [")
    return Layer(
        kind=re.search(r", LayerType: (\w+),", inputs)[1],
        reads=re.findall(r"Datatype: (\w+)", inputs),
        holds=re.findall(r"Datatype: (\w+)", constants),
        nodes=re.findall(r"\[ONNX Layer: ([^\]]+)\]", back.partition("Metadata: ")[2]),
    )


def computed(layers, names):
    """The types that each convolution is computed in, by name, and which are inside a fusion."""
    parts = defaultdict(list)
    for layer in layers:
        for node in layer.nodes:
            parts[node].append(layer)
    types, fused = {}, set()
    for name in names:
        convolving = [layer for layer in parts[name] if layer.kind == "correlation"]
        if convolving:  # what else bears its name adds the bias, or pads the channels
            (layer,) = convolving
            types[name] = {layer.reads[0], layer.holds[0]}
            continue
        fused.add(name)
        types[name] = {kind for layer in parts[name] for kind in layer.holds}
    return types, fused


def one_pixel(graph):
    """Convolutions that weigh one number for each channel and frame."""
    values = onnx.shape_inference.infer_shapes(graph).graph.value_info
    sides = {
        info.name: [one.dim_value for one in info.type.tensor_type.shape.dim] for info in values
    }
    return {node.name for node in list_layers(graph) if sides[node.output[0]][-2:] == [1, 1]}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_floating_point_plan_is_built(graph, precision):
    lowered = to_fp16(graph) if precision == "fp16" else graph
    check_graph(lowered)
    names = [node.name for node in list_layers(graph)]
    types, _ = computed(build(lowered), names)
    asked = layer_precisions(lowered)
    assert types == {name: {TYPES[asked[name]]} for name in names}
    # What weighs one number a frame stays with the statistics it comes from, in FP32.
    small = one_pixel(graph)
    assert {asked[name] for name in names if name not in small} == {precision}


def test_an_int8_plan_is_built(graph, ranges):
    names = [node.name for node in list_layers(graph)]
    lowered = to_int8(graph, ranges, names)
    check_graph(lowered)
    check_int8(graph, build(lowered), names, chosen=set(names))


@pytest.mark.parametrize("graph", ["lrrnet-edge", "rpcanet"], indirect=True)
def test_a_mixed_plan_is_built(graph, ranges):
    names = [node.name for node in list_layers(graph)]
    lowered = to_int8(graph, ranges, names[::2])
    check_graph(lowered)
    check_int8(graph, build(lowered), names, chosen=set(names[::2]))


def check_int8(graph, layers, names, *, chosen):
    types, fused = computed(layers, names)
    # On maps of one pixel the builder puts rounding, convolution and activation into one kernel,
    # whose scales and biases are FP32 constants beside the INT8 weights.
    assert fused & chosen <= one_pixel(graph)
    for name in names:
        if name in fused & chosen:
            assert "Int8" in types[name], name
            continue
        assert types[name] == {"Int8" if name in chosen else "Float"}, name
    int8 = [layer for layer in layers if layer.kind == "correlation" and "Int8" in layer.reads]
    assert len(int8) == len(chosen - fused)
    assert all(layer.reads[0] == layer.holds[0] == "Int8" for layer in int8)
