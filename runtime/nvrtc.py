"""NVIDIA's run-time compiler: CUDA C++ in, machine code out. It needs no GPU and no driver."""

from __future__ import annotations

import ctypes
import ctypes.util
from dataclasses import dataclass
from importlib import metadata

from .errors import DeviceError


@dataclass(frozen=True, slots=True)
class Compiled:
    """Machine code, and what the compiler said about it."""

    cubin: bytes
    log: str


def find_nvrtc() -> str | None:
    """The shared library, of the CUDA toolkit or of the wheel nvidia-cuda-nvrtc; None without."""
    found = ctypes.util.find_library("nvrtc")
    if found is not None:
        return found
    for wheel in ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"):
        try:
            files = metadata.files(wheel) or []
        except metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name.startswith("libnvrtc.so."):
                return str(file.locate())
    return None


def compile_cuda(library: str, code: str, options: tuple[str, ...]) -> Compiled:
    """Compile a file of kernels.

    Args:
        library: from `find_nvrtc`.
        code: CUDA C++.
        options: of the compiler, "-arch=sm_87" among them.

    Raises:
        DeviceError: the library cannot be loaded, or the code is no valid program.
    """
    try:
        nvrtc = ctypes.CDLL(library)
    except OSError as err:
        raise DeviceError(f"NVRTC cannot be loaded: {err}") from err
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None)
    given = [option.encode() for option in options]
    failed = nvrtc.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
    log = _read(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
    said = log.rstrip(b"\0").decode().strip()
    cubin = b""
    if not failed:
        cubin = _read(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    if failed:
        raise DeviceError(f"NVRTC refuses the kernels for {' '.join(options)}: {said or failed}")
    return Compiled(cubin, said)


def _read(
    measure: ctypes._NamedFuncPointer, read: ctypes._NamedFuncPointer, program: object
) -> bytes:
    size = ctypes.c_size_t()
    measure(program, ctypes.byref(size))
    content = ctypes.create_string_buffer(size.value)
    read(program, content)
    return content.raw
