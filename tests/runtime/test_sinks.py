import csv
import json

import numpy as np
import pytest

from irstd.runtime.frame import Geometry
from irstd.runtime.sinks import MapSink, encode_mat, encode_npy, open_sink
from irstd.runtime.sources import SourceFrame
from irstd.runtime.targets import Extraction, extract

FRAME = SourceFrame(0, "0001", np.zeros((16, 24), np.uint8))


@pytest.fixture
def confidence():
    values = np.zeros((16, 24), np.float32)
    values[3, 5], values[3, 6], values[10, 20] = 1.0, 0.75, 0.6
    return values


def targets_in(confidence, **options):
    return extract(confidence, Geometry(1.0, 1.0, 16, 24), Extraction(**options))


def test_json_lines(tmp_path, confidence):
    with open_sink(f"json:{tmp_path}/t.jsonl") as sink:
        sink.write(FRAME, targets_in(confidence), None)
        sink.write(FRAME, targets_in(confidence * 0), None)
        assert not (tmp_path / "t.jsonl").exists()  # not before it is whole
    first, second = map(json.loads, (tmp_path / "t.jsonl").read_text().splitlines())
    assert first == {
        "frame": "0001",
        "targets": [
            {"row": 3.0, "column": 5.429, "score": 0.875, "area": 2.0, "peak": 1.0,
             "box": [2.5, 4.5, 3.5, 6.5]},
            {"row": 10.0, "column": 20.0, "score": 0.6, "area": 1.0, "peak": 0.6,
             "box": [9.5, 19.5, 10.5, 20.5]},
        ],
    }  # fmt: skip
    assert second == {"frame": "0001", "targets": []}


def test_json_says_when_the_bound_cuts(capsys, confidence):
    with open_sink("json:-") as sink:
        sink.write(FRAME, targets_in(confidence, max_targets=1), None)
    line = json.loads(capsys.readouterr().out)
    assert (line["truncated"], line["found"], len(line["targets"])) == (True, 2, 1)


def test_csv_rows(tmp_path, confidence):
    with open_sink(f"csv:{tmp_path}/t.csv") as sink:
        sink.write(FRAME, targets_in(confidence), None)
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == "frame,row,column,score,area,peak,top,left,bottom,right".split(",")
    assert rows[1] == "0001,3.0,5.429,0.875,2.0,1.0,2.5,4.5,3.5,6.5".split(",")
    assert len(rows) == 3


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_an_error_leaves_no_file(tmp_path, kind, confidence):
    with pytest.raises(RuntimeError), open_sink(f"{kind}:{tmp_path}/t") as sink:
        sink.write(FRAME, targets_in(confidence), None)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_npy_and_mat_hold_the_confidence_exactly(confidence, tmp_path):
    (tmp_path / "c.npy").write_bytes(encode_npy(confidence))
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), confidence)
    io = pytest.importorskip("scipy.io", reason="pip install scipy reads the .mat file back")
    (tmp_path / "c.mat").write_bytes(encode_mat(confidence))
    np.testing.assert_array_equal(io.loadmat(tmp_path / "c.mat")["confidence"], confidence)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 8)])
def test_mat_of_any_shape(tmp_path, shape):
    io = pytest.importorskip("scipy.io", reason="pip install scipy reads the .mat file back")
    values = np.random.default_rng(0).random(shape, np.float32)
    (tmp_path / "c.mat").write_bytes(encode_mat(values))
    np.testing.assert_array_equal(io.loadmat(tmp_path / "c.mat")["confidence"], values)


def test_a_map_sink_without_confidence_is_an_error(tmp_path, confidence):
    sink = MapSink(str(tmp_path), suffix=".npy", encode=encode_npy)
    assert sink.needs_confidence
    with pytest.raises(ValueError, match="needs the confidence"):
        sink.write(FRAME, targets_in(confidence), None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jsn:-", "did you mean json:-"),
        ("overlay", "names no place"),
        ("nonsense:x", "known: json, csv, overlay, video, maps"),
    ],
)
def test_unknown_sinks_are_refused(text, said):
    with pytest.raises(ValueError, match=said):
        open_sink(text)


def test_unwritable_places_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        open_sink(f"overlay:{tmp_path}/file/x")
    with pytest.raises(OSError, match="No such file"):
        open_sink(f"json:{tmp_path}/nowhere/t.jsonl")


def test_a_full_disk_while_a_json_file_is_closed_leaves_nothing(tmp_path, confidence, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("irstd.runtime.sinks.os.replace", full)
    with pytest.raises(OSError, match="No space left"), open_sink(f"json:{tmp_path}/t") as sink:
        sink.write(FRAME, targets_in(confidence), None)
    assert list(tmp_path.iterdir()) == []
