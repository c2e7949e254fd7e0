from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from irstd.runtime.clip import ClipState
from irstd.runtime.frame import Geometry
from irstd.runtime.media_cv2 import VideoReader, read_image
from irstd.runtime.registration import Shift
from irstd.runtime.sinks import CSV_HEADER, encode_mat, open_sink
from irstd.runtime.sources import SourceFrame
from irstd.runtime.targets import Extraction, Targets, extract

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.is_char_device(), reason="this system has no /dev/full")
MAP = np.zeros((64, 64), np.float32)
MAP[10, 20:22] = 0.75, 0.9375
MAP[40, 50] = 0.625


def shot(name: str = "0001") -> SourceFrame:
    frame = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint16)
    return SourceFrame(0, name, frame)


def targets(*, bound: int = 1000) -> Targets:
    return extract(MAP, Geometry(1.0, 1.0, 64, 64), Extraction(max_targets=bound))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# The two pixels weigh 0.75 and 0.9375: 20 + 0.9375 / 1.6875 = 20.5556; mean 0.84375.
FIRST = {
    "row": 10.0,
    "column": 20.556,
    "score": 0.8438,
    "area": 2.0,
    "peak": 0.9375,
    "box": [9.5, 19.5, 10.5, 21.5],
}


def test_json_lines_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with open_sink("json:-") as sink:
        assert not sink.needs_confidence
        sink.write(shot(), targets(), None)
        line = capsys.readouterr().out  # there before the sink is closed
    assert line.endswith("\n")
    found = json.loads(line)
    assert list(found) == ["frame", "targets"]
    assert found["frame"] == "0001"
    assert found["targets"][0] == FIRST
    assert len(found["targets"]) == 2


def test_json_says_what_the_bound_cut(capsys: pytest.CaptureFixture[str]) -> None:
    with open_sink("json:-") as sink:
        sink.write(shot(), targets(bound=1), None)
    found = json.loads(capsys.readouterr().out)
    assert (len(found["targets"]), found["truncated"], found["found"]) == (1, True, 2)


def test_json_says_what_became_of_the_clip(capsys: pytest.CaptureFixture[str]) -> None:
    states = [
        ClipState(4, None),
        ClipState(0, Shift(0.25, -1.5)),
        ClipState(0, Shift(0.0, 0.0, "fog")),
        ClipState(0, Shift(0.0, 0.0, "a flash"), is_doubtful=True),
        ClipState(3, Shift(0.5, 0.0), is_cut=True),
    ]
    with open_sink("json:-") as sink:
        for state in states:
            sink.write(shot(), replace(targets(), clip=state), None)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [{k: v for k, v in line.items() if k not in ("frame", "targets")} for line in lines] == [
        {"frames_missing": 4},
        {"shift": [0.25, -1.5]},
        {"shift": [0.0, 0.0], "not_registered": "fog"},
        {"shift": [0.0, 0.0], "not_registered": "a flash", "scene_doubtful": True},
        {"frames_missing": 3, "shift": [0.5, 0.0], "scene_cut": True},
    ]


def test_a_json_file_appears_at_the_end(tmp_path: Path) -> None:
    with open_sink(f"json:{tmp_path / 'found.jsonl'}") as sink:
        sink.write(shot("a"), targets(), None)
        sink.write(shot('b"\n'), targets(), None)
        assert "found.jsonl" not in names(tmp_path)
    lines = (tmp_path / "found.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == ["a", 'b"\n']
    assert names(tmp_path) == ["found.jsonl"]


def test_csv_has_a_line_a_target(tmp_path: Path) -> None:
    nothing = extract(0 * MAP, Geometry(1.0, 1.0, 64, 64), Extraction())
    with open_sink(f"csv:{tmp_path / 'found.csv'}") as sink:
        sink.write(shot("a,b"), targets(), None)
        sink.write(shot("empty"), nothing, None)
    with (tmp_path / "found.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert tuple(rows[0]) == CSV_HEADER
    assert rows[1] == [
        "a,b", "10.0", "20.556", "0.8438", "2.0", "0.9375", "9.5", "19.5", "10.5", "21.5"
    ]  # fmt: skip
    assert [row[0] for row in rows[1:]] == ["a,b", "a,b"]


@pytest.mark.parametrize("text", ["json:{}/t.jsonl", "csv:{}/t.csv", "video:{}/t.mp4"])
def test_an_error_leaves_no_file_and_keeps_the_old_one(tmp_path: Path, text: str) -> None:
    sink_text = text.format(tmp_path)
    path = Path(sink_text.partition(":")[2])
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stop"), open_sink(sink_text) as sink:
        sink.write(shot(), targets(), None)
        raise RuntimeError("stop")
    assert names(tmp_path) == [path.name]
    assert path.read_bytes() == b"old"


def test_overlays_have_the_frames_names(tmp_path: Path) -> None:
    with open_sink(f"overlay:{tmp_path}/new/seen") as sink:
        sink.write(shot("0007"), targets(), None)
    assert names(tmp_path / "new" / "seen") == ["0007.png"]
    assert read_image(tmp_path / "new" / "seen" / "0007.png").shape == (512, 512)


@pytest.mark.parametrize("text", ["video:{}/seen.mp4", "{}/seen.mp4"])
def test_a_video_with_and_without_its_kind(tmp_path: Path, text: str) -> None:
    with open_sink(text.format(tmp_path)) as sink:
        for _ in range(3):
            sink.write(shot(), targets(), None)
    assert names(tmp_path) == ["seen.mp4"]
    with VideoReader(str(tmp_path / "seen.mp4")) as video:
        assert len(list(video)) == 3


def test_maps_as_pictures(tmp_path: Path) -> None:
    with open_sink(f"maps:{tmp_path}") as sink:
        assert sink.needs_confidence
        sink.write(shot(), targets(), MAP)
    assert np.array_equal(read_image(tmp_path / "0001.png"), np.rint(MAP * 255))


def test_maps_as_numpy(tmp_path: Path) -> None:
    with open_sink(f"maps-npy:{tmp_path}") as sink:
        sink.write(shot(), targets(), MAP)
    back = np.load(tmp_path / "0001.npy")
    assert back.dtype == np.float32
    assert np.array_equal(back, MAP)
    assert names(tmp_path) == ["0001.npy"]


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 48)])
def test_maps_as_matlab(tmp_path: Path, shape: tuple[int, int]) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    values = np.random.default_rng(0).random(shape, np.float32)
    with open_sink(f"maps-mat:{tmp_path}") as sink:
        sink.write(shot(), targets(), values)
    back = scipy_io.loadmat(tmp_path / "0001.mat")["confidence"]
    assert back.dtype == np.float32
    assert np.array_equal(back, values)


