"""Frame preparation: a raw sensor frame becomes the network's input; positions find their way back.

Training, calibration and flight all call `prepare`; there is no second way in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .defects import repair_defects

Frame: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
FloatMap: TypeAlias = npt.NDArray[np.float32]
Normalisation: TypeAlias = Literal["stretch", "full-scale"]
Fit: TypeAlias = Literal["pad", "resize"]
Registered: TypeAlias = Literal["none", "translation"]
Answer: TypeAlias = Literal["confidence", "boxes"]

SMALLEST_SIDE = 8  # pixels; below this no network of the zoo has a single cell left


@dataclass(frozen=True, slots=True)
class ClipContract:
    """The frames that a network for sequences takes at once, the newest last.

    Attributes:
        length: frames, 2 or more.
        stride: frames of the sensor from one of them to the next, 1 or more.
        registration: "translation" moves the older frames onto the newest one; "none" leaves them.
        targets_in: the frame that targets belong to, in whose own pixels they are.
        until_whole: what comes of a frame before there are `span` of them: no targets, and a result
            that says how many frames are missing.
        defects: repaired in "each frame" by its looks (`repair_defects`), or, where points that
            move are to be spared, "over time" by their lasting (`repair_lasting`).
    """

    length: int
    stride: int = 1
    registration: Registered = "translation"
    targets_in: Literal["newest"] = "newest"
    until_whole: Literal["no targets"] = "no targets"
    defects: Literal["each frame", "over time"] = "each frame"

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ValueError(f"a clip of {self.length} frames is none, expected 2 or more")
        if self.stride < 1:
            raise ValueError(f"stride of the clip is {self.stride}, expected 1 or more frames")
        if self.registration not in ("none", "translation"):
            raise ValueError(
                f"registration is {self.registration!r}, expected 'none' or 'translation'"
            )
        if self.defects not in ("each frame", "over time"):
            raise ValueError(f"defects is {self.defects!r}, expected 'each frame' or 'over time'")

    @property
    def span(self) -> int:
        """Frames of the sensor from the oldest to the newest, both counted."""
        return (self.length - 1) * self.stride + 1


@dataclass(frozen=True, slots=True)
class FrameContract:
    """What a network was trained on and expects in flight; part of every bundle's manifest.

    Attributes:
        height: rows of the network's input.
        width: columns of the network's input.
        bit_depth: bits the sensor uses: 8 means uint8 frames, 9 to 16 mean uint16 frames.
        normalisation: "stretch" maps the frame's own range, defects left out, to 0..1;
            "full-scale" divides by the largest value of the bit depth.
        fit: "pad" keeps the sensor's pixels and mirrors the lower and right border up to the
            network's size; "resize" interpolates bilinearly.
        clip: of a network for sequences; None for one that takes a single frame.
        answer: "confidence" of each pixel, or "boxes" with scores.
    """

    height: int
    width: int
    bit_depth: int = 8
    normalisation: Normalisation = "stretch"
    fit: Fit = "resize"
    clip: ClipContract | None = None
    answer: Answer = "confidence"

    def __post_init__(self) -> None:
        if self.height < SMALLEST_SIDE or self.width < SMALLEST_SIDE:
            raise ValueError(
                f"network size is {self.height}x{self.width}, expected at least "
                f"{SMALLEST_SIDE}x{SMALLEST_SIDE}"
            )
        if not 8 <= self.bit_depth <= 16:
            raise ValueError(f"bit depth is {self.bit_depth}, expected 8 to 16")
        if self.normalisation not in ("stretch", "full-scale"):
            raise ValueError(
                f"normalisation is {self.normalisation!r}, expected 'stretch' or 'full-scale'"
            )
        if self.fit not in ("pad", "resize"):
            raise ValueError(f"fit is {self.fit!r}, expected 'pad' or 'resize'")
        if self.answer not in ("confidence", "boxes"):
            raise ValueError(f"answer is {self.answer!r}, expected 'confidence' or 'boxes'")

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """What the network takes: (1, frames, height, width)."""
        return (1, 1 if self.clip is None else self.clip.length, self.height, self.width)

    @property
    def is_repaired(self) -> bool:
        """Whether `prepare` itself repairs defects."""
        is_single = self.clip is None or self.clip.defects == "each frame"
        return self.normalisation == "stretch" and is_single

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """The sample type of the sensor's frames."""
        return np.uint8 if self.bit_depth == 8 else np.uint16


