import importlib.util
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from irstd.runtime import plans
from irstd.runtime.plans import (
    Gpu,
    Machine,
    PlanRecord,
    choose_plan,
    find_gpu,
    find_libraries,
    probe_machine,
    read_version,
    why_not,
)

ORIN = Gpu("Orin", "8.7", 8 * 2**30)
RTX3060 = Gpu("NVIDIA GeForce RTX 3060", "8.6", 12 * 2**30)
RTX4090 = Gpu("NVIDIA GeForce RTX 4090", "8.9", 24 * 2**30)
RTX5090 = Gpu("NVIDIA GeForce RTX 5090", "12.0", 32 * 2**30)
JETSON = Machine("12.6", (ORIN,), {"tensorrt": "10.3.0"})
DESKTOP = Machine("13.0", (RTX4090,), {"tensorrt": "10.16.1.11", "tensorrt-rtx": "1.7.1.116"})
BARE = Machine(None, (), {"tensorrt-rtx": "1.7.1.116"}, "no NVIDIA driver is installed: no file")

BUILT_ON_ORIN = PlanRecord(
    library="tensorrt",
    version="10.3.0",
    precision="int8",
    compute_capabilities=("8.7",),
    gpu="Orin",
    is_hardware_compatible=False,
    is_version_compatible=False,
    needs_host_code=False,
    device_memory_bytes=2**30,
    graph_sha256="0" * 64,
    layers={"int8": 20, "fp32": 2},
    command="irstd-build BUNDLE",
)
AHEAD_OF_TIME = replace(
    BUILT_ON_ORIN,
    library="tensorrt-rtx",
    version="1.7.1.116",
    compute_capabilities=("8.6", "8.9"),
    gpu="",
    device_memory_bytes=None,
)


def test_versions_compare_as_versions():
    assert read_version("10.0") > read_version("8.5")
    assert read_version("8.6.1.6") > read_version("8.6.1")


@pytest.mark.parametrize(
    ("record", "machine"),
    [
        (BUILT_ON_ORIN, JETSON),
        (BUILT_ON_ORIN, replace(JETSON, libraries={"tensorrt": "10.3.0.26"})),
        (replace(BUILT_ON_ORIN, version="10.3.0.26"), JETSON),
        (AHEAD_OF_TIME, DESKTOP),
        (AHEAD_OF_TIME, replace(DESKTOP, gpus=(RTX3060,))),
        (AHEAD_OF_TIME, replace(DESKTOP, gpus=(RTX5090, RTX3060))),
        (replace(AHEAD_OF_TIME, is_hardware_compatible=True), replace(DESKTOP, gpus=(RTX5090,))),
        (
            replace(BUILT_ON_ORIN, is_version_compatible=True),
            replace(JETSON, libraries={"tensorrt": "11.4.1"}),
        ),
    ],
)
def test_what_fits(record, machine):
    assert why_not(record, machine) == ""
    assert find_gpu(record, machine) is not None


