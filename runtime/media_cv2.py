"""Images and video on disk and on screen, by OpenCV."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from .defects import repair_defects
from .files import WholeFile, write_whole
from .frame import Frame, stretch_limits
from .matlab import read_newest_frame
from .scene import Scene
from .targets import Targets

Picture = npt.NDArray[np.uint8]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"

SHOWN_SIDE = 512  # pixels; smaller frames are enlarged by a whole factor for the eye
TARGET_COLOUR = (80, 220, 80)  # blue, green, red
TRUTH_COLOUR = (40, 190, 255)
TRUTH_RADIUS = 10  # frame pixels
TEXT_COLOUR = (255, 255, 255)


def _silence() -> None:
    """A damaged file is our error to tell, in one line, not OpenCV's to print."""
    # OpenCV 4 has the switch at its top, OpenCV 5 in a module of its own, old builds nowhere.
    place = getattr(cv2.utils, "logging", cv2)
    if hasattr(place, "setLogLevel"):
        place.setLogLevel(0)


_silence()


def read_image(path: Path) -> Frame:
    """Read an image as a greyscale frame; 16-bit files keep their values.

    Of a NUDT-MIRSDT clip (.mat), that is the newest frame.

    Returns:
        (H, W) uint8 or uint16.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut off, or no image that OpenCV reads.
    """
    if not path.is_file():
        raise FileNotFoundError(f"image {path} does not exist")
    if path.suffix.lower() == ".mat":
        return read_newest_frame(path)
    content = path.read_bytes()
    whole = _whole_picture(content)
    if whole is None:
        raise ValueError(
            f"image {path} of {len(content)} bytes is cut off or damaged; copy it again"
        )
    image = _decode(whole)
    if image is None:
        raise ValueError(f"{path} is no image that can be read as 8-bit or 16-bit greyscale")
    return image


def _whole_picture(content: bytes) -> bytes | None:
    """The part of a file that OpenCV shall see; None where some is missing.

    OpenCV decodes half a PNG or JPEG without an error, the rest of the frame black or grey.
    """
    if content.startswith(PNG_SIGNATURE):
        return _whole_png(content)
    # The picture's data follows its last scan marker; a thumbnail before it has an end as well.
    if content.startswith(JPEG_START) and content.rfind(JPEG_END) < content.rfind(JPEG_SCAN):
        return None
    return content


def _whole_png(content: bytes) -> bytes | None:
    """The chunks of a PNG that draw it, if each is sound and the last one is there.

    The others (profiles, gamma) are left out: they change no count of a sensor, and libpng prints
    its opinion of them.
    """
    kept = [PNG_SIGNATURE]
    place = len(PNG_SIGNATURE)
    while place < len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        chunk = content[place:end]
        if end > len(content) or zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            return None
        if chunk[4:5].isupper():
            kept.append(chunk)
        if chunk[4:8] == b"IEND":
            return b"".join(kept)
        place = end
    return None


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


