"""Lowering networks that a person can compute: what stays in FP32, and what is refused."""

import hashlib
import math
from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from irstd.calibration.frames import CalibrationFrame, CalibrationSet, read_calibration
from irstd.calibration.gate import CalibrationError, Limits
from irstd.calibration.sensitivity import measure_damage
from irstd.export import lowering as module
from irstd.export.bundling import make_graph
from irstd.export.graph import count_layer_flop
from irstd.export.lowering import Lowering, lower_graph
from irstd.export.precision import emulate_fp16, layer_precisions, to_fp16
from irstd.runtime import Detector, Extraction, FrameContract
from irstd.runtime.engine_onnxruntime import OnnxRuntimeEngine
from irstd.runtime.errors import OutputError
from irstd.runtime.evaluation import LabelledFrame, score_masks
from irstd.train.zoo import MODELS

SIDE = 32
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
    """Score a graph computed as it is written, as an export does."""
    model = emulate_fp16(graph).SerializeToString()
    engine = OnnxRuntimeEngine(model, threads=1, is_optimised=False)
    with Detector(engine, CONTRACT, Extraction(threshold=0.5)) as detector:
        return score_masks(detector, labelled_set() if frames is None else frames)


def order(precision, **changes):
    asked = Lowering(precision, calibration_set(), CONTRACT, "target", Limits())
    return replace(asked, **changes)


def lower(graph, lowering, *, measure=measure, before=None):
    """Lower a graph; the lines that were said come with the outcome."""
    said = []
    before = measure(graph) if before is None else before
    return lower_graph(graph, lowering, before=before, measure=measure, say=said.append), said


# --- networks -------------------------------------------------------------------------------------

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


@pytest.fixture(scope="module")
def plain():
    return build(*STEM, *BODY, conv("body gain", "logit", pad=0))


@pytest.fixture(scope="module")
def wide_head():
    """The head also reads the frame 200-fold: in steps of 1.1 no target of 0.3 is left."""
    wide = (node("Mul", "frame hundreds", "wide"), node("Concat", "body wide", "both", axis=1))
    return build(*STEM, *BODY, *wide, conv("both gain_and_frame", "logit", pad=0))


@pytest.fixture(scope="module")
def wide_body():
    """The same in front of the layer that holds three quarters of the arithmetic."""
    wide = (node("Mul", "frame hundreds", "wide"), node("Concat", "kept wide", "both", axis=1))
    body = conv("both wide_onward", "body", pad=1)
    return build(*STEM, *wide, body, conv("body gain", "logit", pad=0))


@pytest.fixture(scope="module")
def squared():
    """The frame's square times 160000: beyond FP16 where a pixel is above 0.64 of full scale."""
    square = (
        node("Mul", "frame many", "scaled"), node("Mul", "scaled scaled", "square"),
        node("Mul", "square few", "shrunk"), conv("shrunk spot", "stem", pad=2),
    )  # fmt: skip
    return build(*square, node("Relu", "stem", "kept"), *BODY, conv("body gain", "logit", pad=0))


@pytest.fixture(scope="module")
def lifted():
    """The head adds 10000, where FP16 has steps of 8, and takes it away again."""
    head = (conv("body gain raised", "high", pad=0), node("Sub", "high raised", "logit"))
    return build(*STEM, *BODY, *head)


# --- INT8 -----------------------------------------------------------------------------------------


def test_int8_takes_all_layers_of_a_network_that_it_does_not_hurt(plain):
    lowered, said = lower(plain, order("int8"))
    assert lowered.scores.pd == 1.0
    assert set(layer_precisions(lowered.graph).values()) == {"int8"}
    assert lowered.share == 1.0
    assert said[:3] == [
        "collecting ranges on 8 frames of frames made by hand",
        "lowering each of 3 layers alone",
        "measuring int8 in 3 of 3 layers",
    ]


