"""Scores of a hand-made graph on labelled sets, and how a manifest keeps them."""

import numpy as np
import pytest

from irstd.calibration.quantize import to_int8
from irstd.export.accuracy import Judge, LabelledSet, note_accuracy
from irstd.runtime.evaluation import LabelledFrame
from irstd.runtime.frame import FrameContract
from irstd.runtime.scoring import Scorer
from irstd.tests.export.lowering_networks import (
    BODY,
    CONTRACT,
    SIDE,
    STEM,
    build,
    conv,
    labelled_set,
)

NETWORK = build(*STEM, *BODY, conv("body gain", "logit", pad=0))


def deep(frames):
    """The same frames by a sensor of 14 bits."""
    return [
        LabelledFrame(one.name, one.frame.astype(np.uint16) * (16383 // 255), one.mask)
        for one in frames
    ]


@pytest.fixture
def judge():
    """A set with targets, the same of 14 bits, and one whose frames are black."""
    black = [
        LabelledFrame(one.name, np.zeros_like(one.frame), one.mask)
        for one in labelled_set(range(3))
    ]
    contract = FrameContract(SIDE, SIDE, bit_depth=14, normalisation="full-scale")
    return Judge(
        (
            LabelledSet("day", labelled_set(), CONTRACT),
            LabelledSet("deep", deep(labelled_set()), contract),
            LabelledSet("night", black, CONTRACT),
        ),
        threshold=0.5,
    )


def test_every_set_is_scored_by_its_name_and_bit_depth(judge):
    found = judge.score(NETWORK)
    assert list(found) == ["day", "deep", "night"]
    assert [one.frames for one in found.values()] == [6, 6, 3]
    assert [one.pd for one in found.values()] == [1.0, 1.0, 0.0]
    assert judge.description == "6 frames of day and 6 frames of deep and 3 frames of night"


def test_the_threshold_decides(judge):
    sure = Judge(judge.sets, threshold=0.999)
    assert [one.pd for one in sure.score(NETWORK).values()] == [0.0, 0.0, 0.0]


def test_what_is_written_is_computed(judge):
    # Inputs of the first layer cut at a tenth of what targets reach: nothing is left to find.
    blind = to_int8(NETWORK, {"frame": 0.03}, ["stem"])
    assert judge.score_as_written(blind)["day"].pd == 0.0
    assert judge.score_as_written(NETWORK)["day"].pd == 1.0


def test_sets_are_compared_target_by_target(judge):
    blind = to_int8(NETWORK, {"frame": 0.03}, ["stem"])
    found = judge.compare(NETWORK, blind)
    assert [(one.both, one.lost, one.neither) for one in found.values()] == [
        (0, 6, 0),
        (0, 6, 0),
        (0, 0, 3),
    ]


def test_a_manifest_keeps_what_is_defined(judge):
    scores = judge.score(NETWORK) | {"empty": Scorer().result()}
    kept = note_accuracy(scores, precision="fp32", engine="by hand")
    assert [one.dataset for one in kept] == ["day", "deep", "night", "empty"]
    assert {(one.precision, one.engine) for one in kept} == {("fp32", "by hand")}
    assert (kept[0].pd, kept[0].iou) == (scores["day"].pd, scores["day"].iou)
    assert (kept[3].pd, kept[3].iou, kept[3].frames) == (None, None, 0)
