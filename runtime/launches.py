"""How the CUDA kernels are launched: grids, blocks, arguments and buffers, without any CUDA.

Whoever runs a stage (CuPy, PyCUDA, the tests' simulation on a CPU) compiles its source with its
options, allocates its buffers, and uploads those with contents. For each frame it clears the
buffers that ask for it and runs the launches in their order on one stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .frame import SMALLEST_SIDE, ClipContract, FrameContract, Geometry, fit_geometry, taps
from .measurements import MEASUREMENT, smallest_area
from .targets import Extraction

# A buffer by its name, or a number in the kernel's own type.
Argument: TypeAlias = str | np.int32 | np.uint32 | np.float32

# As in the kernels: a warp is 32 pixels of a row, a block 8 such rows, a tile 32x32 pixels.
BLOCK = (32, 8)
TILE = 32
LIMIT_ROWS = 7 * BLOCK[1]  # rows of 2x2 blocks that a block of find_limits compares

TAP = np.dtype([("first", np.int32), ("fraction", np.float32)])  # `struct Tap` of prepare.cu

# `struct Side` and `struct Placed` of stack.cu: `MovedSide` of both sides of a frame of the clip.
SIDE = np.dtype(
    [("start", np.int32), ("stop", np.int32), ("first", np.int32), ("weights", np.float32, (4,))]
)
PLACED = np.dtype([("frame", np.int32), ("rows", SIDE), ("columns", SIDE)])

LINE = 256  # threads of a block where pixels or pieces stand in a line
SHORTEST_LIST = 1024  # records; 48 KiB, sent to the host with every frame
LARGEST_SUM = 2**35  # pixels * longer side: up to here the 64-bit sums cannot overflow


@dataclass(frozen=True, slots=True)
class Buffer:
    """Device memory that a stage needs.

    Attributes:
        name: as in the launches' arguments, the kernels' own parameter.
        dtype: of one element.
        shape: elements, contiguous by rows.
        is_cleared: must be all zero before the stage's first launch of every frame.
        contents: what it holds from the beginning and for good; None where kernels or the caller
            fill it.
    """

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    is_cleared: bool = False
    contents: npt.NDArray[np.void] | None = field(default=None, compare=False)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel launch.

    Attributes:
        kernel: name of the `extern "C"` function.
        grid: blocks (x, y).
        block: threads (x, y).
        arguments: in the order of the kernel's parameters.
    """

    kernel: str
    grid: tuple[int, int]
    block: tuple[int, int]
    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """Kernels of one program that run one after another for each frame.

    Attributes:
        sources: the CUDA files that make the program, in order; the last one holds the kernels.
        options: for the compiler, beside the architecture.
        buffers: all device memory that the launches name.
        launches: in order; each sees what the one before it wrote.
    """

    sources: tuple[Path, ...]
    options: tuple[str, ...]
    buffers: tuple[Buffer, ...]
    launches: tuple[Launch, ...]

    def buffer(self, name: str) -> Buffer:
        """The buffer of that name."""
        return next(buffer for buffer in self.buffers if buffer.name == name)

    def read_code(self) -> str:
        """The program: CUDA C++."""
        return "".join(source.read_text(encoding="utf-8") for source in self.sources)


def prepare_stage(
    shape: tuple[int, int],
    contract: FrameContract,
    *,
    is_half: bool = False,
    pitch: int | None = None,
) -> Stage:
    """Say how `prepare` runs on the device.

    Put the frame into `frame`; `input` then holds the network's input. `limits[2]` is the frame's
    brightest value where the contract's bit depth is one that a frame can exceed (9 to 15): a
    frame with more bits is to be refused as `check_frame` does.

    Args:
        shape: (rows, columns) of the sensor frame, at least `SMALLEST_SIDE` each.
        contract: the bundle's frame contract.
        is_half: the network takes FP16 instead of FP32.
        pitch: bytes from one row of the frame to the next; None where rows follow at once.

    Raises:
        ValueError: the frame is too small, the fit is "pad" and it is larger than the network's
            input, or the pitch is shorter than a row or no whole number of samples.

    Example:
        >>> stage = prepare_stage((512, 640), FrameContract(512, 512, bit_depth=14))
        >>> [(launch.kernel, launch.grid) for launch in stage.launches]
        [('find_limits', (20, 10)), ('prepare_resized', (16, 16))]
    """
    if min(shape) < SMALLEST_SIDE:
        raise ValueError(
            f"frame is {shape[0]}x{shape[1]}, expected at least {SMALLEST_SIDE}x{SMALLEST_SIDE}"
        )
    fit_geometry(shape, contract)
    sample = np.dtype(contract.dtype).itemsize
    pitch = _checked_pitch(pitch, shape[1] * sample, sample)
    result = np.dtype(np.float16 if is_half else np.float32)
    size = (contract.height, contract.width)
    tables = () if contract.fit == "pad" or shape == size else _tap_tables(shape, size)
    return Stage(
        sources=_kernels("input.cu", "prepare.cu"),
        options=(
            f"-DSAMPLE_BYTES={sample}",
            f"-DINPUT_BYTES={result.itemsize}",
            f"-DSTRETCH={int(contract.normalisation == 'stretch')}",
            f"-DREPAIR={int(contract.is_repaired)}",
        ),
        buffers=(
            Buffer("frame", np.dtype(np.uint8), (shape[0], pitch)),
            Buffer("limits", np.dtype(np.uint32), (4,), is_cleared=True),
            Buffer("input", result, size),
            *tables,
        ),
        launches=_prepare_launches(shape, contract, pitch, tables),
    )


