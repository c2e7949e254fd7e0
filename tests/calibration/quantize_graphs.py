"""Hand-made graphs to quantise, and what is in them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDES = (8, 10)
RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def conv(name, source, output, *, bias=True, **attributes):
    inputs = [source, f"{name}.weight"] + ([f"{name}.bias"] if bias else [])
    return helper.make_node("Conv", inputs, [output], name=name, **attributes)


def node(kind, inputs, output):
    return helper.make_node(kind, inputs.split(), [output], name=f"{kind}_{output}")


def graph_of(nodes, constants, *, sides=SIDES, outputs=("confidence",), channels=1):
    graph = helper.make_graph(
        nodes,
        "hand-made",
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, (1, channels, *sides))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


# Two 3x3 convolutions with a residual sum; a 1x1 without bias and a depthwise one that read the
# same tensor as a subtraction of the background; a head.
NET = graph_of(
    [
        conv("first", "frame", "a", pads=[1, 1, 1, 1]),
        node("Relu", "a", "shallow"),
        conv("second", "shallow", "b", pads=[1, 1, 1, 1]),
        node("Add", "shallow b", "c"),
        node("Relu", "c", "deep"),
        conv("narrow", "deep", "d", bias=False),
        conv("apart", "deep", "e", pads=[1, 1, 1, 1], group=4),
        node("Relu", "e", "background"),
        node("Sub", "deep background", "f"),
        node("Add", "f d", "residual"),
        conv("head", "residual", "logits"),
        node("Sigmoid", "logits", "confidence"),
    ],
    {
        "first.weight": random(4, 1, 3, 3),
        "first.bias": random(4),
        "second.weight": 0.2 * random(4, 4, 3, 3),
        "second.bias": random(4),
        "narrow.weight": 0.3 * random(4, 4, 1, 1),
        "apart.weight": 0.2 * random(4, 1, 3, 3),
        "apart.bias": random(4),
        "head.weight": 0.3 * random(1, 4, 1, 1),
        "head.bias": random(1),
    },
)

ALL = ("first", "second", "narrow", "apart", "head")
RANGES = {"frame": 1.0, "shallow": 6.0, "deep": 9.0, "residual": 8.0}


def copied(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def constants_of(model):
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


CHOICES = [
    ("first",), ("second",), ("narrow",), ("apart",), ("head",), ("first", "head"),
    ("narrow", "apart"), ("second", "narrow", "head"), ALL,
]  # fmt: skip
