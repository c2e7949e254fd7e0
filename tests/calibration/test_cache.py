"""The calibration cache: what makes a key, and files that cannot be trusted."""

import json
import os
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import irstd.calibration.cache as cache
from irstd.calibration.cache import cache_folder, range_key, read_ranges, write_ranges
from irstd.calibration.frames import CalibrationSet
from irstd.calibration.ranges import BINS, METHODS, Calibrated, Observation
from irstd.runtime.frame import ClipContract, FrameContract

KEY = "0" * 64
CONTRACT = FrameContract(64, 96, bit_depth=14)
FRAMES = CalibrationSet("a folder", 9, (), True, "ab" * 32)


def observation(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 2**50, BINS)
    return Observation(counts, 2.0**-7, float(np.float32(rng.random() / 200)), 0.1 + seed)


CALIBRATED = Calibrated(
    ranges={"frame": 1.0, "/a/Relu_output_0": 0.1 + 0.2, "b": 1e-30, "c": 3.4e38},
    observed={"frame": observation(0), "/a/Relu_output_0": observation(1)},
    shifts={"/a/Conv": np.float32([0.1, -1e-30, 3.4e38]), "/b/Conv": np.float32([-0.3])},
)


def same(first, second):
    assert first.ranges == second.ranges
    assert first.observed.keys() == second.observed.keys()
    for name, one in first.observed.items():
        other = second.observed[name]
        assert one.counts.dtype == other.counts.dtype == np.int64
        assert np.array_equal(one.counts, other.counts)
        assert (one.edge, one.largest, one.target) == (other.edge, other.largest, other.target)
    assert first.shifts.keys() == second.shifts.keys()
    for name, shift in first.shifts.items():
        assert shift.dtype == second.shifts[name].dtype == np.float32
        assert np.array_equal(shift, second.shifts[name])


# --- the key --------------------------------------------------------------------------------------


