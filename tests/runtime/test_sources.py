import builtins
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irstd.runtime.engine import EngineError
from irstd.runtime.media_cv2 import VideoWriter, write_image
from irstd.runtime.sources import BadFrame, SourceFrame, load_media, natural_key, open_source


def frame(level):
    return np.full((16, 24), level, np.uint8)


@pytest.fixture
def folder(tmp_path):
    for number in (10, 2, 1):
        write_image(tmp_path / f"frame{number}.png", frame(number))
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".frame3.png").write_text("hidden")
    return tmp_path


def read(text):
    with open_source(str(text)) as source:
        return source.count, list(source)


def test_a_folder_gives_its_images_in_natural_order(folder):
    count, frames = read(folder)
    assert count == 3
    assert [item.name for item in frames] == ["frame1", "frame2", "frame10"]
    assert [item.index for item in frames] == [0, 1, 2]
    assert [int(item.frame[0, 0]) for item in frames] == [1, 2, 10]


def test_an_image_and_a_glob(folder):
    assert [item.name for item in read(folder / "frame2.png")[1]] == ["frame2"]
    assert [item.name for item in read(folder / "frame1*.png")[1]] == ["frame1", "frame10"]


def test_a_stack_and_a_single_frame_of_numbers(tmp_path):
    stack = np.arange(3 * 8 * 9, dtype=np.uint16).reshape(3, 8, 9)
    np.save(tmp_path / "stack.npy", stack)
    count, frames = read(tmp_path / "stack.npy")
    assert count == 3
    assert [item.name for item in frames] == ["000000", "000001", "000002"]
    np.testing.assert_array_equal([item.frame for item in frames], stack)
    np.save(tmp_path / "one.npy", stack[0])
    assert read(tmp_path / "one.npy")[0] == 1


def test_a_video_file_is_not_live(tmp_path):
    with VideoWriter(tmp_path / "v.mp4", fps=5) as video:
        for _ in range(4):
            video.write(np.zeros((32, 32, 3), np.uint8))
    with open_source(str(tmp_path / "v.mp4")) as source:
        assert not source.is_live
        assert source.count == 4
        assert len(list(source)) == 4


def test_a_bad_frame_is_told_and_the_rest_still_comes(folder):
    (folder / "frame2.png").write_bytes(b"broken")
    first, bad, last = read(folder)[1]
    assert isinstance(first, SourceFrame)
    assert isinstance(last, SourceFrame)
    assert isinstance(bad, BadFrame)
    assert (bad.name, bad.index) == ("frame2", 1)
    assert "cut off" in bad.reason


def test_refusals(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    np.save(tmp_path / "float.npy", np.zeros((8, 8)))
    (tmp_path / "bad.npy").write_bytes(b"nonsense")
    cases = {
        empty: (ValueError, "holds no image"),
        tmp_path / "nothing": (FileNotFoundError, "does not exist"),
        tmp_path / "no*.png": (FileNotFoundError, "no file matches"),
        tmp_path / "*.*": (ValueError, "which is no image"),
        tmp_path / "notes.txt": (ValueError, "unknown kind '.txt'"),
        tmp_path / "float.npy": (ValueError, "expected uint8 or uint16"),
        tmp_path / "bad.npy": (ValueError, "no .npy file"),
    }
    for place, (kind, said) in cases.items():
        with pytest.raises(kind, match=said):
            open_source(str(place))


@given(st.lists(st.integers(0, 10**6), max_size=20, unique=True))
def test_numbers_in_names_sort_as_numbers(numbers):
    paths = [Path(f"f{number}.png") for number in numbers]
    assert sorted(paths, key=natural_key) == [Path(f"f{number}.png") for number in sorted(numbers)]


@given(st.lists(st.text("a1²٣-", max_size=6), max_size=10))
def test_any_names_can_be_sorted(names):
    sorted((Path(name) for name in names), key=natural_key)


def test_without_opencv_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, globals=None, locals=None, fromlist=(), level=0):
        if "media_cv2" in (fromlist or ()):
            raise ImportError("No module named 'cv2'")
        return real(name, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EngineError, match=r"irstd\[cpu\]"):
        load_media()
