from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irstd.runtime.errors import EngineError
from irstd.runtime.media_cv2 import VideoWriter, write_image
from irstd.runtime.sources import BadFrame, Source, SourceFrame, natural_key, open_source


def frame_of(value: int) -> np.ndarray:
    return np.full((16, 20), value, np.uint16)


def write_frames(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for value, name in enumerate(names):
        write_image(folder / name, frame_of(value))
    return folder


def read(text: object) -> list[tuple[int, str, int]]:
    """(index, name, first count) of every frame."""
    with open_source(str(text)) as source:
        items = list(source)
    assert all(isinstance(item, SourceFrame) for item in items)
    return [(item.index, item.name, int(item.frame[0, 0])) for item in items]


def test_an_image(tmp_path: Path) -> None:
    write_frames(tmp_path, "frame.png")
    with open_source(str(tmp_path / "frame.png")) as source:
        assert (source.count, source.is_live) == (1, False)
        (item,) = source
    assert (item.index, item.name) == (0, "frame")
    assert np.array_equal(item.frame, frame_of(0))


def test_a_folder_counts_frame_2_before_frame_10(tmp_path: Path) -> None:
    write_frames(tmp_path, "frame10.png", "frame2.png", "frame1.PNG")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".frame3.partial.png").write_bytes(b"being written")
    with open_source(str(tmp_path)) as source:
        assert source.count == 3
    assert read(tmp_path) == [(0, "frame1", 2), (1, "frame2", 1), (2, "frame10", 0)]


def test_a_glob(tmp_path: Path) -> None:
    write_frames(tmp_path, "a1.png", "b1.png", "a2.png")
    assert read(tmp_path / "a*.png") == [(0, "a1", 0), (1, "a2", 2)]