def graph_of(weight=1.0, *, operator="Mul", name="factor"):
    shape = (1, 1, 2, 2)
    return helper.make_model(
        helper.make_graph(
            [helper.make_node(operator, ["frame", "weight"], ["confidence"], name=name)],
            "hand-made",
            [helper.make_tensor_value_info("frame", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("confidence", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(np.float32(weight), "weight")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def test_the_same_is_the_same_key():
    key = range_key(graph_of(), CONTRACT, FRAMES, "target")
    assert key == range_key(graph_of(), replace(CONTRACT), replace(FRAMES), "target")
    read = onnx.load_from_string(graph_of().SerializeToString())
    assert key == range_key(read, CONTRACT, FRAMES, "target")
    assert len(key) == 64 and set(key) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    "graph",
    [
        graph_of(np.nextafter(np.float32(1), np.float32(2))),
        graph_of(operator="Add"),
        graph_of(name="other"),
    ],
)
def test_another_graph_is_another_key(graph):
    assert range_key(graph, CONTRACT, FRAMES, "mse") != range_key(
        graph_of(), CONTRACT, FRAMES, "mse"
    )


OTHERS = {
    "height": 32, "width": 64, "bit_depth": 12, "normalisation": "full-scale", "fit": "pad",
    "clip": ClipContract(3), "answer": "boxes",
}  # fmt: skip


@pytest.mark.parametrize("field", [field.name for field in fields(FrameContract)])
def test_every_part_of_the_contract_counts(field):
    other = replace(CONTRACT, **{field: OTHERS[field]})
    assert other != CONTRACT
    assert range_key(graph_of(), other, FRAMES, "mse") != range_key(
        graph_of(), CONTRACT, FRAMES, "mse"
    )


def test_other_frames_and_versions_are_other_keys(monkeypatch):
    known = {range_key(graph_of(), CONTRACT, FRAMES, "mse")}
    known.add(range_key(graph_of(), CONTRACT, replace(FRAMES, sha256="cd" * 32), "mse"))
    for name, value in (("FORMAT", 99), ("__version__", "99")):
        with monkeypatch.context() as patch:
            patch.setattr(cache, name, value)
            known.add(range_key(graph_of(), CONTRACT, FRAMES, "mse"))
    monkeypatch.setattr(cache.onnxruntime, "__version__", "99")
    known.add(range_key(graph_of(), CONTRACT, FRAMES, "mse"))
    assert len(known) == 5


def test_names_of_sources_do_not_count():
    other = replace(FRAMES, source="another name", offered=1000)
    assert range_key(graph_of(), CONTRACT, other, "mse") == range_key(
        graph_of(), CONTRACT, FRAMES, "mse"
    )


def test_every_method_has_its_own_key():
    assert len({range_key(graph_of(), CONTRACT, FRAMES, method) for method in METHODS}) == 5


# --- the folder -----------------------------------------------------------------------------------


def test_the_folder_is_where_the_user_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "irstd" / "ranges"


@pytest.mark.parametrize("value", [None, ""])
def test_the_folder_without_a_setting(monkeypatch, tmp_path, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_folder() == tmp_path / ".cache" / "irstd" / "ranges"
    assert Path.home() == tmp_path


# --- files ----------------------------------------------------------------------------------------


def test_what_was_written_is_read_again_to_the_bit(tmp_path):
    folder = tmp_path / "deep" / "down"
    write_ranges(folder, KEY, CALIBRATED)
    same(read_ranges(folder, KEY), CALIBRATED)
    assert [path.name for path in folder.iterdir()] == [f"{KEY}.json"]


def test_nothing_observed_is_kept_too(tmp_path):
    write_ranges(tmp_path, KEY, Calibrated({}, {}, {}))
    same(read_ranges(tmp_path, KEY), Calibrated({}, {}, {}))


def test_what_was_there_is_replaced(tmp_path):
    write_ranges(tmp_path, KEY, Calibrated({"frame": 2.0}, {}, {}))
    write_ranges(tmp_path, KEY, CALIBRATED)
    same(read_ranges(tmp_path, KEY), CALIBRATED)


def test_nothing_is_found_where_nothing_is(tmp_path):
    assert read_ranges(tmp_path / "nowhere", KEY) is None
    write_ranges(tmp_path, KEY, CALIBRATED)
    assert read_ranges(tmp_path, "1" * 64) is None


def test_a_file_of_another_key_is_not_believed(tmp_path):
    write_ranges(tmp_path, KEY, CALIBRATED)
    (tmp_path / f"{KEY}.json").rename(tmp_path / f"{'1' * 64}.json")
    assert read_ranges(tmp_path, "1" * 64) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 40,
        b"[]",
        b"null",
        b'{"key": "' + KEY.encode() + b'"}',
        b'{"key": "\xff\xfe", "ranges": {}, "observed": {}}',
        b'{"key": "' + KEY.encode() + b'", "ranges": {"frame": "1"}, "observed": {}}',
        b'{"key": "' + KEY.encode() + b'", "ranges": {"frame": null}, "observed": {}}',
        b'{"key": "' + KEY.encode() + b'", "ranges": {"frame": NaN}, "observed": {}}',
    ],
)
def test_a_damaged_file_is_no_file(tmp_path, content):
    (tmp_path / f"{KEY}.json").write_bytes(content)
    assert read_ranges(tmp_path, KEY) is None


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_file_that_was_cut_is_no_file(tmp_path, part):
    write_ranges(tmp_path, KEY, CALIBRATED)
    path = tmp_path / f"{KEY}.json"
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert read_ranges(tmp_path, KEY) is None


def test_a_folder_in_place_of_the_file_is_no_file(tmp_path):
    (tmp_path / f"{KEY}.json").mkdir()
    assert read_ranges(tmp_path, KEY) is None


def test_a_damaged_file_is_replaced(tmp_path):
    (tmp_path / f"{KEY}.json").write_bytes(b"{")
    write_ranges(tmp_path, KEY, CALIBRATED)
    same(read_ranges(tmp_path, KEY), CALIBRATED)


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    write_ranges(tmp_path, KEY, CALIBRATED)

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_ranges(tmp_path, KEY, Calibrated({"frame": 2.0}, {}, {}))
    assert caught.value.filename == str(tmp_path / f"{KEY}.json")
    same(read_ranges(tmp_path, KEY), CALIBRATED)
    assert [path.name for path in tmp_path.iterdir()] == [f"{KEY}.json"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "irstd").write_text("a file in the way")
    with pytest.raises(OSError):
        write_ranges(tmp_path / "irstd" / "ranges", KEY, CALIBRATED)
    assert read_ranges(tmp_path / "irstd" / "ranges", KEY) is None


def test_a_person_can_read_the_file(tmp_path):
    write_ranges(tmp_path, KEY, CALIBRATED)
    found = json.loads((tmp_path / f"{KEY}.json").read_text())
    assert found["key"] == KEY and found["ranges"] == CALIBRATED.ranges
    assert len(found["observed"]["frame"]["counts"]) == BINS
