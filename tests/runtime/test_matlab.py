from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io

from irstd.runtime.matlab import read_newest_frame
from irstd.runtime.media_cv2 import read_image


def clip(dtype: type[np.generic]) -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, (5, 7, 9)).astype(dtype)


def save(path: Path, *, compressed: bool = True, **arrays: object) -> Path:
    scipy.io.savemat(path, arrays, do_compression=compressed)
    return path


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_the_newest_frame_of_a_clip(
    tmp_path: Path, dtype: type[np.generic], compressed: bool
) -> None:
    frames = clip(dtype)
    path = save(tmp_path / "00001.mat", compressed=compressed, Mix=frames, other=np.eye(2))
    frame = read_newest_frame(path)
    assert frame.dtype == (np.uint16 if dtype is np.uint16 else np.uint8)
    assert frame.flags.c_contiguous and np.array_equal(frame, frames[-1])
    assert np.array_equal(read_image(path), frame)


def test_floating_point_is_rounded_and_one_frame_is_a_clip(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mat", Mix=np.array([[0.4, 0.6], [254.6, 3.0]]))
    assert read_newest_frame(path).tolist() == [[0, 1], [255, 3]]


def test_numbers_stored_in_few_bytes_are_read(tmp_path: Path) -> None:
    # MATLAB stores doubles that are small whole numbers as bytes; four bytes share the tag's place.
    path = save(tmp_path / "a.mat", compressed=False, Mix=np.array([[1, 2], [3, 4]], np.uint8))
    assert b"\x02\x00\x04\x00" in path.read_bytes()
    assert read_newest_frame(path).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("values", [[[-1.0, 2.0]], [[256.0, 2.0]], [[np.nan, 2.0]]])
def test_values_off_the_scale_are_refused(tmp_path: Path, values: list[list[float]]) -> None:
    path = save(tmp_path / "a.mat", Mix=np.array(values))
    with pytest.raises(ValueError, match=r"a.mat: Mix holds values outside of 0..255"):
        read_newest_frame(path)


@pytest.mark.parametrize("arrays", [{"Tgt": np.eye(3)}, {"Mix": "text"}, {"Mix": np.eye(2) * 1j}])
def test_a_file_without_the_array_is_refused(tmp_path: Path, arrays: dict[str, object]) -> None:
    path = save(tmp_path / "a.mat", **arrays)
    with pytest.raises(ValueError, match=r"a.mat has no array 'Mix' of \(frames, height, width\)"):
        read_newest_frame(path)


@pytest.mark.parametrize("content", [b"", b"MATLAB", b"\x89HDF\r\n" + bytes(200)])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mat"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.mat is no MATLAB file of level 5; save it anew"):
        read_newest_frame(path)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("lost", [1, 9, 200])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, lost: int, compressed: bool) -> None:
    path = save(tmp_path / "a.mat", compressed=compressed, Mix=clip(np.uint8))
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(ValueError, match=r"a.mat is cut off or damaged"):
        read_newest_frame(path)
