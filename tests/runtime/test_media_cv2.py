import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from irstd.runtime.datasets import open_dataset
from irstd.runtime.frame import Geometry
from irstd.runtime.media_cv2 import (
    VideoReader,
    VideoWriter,
    draw_overlay,
    read_image,
    write_image,
    write_sequence,
)
from irstd.runtime.scene import Scene, SceneOptions
from irstd.runtime.targets import Extraction, extract

FRAMES = st.sampled_from([np.uint8, np.uint16]).flatmap(
    lambda kind: arrays(kind, st.tuples(st.integers(1, 20), st.integers(1, 20)))
)


@settings(max_examples=25, deadline=None)
@given(frame=FRAMES)
def test_png_keeps_every_bit(frame, tmp_path_factory):
    path = tmp_path_factory.mktemp("png") / "frame.png"
    write_image(path, frame)
    back = read_image(path)
    assert back.dtype == frame.dtype
    np.testing.assert_array_equal(back, frame)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_colour_and_alpha_become_grey(tmp_path, channels):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    picture = np.repeat(grey[..., None], channels, axis=2)
    if channels == 4:
        picture[..., 3] = 255
    cv2.imwrite(str(tmp_path / "frame.png"), picture)
    np.testing.assert_array_equal(read_image(tmp_path / "frame.png"), grey)


def test_damaged_files_are_refused_in_one_line_and_silently(tmp_path, capfd):
    path = tmp_path / "frame.png"
    write_image(path, np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is cut off after"):
        read_image(path)
    path.write_bytes(b"\x89PNG nonsense" + whole[-12:])
    with pytest.raises(ValueError, match="is no image"):
        read_image(path)
    (tmp_path / "frame.bmp").write_bytes(b"")
    with pytest.raises(ValueError, match="is no image"):
        read_image(tmp_path / "frame.bmp")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_image(tmp_path / "nothing.png")
    assert capfd.readouterr().err == ""


def test_a_float_image_is_no_frame(tmp_path):
    cv2.imwrite(str(tmp_path / "frame.tiff"), np.ones((8, 8), np.float32))
    with pytest.raises(ValueError, match="8-bit or 16-bit"):
        read_image(tmp_path / "frame.tiff")


def test_writing_refuses_unknown_formats_and_unwritable_places(tmp_path):
    frame = np.zeros((8, 8), np.uint8)
    with pytest.raises(ValueError, match=r"no image format '\.xyz'"):
        write_image(tmp_path / "frame.xyz", frame)
    with pytest.raises(OSError, match="No such file"):
        write_image(tmp_path / "nowhere" / "frame.png", frame)
    assert list(tmp_path.iterdir()) == []


def test_video_round_trip(tmp_path):
    path = tmp_path / "seen.mp4"
    with VideoWriter(path, fps=10) as video:
        for level in (0, 100, 200):
            video.write(np.full((64, 96, 3), level, np.uint8))
    with VideoReader(str(path)) as reader:
        assert reader.count == 3
        assert reader.fps == 10
        frames = list(reader)
    assert [frame.shape for frame in frames] == [(64, 96)] * 3
    assert [frame.dtype for frame in frames] == [np.uint8] * 3
    np.testing.assert_allclose([frame.mean() for frame in frames], [0, 100, 200], atol=6)


def test_a_video_that_fails_half_way_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="half way"), VideoWriter(tmp_path / "x.mp4", fps=5) as v:
        v.write(np.zeros((64, 64, 3), np.uint8))
        raise RuntimeError("half way")
    assert list(tmp_path.iterdir()) == []


def test_video_refusals(tmp_path):
    with pytest.raises(ValueError, match="cannot open"):
        VideoReader(str(tmp_path / "nothing.mp4"))
    with pytest.raises(OSError, match="cannot write video"):
        with VideoWriter(tmp_path / "nowhere" / "x.mp4", fps=5) as video:
            video.write(np.zeros((64, 64, 3), np.uint8))
    if "GStreamer:                   NO" in cv2.getBuildInformation():
        with pytest.raises(ValueError, match="needs OpenCV with GStreamer"):
            VideoReader("videotestsrc ! appsink")


def test_overlay_enlarges_small_frames_and_leaves_the_target_visible():
    frame = np.full((64, 128), 100, np.uint8)
    frame[20:22, 40:42] = 250
    confidence = (frame > 200).astype(np.float32)
    targets = extract(confidence, Geometry(1.0, 1.0, 64, 128), Extraction())
    picture = draw_overlay(frame, targets, truth=[(20.5, 40.5)])
    assert picture.shape == (512, 1024, 3)
    assert (picture[20 * 8 : 22 * 8, 40 * 8 : 42 * 8] == 255).all()
    green = (picture[..., 1] > 180) & (picture[..., 0] < 120)
    assert green.any()
    rows, columns = np.nonzero(green)
    assert rows.min() > 100
    assert columns.min() > 250
    assert draw_overlay(np.zeros((600, 700), np.uint16), targets).shape == (600, 700, 3)


def test_a_written_sequence_is_a_dataset(tmp_path):
    scene = Scene(SceneOptions(height=48, width=64, targets=2), seed=5)
    write_sequence(tmp_path / "s", scene, frames=3)
    dataset = open_dataset(tmp_path / "s")
    assert dataset.kind == "sequence"
    assert len(dataset) == 3
    for index, sample in enumerate(dataset):
        shown = scene.frame(index)
        np.testing.assert_array_equal(read_image(sample.image), shown.frame)
        np.testing.assert_allclose(sample.points, shown.points, atol=0.0051)
        mask = read_image(tmp_path / "s" / "masks" / f"{sample.name}.png")
        np.testing.assert_array_equal(mask > 0, shown.mask)
