"""How the CUDA kernels are launched: grids, blocks, arguments and buffers, without any CUDA.

Whoever runs a stage (CuPy, PyCUDA, the tests' simulation on a CPU) compiles its source with its
options, allocates its buffers, and for each frame clears the buffers that ask for it and runs the
launches in their order on one stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .frame import FrameContract, Geometry, fit_geometry
from .measurements import MEASUREMENT, smallest_area
from .targets import Extraction

# A buffer by its name, or a number in the kernel's own type.
Argument: TypeAlias = str | np.int32 | np.uint32 | np.float32

# As in the kernels: a warp is 32 pixels of a row, a block 8 such rows, a tile 32x32 pixels.
BLOCK = (32, 8)
TILE = 32
LIMIT_ROWS = 7 * BLOCK[1]  # rows of 2x2 blocks that a block of find_limits compares

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
    """

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    is_cleared: bool = False

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
    """Kernels of one source file that run one after another for each frame.

    Attributes:
        source: the CUDA file.
        options: for the compiler, beside the architecture.
        buffers: all device memory that the launches name.
        launches: in order; each sees what the one before it wrote.
    """

    source: Path
    options: tuple[str, ...]
    buffers: tuple[Buffer, ...]
    launches: tuple[Launch, ...]

    def buffer(self, name: str) -> Buffer:
        """The buffer of that name."""
        return next(buffer for buffer in self.buffers if buffer.name == name)


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
        ValueError: the fit is "pad" and the frame is larger than the network's input, or the pitch
            is shorter than a row or no whole number of samples.

    Example:
        >>> stage = prepare_stage((512, 640), FrameContract(512, 512, bit_depth=14))
        >>> [(launch.kernel, launch.grid) for launch in stage.launches]
        [('find_limits', (20, 10)), ('prepare_resized', (16, 16))]
    """
    fit_geometry(shape, contract)
    sample = np.dtype(contract.dtype)
    pitch = _checked_pitch(pitch, shape[1] * sample.itemsize, sample.itemsize)
    size = (contract.height, contract.width)
    is_stretch = contract.normalisation == "stretch"
    frame = ("frame", *map(np.int32, (pitch, *shape)), "limits")
    largest = np.int32(2**contract.bit_depth - 1)
    limits = Launch(
        "find_limits", _tiles(shape[0] - 1, shape[1] - 1, (LIMIT_ROWS, BLOCK[0])), BLOCK, frame
    )
    is_plain = contract.fit == "pad" or shape == size
    fit = Launch(
        "prepare_padded" if is_plain else "prepare_resized",
        _tiles(*size, (TILE, TILE)),
        BLOCK,
        (*frame, largest, "input", *map(np.int32, size)),
    )
    is_limited = is_stretch or 8 < contract.bit_depth < 16
    result = np.dtype(np.float16 if is_half else np.float32)
    return Stage(
        source=_kernels("prepare.cu"),
        options=(
            f"-DSAMPLE_BYTES={sample.itemsize}",
            f"-DINPUT_BYTES={result.itemsize}",
            f"-DSTRETCH={int(is_stretch)}",
        ),
        buffers=(
            Buffer("frame", np.dtype(np.uint8), (shape[0], pitch)),
            Buffer("limits", np.dtype(np.uint32), (4,), is_cleared=True),
            Buffer("input", result, size),
        ),
        launches=(limits, fit) if is_limited else (fit,),
    )


def extract_stage(contract: FrameContract, geometry: Geometry, extraction: Extraction) -> Stage:
    """Say how `extract` runs on the device, up to the records that `read_targets` takes.

    The network's confidence is expected in `confidence`.

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
    # A component as small as targets are has at most four pieces; a larger one about one a tile.
    across, down = _tiles(rows, columns, (TILE, TILE))
    capacity = np.uint32(across * down + 4 * extraction.max_targets)
    bound = np.uint32(max(extraction.max_targets, SHORTEST_LIST))
    least = np.uint32(min(smallest_area(geometry, extraction.min_area), 2**32 - 1))
    counted = np.dtype(np.uint32)
    size = (contract.height, contract.width)
    seen = ("confidence", *map(np.int32, (contract.width, rows, columns)))
    seen = (*seen, np.float32(extraction.threshold), "labels", "parents")
    lists = ("parents", "pieces", capacity)
    beside = (down - 1) * columns + (across - 1) * rows
    return Stage(
        source=_kernels("components.cu"),
        options=(),
        buffers=(
            Buffer("confidence", np.dtype(np.float32), size),
            Buffer("labels", counted, size),
            Buffer("parents", counted, (int(capacity),)),
            Buffer("pieces", MEASUREMENT, (int(capacity),)),
            Buffer("targets", MEASUREMENT, (int(bound),)),
            Buffer("counts", counted, (2,), is_cleared=True),
        ),
        launches=(
            Launch("label_tiles", (across, down), BLOCK, (*seen, "pieces", capacity, "counts")),
            Launch("merge_tiles", (max(-(-beside // LINE), 1), 1), (LINE, 1), seen),
            Launch("gather_targets", (1, 1), (LINE, 1), (*lists, least, "targets", bound, "counts")),
        ),
    )


def is_complete(counts: npt.NDArray[np.uint32], stage: Stage) -> bool:
    """Whether the lists of an extraction held all that was found.

    Where they did not, `targets` is no choice of the best; read the confidence map by `extract`.
    """
    capacity, bound = stage.buffer("pieces").shape[0], stage.buffer("targets").shape[0]
    return bool(counts[0] <= capacity and counts[1] <= bound)


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


def _kernels(name: str) -> Path:
    return Path(__file__).parent / "kernels" / name