def _prepare_launches(
    shape: tuple[int, int], contract: FrameContract, pitch: int, tables: tuple[Buffer, ...]
) -> tuple[Launch, ...]:
    frame: tuple[Argument, ...] = ("frame", *map(np.int32, (pitch, *shape)), "limits")
    size = (contract.height, contract.width)
    largest = 2**contract.bit_depth - 1
    fit = Launch(
        "prepare_resized" if tables else "prepare_padded",
        _tiles(*size, (TILE, TILE)),
        BLOCK,
        (*frame, np.int32(largest), "input", *map(np.int32, size), *(t.name for t in tables)),
    )
    if contract.normalisation == "full-scale" and contract.bit_depth in (8, 16):
        return (fit,)
    pairs = _tiles(shape[0] - 1, shape[1] - 1, (LIMIT_ROWS, BLOCK[0]))
    return Launch("find_limits", pairs, BLOCK, frame), fit


def _tap_tables(shape: tuple[int, int], size: tuple[int, int]) -> tuple[Buffer, ...]:
    """The taps of `resize_bilinear` itself: a device would be off in some last places."""
    tables = []
    for name, source, target in zip(("row_taps", "column_taps"), shape, size, strict=True):
        table = np.empty(target, TAP)
        table["first"], _, table["fraction"] = taps(source, target)
        tables.append(Buffer(name, TAP, table.shape, contents=table))
    return tuple(tables)