def test_int8_leaves_little_arithmetic_out_for_a_better_iou(plain):
    def prefer_the_head_in_fp32(graph):
        return replace(
            measure(graph), iou=1.0 if layer_precisions(graph)["logit"] == "fp32" else 0.999
        )

    lowered, _ = lower(plain, order("int8"), measure=prefer_the_head_in_fp32)
    assert layer_precisions(lowered.graph) == {"stem": "int8", "body": "int8", "logit": "fp32"}
    assert [mix.scores.iou for mix in lowered.curve][:2] == [0.999, 1.0]


def test_the_layer_that_costs_the_targets_stays_in_fp32(wide_head):
    lowered, _ = lower(wide_head, order("int8"))
    assert layer_precisions(lowered.graph) == {"stem": "int8", "body": "int8", "logit": "fp32"}
    assert lowered.scores.pd == 1.0
    assert max(lowered.damage, key=lowered.damage.get) == "logit"
    assert lowered.damage["logit"] > 100 * lowered.damage["body"]
    onnx.checker.check_model(lowered.graph, full_check=True)


def test_the_share_is_that_of_the_graph_which_came_out(wide_head):
    lowered, _ = lower(wide_head, order("int8"))
    flop = count_layer_flop(wide_head)
    assert list(flop.values()) == [2 * SIDE**2 * terms for terms in (25 * 8, 9 * 8 * 8, 9)]
    assert lowered.share == pytest.approx((200 + 576) / (200 + 576 + 9))
    assert lowered.chosen.share == pytest.approx(lowered.share)


def test_the_curve_also_shows_all_layers_and_two_thirds(wide_head):
    lowered, said = lower(wide_head, order("int8"))
    assert [mix.layers for mix in lowered.curve] == [
        {"stem", "body", "logit"},
        {"stem", "body"},
        {"body"},  # 73 %: without the stem 65 % are still there
    ]
    assert [mix.share for mix in lowered.curve] == sorted(
        (mix.share for mix in lowered.curve), reverse=True
    )
    assert [mix.scores.pd for mix in lowered.curve] == [0.0, 1.0, 1.0]
    assert lowered.chosen is lowered.curve[1]
    assert sum("measuring int8" in line for line in said) == 3


def test_limits_that_no_mix_keeps_refuse_with_every_number(wide_body):
    with pytest.raises(CalibrationError) as refusal:
        lower(wide_body, order("int8"))
    text = str(refusal.value)
    # Three mixes for six shares; the body is in each of them.
    assert text.count("lowered: Pd 1.0000 -> 0.0000 (limit -0.005); IoU 1.0000 -> 0.0000") == 3
    assert all(f"{percent}% lowered" in text for percent in (100, 99, 76))
    assert "--max-drop-pd" in text and "--frames" in text
    assert "nothing was written" in text


def test_wide_limits_let_the_same_pass(wide_body):
    lowered, _ = lower(wide_body, order("int8", limits=Limits(1.0, 1.0, 0.0)))
    assert lowered.scores.pd == 0.0


def test_a_layer_that_reads_nothing_but_zeros_stays_in_fp32_and_is_named():
    dead = (
        conv("frame spot never", "low", pad=2), node("Relu", "low", "zeros"),
        conv("zeros onward", "dead", pad=1), node("Add", "body dead", "sum"),
    )  # fmt: skip
    graph = build(*STEM, *BODY, *dead, conv("sum gain", "logit", pad=0))
    lowered, said = lower(graph, order("int8"))
    assert lowered.ranges["zeros"] == 0.0
    assert layer_precisions(lowered.graph)["dead"] == "fp32"
    assert lowered.scores.pd == 1.0
    assert "stays in fp32, as it reads nothing but zeros on the frames: dead" in said
    assert all("dead" not in mix.layers for mix in lowered.curve)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_graph_without_layers_is_refused(precision):
    graph = build(node("Mul", "frame one", "logit"))
    with pytest.raises(ValueError, match=f"{precision} can take no layer of the graph"):
        lower(graph, order(precision))


# --- FP16 -----------------------------------------------------------------------------------------


