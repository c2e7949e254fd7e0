from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from irstd.runtime import media_cv2
from irstd.runtime.frame import Geometry
from irstd.runtime.media_cv2 import (
    TARGET_COLOUR,
    TRUTH_COLOUR,
    VideoReader,
    VideoWriter,
    draw_overlay,
    encode_confidence,
    read_image,
    text_stencil,
    write_image,
    write_sequence,
)
from irstd.runtime.scene import Scene, SceneOptions
from irstd.runtime.targets import Extraction, Targets, extract


def ramp(dtype: type[np.generic], *, height: int = 24, width: int = 40) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.linspace(0, top, height * width).reshape(height, width).astype(dtype)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def one_target(*, row: int = 30, column: int = 40, size: int = 64) -> Targets:
    confidence = np.zeros((size, size), np.float32)
    confidence[row : row + 2, column : column + 2] = 0.875
    return extract(confidence, Geometry(1.0, 1.0, size, size), Extraction())


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    frame=arrays.arrays(
        st.sampled_from([np.uint8, np.uint16]),
        arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20),
    )
)
def test_frames_come_back_as_they_were_written(tmp_path: Path, frame: np.ndarray) -> None:
    write_image(tmp_path / "frame.png", frame)
    back = read_image(tmp_path / "frame.png")
    assert back.dtype == frame.dtype
    assert np.array_equal(back, frame)
    assert [path.name for path in tmp_path.iterdir()] == ["frame.png"]


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
def test_16_bit_files_keep_their_counts(tmp_path: Path, suffix: str) -> None:
    write_image(tmp_path / f"frame{suffix}", ramp(np.uint16))
    assert np.array_equal(read_image(tmp_path / f"frame{suffix}"), ramp(np.uint16))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [3, 4])
def test_grey_in_colour_files_is_the_same_grey(
    tmp_path: Path, dtype: type[np.generic], channels: int
) -> None:
    colours = np.repeat(ramp(dtype)[..., None], channels, axis=2)
    if channels == 4:
        colours[..., 3] = ramp(dtype)[::-1]  # transparent or not, the counts count
    cv2.imwrite(str(tmp_path / "frame.png"), colours)
    assert np.array_equal(read_image(tmp_path / "frame.png"), ramp(dtype))


def test_the_content_says_what_a_file_is(tmp_path: Path) -> None:
    _, content = cv2.imencode(".jpg", np.full((16, 16), 90, np.uint8))
    (tmp_path / "frame.png").write_bytes(content.tobytes())
    assert np.array_equal(read_image(tmp_path / "frame.png"), np.full((16, 16), 90))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("part", [0.2, 0.6, 0.99])
def test_a_png_that_is_cut_off_is_refused_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], dtype: type[np.generic], part: float
) -> None:
    write_image(tmp_path / "whole.png", ramp(dtype))
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match="cut.png of .* bytes is cut off or damaged; copy it"):
        read_image(tmp_path / "cut.png")
    assert capfd.readouterr() == ("", "")


def test_a_png_with_a_flipped_bit_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "frame.png", ramp(np.uint16))
    content = bytearray((tmp_path / "frame.png").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "frame.png").write_bytes(content)
    with pytest.raises(ValueError, match="cut off or damaged"):
        read_image(tmp_path / "frame.png")
    assert capfd.readouterr() == ("", "")


def test_a_png_with_a_broken_colour_profile_is_read_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "frame.png", ramp(np.uint16))
    content = (tmp_path / "frame.png").read_bytes()
    place = content.index(b"IDAT") - 4
    profile = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile"))
    (tmp_path / "frame.png").write_bytes(content[:place] + profile + content[place:])
    assert np.array_equal(read_image(tmp_path / "frame.png"), ramp(np.uint16))
    assert capfd.readouterr() == ("", "")


def test_a_jpeg_that_is_cut_off_is_refused_also_with_a_whole_thumbnail(tmp_path: Path) -> None:
    _, content = cv2.imencode(".jpg", ramp(np.uint8))
    whole = content.tobytes()
    note = struct.pack(">HH", 0xFFE1, len(whole) + 2) + whole
    with_thumbnail = whole[:2] + note + whole[2:]
    (tmp_path / "whole.jpg").write_bytes(with_thumbnail)
    (tmp_path / "cut.jpg").write_bytes(with_thumbnail[:-40])
    assert read_image(tmp_path / "whole.jpg").shape == (24, 40)
    with pytest.raises(ValueError, match="cut.jpg of .* bytes is cut off or damaged"):
        read_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize("content", [b"", b"no image", b"BM" + bytes(80)])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "frame.bmp").write_bytes(content)
    with pytest.raises(ValueError, match="frame.bmp is no image that can be read as 8-bit or 16"):
        read_image(tmp_path / "frame.bmp")


