"""Hand-made graphs and frames whose ranges are known."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from irstd.calibration.ranges import BINS, observe

SHAPE = (1, 1, 2, 3)
MIDDLE = BINS // 2  # the bin that starts at 0


def graph_of(*nodes, shape=SHAPE, **constants):
    """A graph from `frame` to `confidence`; each node is (operator, inputs, output)."""
    return helper.make_model(
        helper.make_graph(
            [helper.make_node(kind, inputs.split(), [output]) for kind, inputs, output in nodes],
            "hand-made",
            [helper.make_tensor_value_info("frame", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("confidence", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


# confidence = max(2 frame - 5, 0)
STEPS = graph_of(
    ("Mul", "frame two", "doubled"),
    ("Sub", "doubled five", "lowered"),
    ("Relu", "lowered", "confidence"),
    two=np.float32(2),
    five=np.float32(5),
)


def frame(*values, shape=SHAPE):
    return np.array(values, np.float32).reshape(shape)


def row(values):
    return np.array(values, np.float32).reshape(1, 1, 1, -1)


def look(*frames):
    """Observe the input alone, on frames without targets."""
    pairs = [(row(values), row(values)) for values in frames]
    return observe(STEPS, ["frame"], pairs, threads=1)["frame"]


LOG = graph_of(("Log", "frame", "log"), ("Relu", "log", "confidence"))
