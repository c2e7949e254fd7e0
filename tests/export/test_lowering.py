"""Lowering networks that a person can compute: what stays in FP32, and what is refused."""

from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from irstd.calibration.bias import find_shifts
from irstd.calibration.frames import CalibrationFrame, CalibrationSet
from irstd.calibration.gate import CalibrationError, Limits
from irstd.export.graph import count_layer_flop
from irstd.export.lowering import Lowering, _prepare
from irstd.export.precision import layer_precisions
from irstd.runtime.frame import ClipContract, FrameContract
from irstd.tests.export.lowering_networks import (
    BODY,
    SET,
    SIDE,
    STEM,
    build,
    conv,
    lower,
    measure,
    node,
    order,
)


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


def test_int8_takes_all_layers_of_a_network_that_it_does_not_hurt(plain):
    lowered, said = lower(plain, order("int8"))
    assert lowered.scores[SET].pd == 1.0
    assert set(layer_precisions(lowered.graph).values()) == {"int8"}
    assert lowered.share == 1.0
    assert said[:3] == [
        "collecting ranges on 8 frames of frames made by hand",
        "lowering each of 3 layers alone",
        "measuring int8 in 3 of 3 layers",
    ]


def test_int8_takes_back_what_rounding_shifts_maps_by(plain):
    lowered, _ = lower(plain, order("int8"))
    seen = [shown for shown, _ in _prepare(order("int8"), print)]
    shifts = find_shifts(plain, lowered.ranges, ["stem", "body", "logit"], seen)
    constants = {one.name: numpy_helper.to_array(one) for one in lowered.graph.graph.initializer}
    for layer in (one for one in lowered.graph.graph.node if one.op_type == "Conv"):
        assert shifts[layer.name].any()
        np.testing.assert_array_equal(constants[layer.input[2]], shifts[layer.name])


def test_int8_leaves_little_arithmetic_out_for_a_better_iou(plain):
    def prefer_the_head_in_fp32(graph):
        iou = 1.0 if layer_precisions(graph)["logit"] == "fp32" else 0.999
        return {SET: replace(measure(graph)[SET], iou=iou)}

    lowered, _ = lower(plain, order("int8"), measure=prefer_the_head_in_fp32)
    assert layer_precisions(lowered.graph) == {"stem": "int8", "body": "int8", "logit": "fp32"}
    assert [mix.scores[SET].iou for mix in lowered.curve][:2] == [0.999, 1.0]


def test_the_layer_that_costs_the_targets_stays_in_fp32(wide_head):
    lowered, _ = lower(wide_head, order("int8"))
    assert layer_precisions(lowered.graph) == {"stem": "int8", "body": "int8", "logit": "fp32"}
    assert lowered.scores[SET].pd == 1.0
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
    assert [mix.scores[SET].pd for mix in lowered.curve] == [0.0, 1.0, 1.0]
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
    assert lowered.scores[SET].pd == 0.0


def test_a_layer_that_reads_nothing_but_zeros_stays_in_fp32_and_is_named():
    dead = (
        conv("frame spot never", "low", pad=2), node("Relu", "low", "zeros"),
        conv("zeros onward", "dead", pad=1), node("Add", "body dead", "sum"),
    )  # fmt: skip
    graph = build(*STEM, *BODY, *dead, conv("sum gain", "logit", pad=0))
    lowered, said = lower(graph, order("int8"))
    assert lowered.ranges["zeros"] == 0.0
    assert layer_precisions(lowered.graph)["dead"] == "fp32"
    assert lowered.scores[SET].pd == 1.0
    assert "stays in fp32, as it reads nothing but zeros on the frames: dead" in said
    assert all("dead" not in mix.layers for mix in lowered.curve)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_graph_without_layers_is_refused(precision):
    graph = build(node("Mul", "frame one", "logit"))
    with pytest.raises(ValueError, match=f"{precision} can take no layer of the graph"):
        lower(graph, order(precision))


# --- clips ----------------------------------------------------------------------------------------


def clip_order(cut):
    """An order to calibrate on ten clips of three frames, some of which show two scenes."""
    random = np.random.default_rng(0)
    scenes = [
        cv2.GaussianBlur(random.integers(0, 256, (96, 96)).astype(np.uint8), (0, 0), 2) * 3
        for _ in range(2)
    ]
    frames = []
    for number in range(10):
        older = (scenes[number in cut], scenes[0])
        frames.append(CalibrationFrame(str(number), scenes[0], scenes[0], older, older))
    shown = CalibrationSet("shots", 10, tuple(frames), True, "ab" * 32)
    contract = FrameContract(96, 96, clip=ClipContract(3))
    return Lowering("fp16", shown, contract, "target", Limits())


def test_clips_that_are_cut_are_left_out_and_named():
    said = []
    assert len(_prepare(clip_order({3, 7}), said.append)) == 8
    assert said == ["left out, as the scene is cut in these clips: those that end with 3, 7"]
    assert len(_prepare(clip_order(()), said.append)) == 10 and len(said) == 1


def test_too_few_whole_clips_are_refused(plain):
    with pytest.raises(CalibrationError, match=r"in 3 of 10 clips .* before 1; 8 whole ones are"):
        lower(plain, clip_order({1, 2, 3}), before=measure(plain))