def test_floating_point_files_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "frame.tiff"), np.zeros((8, 8), np.float32))
    with pytest.raises(ValueError, match="8-bit or 16-bit greyscale"):
        read_image(tmp_path / "frame.tiff")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="image .*none.png does not exist"):
        read_image(tmp_path / "none.png")


def test_an_unknown_format_and_a_missing_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot write .*frame.xyz: no image format '.xyz'"):
        write_image(tmp_path / "frame.xyz", ramp(np.uint8))
    with pytest.raises(FileNotFoundError, match="none/frame.png"):
        write_image(tmp_path / "none" / "frame.png", ramp(np.uint8))


def test_confidence_becomes_256_levels() -> None:
    content = np.frombuffer(encode_confidence(np.float32([[0.0, 0.5, 1.0]])), np.uint8)
    assert cv2.imdecode(content, cv2.IMREAD_UNCHANGED).tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("text", ["0", "A", "12:34.5", "-+"])
def test_a_stencil_of_a_line_of_text(text: str) -> None:
    stencil = text_stencil((48, 160), text, row=30, column=10, scale=0.7)
    assert stencil.shape == (48, 160) and stencil.dtype == np.bool_
    rows, columns = stencil.nonzero()
    # It stands on its base line, begins at its column, and is 15 pixels high at most.
    assert 30 - 16 <= rows.min() and rows.max() <= 32
    assert 10 <= columns.min() < 16 and columns.max() < 10 + 16 * len(text)


def test_the_scale_of_a_stencil_is_the_height_of_a_letter() -> None:
    for scale in (1.0, 2.0):
        rows, _ = text_stencil((64, 64), "E", row=50, column=2, scale=scale).nonzero()
        assert rows.max() == pytest.approx(50, abs=1)
        assert rows.max() - rows.min() + 1 == pytest.approx(21 * scale, rel=0.1)


@pytest.mark.parametrize(("row", "column"), [(5, 40), (40, -8), (47, 155), (4, -3)])
def test_a_stencil_is_clipped_at_the_border(row: int, column: int) -> None:
    large = text_stencil((148, 260), "88", row=row + 50, column=column + 50, scale=0.7)
    stencil = text_stencil((48, 160), "88", row=row, column=column, scale=0.7)
    assert stencil.any() and np.array_equal(stencil, large[50:98, 50:210])
    assert stencil.sum() < large.sum()


def test_a_stencil_outside_of_the_frame_is_empty() -> None:
    for row, column in ((-5, 10), (90, 10), (20, 200), (20, -100)):
        assert not text_stencil((48, 160), "88", row=row, column=column, scale=0.7).any()


def write_video(path: Path, *, frames: int, fps: float = 20.0) -> None:
    with VideoWriter(path, fps=fps) as video:
        for index in range(frames):
            video.write(np.full((64, 80, 3), 30 * index, np.uint8))


def test_a_video_comes_back(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", frames=6)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    with VideoReader(str(tmp_path / "clip.mp4")) as video:
        assert (video.fps, video.count) == (20.0, 6)
        frames = list(video)
    assert {(frame.dtype.name, frame.shape) for frame in frames} == {("uint8", (64, 80))}
    assert [float(frame.mean()) for frame in frames] == pytest.approx(range(0, 180, 30), abs=3)


def test_an_error_leaves_no_video_and_keeps_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"old")
    with (
        pytest.raises(ValueError, match="picture of 65x80 in a video of 64x80"),
        VideoWriter(tmp_path / "clip.mp4", fps=25.0) as video,
    ):
        video.write(np.zeros((64, 80, 3), np.uint8))
        video.write(np.zeros((65, 80, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    assert (tmp_path / "clip.mp4").read_bytes() == b"old"


def test_a_video_without_frames_is_no_file(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", frames=0)
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_lost_frames_on_its_way_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VideoReader, "count", 4)
    with pytest.raises(OSError, match="clip.mp4 holds 4 of 5 frames; is the disk full?"):
        write_video(tmp_path / "clip.mp4", frames=5)
    assert list(tmp_path.iterdir()) == []


def test_wrong_places_for_a_video_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="clip.avi does not end in .mp4"):
        VideoWriter(tmp_path / "clip.avi", fps=25.0)
    with pytest.raises(OSError, match="cannot write video .*clip.mp4; is the folder writable?"):
        write_video(tmp_path / "none" / "clip.mp4", frames=1)


def test_wrong_sources_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="video none.mp4 does not exist"):
        VideoReader("none.mp4")
    (tmp_path / "clip.mp4").write_bytes(b"no video" * 20)
    with pytest.raises(ValueError, match="cannot open '.*clip.mp4'; a camera is named by its"):
        VideoReader(str(tmp_path / "clip.mp4"))
    with pytest.raises(ValueError, match="cannot open '97'"):
        VideoReader("97")


def test_a_password_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def __init__(self, *_: object) -> None: ...
        def isOpened(self) -> bool:  # noqa: N802
            return False

        def release(self) -> None: ...

    monkeypatch.setattr(cv2, "VideoCapture", Closed)
    with pytest.raises(ValueError, match=r"cannot open 'rtsp://\*\*\*@10.0.0.7/live'") as caught:
        VideoReader("rtsp://pilot:secret@10.0.0.7/live")
    assert "secret" not in str(caught.value)


def test_a_pipeline_without_gstreamer_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GStreamer:    NO\n")
    with pytest.raises(ValueError, match="needs OpenCV with GStreamer.*python3-opencv"):
        VideoReader("videotestsrc ! appsink")


class Camera:
    """Stands for OpenCV's capture: gives the pictures it holds."""

    def __init__(self, *pictures: np.ndarray) -> None:
        self.pictures = list(pictures)

    def __call__(self, *_: object) -> Camera:
        return self

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        return (True, self.pictures.pop(0)) if self.pictures else (False, None)

    def release(self) -> None: ...


def test_16_bit_cameras_keep_their_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Camera(ramp(np.uint16)))
    with VideoReader("0") as video:
        assert np.array_equal(next(iter(video)), ramp(np.uint16))