def extract_stage(contract: FrameContract, geometry: Geometry, extraction: Extraction) -> Stage:
    """Say how `extract` runs on the device, up to the records that `to_targets` takes.

    The network's confidence is expected in `confidence`. `counts[2]` is how many of its pixels are
    NaN or infinite; they are background, or targets of no meaning, so refuse such a map.

    Args:
        contract: the bundle's frame contract; its size is that of the confidence map.
        geometry: how the network's pixels lie on the sensor's, from `fit_geometry`.
        extraction: threshold, smallest area, bound.

    Raises:
        ValueError: the map is so large that the sums could overflow.

    Example:
        >>> contract = FrameContract(512, 512)
        >>> stage = extract_stage(contract, fit_geometry((512, 640), contract), Extraction())
        >>> [(launch.kernel, launch.grid) for launch in stage.launches]
        [('label_tiles', (16, 16)), ('merge_tiles', (60, 1)), ('gather_targets', (1, 1))]
    """
    rows, columns = geometry.height, geometry.width
    if rows * columns * max(rows, columns) > LARGEST_SUM:
        raise ValueError(
            f"confidence map is {rows}x{columns}, too large for the kernels' 64-bit sums; "
            "export again with a --size of at most 3200x3200"
        )
    tiles = _tiles(rows, columns, (TILE, TILE))
    # Components that share no corner: at most one in each 2x2 pixels.
    most = -(-rows // 2) * -(-columns // 2)
    bound = min(max(extraction.max_targets, SHORTEST_LIST), most)
    # A component as small as targets are has at most four pieces; a larger one about one a tile.
    capacity = tiles[0] * tiles[1] + 4 * bound
    size = (contract.height, contract.width)
    counted = np.dtype(np.uint32)
    return Stage(
        sources=_kernels("components.cu"),
        options=(),
        buffers=(
            Buffer("confidence", np.dtype(np.float32), size),
            Buffer("labels", counted, size),
            Buffer("parents", counted, (capacity,)),
            Buffer("pieces", MEASUREMENT, (capacity,)),
            Buffer("targets", MEASUREMENT, (bound,)),
            Buffer("counts", counted, (3,), is_cleared=True),
        ),
        launches=_extract_launches(
            (contract.width, rows, columns),
            np.float32(extraction.threshold),
            smallest_area(geometry, extraction.min_area),
            (capacity, bound),
        ),
    )


def _extract_launches(
    shown: tuple[int, int, int], threshold: np.float32, area: int, lengths: tuple[int, int]
) -> tuple[Launch, ...]:
    _, rows, columns = shown
    across, down = _tiles(rows, columns, (TILE, TILE))
    beside = (down - 1) * columns + (across - 1) * rows
    capacity, bound = map(np.uint32, lengths)
    least = np.uint32(min(area, 2**32 - 1))
    seen: tuple[Argument, ...] = ("confidence", *map(np.int32, shown), threshold)
    seen = (*seen, "labels", "parents")
    gathered = ("parents", "pieces", capacity, least, "targets", bound, "counts")
    return (
        Launch("label_tiles", (across, down), BLOCK, (*seen, "pieces", capacity, "counts")),
        Launch("merge_tiles", (max(-(-beside // LINE), 1), 1), (LINE, 1), seen),
        Launch("gather_targets", (1, 1), (LINE, 1), gathered),
    )


def is_complete(counts: npt.NDArray[np.uint32], stage: Stage) -> bool:
    """Whether the lists of an extraction held all that was found.

    Where they did not, `targets` is no choice of the best; read the confidence map by `extract`.
    """
    capacity, bound = stage.buffer("pieces").shape[0], stage.buffer("targets").shape[0]
    return bool(counts[0] <= capacity and counts[1] <= bound)


def clip_stages(
    contract: FrameContract, geometry: Geometry, *, is_half: bool = False
) -> tuple[Stage, Stage]:
    """Say how a `Clip` keeps and stacks its frames on the device.

    The first stage takes `prepared` into the ring, and runs for every frame; the second writes
    the network's `input`, once the clip is whole. Fill `places` for every frame, the newest of the
    clip last; the places of older frames that are missing may be any that were kept. `ring`,
    `levels` and `match` are the same memory for both stages and, but for `match`, for all frames.

    Args:
        contract: of a network for sequences.
        geometry: how the network's pixels lie on the sensor's, from `fit_geometry`.
        is_half: the network takes FP16 instead of FP32; frames are kept in FP32.

    Raises:
        ValueError: the contract is for single frames.

    Example:
        >>> from irstd.runtime.frame import ClipContract
        >>> contract = FrameContract(256, 256, clip=ClipContract(8))
        >>> keep, stack = clip_stages(contract, fit_geometry((512, 640), contract))
        >>> [(launch.kernel, launch.grid) for launch in (*keep.launches, *stack.launches)]
        [('keep_measured', (8, 8)), ('match_levels', (1, 1)), ('stack_moved', (8, 64))]
    """
    if contract.clip is None:
        raise ValueError("the frame contract has no clip: its network takes single frames")
    length, size = contract.clip.length, (contract.height, contract.width)
    result = np.dtype(np.float16 if is_half else np.float32)
    kept = (
        Buffer("places", PLACED, (length,)),
        Buffer("ring", np.dtype(np.float32), (contract.clip.span, *size)),
    )
    levels = (
        Buffer("sums", np.dtype(np.uint64), (2,), is_cleared=True),
        Buffer("levels", np.dtype(np.float64), (contract.clip.span, 2)),
    )
    match = (Buffer("match", np.dtype(np.float32), (length - 1, 2)),)
    is_registered = contract.clip.registration != "none"
    sources, options = _kernels("input.cu", "stack.cu"), (f"-DINPUT_BYTES={result.itemsize}",)
    prepared = Buffer("prepared", np.dtype(np.float32), size)
    keep, stack = _clip_launches(size, (geometry.height, geometry.width), contract.clip)
    return (
        Stage(sources, options, (prepared, *kept, *((levels + match) * is_registered)), keep),
        Stage(
            sources,
            options,
            (*kept, *(match * is_registered), Buffer("input", result, (length, *size))),
            stack,
        ),
    )


def _clip_launches(
    size: tuple[int, int], seen: tuple[int, int], clip: ClipContract
) -> tuple[tuple[Launch, ...], tuple[Launch, ...]]:
    across, down = _tiles(*size, (TILE, TILE))
    newest = np.int32(clip.length - 1)
    watched = np.int32(clip.span if clip.defects == "over time" else 0)
    whole, shown = tuple(map(np.int32, size)), tuple(map(np.int32, seen))
    pixels = np.int32(seen[0] * seen[1])
    stacking = (across, down * clip.length)
    if clip.registration == "none":
        kept: tuple[Argument, ...] = ("prepared", *whole, "places", newest, "ring")
        stacked: tuple[Argument, ...]
        stacked = ("ring", *whole, *shown, "places", newest, watched, "input")
        return (
            (Launch("keep_frame", (across, down), BLOCK, kept),),
            (Launch("stack_copied", stacking, BLOCK, stacked),),
        )
    kept = ("prepared", *whole, *shown, "places", newest, "ring", "sums")
    matched: tuple[Argument, ...] = ("sums", pixels, "places", newest, "levels", "match")
    stacked = ("ring", *whole, *shown, "places", newest, watched, "match", "input")
    return (
        (
            Launch("keep_measured", (across, down), BLOCK, kept),
            Launch("match_levels", (1, 1), (LINE, 1), matched),
        ),
        (Launch("stack_moved", stacking, BLOCK, stacked),),
    )


def _checked_pitch(pitch: int | None, row: int, sample: int) -> int:
    if pitch is None:
        return row
    if pitch < row or pitch % sample:
        raise ValueError(
            f"pitch is {pitch} bytes, expected at least {row} and a multiple of {sample}"
        )
    return pitch


def _tiles(rows: int, columns: int, tile: tuple[int, int]) -> tuple[int, int]:
    """(x, y) blocks of `tile` (rows, columns) pixels that cover an area."""
    return -(-columns // tile[1]), -(-rows // tile[0])


def _kernels(*names: str) -> tuple[Path, ...]:
    return tuple(Path(__file__).parent / "kernels" / name for name in names)