def test_a_matlab_file_by_hand() -> None:
    content = encode_mat(np.float32([[1.0, 2.0]]))
    assert content[:10] == b"MATLAB 5.0"
    assert content[124:128] == b"\x00\x01IM"
    assert content[128:136] == bytes([14, 0, 0, 0, len(content) - 136, 0, 0, 0])
    assert len(content) % 8 == 0
    assert np.frombuffer(content[-8:], "<f4").tolist() == [1.0, 2.0]


def test_a_map_sink_without_a_map_is_told(tmp_path: Path) -> None:
    with (
        open_sink(f"maps:{tmp_path}") as sink,
        pytest.raises(ValueError, match="needs the confidence of the frame"),
    ):
        sink.write(shot(), targets(), None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jsn:x", "unknown sink 'jsn:x'; did you mean json:x"),
        ("overlays", "unknown sink 'overlays'; did you mean overlay:"),
        ("zzz:x", "unknown sink 'zzz:x'; known: json, csv, overlay, video, maps, maps-npy, maps-"),
        ("json", "sink 'json' names no place; write json:PLACE"),
        ("maps:", "sink 'maps:' names no place"),
        ("video:seen.avi", "video seen.avi does not end in .mp4"),
    ],
)
def test_wrong_sinks_are_told(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        open_sink(text)


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_a_missing_folder_is_told_at_once(tmp_path: Path, kind: str) -> None:
    with pytest.raises(FileNotFoundError, match="No such file or directory: '.*/none/found'"):
        open_sink(f"{kind}:{tmp_path}/none/found")


@pytest.mark.parametrize("kind", ["overlay", "maps", "maps-npy"])
def test_a_folder_that_cannot_be_made_is_told_at_once(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        open_sink(f"{kind}:{tmp_path}/file/inside")


@needs_full
def test_a_full_disk_is_told_and_a_device_stays_a_device() -> None:
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):  # noqa: SIM117
        with open_sink(f"json:{FULL}") as sink:
            sink.write(shot(), targets(), None)
    assert FULL.is_char_device()


@needs_full
def test_full_standard_output_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with open_sink("json:-") as sink, pytest.raises(OSError, match="'standard output'"):
            sink.write(shot(), targets(), None)
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # lets the rest be flushed


def test_a_reader_that_has_gone_is_told_as_a_broken_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Gone())
    with open_sink("json:-") as sink, pytest.raises(BrokenPipeError):
        sink.write(shot(), targets(), None)
    monkeypatch.setattr(Gone, "flush", io.StringIO.flush)


PROGRAM = """
import click, numpy as np
from irstd.runtime.commands.shared import PlainCommand
from irstd.runtime.frame import Geometry
from irstd.runtime.sinks import open_sink
from irstd.runtime.sources import SourceFrame
from irstd.runtime.targets import Extraction, extract

@click.command(cls=PlainCommand)
def endless():
    confidence = np.zeros((16, 16), np.float32)
    targets = extract(confidence, Geometry(1.0, 1.0, 16, 16), Extraction())
    with open_sink("json:-") as sink:
        while True:
            sink.write(SourceFrame(0, "a", None), targets, None)

endless()
"""


def test_a_command_ends_quietly_when_its_reader_has_gone() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        assert json.loads(program.stdout.readline()) == {"frame": "a", "targets": []}
        program.stdout.close()
        assert program.stderr.read() == b""
        program.wait(timeout=20)
