from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from irstd.calibration.frames import read_calibration
from irstd.calibration.gate import Limits
from irstd.export import lowering as module
from irstd.export.bundling import make_graph
from irstd.export.lowering import lower_graph
from irstd.runtime.evaluation import LabelledFrame
from irstd.tests.export.lowering_networks import (
    BODY,
    CONSTANTS,
    CONTRACT,
    SET,
    SIDE,
    STEM,
    build,
    calibration_set,
    conv,
    lower,
    measure,
    order,
    shoot,
)
from irstd.train.zoo import MODELS

# --- networks -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain():
    return build(*STEM, *BODY, conv("body gain", "logit", pad=0))


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
    assert lowered.scores[SET].pd == 1.0
    assert said[1].startswith("ranges are not kept for the next export: ")
    assert (tmp_path / "file").read_text() == "no folder"


def test_a_cache_that_cannot_be_read_is_survived(plain, monkeypatch):
    key = module.range_key(plain, CONTRACT, calibration_set(), "target")
    (module.cache_folder() / f"{key}.json").mkdir(parents=True)
    lowered, said = lower(plain, order("int8"))
    assert lowered.scores[SET].pd == 1.0
    assert said[0].startswith("collecting ranges")
    assert said[1].startswith("ranges are not kept for the next export: ")


def test_no_test_writes_to_the_cache_of_the_user(tmp_path_factory):
    assert module.cache_folder().is_relative_to(tmp_path_factory.getbasetemp())