def test_frames_of_another_type_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Camera(np.zeros((8, 8), np.float32)))
    with VideoReader("0") as video, pytest.raises(ValueError, match="'0' gives float32 frames"):
        next(iter(video))


def colour_places(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((picture == colour).all(axis=2))


def test_an_overlay_marks_the_target_and_leaves_it_visible() -> None:
    frame = np.full((64, 64), 1000, np.uint16)
    frame[30:32, 40:42] = 3000
    picture = draw_overlay(frame, one_target())
    assert (picture.shape, picture.dtype) == ((512, 512, 3), np.uint8)
    assert (picture[240:256, 320:336] == 255).all()  # 8 picture pixels a frame pixel
    green = colour_places(picture, TARGET_COLOUR)
    corner = green[(green[:, 1] < 330)]
    # The box starts at row 29.5, column 39.5; three pixels off is 26.5 and 36.5.
    assert corner.min(axis=0).tolist() == [round(27 * 8 - 0.5), round(37 * 8 - 0.5)]
    assert len(colour_places(picture, TRUTH_COLOUR)) == 0


def test_an_overlay_shows_the_truth_and_neither_hot_nor_dead_pixels() -> None:
    frame = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint16) + np.uint16(1000)
    frame[10, 10], frame[50, 20] = 16383, 0
    nothing = extract(np.zeros((64, 64), np.float32), Geometry(1.0, 1.0, 64, 64), Extraction())
    picture = draw_overlay(frame, nothing, truth=[(30.0, 40.0)])
    assert len(colour_places(picture, TRUTH_COLOUR)) > 10  # the rest is smoothed
    assert picture[84, 84].max() < 60


def test_an_overlay_of_a_constant_frame_and_at_the_border() -> None:
    picture = draw_overlay(np.full((64, 64), 7, np.uint8), one_target(row=0, column=62))
    assert len(colour_places(picture, TARGET_COLOUR)) > 20


def test_large_frames_are_not_enlarged() -> None:
    frame = np.zeros((600, 700), np.uint8)
    assert draw_overlay(frame, one_target()).shape == (600, 700, 3)


def test_the_legend_counts() -> None:
    targets = one_target()
    assert media_cv2._legend(targets) == "1 target"
    cut = Targets(
        targets.row, targets.column, targets.area, targets.peak, targets.score, targets.box, 9
    )
    assert media_cv2._legend(cut) == "1 target of 9"


def test_a_sequence_can_be_evaluated(tmp_path: Path) -> None:
    scene = Scene(SceneOptions(height=64, width=80, targets=2), seed=1)
    write_sequence(tmp_path / "sequence", scene, frames=3)
    shot = scene.frame(2)
    assert np.array_equal(read_image(tmp_path / "sequence/frames/0003.png"), shot.frame)
    mask = read_image(tmp_path / "sequence/masks/0003.png")
    assert np.array_equal(mask, shot.mask * np.uint8(255))
    lines = (tmp_path / "sequence/centroids.csv").read_text().splitlines()
    assert lines[0] == "frame,x,y"
    assert len(lines) == 1 + 3 * 2
    row, column = shot.points[0]
    assert lines[5] == f"0003,{column:.2f},{row:.2f}"
