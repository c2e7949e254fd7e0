"""Runs the stages of irstd.runtime.launches on the CPU: the .cu files as they are, through g++."""

import ctypes
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
GUARD = 512  # bytes between buffers, so that none ends where another begins
GARBAGE = 0xA5
SIMULATOR = ("-O1", "-std=c++14", "-fPIC", "-c")
# Every access to memory calls the simulator; arithmetic is never fused, as in the kernels.
KERNELS = (
    *("-O1", "-std=c++14", "-fPIC", "-c", "-ffp-contract=off", "-fno-ipa-reference"),
    *("-fsanitize=thread", "--param=tsan-distinguish-volatile=1"),
    "--param=tsan-instrument-func-entry-exit=0",
)


@dataclass(frozen=True)
class Outcome:
    """What a stage left: its buffers, and what was wrong on the way, a line each."""

    buffers: dict[str, np.ndarray]
    faults: str


class Simulation:
    """A compiler of kernel files and the machine that runs them; everything lies in `folder`."""

    def __init__(self, folder):
        self.folder = folder
        self.libraries = {}
        self.simulator = folder / "simulator.o"
        _compile(*SIMULATOR, HERE / "simulator.cpp", "-o", self.simulator)

    def run(self, stage, given, *, seed=0, code=None):
        """Run a stage on the arrays of `given`, by buffer name; `code` stands in for its own."""
        code = stage.read_code() if code is None else code
        library = self.library(code, stage.options)
        given = {buffer.name: buffer.contents for buffer in stage.buffers} | given
        memory = {buffer.name: _guarded(buffer, given[buffer.name]) for buffer in stage.buffers}
        ranges = [(block.ctypes.data + GUARD, block.size - 2 * GUARD) for block in memory.values()]
        addresses = dict(zip(memory, (start for start, _ in ranges), strict=True))
        faults = ""
        for number, launch in enumerate(stage.launches):
            values = [
                np.uintp(addresses[value]) if isinstance(value, str) else value
                for value in launch.arguments
            ]
            faults += launch_kernel(library, launch, values, ranges, seed + number)
        for name, block in memory.items():
            edges = np.concatenate([block[:GUARD], block[-GUARD:]])
            assert (edges == GARBAGE).all(), f"{name} was written beyond its end"
        return Outcome({b.name: _seen(b, memory[b.name]) for b in stage.buffers}, faults)

    def library(self, code, options):
        key = (code, options)
        if key not in self.libraries:
            self.libraries[key] = self.build(code, options, len(self.libraries))
        return self.libraries[key]

    def build(self, code, options, number):
        kernels = sorted(part.split("(")[0] for part in code.split("__global__ void ")[1:])
        wrapper = self.folder / f"kernels{number}.cpp"
        exported = "\n".join(f"KERNEL({kernel})" for kernel in kernels)
        wrapper.write_text(f'#include "cuda.h"\n{code}\n{exported}\n', encoding="utf-8")
        compiled, library = wrapper.with_suffix(".o"), wrapper.with_suffix(".so")
        _compile(*KERNELS, *options, f"-I{HERE}", wrapper, "-o", compiled)
        # A link of its own: with -fsanitize=thread it would bring the real library.
        _compile("-shared", compiled, self.simulator, "-o", library)
        return ctypes.CDLL(str(library))


def _compile(*arguments):
    done = subprocess.run(["g++", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _guarded(buffer, given):
    """The bytes of a buffer between two guards; garbage where nothing is given or cleared."""
    block = np.full(buffer.nbytes + 2 * GUARD, GARBAGE, np.uint8)
    inside = block[GUARD:-GUARD]
    if buffer.is_cleared:
        inside[:] = 0
    if given is not None:
        assert (given.dtype, given.shape) == (buffer.dtype, buffer.shape), buffer.name
        inside[:] = np.ascontiguousarray(given).reshape(-1).view(np.uint8)
    return block


def _seen(buffer, block):
    return block[GUARD:-GUARD].view(buffer.dtype).reshape(buffer.shape)


def launch_kernel(library, launch, values, ranges, seed):
    """Run a kernel of a library; gives what was wrong, a line each.

    Args:
        library: from `Simulation.library`.
        launch: its kernel, grid and block count.
        values: arguments as numpy scalars, buffers by their address.
        ranges: (address, bytes) of all memory that the kernel may touch.
        seed: of the order of threads and blocks.
    """
    values = [np.array([value]) for value in values]
    sizes = getattr(library, f"sizes_{launch.kernel}")
    sizes.restype = ctypes.POINTER(ctypes.c_int)
    expected = sizes()
    assert [value.itemsize for value in values] == expected[: len(values)], launch.kernel
    assert expected[len(values)] == 0, f"{launch.kernel} takes more arguments"
    ranges = np.array(ranges, np.uintp)
    said = ctypes.create_string_buffer(4096)
    pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
    library.simulate(
        getattr(library, f"call_{launch.kernel}"),
        pointers,
        (ctypes.c_uint * 2)(*launch.grid),
        (ctypes.c_uint * 2)(*launch.block),
        ctypes.c_void_p(ranges.ctypes.data),
        len(ranges),
        seed,
        said,
        len(said),
    )
    return "".join(f"{launch.kernel}: {line}\n" for line in said.value.decode().splitlines())
