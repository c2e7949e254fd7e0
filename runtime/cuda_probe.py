"""Asks the NVIDIA driver for its GPUs; `plans.probe_machine` runs it in a process of its own.

A broken driver can end the process that calls it, so nothing else runs in this one. It imports
nothing of irstd, prints one line of JSON, and always exits with 0 unless the driver kills it.
"""

from __future__ import annotations

import ctypes
import json
import sys

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
NO_DEVICE = 100
MAJOR, MINOR = 75, 76  # attributes of a device: its compute capability


class DriverError(Exception):
    """A call of the driver failed."""


def ask() -> dict[str, object]:
    """Driver, GPUs, and why there is no driver: as `plans.Machine` has them."""
    try:
        driver = ctypes.CDLL(LIBRARY)
    except OSError as err:
        return {"driver": None, "gpus": [], "problem": f"no NVIDIA driver is installed: {err}"}
    try:
        status = driver.cuInit(0)
        if status == NO_DEVICE:
            return {"driver": _version(driver), "gpus": [], "problem": "the driver sees no GPU"}
        _check(status, "cuInit")
        count = ctypes.c_int()
        _check(driver.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
        gpus = [_gpu(driver, index) for index in range(count.value)]
        problem = "" if gpus else "the driver sees no GPU"
        return {"driver": _version(driver), "gpus": gpus, "problem": problem}
    except (DriverError, AttributeError) as err:  # the latter where the driver lacks a function
        return {"driver": None, "gpus": [], "problem": f"the NVIDIA driver does not work: {err}"}


def _version(driver: ctypes.CDLL) -> str:
    """The newest CUDA that the driver runs, e.g. "12.6"."""
    number = ctypes.c_int()
    _check(driver.cuDriverGetVersion(ctypes.byref(number)), "cuDriverGetVersion")
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _gpu(driver: ctypes.CDLL, index: int) -> dict[str, object]:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    _check(driver.cuDeviceGet(ctypes.byref(device), index), "cuDeviceGet")
    _check(driver.cuDeviceGetName(name, len(name), device), "cuDeviceGetName")
    _check(driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device), "cuDeviceTotalMem")
    capability = [_attribute(driver, which, device) for which in (MAJOR, MINOR)]
    return {
        "name": name.value.decode("utf-8", "replace"),
        "compute_capability": ".".join(map(str, capability)),
        "memory_bytes": memory.value,
    }


def _attribute(driver: ctypes.CDLL, which: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    _check(driver.cuDeviceGetAttribute(ctypes.byref(value), which, device), "cuDeviceGetAttribute")
    return value.value


def _check(status: int, call: str) -> None:
    if status:
        raise DriverError(f"{call} gave error {status}")


if __name__ == "__main__":
    print(json.dumps(ask()))
