"""Images and video on disk and on screen; the only module that imports OpenCV."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from .frame import Frame, stretch_limits
from .scene import Scene
from .targets import Targets

Picture = npt.NDArray[np.uint8]

# A damaged file is our error to tell, in one line, not OpenCV's to print.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# How a whole file ends; what lacks it was cut off while it was written or copied.
ENDINGS = {".png": b"IEND\xaeB`\x82", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}

SHOWN_SIDE = 512  # pixels; smaller frames are enlarged by a whole factor for the eye
TARGET_COLOUR = (80, 220, 80)  # blue, green, red
TRUTH_COLOUR = (40, 190, 255)
TEXT_COLOUR = (255, 255, 255)


def read_image(path: Path) -> Frame:
    """Read an image as a greyscale frame; 16-bit files keep their values.

    Returns:
        (H, W) uint8 or uint16.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut off, or no image that OpenCV reads.
    """
    if not path.is_file():
        raise FileNotFoundError(f"image {path} does not exist")
    content = path.read_bytes()
    ending = ENDINGS.get(path.suffix.lower(), b"")
    if ending not in content[-1024:]:
        raise ValueError(f"image {path} is cut off after {len(content)} bytes; copy it again")
    image = _decode(content)
    if image is None:
        raise ValueError(f"{path} is no image that can be read as 8-bit or 16-bit greyscale")
    return image


def _decode(content: bytes) -> Frame | None:
    if not content:
        return None
    try:
        image = cv2.imdecode(
            np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
        )
    except cv2.error:
        return None
    return None if image is None else _as_frame(image)


def _as_frame(image: npt.NDArray[np.generic]) -> Frame | None:
    """The image if it has a sensor's sample type, which OpenCV's own types leave open."""
    if image.dtype == np.uint8:
        return np.asarray(image, np.uint8)
    return np.asarray(image, np.uint16) if image.dtype == np.uint16 else None


def write_image(path: Path, image: Frame | Picture) -> None:
    """Write an image under a temporary name, then rename: the file is whole or absent.

    Args:
        path: its suffix names the format.
        image: (H, W) uint8 or uint16, or (H, W, 3) uint8 in blue, green, red.

    Raises:
        ValueError: OpenCV does not know the format.
        OSError: the file cannot be written.
    """
    try:
        _, encoded = cv2.imencode(path.suffix, image)
    except cv2.error as err:
        raise ValueError(f"cannot write {path}: no image format {path.suffix!r}") from err
    write_whole(path, encoded.tobytes())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename: it is whole or absent."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def encode_confidence(confidence: npt.NDArray[np.float32]) -> bytes:
    """(H, W) float32, 0..1, as an 8-bit PNG: 255 is confidence 1."""
    levels = np.rint(confidence * 255.0).astype(np.uint8)
    _, encoded = cv2.imencode(".png", levels)
    return bytes(encoded.tobytes())


class VideoReader:
    """Reads frames of a video file, a camera, a stream or a GStreamer pipeline; use with `with`."""

    def __init__(self, source: str) -> None:
        """Open a source.

        Args:
            source: path of a file, index of a camera, address, or a pipeline (it holds a "!").

        Raises:
            ValueError: it cannot be opened; the text says what is missing.
        """
        self._source = source
        if "!" in source:
            _require_gstreamer()
            self._capture = cv2.VideoCapture(source, cv2.CAP_GSTREAMER)
        else:
            self._capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
        if not self._capture.isOpened():
            self._capture.release()
            raise ValueError(
                f"cannot open {source!r}; a camera is named by its index, a file must be a video "
                "that OpenCV reads, a stream must be reachable"
            )

    @property
    def fps(self) -> float:
        """Frames per second as the source states them; 0 where it does not."""
        return float(self._capture.get(cv2.CAP_PROP_FPS))

    @property
    def count(self) -> int | None:
        """Number of frames of a file; None for what does not end."""
        stated = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return stated if stated > 0 else None

    def __iter__(self) -> Iterator[Frame]:
        while True:
            there, picture = self._capture.read()
            if not there:
                return
            grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) if picture.ndim == 3 else picture
            frame = _as_frame(grey)
            if frame is None:
                raise ValueError(
                    f"{self._source!r} gives {grey.dtype} frames, expected 8 or 16 bit"
                )
            yield frame

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()


def _require_gstreamer() -> None:
    lines = cv2.getBuildInformation().splitlines()
    if not any("GStreamer" in line and "YES" in line for line in lines):
        raise ValueError(
            "a pipeline needs OpenCV with GStreamer, and this one has none (pip's wheels never "
            "do); use the system's: apt install python3-opencv, in an environment made with "
            "--system-site-packages"
        )


class VideoWriter:
    """Writes an MP4; it appears under its name when it is closed without an error."""

    def __init__(self, path: Path, *, fps: float) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.stem}.partial{path.suffix}")
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None

    def write(self, picture: Picture) -> None:
        """Add a picture, (H, W, 3) uint8 in blue, green, red; the first sets the size.

        Raises:
            OSError: the file cannot be written.
        """
        if self._writer is None:
            size = (picture.shape[1], picture.shape[0])
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._partial), code, self._fps, size)
            if not self._writer.isOpened():
                raise OSError(f"cannot write video {self._path}; is the folder writable?")
        self._writer.write(picture)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()
        if kind is None and self._partial.is_file():
            os.replace(self._partial, self._path)
        self._partial.unlink(missing_ok=True)


def draw_overlay(
    frame: Frame, targets: Targets, *, truth: Sequence[tuple[float, float]] = ()
) -> Picture:
    """Draw a frame for the eye, with brackets around each target.

    Args:
        frame: (H, W) uint8 or uint16, stretched here for display.
        targets: what was found.
        truth: (row, column) of true targets, drawn as circles.

    Returns:
        (k H, k W, 3) uint8 in blue, green, red; k enlarges small frames.
    """
    low, high = stretch_limits(frame)
    levels = (frame.astype(np.float32) - low) * (255.0 / max(high - low, 1))
    grey = levels.clip(0, 255).astype(np.uint8)
    factor = max(1, -(-SHOWN_SIDE // min(frame.shape)))
    grey = grey.repeat(factor, axis=0).repeat(factor, axis=1)
    picture = np.repeat(grey[..., None], 3, axis=2)
    for row, column in truth:
        centre = _place(column, factor), _place(row, factor)
        cv2.circle(picture, centre, 10 * factor, TRUTH_COLOUR, 1, cv2.LINE_AA)
    for target in targets:
        _draw_brackets(picture, target.box, factor)
        _write(
            picture,
            f"{target.score:.2f}",
            (_place(target.box[3] + 4, factor), _place(target.box[0] - 1, factor)),
            TARGET_COLOUR,
        )
    _write(picture, _legend(targets), (8, picture.shape[0] - 10), TEXT_COLOUR)
    return picture


def _place(coordinate: float, factor: int) -> int:
    """Picture pixel of a frame coordinate, whose origin is the centre of the first pixel."""
    return round((coordinate + 0.5) * factor - 0.5)


def _draw_brackets(picture: Picture, box: tuple[float, float, float, float], factor: int) -> None:
    """Four corners, three pixels off the target, so that the target itself stays visible."""
    top, left, bottom, right = box
    rows = (_place(top - 3, factor), _place(bottom + 3, factor))
    columns = (_place(left - 3, factor), _place(right + 3, factor))
    arm = max(4, (rows[1] - rows[0]) // 4)
    for row, down in ((rows[0], arm), (rows[1], -arm)):
        for column, along in ((columns[0], arm), (columns[1], -arm)):
            cv2.line(picture, (column, row), (column + along, row), TARGET_COLOUR, 1)
            cv2.line(picture, (column, row), (column, row + down), TARGET_COLOUR, 1)


def _legend(targets: Targets) -> str:
    said = f"{len(targets)} target" + ("" if len(targets) == 1 else "s")
    return said + (f" of {targets.found}" if targets.is_truncated else "")


def _write(
    picture: Picture, text: str, place: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    face = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(picture, text, place, face, 0.4, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(picture, text, place, face, 0.4, colour, 1, cv2.LINE_AA)


def write_sequence(folder: Path, scene: Scene, *, frames: int) -> None:
    """Write a synthetic scene as a labelled sequence.

    Args:
        folder: receives frames/0001.png ..., masks/0001.png ... and centroids.csv (header
            `frame,x,y`: x the column, y the row, sub-pixel).
        scene: what is shown.
        frames: how many.

    Raises:
        OSError: the folder cannot be written.
    """
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    lines = ["frame,x,y"]
    for index in range(frames):
        shown, name = scene.frame(index), f"{index + 1:04d}"
        write_image(folder / "frames" / f"{name}.png", shown.frame)
        write_image(folder / "masks" / f"{name}.png", shown.mask.astype(np.uint8) * np.uint8(255))
        lines += [f"{name},{column:.2f},{row:.2f}" for row, column in shown.points]
    write_whole(folder / "centroids.csv", ("\n".join(lines) + "\n").encode())