@pytest.mark.parametrize(
    ("record", "machine", "said"),
    [
        (
            BUILT_ON_ORIN,
            replace(JETSON, libraries={"tensorrt": "10.16.2"}),
            "it needs TensorRT 10.3.0, here is 10.16.2; run: irstd-build BUNDLE",
        ),
        (
            BUILT_ON_ORIN,
            replace(JETSON, libraries={"tensorrt": "8.6.2"}),
            "it needs TensorRT 10.3.0, here is 8.6.2; run: irstd-build BUNDLE",
        ),
        (
            BUILT_ON_ORIN,
            replace(JETSON, libraries={"tensorrt": "of unknown version"}),
            "it needs TensorRT 10.3.0, here is of unknown version; run: irstd-build BUNDLE",
        ),
        (
            BUILT_ON_ORIN,
            replace(JETSON, libraries={}),
            "it needs TensorRT 10.3.0, here is none; run: irstd-build BUNDLE",
        ),
        (
            AHEAD_OF_TIME,
            replace(DESKTOP, libraries={"tensorrt": "10.16.1.11"}),
            "it needs TensorRT for RTX 1.7.1.116, here is TensorRT 10.16.1.11; "
            "run: irstd-build BUNDLE",
        ),
        (
            # An older TensorRT never runs what a newer one built.
            replace(BUILT_ON_ORIN, is_version_compatible=True),
            replace(JETSON, libraries={"tensorrt": "8.6.2"}),
            "it needs TensorRT 10.3.0 or newer, here is 8.6.2; run: irstd-build BUNDLE",
        ),
        (
            BUILT_ON_ORIN,
            replace(JETSON, gpus=(RTX4090,)),
            "it needs Orin (8.7), here is NVIDIA GeForce RTX 4090 (8.9); run: irstd-build BUNDLE",
        ),
        (
            # The same architecture is not the same GPU.
            replace(BUILT_ON_ORIN, gpu="Orin NX"),
            JETSON,
            "it needs Orin NX (8.7), here is Orin (8.7); run: irstd-build BUNDLE",
        ),
        (
            AHEAD_OF_TIME,
            replace(DESKTOP, gpus=(RTX5090,)),
            "it needs a GPU of compute capability 8.6, 8.9, "
            "here is NVIDIA GeForce RTX 5090 (12.0); run: irstd-build BUNDLE",
        ),
        (
            # Newer ones than all of the list run it, but not one between them.
            replace(AHEAD_OF_TIME, is_hardware_compatible=True),
            replace(DESKTOP, gpus=(ORIN,)),
            "it needs a GPU of compute capability 8.6, 8.9 or newer, here is Orin (8.7); "
            "run: irstd-build BUNDLE",
        ),
        (
            AHEAD_OF_TIME,
            BARE,
            "it needs an NVIDIA GPU (a GPU of compute capability 8.6, 8.9), here is none "
            "(no NVIDIA driver is installed: no file); install the driver, or run the bundle's "
            "ONNX graph on the CPU",
        ),
        (
            replace(BUILT_ON_ORIN, device_memory_bytes=9 * 2**30),
            JETSON,
            "it needs 9216 MiB of device memory, here is Orin (8.7) with 8192 MiB; "
            "export with a smaller --size, --int8 or --fp16",
        ),
    ],
)
def test_what_does_not_fit_is_told_with_what_to_run(record, machine, said):
    assert why_not(record, machine) == said


def test_host_code_is_refused_even_where_all_else_fits():
    record = replace(BUILT_ON_ORIN, is_version_compatible=True, needs_host_code=True)
    assert "CPU code that it carries" in why_not(record, JETSON)
    assert "irstd-build BUNDLE" in why_not(record, JETSON)


def test_the_gpu_that_fits_is_found():
    two = replace(DESKTOP, gpus=(RTX5090, RTX3060))
    assert find_gpu(AHEAD_OF_TIME, two) == 1
    assert find_gpu(AHEAD_OF_TIME, JETSON) is None
    assert find_gpu(AHEAD_OF_TIME, BARE) is None


def test_the_best_fitting_plan_is_chosen():
    native = replace(
        BUILT_ON_ORIN,
        version="10.16.1.11",
        compute_capabilities=("8.9",),
        gpu="NVIDIA GeForce RTX 4090",
    )
    portable = replace(native, gpu="", is_hardware_compatible=True, compute_capabilities=("8.0",))
    single = replace(AHEAD_OF_TIME, compute_capabilities=("8.9",))
    offered = {"orin": BUILT_ON_ORIN, "two": AHEAD_OF_TIME, "one": single}
    assert choose_plan(offered, DESKTOP, "int8") == "one"
    assert choose_plan(offered | {"portable": portable}, DESKTOP, "int8") == "portable"
    assert choose_plan(offered | {"native": native}, DESKTOP, "int8") == "native"
    assert choose_plan(offered, DESKTOP, "fp16") is None
    assert choose_plan(offered, BARE, "int8") is None
    assert choose_plan({}, DESKTOP, "int8") is None
    assert choose_plan(offered, JETSON, "int8") == "orin"


# --- what a machine has ---------------------------------------------------------------------------