@dataclass(frozen=True, slots=True)
class Geometry:
    """How the network's pixels lie on the sensor's: `sensor = (network + 0.5) * scale - 0.5`."""

    row_scale: float
    column_scale: float
    height: int  # rows of the network's input that show the sensor frame (the rest is padding)
    width: int


def prepare(frame: Frame, contract: FrameContract) -> FloatMap:
    """Turn a sensor frame into the network's input.

    Args:
        frame: (H, W) uint8 or uint16, as the contract's bit depth says.
        contract: the bundle's frame contract.

    Returns:
        (1, 1, height, width) float32, 0..1.

    Raises:
        TypeError: `frame` is no numpy array, or of another sample type.
        ValueError: wrong shape, bits above the declared depth, or too large to be padded.

    Example:
        >>> contract = FrameContract(height=8, width=8, bit_depth=14, normalisation="full-scale")
        >>> prepare(np.full((8, 8), 16383, np.uint16), contract).max()
        np.float32(1.0)
    """
    check_frame(frame, contract.bit_depth)
    geometry = fit_geometry((frame.shape[0], frame.shape[1]), contract)
    fitted = _fit(normalise(frame, contract), contract, geometry)
    return fitted[None, None]


def check_frame(frame: Frame, bit_depth: int) -> None:
    """Refuse what is not a frame of the declared bit depth.

    Args:
        frame: what came from the sensor.
        bit_depth: 8 for uint8; 9 to 16 for uint16.

    Raises:
        TypeError: no numpy array, or of another sample type.
        ValueError: not two-dimensional, too small, or values that need more bits than declared.
    """
    check_form(frame, bit_depth)
    if 8 < bit_depth < 16:
        check_brightest(int(frame.max()), bit_depth)


def check_form(frame: Frame, bit_depth: int) -> None:
    """Refuse what cannot be a frame of the declared bit depth, without looking at its pixels.

    Arguments and errors as in `check_frame`.
    """
    if not isinstance(frame, np.ndarray):
        raise TypeError(f"frame is a {type(frame).__name__}, expected a numpy array (H, W)")
    if frame.ndim != 2:
        raise ValueError(
            f"frame has shape {frame.shape}, expected (height, width); "
            "pass one channel, e.g. frame[..., 0]"
        )
    if min(frame.shape) < SMALLEST_SIDE:
        raise ValueError(
            f"frame is {frame.shape[0]}x{frame.shape[1]}, "
            f"expected at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels"
        )
    expected = np.uint8 if bit_depth == 8 else np.uint16
    if frame.dtype != expected:
        raise TypeError(_wrong_dtype(frame, bit_depth))


def check_brightest(value: int, bit_depth: int) -> None:
    """Refuse a frame whose brightest value needs more bits than declared.

    Raises:
        ValueError: it does.
    """
    if value >> bit_depth:
        raise ValueError(
            f"frame holds {value}, above the {2**bit_depth - 1} of the declared "
            f"{bit_depth} bits; declare the sensor's true bit depth (bit_depth=16 takes all)"
        )


def _wrong_dtype(frame: Frame, bit_depth: int) -> str:
    expected = "uint8" if bit_depth == 8 else "uint16"
    said = f"frame is {frame.dtype}, expected {expected} for the declared {bit_depth} bits; "
    if frame.dtype == np.uint16:
        return said + "declare the sensor's bit depth, e.g. bit_depth=14"
    if frame.dtype == np.uint8:
        return said + "declare bit_depth=8"
    if np.issubdtype(frame.dtype, np.floating):
        bad = "it also holds NaN or infinity; " if not np.isfinite(frame).all() else ""
        return said + bad + "pass the sensor's raw counts, not scaled values"
    return said + "convert it without changing the values"


def fit_geometry(shape: tuple[int, int], contract: FrameContract) -> Geometry:
    """Say where a sensor frame comes to lie on the network's input.

    Args:
        shape: (rows, columns) of the sensor frame.
        contract: the bundle's frame contract.

    Raises:
        ValueError: the fit is "pad" and the frame is larger than the network's input.
    """
    rows, columns = shape
    if contract.fit == "resize":
        return Geometry(
            row_scale=rows / contract.height,
            column_scale=columns / contract.width,
            height=contract.height,
            width=contract.width,
        )
    if rows > contract.height or columns > contract.width:
        raise ValueError(
            f"frame is {rows}x{columns}, larger than the network's {contract.height}x"
            f"{contract.width}, and the bundle pads; export again with --size {rows}x{columns}, "
            "or with --fit resize"
        )
    return Geometry(row_scale=1.0, column_scale=1.0, height=rows, width=columns)