def text_stencil(
    shape: tuple[int, int], text: str, *, row: int, column: int, scale: float
) -> npt.NDArray[np.bool_]:
    """The pixels that a camera's character generator sets when it writes a line of text.

    Args:
        shape: (rows, columns) of the frame; what reaches beyond it is left out.
        text: ASCII.
        row: of the text's base line.
        column: of its first character.
        scale: height of a capital letter over 21 pixels.

    Returns:
        `shape` bool.
    """
    canvas = np.zeros(shape, np.uint8)
    cv2.putText(canvas, text, (column, row), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 1)
    return canvas > 127


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
            FileNotFoundError: a path, and there is no such file.
            ValueError: it cannot be opened; the text says what is missing.
        """
        self._source = _without_password(source)
        if "!" in source:
            _require_gstreamer()
            self._capture = cv2.VideoCapture(source, cv2.CAP_GSTREAMER)
        elif source.isdigit() or "://" in source or Path(source).exists():
            self._capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
        else:
            raise FileNotFoundError(f"video {source} does not exist")
        if not self._capture.isOpened():
            self._capture.release()
            raise ValueError(
                f"cannot open {self._source!r}; a camera is named by its index, a file must be a "
                "video that OpenCV reads, a stream must be reachable"
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


def _without_password(source: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//***@", source)


def _require_gstreamer() -> None:
    lines = cv2.getBuildInformation().splitlines()
    if not any("GStreamer" in line and "YES" in line for line in lines):
        raise ValueError(
            "a pipeline needs OpenCV with GStreamer, and this one has none (pip's wheels never "
            "do); use the system's: apt install python3-opencv, in an environment made with "
            "--system-site-packages"
        )


class VideoWriter:
    """Writes an MP4; it appears under its name when the `with` ends without an error.

    Args:
        path: ends in .mp4.
        fps: frames per second.

    Raises:
        ValueError: `path` does not end in .mp4.
    """

    def __init__(self, path: Path, *, fps: float) -> None:
        if path.suffix.lower() != ".mp4":
            raise ValueError(f"video {path} does not end in .mp4, the only kind that is written")
        self._path = path
        self._file = WholeFile(path)
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._written = 0

    def write(self, picture: Picture) -> None:
        """Add a picture, (H, W, 3) uint8 in blue, green, red; the first sets the size.

        Raises:
            OSError: the file cannot be written.
            ValueError: the picture has another size than the first.
        """
        size = (picture.shape[1], picture.shape[0])
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._file.partial), code, self._fps, size)
            self._size = size
            if not self._writer.isOpened():
                raise OSError(f"cannot write video {self._path}; is the folder writable?")
        if size != self._size:
            raise ValueError(
                f"picture of {size[1]}x{size[0]} in a video of {self._size[1]}x{self._size[0]}; "
                "one video holds frames of one size"
            )
        self._writer.write(picture)
        self._written += 1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is None:
            return
        self._writer.release()
        try:
            if kind is None:
                self._check()
                self._file.keep()
        finally:
            self._file.drop()

    def _check(self) -> None:
        """OpenCV does not tell of a full disk; the file does."""
        with VideoReader(str(self._file.partial)) as written:
            there = written.count or 0
        if there != self._written:
            raise OSError(
                f"video {self._path} holds {there} of {self._written} frames; is the disk full?"
            )


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
    # What the network sees: a hot pixel would look like a target that was missed.
    repaired = repair_defects(frame, span=high - low)
    levels = (repaired.astype(np.float32) - low) * (255.0 / max(high - low, 1))
    grey = levels.clip(0, 255).astype(np.uint8)
    factor = max(1, -(-SHOWN_SIDE // min(frame.shape)))
    grey = grey.repeat(factor, axis=0).repeat(factor, axis=1)
    picture = np.repeat(grey[..., None], 3, axis=2)
    for row, column in truth:
        centre = _place(column, factor), _place(row, factor)
        cv2.circle(picture, centre, TRUTH_RADIUS * factor, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.circle(picture, centre, TRUTH_RADIUS * factor, TRUTH_COLOUR, 1)
    # Scores stand outside a circle of the truth, should there be one.
    aside = TRUTH_RADIUS * factor + 4
    for target in targets:
        _draw_brackets(picture, target.box, factor)
        place = _place(target.column, factor) + aside, _place(target.box[0], factor)
        _write(picture, f"{target.score:.2f}", place, TARGET_COLOUR)
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
    arm = max(4, (rows[1] - rows[0]) // 3)
    for colour, thickness in (((0, 0, 0), 3), (TARGET_COLOUR, 1)):  # dark rim for bright clouds
        for row, down in ((rows[0], arm), (rows[1], -arm)):
            for column, along in ((columns[0], arm), (columns[1], -arm)):
                cv2.line(picture, (column, row), (column + along, row), colour, thickness)
                cv2.line(picture, (column, row), (column, row + down), colour, thickness)


def _legend(targets: Targets) -> str:
    said = f"{len(targets)} target" + ("" if len(targets) == 1 else "s")
    return said + (f" of {targets.found}" if targets.is_truncated else "")


def _write(
    picture: Picture, text: str, place: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    face = cv2.FONT_HERSHEY_SIMPLEX
    (wide, high), _ = cv2.getTextSize(text, face, 0.4, 1)
    place = (min(place[0], picture.shape[1] - wide - 2), max(place[1], high + 2))
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