def test_fp16_takes_all_layers_and_measures_no_damage(plain, monkeypatch):
    monkeypatch.setattr(module, "measure_damage", None)
    lowered, said = lower(plain, order("fp16"))
    assert set(layer_precisions(lowered.graph).values()) == {"fp16"}
    assert (lowered.share, lowered.damage, lowered.observed) == (1.0, {}, {})
    assert lowered.curve == (lowered.chosen,)
    assert said == ["checking the range of FP16 on 8 frames", "measuring fp16 in 3 of 3 layers"]


def kinds(graph):
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    return {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}


def test_what_calibration_frames_drive_beyond_fp16_stays_in_fp32(squared):
    with pytest.raises(OutputError):
        measure(to_fp16(squared))
    lowered, said = lower(squared, order("fp16"))
    assert lowered.scores.pd == 1.0
    found = kinds(lowered.graph)
    assert found["square"] == found["shrunk"] == TensorProto.FLOAT
    assert found["scaled"] == found["stem"] == TensorProto.FLOAT16
    assert "2 operators at the ends of FP16's range stay in fp32" in said
    assert lowered.share == 1.0


def test_what_comes_near_the_end_of_fp16_stays_in_fp32_too(squared):
    # 160000 * (90 / 255)^2 is 19931, a third of what FP16 holds.
    frames = calibration_set((60, 90))
    lowered, _ = lower(squared, order("fp16", frames=frames))
    assert kinds(lowered.graph)["square"] == TensorProto.FLOAT


def test_what_vanishes_in_fp16_stays_in_fp32():
    # A constant of 1e-9 against a division by zero is a zero itself in FP16.
    faint = (node("Mul", "frame tiny", "faint"), node("Div", "faint tiny", "again"))
    stem = (conv("again spot", "stem", pad=2), node("Relu", "stem", "kept"))
    graph = build(*faint, *stem, *BODY, conv("body gain", "logit", pad=0))
    with pytest.raises(OutputError):
        measure(to_fp16(graph))
    lowered, _ = lower(graph, order("fp16"))
    assert lowered.scores.pd == 1.0
    assert (lowered.share, kinds(lowered.graph)["again"]) == (1.0, TensorProto.FLOAT)


def test_an_overflow_that_calibration_frames_do_not_reach_is_refused(squared):
    with pytest.raises(CalibrationError) as refusal:
        lower(squared, order("fp16", frames=calibration_set(DARK)))
    assert "100% lowered: the output holds NaN or infinity" in str(refusal.value)
    assert "do not fly" not in str(refusal.value)


def test_an_output_that_is_no_confidence_is_one_more_try(plain):
    def refuse_the_head(graph):
        if layer_precisions(graph)["logit"] == "fp16":
            raise OutputError("NaN")
        return measure(graph)

    lowered, _ = lower(plain, order("fp16"), measure=refuse_the_head, before=measure(plain))
    assert layer_precisions(lowered.graph) == {"stem": "fp16", "body": "fp16", "logit": "fp32"}
    assert [mix.scores.frames for mix in lowered.curve] == [0, 6]
    assert math.isnan(lowered.curve[0].scores.pd)


def test_a_layer_whose_digits_fp16_loses_stays_in_fp32_with_what_follows(lifted):
    assert measure(to_fp16(lifted)).pd == 0.0
    lowered, said = lower(lifted, order("fp16"))
    assert lowered.scores.pd == 1.0
    assert layer_precisions(lowered.graph) == {"stem": "fp16", "body": "fp16", "high": "fp32"}
    found = kinds(lowered.graph)
    assert found["high"] == found["logit"] == TensorProto.FLOAT
    assert [mix.scores.pd for mix in lowered.curve] == [0.0, 1.0]
    assert "lowering each of 3 layers alone" in said
    assert max(lowered.damage, key=lowered.damage.get) == "high"


def test_damage_is_that_of_fp16_and_not_of_onnx_runtimes_fp32(lifted):
    lowered, _ = lower(lifted, order("fp16"))
    # A ninth of a per cent of the pixels lose a confidence of 0.9.
    assert lowered.damage["high"] > 1e-3
    assert lowered.damage["body"] < 1e-6