def normalise(frame: Frame, contract: FrameContract) -> FloatMap:
    """Map a checked frame to 0..1, (H, W) float32, as the contract says."""
    if contract.normalisation == "full-scale":
        return frame * np.float32(1.0 / (2**contract.bit_depth - 1))
    low, high = stretch_limits(frame)
    frame = repair_defects(frame, span=high - low) if contract.is_repaired else frame
    values = frame.astype(np.float32)
    values -= np.float32(low)
    values *= np.float32(1.0 / max(high - low, 1))
    return np.clip(values, 0.0, 1.0, out=values)


def stretch_limits(frame: Frame) -> tuple[int, int]:
    """Find the range of a frame that single dead, hot or saturated pixels cannot move.

    The upper limit is the brightest level that some 2x2 block reaches with all four pixels, the
    lower limit the darkest, mirrored: extrema of a grey opening and closing (Serra, Image Analysis
    and Mathematical Morphology, 1982) by the smallest square. No percentile is cut off, so
    the few pixels of a target keep their place above the background.

    Args:
        frame: (H, W) unsigned integers, at least 2x2.

    Returns:
        (low, high) in counts; the plain extrema where the frame has no such range
        (a checkerboard), equal where the frame is constant.

    Example:
        >>> frame = np.full((8, 8), 100, np.uint16)
        >>> frame[2:4, 2:4] = 180
        >>> frame[6, 6], frame[0, 5] = 16383, 0
        >>> stretch_limits(frame)
        (100, 180)
    """
    lower = np.minimum(frame[:-1], frame[1:])
    upper = np.maximum(frame[:-1], frame[1:])
    high = int(np.minimum(lower[:, :-1], lower[:, 1:]).max())
    low = int(np.maximum(upper[:, :-1], upper[:, 1:]).min())
    if high > low:
        return low, high
    return int(frame.min()), int(frame.max())


def _fit(values: FloatMap, contract: FrameContract, geometry: Geometry) -> FloatMap:
    shape = (contract.height, contract.width)
    if values.shape == shape:
        return values
    if contract.fit == "resize":
        return resize_bilinear(values, shape)
    bottom, right = shape[0] - geometry.height, shape[1] - geometry.width
    return np.pad(values, ((0, bottom), (0, right)), mode="symmetric")


def resize_bilinear(values: FloatMap, shape: tuple[int, int]) -> FloatMap:
    """Resize by bilinear interpolation between pixel centres, without smoothing.

    Args:
        values: (H, W) float32.
        shape: (rows, columns) of the result.

    Returns:
        (rows, columns) float32; the border is repeated beyond the outermost centres.
    """
    above, below, fraction = taps(values.shape[0], shape[0])
    rows = _blend(values[above], values[below], fraction[:, None])
    left, right, fraction = taps(values.shape[1], shape[1])
    return _blend(np.take(rows, left, axis=1), np.take(rows, right, axis=1), fraction)


def _blend(first: FloatMap, second: FloatMap, fraction: FloatMap) -> FloatMap:
    second -= first
    second *= fraction
    second += first
    return second


def resize_nearest(mask: npt.NDArray[np.bool_], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Resize a mask by taking the pixel whose centre is nearest.

    Args:
        mask: (H, W) bool.
        shape: (rows, columns) of the result.

    Returns:
        (rows, columns) bool.
    """
    rows = (np.arange(shape[0]) + 0.5) * (mask.shape[0] / shape[0])
    columns = (np.arange(shape[1]) + 0.5) * (mask.shape[1] / shape[1])
    return mask[np.ix_(rows.astype(np.intp), columns.astype(np.intp))]


@lru_cache(maxsize=64)
def taps(source: int, target: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], FloatMap]:
    """For each of `target` cells: the two of `source` cells beside it, and the second's weight."""
    position = (np.arange(target) + 0.5) * (source / target) - 0.5
    position = position.clip(0, source - 1)
    first = np.floor(position).astype(np.intp)
    second = np.minimum(first + 1, source - 1)
    return first, second, (position - first).astype(np.float32)
