"""MATLAB files of numbers, as NUDT-MIRSDT has its frames in: level 5, plain or compressed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .frame import Frame

Numbers = npt.NDArray[np.generic]

HEADER = 128  # bytes; the last four are the version and the order of bytes
LITTLE, BIG = b"IM", b"MI"
MATRIX, COMPRESSED = 14, 15  # types of elements
COMPLEX = 0x0800  # in an array's flags

# Storage types of elements, and classes of arrays, by their codes in the format's description.
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4"}


@dataclass(frozen=True, slots=True)
class _Element:
    """A piece of a file: what it holds, by the code of its type."""

    type: int
    data: bytes


def read_newest_frame(path: Path, *, name: str = "Mix") -> Frame:
    """Read the newest frame of a clip of NUDT-MIRSDT.

    Each file has an array (frames, height, width), the newest frame last, on the scale of 8 bits;
    where it is stored as floating point, it is rounded.

    Args:
        path: a MATLAB file of level 5 (what `save` writes without -v7.3 or -v4).
        name: of the array; (height, width) is a clip of one frame.

    Returns:
        (H, W) uint8, or uint16 where the array is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, is cut off, or has no such array.
    """
    array = _read_arrays(path).get(name)
    if array is None or array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(
            f"{path} has no array {name!r} of (frames, height, width); NUDT-MIRSDT's files have"
        )
    frame = array[-1] if array.ndim == 3 else array
    if frame.dtype == np.uint16:
        return np.ascontiguousarray(frame, np.uint16)
    # The negation also refuses NaN.
    if not (frame.min() >= 0 and frame.max() <= 255):
        raise ValueError(f"{path}: {name} holds values outside of 0..255, the scale of the dataset")
    return np.ascontiguousarray(np.rint(frame.astype(np.float64)), np.uint8)


def _read_arrays(path: Path) -> dict[str, Numbers]:
    """All arrays of numbers in a file, by name."""
    content = path.read_bytes()
    if content[126:128] not in (LITTLE, BIG):
        raise ValueError(
            f"{path} is no MATLAB file of level 5; save it anew with save(..., '-v7') or '-v6'"
        )
    order = "<" if content[126:128] == LITTLE else ">"
    try:
        elements = _split(content[HEADER:], order)
        arrays = [_read_array(_unpack(one, order), order) for one in elements]
    except (ValueError, LookupError, zlib.error) as err:
        raise ValueError(f"{path} is cut off or damaged ({err}); copy it again") from err
    return dict(one for one in arrays if one is not None)


def _split(data: bytes, order: str) -> list[_Element]:
    """The elements that follow one another, each padded to 8 bytes but for compressed ones."""
    elements, place = [], 0
    while place < len(data):
        first, second = np.frombuffer(data, f"{order}u4", 2, place).tolist()
        if first >> 16:  # type, length and up to 4 bytes of data in 8 bytes
            elements.append(_Element(first & 0xFFFF, data[place + 4 : place + 4 + (first >> 16)]))
            place += 8
            continue
        held = data[place + 8 : place + 8 + second]
        if len(held) < second:
            raise ValueError(f"{second} bytes were expected, {len(held)} are there")
        elements.append(_Element(first, held))
        place += 8 + second + (0 if first == COMPRESSED else -second % 8)
    return elements


def _unpack(element: _Element, order: str) -> _Element:
    if element.type != COMPRESSED:
        return element
    return _split(zlib.decompress(element.data), order)[0]


def _read_array(element: _Element, order: str) -> tuple[str, Numbers] | None:
    """The name and the numbers of an array; None for what is none: text, cells, complex numbers."""
    if element.type != MATRIX:
        return None
    flags, shape, name, *values = _split(element.data, order)
    kind = int(np.frombuffer(flags.data, f"{order}u4")[0])
    if kind & COMPLEX or kind & 0xFF not in CLASSES or not values:
        return None
    stored = np.frombuffer(values[0].data, f"{order}{STORED[values[0].type]}")
    sides = np.frombuffer(shape.data, f"{order}i4").tolist()
    numbers = stored.reshape(sides, order="F").astype(CLASSES[kind & 0xFF])
    return name.data.decode("latin-1"), numbers
