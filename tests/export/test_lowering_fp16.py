import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from irstd.calibration.gate import CalibrationError
from irstd.calibration.sensitivity import measure_damage
from irstd.export import lowering as module
from irstd.export.precision import emulate_fp16, layer_precisions, to_fp16
from irstd.runtime.errors import OutputError
from irstd.tests.export.lowering_networks import (
    BODY,
    DARK,
    SET,
    STEM,
    build,
    calibration_set,
    conv,
    lower,
    measure,
    node,
    order,
    shoot,
)


@pytest.fixture(scope="module")
def plain():
    return build(*STEM, *BODY, conv("body gain", "logit", pad=0))


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
    assert lowered.scores[SET].pd == 1.0
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
    assert lowered.scores[SET].pd == 1.0
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
    assert [len(mix.scores) for mix in lowered.curve] == [0, 1]


def test_a_layer_whose_digits_fp16_loses_stays_in_fp32_with_what_follows(lifted):
    assert measure(to_fp16(lifted))[SET].pd == 0.0
    lowered, said = lower(lifted, order("fp16"))
    assert lowered.scores[SET].pd == 1.0
    assert layer_precisions(lowered.graph) == {"stem": "fp16", "body": "fp16", "high": "fp32"}
    found = kinds(lowered.graph)
    assert found["high"] == found["logit"] == TensorProto.FLOAT
    assert [mix.scores[SET].pd for mix in lowered.curve] == [0.0, 1.0]
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
