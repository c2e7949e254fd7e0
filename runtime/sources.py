"""Sources: where frames come from, chosen by one line of text."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import EngineError
from .frame import Frame

if TYPE_CHECKING:
    from types import ModuleType

IMAGES = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm")
VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".mpg", ".mpeg", ".webm")


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """A frame of a source.

    Attributes:
        index: place in the source, from 0.
        name: file stem, or the index as six digits. Files that share a stem are told apart by
            their path, "-" for "/".
        frame: (H, W) uint8 or uint16.
    """

    index: int
    name: str
    frame: Frame

    @property
    def number(self) -> int:
        """The number at the end of its name, else its index."""
        number = frame_number(self.name)
        return self.index if number is None else number


@dataclass(frozen=True, slots=True)
class BadFrame:
    """A frame that could not be read; the source goes on behind it, its reader decides.

    Attributes:
        index: place in the source, from 0.
        name: as in `SourceFrame`.
        reason: one line.
    """

    index: int
    name: str
    reason: str


class Source:
    """Frames in order; iterate once, use with `with`.

    Attributes:
        count: number of frames where it is known.
        is_live: whether frames come at their own pace.
    """

    def __init__(
        self,
        frames: Iterator[SourceFrame | BadFrame],
        *,
        count: int | None,
        is_live: bool = False,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._frames = frames
        self._close = close
        self.count = count
        self.is_live = is_live

    def __iter__(self) -> Iterator[SourceFrame | BadFrame]:
        return self._frames

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


def open_source(text: str) -> Source:
    """Open a source of frames.

    Args:
        text: an image, a folder of images, a glob of images, a `.npy` stack (T, H, W) or frame
            (H, W), a video file, a camera's index, an address such as rtsp://..., or a GStreamer
            pipeline (it holds a "!").

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a folder without images, a file of unknown kind, or what cannot be opened.
        EngineError: OpenCV is not installed.
    """
    path = Path(text)
    if "!" in text or "://" in text or (text.isdigit() and not path.exists()):
        return _open_video(text, is_live=True)
    if path.is_dir():
        return _open_images(_images_in(path))
    if path.is_file():
        return _open_file(path)
    if glob.has_magic(text):
        return _open_images(_matching(text))
    raise FileNotFoundError(
        f"source {text!r} does not exist; expected an image, a folder, a glob, a video, a .npy "
        "stack, a camera's index, an address or a GStreamer pipeline"
    )


def _open_file(path: Path) -> Source:
    suffix = path.suffix.lower()
    if suffix in IMAGES:
        return _open_images([path])
    if suffix in VIDEOS:
        return _open_video(str(path), is_live=False)
    if suffix == ".npy":
        return _open_stack(path)
    raise ValueError(
        f"source {path} is of unknown kind {suffix!r}; expected one of "
        f"{' '.join((*IMAGES, *VIDEOS, '.npy'))}"
    )


def _images_in(folder: Path) -> list[Path]:
    paths = [path for path in folder.iterdir() if path.suffix.lower() in IMAGES]
    paths = [path for path in paths if not path.name.startswith(".")]
    if not paths:
        raise ValueError(f"folder {folder} holds no image ({' '.join(IMAGES)})")
    return sorted(paths, key=natural_key)


def _matching(pattern: str) -> list[Path]:
    paths = [Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file()]
    if not paths:
        raise FileNotFoundError(f"no file matches {pattern!r}")
    strange = [path for path in paths if path.suffix.lower() not in IMAGES]
    if strange:
        raise ValueError(f"{pattern!r} also matches {strange[0]}, which is no image")
    return sorted(paths, key=natural_key)


def natural_key(path: Path) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts frame2 before frame10."""
    parts = re.split(r"([0-9]+)", str(path))
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)


def frame_number(name: str) -> int | None:
    """The number that a file's stem ends with; None where it ends otherwise.

    Example:
        >>> frame_number("run2_0041"), frame_number("sky")
        (41, None)
    """
    digits = re.search(r"[0-9]+$", name)
    return int(digits[0]) if digits else None


def _open_images(paths: list[Path]) -> Source:
    media = load_media()

    def frames() -> Iterator[SourceFrame | BadFrame]:
        for index, (path, name) in enumerate(zip(paths, _names(paths), strict=True)):
            try:
                frame = media.read_image(path)
            except (OSError, ValueError) as err:
                yield BadFrame(index, name, str(err))
            else:
                yield SourceFrame(index, name, frame)

    return Source(frames(), count=len(paths))


def _names(paths: list[Path]) -> list[str]:
    """One name a file: what is written for one frame must not replace another's."""
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    root = os.path.commonpath([path.parent for path in paths])
    return ["-".join(path.relative_to(root).parts) for path in paths]


def _open_video(text: str, *, is_live: bool) -> Source:
    reader = load_media().VideoReader(text)

    def frames() -> Iterator[SourceFrame | BadFrame]:
        for index, frame in enumerate(reader):
            yield SourceFrame(index, f"{index:06d}", frame)

    count = None if is_live else reader.count
    return Source(frames(), count=count, is_live=is_live, close=lambda: reader.__exit__())


def _open_stack(path: Path) -> Source:
    try:
        stack = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as err:
        raise ValueError(f"{path} is no .npy file of numbers: {err}") from err
    if stack.ndim not in (2, 3) or stack.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"{path} holds {stack.dtype} of shape {stack.shape}, expected uint8 or uint16 "
            "(frames, height, width)"
        )
    images = stack if stack.ndim == 3 else stack[None]

    def frames() -> Iterator[SourceFrame | BadFrame]:
        for index, image in enumerate(images):
            yield SourceFrame(index, f"{index:06d}", np.ascontiguousarray(image))

    return Source(frames(), count=len(images))


def load_media() -> ModuleType:
    """The module that needs OpenCV.

    Raises:
        EngineError: OpenCV is not installed.
    """
    try:
        from . import media_cv2
    except ImportError as err:
        raise EngineError(
            f"images and video need OpenCV ({err}): pip install 'irstd[cpu]'"
        ) from err
    return media_cv2
