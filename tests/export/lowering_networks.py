"""Small networks that lose or keep targets in a lower precision, and scenes for them."""

import hashlib
from dataclasses import replace

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from irstd.calibration.frames import CalibrationFrame, CalibrationSet
from irstd.calibration.gate import Limits
from irstd.export.lowering import Lowering, lower_graph
from irstd.export.precision import emulate_fp16
from irstd.runtime import Detector, Extraction, FrameContract
from irstd.runtime.engine_onnxruntime import OnnxRuntimeEngine
from irstd.runtime.evaluation import LabelledFrame, score_masks

SIDE = 32
SET = "six shots"
CONTRACT = FrameContract(SIDE, SIDE, normalisation="full-scale")
BRIGHT, DARK = (60, 180), (8, 24)  # background and target, 8 bits


def shoot(seed, levels=BRIGHT):
    """A frame with a target of 3x3 pixels, the same without it, and the target's mask."""
    random = np.random.default_rng(seed)
    empty = (levels[0] + random.integers(0, 4, (SIDE, SIDE))).astype(np.uint8)
    mask = np.zeros((SIDE, SIDE), np.bool_)
    row, column = random.integers(4, SIDE - 8, 2)
    mask[row : row + 3, column : column + 3] = True
    return np.where(mask, np.uint8(levels[1]), empty), empty, mask


def calibration_set(levels=BRIGHT):
    shots = [shoot(seed, levels) for seed in range(8)]
    frames = tuple(CalibrationFrame(str(n), shot[0], shot[1]) for n, shot in enumerate(shots))
    sha256 = hashlib.sha256(b"".join(one.frame.tobytes() for one in frames)).hexdigest()
    return CalibrationSet("frames made by hand", 8, frames, True, sha256)


def labelled_set(seeds=range(100, 106)):
    shots = [(seed, *shoot(seed)) for seed in seeds]
    return [LabelledFrame(str(seed), frame, mask) for seed, frame, _, mask in shots]


def measure(graph, frames=None):
    """Score a graph computed as it is written, as an export does; by the name of the one set."""
    model = emulate_fp16(graph).SerializeToString()
    engine = OnnxRuntimeEngine(model, threads=1, is_optimised=False)
    with Detector(engine, CONTRACT, Extraction(threshold=0.5)) as detector:
        return {SET: score_masks(detector, labelled_set() if frames is None else frames)}


def order(precision, **changes):
    asked = Lowering(precision, calibration_set(), CONTRACT, "target", Limits())
    return replace(asked, **changes)


def lower(graph, lowering, *, measure=measure, before=None):
    """Lower a graph; the lines that were said come with the outcome."""
    said = []
    before = measure(graph) if before is None else before
    return lower_graph(graph, lowering, before=before, measure=measure, say=said.append), said


SPOT = np.full((5, 5), -1 / 25, np.float32)
SPOT[2, 2] += 1

ONWARD = np.zeros((8, 8, 3, 3), np.float32)
ONWARD[range(8), range(8), 1, 1] = 1

CONSTANTS = {
    "spot": np.tile(SPOT, (8, 1, 1, 1)),  # 0.3 on a bright target, less everywhere else
    "onward": ONWARD,
    "gain": np.full((1, 8, 1, 1), 3 / 8, np.float32),
    "gain_and_frame": np.float32([3 / 8] * 8 + [0]).reshape(1, 9, 1, 1),
    "wide_onward": np.concatenate([ONWARD, np.zeros((8, 1, 3, 3))], axis=1).astype(np.float32),
    "never": np.full(8, -100, np.float32),
    "raised": np.float32([10000]),
    "hundreds": np.float32(200),
    "many": np.float32(400),
    "few": np.float32(1 / 400**2),
    "tiny": np.float32(1e-9),
    "zero": np.float32(0),
    "one": np.float32(1),
}  # fmt: skip


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs.split(), [output], name=output, **attributes)


def conv(inputs, output, *, pad):
    return node("Conv", inputs, output, pads=[pad] * 4)


def build(*nodes):
    """A graph from frame to confidence; the last node makes "logit"."""
    nodes = (*nodes, node("Clip", "logit zero one", "confidence"))
    read = {name for entry in nodes for name in entry.input}
    shape = [1, 1, SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        "hand-made",
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("confidence", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(CONSTANTS[name], name) for name in CONSTANTS if name in read],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


STEM = (conv("frame spot", "stem", pad=2), node("Relu", "stem", "kept"))
BODY = (conv("kept onward", "body", pad=1),)
