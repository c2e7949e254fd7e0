"""Sinks: where targets go, chosen by one line of text each."""

from __future__ import annotations

import csv
import difflib
import io
import struct
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from .clip import ClipState
from .files import WholeFile, about, write_whole
from .frame import FloatMap
from .sources import SourceFrame, load_media
from .targets import Target, Targets

VIDEO_FPS = 25.0
CSV_HEADER = (
    "frame", "row", "column", "score", "area", "peak", "top", "left", "bottom", "right"
)  # fmt: skip


class Sink(ABC):
    """Takes the targets of one frame after another; use with `with`.

    An error inside the `with` leaves no half-written file behind.
    """

    needs_confidence = False

    @abstractmethod
    def write(self, source: SourceFrame, targets: Targets, confidence: FloatMap | None) -> None:
        """Take a frame, its targets, and its confidence (H, W) float32 where that is needed."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        return


def open_sink(text: str) -> Sink:
    """Open a sink.

    Args:
        text: `json:FILE` (one line a frame), `csv:FILE` (one line a target), FILE `-` for standard
            output; `overlay:DIR` (a PNG a frame), `video:FILE.mp4` or `FILE.mp4` alone, `maps:DIR`
            (confidence as 8-bit PNG), `maps-npy:DIR` (float32), `maps-mat:DIR` (MATLAB, variable
            `confidence`).

    Raises:
        ValueError: there is no such kind of sink, or nothing behind the colon.
        OSError: the place cannot be written.
        EngineError: OpenCV is not installed.
    """
    if text.endswith(".mp4") and ":" not in text:
        return VideoSink(text)
    kind, _, place = text.partition(":")
    if kind not in SINKS:
        close = difflib.get_close_matches(kind, SINKS, n=1)
        hint = f"did you mean {close[0]}:{place or '...'}? " if close else ""
        raise ValueError(f"unknown sink {text!r}; {hint}known: {', '.join(SINKS)}")
    if not place:
        raise ValueError(f"sink {text!r} names no place; write {kind}:PLACE")
    return SINKS[kind](place)


class _TextSink(Sink):
    """Text to standard output as it comes, or to a file that appears when all went well."""

    def __init__(self, place: str) -> None:
        self._name = "standard output" if place == "-" else place
        self._whole = None if place == "-" else WholeFile(Path(place))
        self._file: IO[str] = sys.stdout
        if self._whole is not None:
            try:
                self._file = self._whole.partial.open("w", encoding="utf-8", newline="")
            except OSError as err:
                raise about(err, self._name) from err

    def _write_text(self, text: str) -> None:
        try:
            self._file.write(text)
            if self._whole is None:
                self._file.flush()  # whoever reads the pipe gets each frame when it is done
        except OSError as err:
            raise about(err, self._name) from err

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._whole is None:
            return
        try:
            self._file.close()
            if kind is None:
                self._whole.keep()
        except OSError as err:
            raise about(err, self._name) from err
        finally:
            self._whole.drop()


class JsonSink(_TextSink):
    """One JSON object a line and frame."""

    def write(self, source: SourceFrame, targets: Targets, confidence: FloatMap | None) -> None:
        """Write a frame's line."""
        line: dict[str, object] = {
            "frame": source.name,
            "targets": [_rounded(target) for target in targets],
        }
        if targets.is_truncated:
            line |= {"truncated": True, "found": targets.found}
        if targets.note:
            line |= {"note": targets.note}
        if targets.clip is not None:
            line |= _of_clip(targets.clip)
        self._write_text(msgspec.json.encode(line).decode() + "\n")


class CsvSink(_TextSink):
    """One line a target; a frame without targets has none."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self._write_row(CSV_HEADER)

    def write(self, source: SourceFrame, targets: Targets, confidence: FloatMap | None) -> None:
        """Write a frame's lines."""
        for target in targets:
            values = _rounded(target)
            box = values.pop("box")
            assert isinstance(box, list)
            self._write_row((source.name, *values.values(), *box))

    def _write_row(self, row: tuple[object, ...]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row)
        self._write_text(text.getvalue())