DRIVER = r"""
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifndef INIT
#define INIT return 0;
#endif
#ifndef COUNT
#define COUNT 2
#endif
int cuInit(unsigned flags) { INIT }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *device, int number) { *device = 40 + number; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
  strncpy(name, device == 40 ? "NVIDIA One" : "NVIDIA Two", length); return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)device << 30; return 0; }
#ifndef OLD
int cuDeviceGetAttribute(int *value, int which, int device) {
  if (which == 75) *value = device == 40 ? 8 : 12;
  else if (which == 76) *value = device == 40 ? 7 : 0;
  else return 1;
  return 0;
}
#endif
"""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Put a driver in front of the machine's own."""
    if sys.platform != "linux" or shutil.which("gcc") is None:
        pytest.skip("a fake driver needs Linux and gcc")

    def install(*options):
        (tmp_path / "driver.c").write_text(DRIVER)
        library = tmp_path / "libcuda.so.1"
        command = ["gcc", "-shared", "-fPIC", *options, "-o", library, tmp_path / "driver.c"]
        subprocess.run(command, check=True)
        monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))

    return install


def test_two_gpus_are_told(driver):
    driver()
    machine = probe_machine()
    assert (machine.driver, machine.problem) == ("12.6", "")
    assert machine.gpus == (
        Gpu("NVIDIA One", "8.7", 40 * 2**30),
        Gpu("NVIDIA Two", "12.0", 41 * 2**30),
    )


@pytest.mark.parametrize(
    ("options", "version", "problem"),
    [
        (["-DCOUNT=0"], "12.6", "the driver sees no GPU"),
        (["-DINIT=return 100;"], "12.6", "the driver sees no GPU"),
        (["-DINIT=return 803;"], None, "the NVIDIA driver does not work: cuInit gave error 803"),
        (["-DINIT=abort();"], None, "the NVIDIA driver ended the process that asked it (-6)"),
        (
            ["-DINIT=*(volatile int *)0 = 1;"],
            None,
            "the NVIDIA driver ended the process that asked it (-11)",
        ),
        (["-DINIT=sleep(60); return 0;"], None, "the NVIDIA driver did not answer within 1 s"),
        (["-DINIT=exit(0);"], None, "the NVIDIA driver could not be asked: list index"),
    ],
)
def test_a_driver_that_fails_is_told_as_none(driver, options, version, problem):
    driver(*options)
    machine = probe_machine(timeout_s=1.0 if "sleep" in options[0] else 20.0)
    assert (machine.driver, machine.gpus) == (version, ())
    assert machine.problem.startswith(problem)


def test_a_driver_that_lacks_a_function_is_told_as_none(driver):
    driver("-DOLD")
    machine = probe_machine()
    assert machine.driver is None
    assert "cuDeviceGetAttribute" in machine.problem


def test_a_machine_without_a_driver(tmp_path, monkeypatch):
    (tmp_path / "libcuda.so.1").write_text("no library")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    machine = probe_machine()
    assert machine.driver is None
    assert machine.problem.startswith("no NVIDIA driver is installed")


def test_what_python_cannot_start_is_told(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nothing/python")
    assert "could not be asked" in probe_machine().problem


def test_libraries_are_found_without_being_imported(tmp_path, monkeypatch):
    for module in ("tensorrt", "tensorrt_rtx"):
        (tmp_path / module).mkdir()
        text = "raise RuntimeError('imported')\n"
        text += '__version__ = "8.6.2"\n' if module == "tensorrt" else ""
        (tmp_path / module / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plans, "_packaged_version", lambda packages: "")
    assert find_libraries() == {"tensorrt": "8.6.2", "tensorrt-rtx": "of unknown version"}
    monkeypatch.setattr(
        plans, "_packaged_version", lambda packages: "10.3.0" if "tensorrt" in packages else ""
    )
    assert find_libraries()["tensorrt"] == "10.3.0"


def test_a_folder_of_that_name_is_no_library(tmp_path, monkeypatch):
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert "tensorrt" not in find_libraries() or find_libraries()["tensorrt"][0].isdigit()


def test_what_is_not_there_is_not_found(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    assert find_libraries() == {}


def test_the_installed_rtx_is_found():
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    assert find_libraries()["tensorrt-rtx"] == rtx.__version__
