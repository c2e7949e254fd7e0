"""NVIDIA's run-time compiler, which needs no GPU: CUDA C++ in, machine code out.

From the wheel nvidia-cuda-nvrtc, through ctypes.
"""

import ctypes
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True)
class Compiled:
    """Machine code, and what the compiler said about it."""

    cubin: bytes
    log: str


def library_path():
    """The shared library of the installed wheel; None where there is no wheel."""
    try:
        files = metadata.files("nvidia-cuda-nvrtc") or []
    except metadata.PackageNotFoundError:
        return None
    found = [file.locate() for file in files if file.name.startswith("libnvrtc.so.")]
    return Path(found[0]) if found else None


def compile_cuda(code, options):
    """Compile CUDA C++; AssertionError with the compiler's words where it is no valid program."""
    nvrtc = ctypes.CDLL(str(library_path()))
    program = ctypes.c_void_p()
    given = [option.encode() for option in options]
    assert (
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"k.cu", 0, None, None) == 0
    )
    failed = nvrtc.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
    log = _read(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
    said = log.rstrip(b"\0").decode().strip()
    assert failed == 0, said
    cubin = _read(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return Compiled(cubin, said)


def _read(measure, read, program):
    size = ctypes.c_size_t()
    assert measure(program, ctypes.byref(size)) == 0
    content = ctypes.create_string_buffer(size.value)
    assert read(program, content) == 0
    return content.raw