def _of_clip(clip: ClipState) -> dict[str, object]:
    """How the scene moved, and what is missing or not to be trusted, where there is such."""
    fields: dict[str, object] = {}
    if clip.frames_missing:
        fields["frames_missing"] = clip.frames_missing
    if clip.shift is not None:
        fields["shift"] = [round(clip.shift.row, 3), round(clip.shift.column, 3)]
        if not clip.shift.is_trusted:
            fields["not_registered"] = clip.shift.reason
    if clip.is_cut:
        fields["scene_cut"] = True
    if clip.is_doubtful:
        fields["scene_doubtful"] = True
    return fields


def _rounded(target: Target) -> dict[str, object]:
    """The fields of a target with the digits that mean something."""
    return {
        "row": round(target.row, 3),
        "column": round(target.column, 3),
        "score": round(target.score, 4),
        "area": round(target.area, 2),
        "peak": round(target.peak, 4),
        "box": [round(edge, 2) for edge in target.box],
    }


class _FolderSink(Sink):
    """A file a frame in a folder that is made where it is missing."""

    def __init__(self, place: str) -> None:
        self._folder = Path(place)
        self._folder.mkdir(parents=True, exist_ok=True)


class OverlaySink(_FolderSink):
    """A PNG a frame with the targets marked."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self._media = load_media()

    def write(self, source: SourceFrame, targets: Targets, confidence: FloatMap | None) -> None:
        """Draw a frame."""
        picture = self._media.draw_overlay(source.frame, targets)
        self._media.write_image(self._folder / f"{source.name}.png", picture)


class MapSink(_FolderSink):
    """A file a frame with the confidence of every sensor pixel."""

    needs_confidence = True

    def __init__(self, place: str, *, suffix: str, encode: Callable[[FloatMap], bytes]) -> None:
        super().__init__(place)
        self._suffix = suffix
        self._encode = encode

    def write(self, source: SourceFrame, targets: Targets, confidence: FloatMap | None) -> None:
        """Write a frame's map."""
        if confidence is None:
            raise ValueError("a map sink needs the confidence of the frame")
        path = self._folder / f"{source.name}{self._suffix}"
        write_whole(path, self._encode(confidence))


class VideoSink(Sink):
    """An MP4 with the targets marked."""

    def __init__(self, place: str) -> None:
        self._media = load_media()
        self._video = self._media.VideoWriter(Path(place), fps=VIDEO_FPS)

    def write(self, source: SourceFrame, targets: Targets, confidence: FloatMap | None) -> None:
        """Draw a frame."""
        self._video.write(self._media.draw_overlay(source.frame, targets))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._video.__exit__(kind)


def encode_npy(confidence: FloatMap) -> bytes:
    """(H, W) float32 as the content of a .npy file."""
    content = io.BytesIO()
    np.save(content, confidence)
    return content.getvalue()


def encode_mat(confidence: FloatMap) -> bytes:
    """(H, W) float32 as an uncompressed MATLAB level-5 file with the variable `confidence`.

    Layout: MAT-File Format, MathWorks, chapter 1: a 128-byte header, then one matrix element of
    flags, dimensions, name and column-major values, each padded to 8 bytes.
    """
    single, int32, uint32, int8, matrix, class_single = 7, 5, 6, 1, 14, 7
    name = b"confidence"
    content = b"".join(
        (
            _element(uint32, struct.pack("<II", class_single, 0)),
            _element(int32, struct.pack("<ii", *confidence.shape)),
            _element(int8, name),
            _element(single, confidence.astype("<f4").tobytes(order="F")),
        )
    )
    header = b"MATLAB 5.0 MAT-file, made by irstd".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    return header + struct.pack("<II", matrix, len(content)) + content


def _element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def _png_maps(place: str) -> Sink:
    encode: Callable[[FloatMap], bytes] = load_media().encode_confidence
    return MapSink(place, suffix=".png", encode=encode)


SINKS: dict[str, Callable[[str], Sink]] = {
    "json": JsonSink,
    "csv": CsvSink,
    "overlay": OverlaySink,
    "video": VideoSink,
    "maps": _png_maps,
    "maps-npy": lambda place: MapSink(place, suffix=".npy", encode=encode_npy),
    "maps-mat": lambda place: MapSink(place, suffix=".mat", encode=encode_mat),
}