def test_a_layer_that_leaves_no_confidence_has_infinite_damage(squared):
    frame = shoot(100)[0].astype(np.float32)[None, None] / 255
    lower = {"harmless": squared, "fatal": emulate_fp16(to_fp16(squared))}
    damage = measure_damage(
        squared, lambda names: lower[names[0]], list(lower), [frame], say=lambda line: None
    )
    assert damage == {"harmless": 0.0, "fatal": math.inf}


# --- before anything is run -----------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_labelled_frames_without_targets_are_refused_at_once(precision, plain):
    empty = LabelledFrame("empty", shoot(0)[1], np.zeros((SIDE, SIDE), np.bool_))
    said = []
    with pytest.raises(ValueError, match="hold no target"):
        lower_graph(
            plain, order(precision), before=measure(plain, [empty]), measure=None, say=said.append
        )
    assert said == []


# --- the cache ------------------------------------------------------------------------------------


@pytest.fixture
def camera(tmp_path):
    """Eight frames on disk."""
    folder = tmp_path / "camera"
    folder.mkdir()
    for seed in range(8):
        cv2.imwrite(str(folder / f"{seed}.png"), shoot(seed)[0])
    return folder


@pytest.fixture
def observing(monkeypatch):
    """How often ranges were collected."""
    calls = []
    real = module.observe

    def spy(graph, tensors, pairs):
        calls.append(list(tensors))
        return real(graph, tensors, pairs)

    monkeypatch.setattr(module, "observe", spy)
    return calls


def test_ranges_come_from_the_cache_the_second_time(plain, camera, observing):
    outcomes = []
    for _ in range(2):
        frames = read_calibration(camera, CONTRACT)
        outcomes.append(lower(plain, order("int8", frames=frames)))
    (first, _), (second, said) = outcomes
    assert observing == [["frame", "kept", "body"]]
    assert said[0].startswith("ranges are those of an earlier export")
    assert first.ranges == second.ranges
    assert first.graph == second.graph
    for name, observation in first.observed.items():
        np.testing.assert_array_equal(second.observed[name].counts, observation.counts)


def test_ranges_are_collected_again_when_anything_changes(plain, camera, observing):
    frames = read_calibration(camera, CONTRACT)
    lower(plain, order("int8", frames=frames))
    other = onnx.ModelProto()
    other.CopyFrom(plain)
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(1.01 * CONSTANTS["spot"], "spot"))
    brighter = shoot(3)[0]
    brighter[0, 0] += 1
    lower(other, order("int8", frames=frames))
    lower(plain, order("int8", frames=frames, method="minmax"))
    stretched = replace(CONTRACT, normalisation="stretch")
    lower(plain, order("int8", frames=frames, contract=stretched, limits=Limits(1, 1, 1e9)))
    assert len(observing) == 4
    cv2.imwrite(str(camera / "3.png"), brighter)
    lower(plain, order("int8", frames=read_calibration(camera, CONTRACT)))
    assert len(observing) == 5


def test_tracing_again_gives_the_same_key():
    keys = set()
    for _ in range(2):
        torch.manual_seed(0)
        graph = make_graph(MODELS["lrrnet-edge"].build().eval(), (64, 64))
        keys.add(module.range_key(graph, CONTRACT, calibration_set(), "target"))
    assert len(keys) == 1


def test_a_cache_that_cannot_be_written_is_told_and_survived(plain, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    lowered, said = lower(plain, order("int8"))
    assert lowered.scores.pd == 1.0
    assert said[1].startswith("ranges are not kept for the next export: ")
    assert (tmp_path / "file").read_text() == "no folder"


def test_a_cache_that_cannot_be_read_is_survived(plain, monkeypatch):
    key = module.range_key(plain, CONTRACT, calibration_set(), "target")
    (module.cache_folder() / f"{key}.json").mkdir(parents=True)
    lowered, said = lower(plain, order("int8"))
    assert lowered.scores.pd == 1.0
    assert said[0].startswith("collecting ranges")
    assert said[1].startswith("ranges are not kept for the next export: ")


def test_no_test_writes_to_the_cache_of_the_user(tmp_path_factory):
    assert module.cache_folder().is_relative_to(tmp_path_factory.getbasetemp())