def test_files_that_share_a_stem_have_names_of_their_own(tmp_path: Path) -> None:
    write_frames(tmp_path / "one", "0001.png")
    write_frames(tmp_path / "two", "0001.png")
    names = [name for _, name, _ in read(tmp_path / "*" / "*.png")]
    assert names == ["one-0001.png", "two-0001.png"]
    write_frames(tmp_path / "both", "0001.png", "0001.pgm")
    assert [name for _, name, _ in read(tmp_path / "both")] == ["0001.pgm", "0001.png"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    write_frames(tmp_path, "frame[1].png")
    assert read(tmp_path / "frame[1].png") == [(0, "frame[1]", 0)]


def test_a_bad_frame_does_not_end_the_source(tmp_path: Path) -> None:
    write_frames(tmp_path, "1.png", "2.png", "3.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:40])
    with open_source(str(tmp_path)) as source:
        first, bad, last = source
    assert isinstance(bad, BadFrame)
    assert (bad.index, bad.name) == (1, "2")
    assert "2.png of 40 bytes is cut off or damaged" in bad.reason
    assert [first.name, last.name] == ["1", "3"]


def test_a_frame_that_vanished_is_a_bad_frame(tmp_path: Path) -> None:
    write_frames(tmp_path, "1.png", "2.png")
    with open_source(str(tmp_path)) as source:
        (tmp_path / "2.png").unlink()
        _, bad = source
    assert isinstance(bad, BadFrame)
    assert "does not exist" in bad.reason


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_stack(tmp_path: Path, dtype: type[np.generic]) -> None:
    stack = np.arange(3 * 8 * 9).reshape(3, 8, 9).astype(dtype)
    np.save(tmp_path / "stack.npy", stack)
    with open_source(str(tmp_path / "stack.npy")) as source:
        assert (source.count, source.is_live) == (3, False)
        items = list(source)
    assert [item.name for item in items] == ["000000", "000001", "000002"]
    assert np.array_equal(np.stack([item.frame for item in items]), stack)
    assert items[0].frame.dtype == dtype


def test_a_single_frame_of_numpy(tmp_path: Path) -> None:
    np.save(tmp_path / "frame.npy", frame_of(7))
    assert read(tmp_path / "frame.npy") == [(0, "000000", 7)]


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((2, 8, 8), np.float32), r"holds float32 of shape \(2, 8, 8\), expected uint8"),
        (np.zeros((1, 2, 8, 8), np.uint8), r"holds uint8 of shape \(1, 2, 8, 8\)"),
        (np.array([{}]), "stack.npy is no .npy file of numbers"),
    ],
)
def test_wrong_stacks_are_told(tmp_path: Path, array: np.ndarray, text: str) -> None:
    np.save(tmp_path / "stack.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=text):
        open_source(str(tmp_path / "stack.npy"))


@pytest.mark.parametrize("size", [0, 5, 100, 600])
def test_a_stack_that_is_cut_off_is_told(tmp_path: Path, size: int) -> None:
    np.save(tmp_path / "stack.npy", np.zeros((3, 16, 16), np.uint16))
    os.truncate(tmp_path / "stack.npy", size)
    with pytest.raises(ValueError, match="stack.npy is no .npy file of numbers"):
        open_source(str(tmp_path / "stack.npy"))


def test_a_video(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mp4", fps=25.0) as video:
        for value in (20, 60, 100):
            video.write(np.full((32, 48, 3), value, np.uint8))
    with open_source(str(tmp_path / "clip.mp4")) as source:
        assert (source.count, source.is_live) == (3, False)
        items = list(source)
    assert [(item.index, item.name) for item in items] == [
        (0, "000000"), (1, "000001"), (2, "000002")
    ]  # fmt: skip
    assert [float(item.frame.mean()) for item in items] == pytest.approx([20, 60, 100], abs=3)


class Camera:
    """Stands for OpenCV's capture: gives two frames and remembers what was opened."""

    def __init__(self) -> None:
        self.opened: tuple[object, ...] = ()
        self.left = 2
        self.is_released = False

    def __call__(self, *what: object) -> Camera:
        self.opened = what
        return self

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return (True, np.zeros((16, 16, 3), np.uint8)) if self.left >= 0 else (False, None)

    def release(self) -> None:
        self.is_released = True


@pytest.mark.parametrize(
    ("text", "opened"),
    [
        ("0", (0,)),
        ("rtsp://10.0.0.7/live", ("rtsp://10.0.0.7/live",)),
        ("nvarguscamerasrc ! appsink", ("nvarguscamerasrc ! appsink", cv2.CAP_GSTREAMER)),
    ],
)
def test_live_sources(
    monkeypatch: pytest.MonkeyPatch, text: str, opened: tuple[object, ...]
) -> None:
    camera = Camera()
    monkeypatch.setattr(cv2, "VideoCapture", camera)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "GStreamer:  YES (1.20.3)")
    with open_source(text) as source:
        assert (source.count, source.is_live) == (None, True)
        assert [item.name for item in source] == ["000000", "000001"]
    assert camera.opened == opened
    assert camera.is_released


def test_a_folder_named_by_a_number_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_frames(tmp_path / "7", "a.png")
    monkeypatch.chdir(tmp_path)
    assert read("7") == [(0, "a", 0)]


def test_wrong_places_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="source 'none.png' does not exist; expected an"):
        open_source("none.png")
    with pytest.raises(ValueError, match=r"folder .* holds no image \(.png"):
        open_source(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no file matches '.*\*.png'"):
        open_source(str(tmp_path / "*.png"))
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match="notes.txt is of unknown kind '.txt'; expected one of"):
        open_source(str(tmp_path / "notes.txt"))
    with pytest.raises(ValueError, match="also matches .*notes.txt, which is no image"):
        open_source(str(tmp_path / "*"))
    (tmp_path / "clip.mp4").write_bytes(b"no video" * 9)
    with pytest.raises(ValueError, match="cannot open '.*clip.mp4'"):
        open_source(str(tmp_path / "clip.mp4"))


def test_without_opencv_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_frames(tmp_path, "frame.png")
    monkeypatch.delattr(sys.modules["irstd.runtime"], "media_cv2")
    monkeypatch.setitem(sys.modules, "irstd.runtime.media_cv2", None)
    with pytest.raises(EngineError, match=r"need OpenCV .*pip install 'irstd\[cpu\]'"):
        open_source(str(tmp_path / "frame.png"))


def test_a_source_closes_what_it_opened() -> None:
    closed: list[bool] = []
    with Source(iter(()), count=0, close=lambda: closed.append(True)) as source:
        assert list(source) == []
    assert closed == [True]


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_numbers_in_names_sort_as_numbers(numbers: list[int]) -> None:
    paths = [Path(f"run/frame{number}.png") for number in numbers]
    assert sorted(paths, key=natural_key) == [
        Path(f"run/frame{number}.png") for number in sorted(numbers)
    ]


@given(st.lists(st.text(min_size=1).filter(lambda name: "\0" not in name)))
def test_any_names_can_be_sorted(names: list[str]) -> None:
    paths = [Path(name) for name in names]
    assert sorted(sorted(paths, key=natural_key), key=natural_key) == sorted(paths, key=natural_key)
