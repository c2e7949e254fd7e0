"""TensorRT plans: what each needs, what this machine has, and whether the two fit.

A plan runs only on the TensorRT and the GPU that it was built for. TensorRT itself is the wrong
one to ask: on a machine without a driver it may end the process. So nothing here imports it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

Precision: TypeAlias = Literal["fp32", "fp16", "int8"]
Library: TypeAlias = Literal["tensorrt", "tensorrt-rtx"]

TITLES: dict[Library, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}
# Its module, and the packages that may have brought it.
INSTALLED_AS: dict[Library, tuple[str, tuple[str, ...]]] = {
    "tensorrt": ("tensorrt", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11")),
    "tensorrt-rtx": ("tensorrt_rtx", ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12")),
}
INSTALL: dict[Library, str] = {
    "tensorrt": "pip install 'irstd[tensorrt]' (on a Jetson: apt install python3-libnvinfer)",
    "tensorrt-rtx": "pip install 'irstd[rtx]'",
}
PROBE = Path(__file__).with_name("cuda_probe.py")
PROBE_S = 20.0  # the first call of a driver may wake the GPU, which takes seconds
BUILD = "irstd-build BUNDLE"


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """What a plan of a bundle needs, kept in the manifest.

    Attributes:
        library: that built it and alone can run it.
        version: of that library.
        precision: of the graph it was built from.
        compute_capabilities: of the GPUs that it runs on, e.g. ("8.6", "8.9").
        gpu: name of the GPU that it was built on; empty where it was built ahead of time.
        is_hardware_compatible: whether newer GPUs than those run it too.
        is_version_compatible: whether newer versions of the library run it too.
        needs_host_code: whether it carries code for the CPU, which would run with our rights.
        device_memory_bytes: that weights and activations take; None where that is unknown.
        graph_sha256: of the ONNX file that it was built from.
        layers: how many convolutions and matrix products are computed in each precision, as the
            builder tells; "unknown" are those it does not tell apart.
        command: the options of `irstd-build` that build it again.
    """

    library: Library
    version: str
    precision: Precision
    compute_capabilities: tuple[str, ...]
    gpu: str
    is_hardware_compatible: bool
    is_version_compatible: bool
    needs_host_code: bool
    device_memory_bytes: int | None
    graph_sha256: str
    layers: dict[str, int]
    command: str


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, as its driver tells; memory in bytes."""

    name: str
    compute_capability: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine has for running plans.

    Attributes:
        driver: the newest CUDA that the NVIDIA driver runs, e.g. "12.6"; None without a driver.
        gpus: in the driver's order.
        libraries: versions of TensorRT and TensorRT for RTX, where they are installed.
        problem: why there is no driver or no GPU; empty where there is one.
    """

    driver: str | None
    gpus: tuple[Gpu, ...]
    libraries: dict[Library, str]
    problem: str = ""


class _Answer(msgspec.Struct, frozen=True):
    """What `cuda_probe` prints."""

    driver: str | None
    gpus: tuple[Gpu, ...]
    problem: str


def probe_machine(*, timeout_s: float = PROBE_S) -> Machine:
    """Look what this machine has; a driver that crashes or hangs is told as none.

    Args:
        timeout_s: seconds that the driver has for its answer.
    """
    answer = _ask_driver(timeout_s)
    return Machine(answer.driver, answer.gpus, find_libraries(), answer.problem)


def _ask_driver(timeout_s: float) -> _Answer:
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(PROBE)], capture_output=True, timeout=timeout_s
        )
        if done.returncode:
            return _none(f"the NVIDIA driver ended the process that asked it ({done.returncode})")
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=_Answer)
    except subprocess.TimeoutExpired:
        return _none(f"the NVIDIA driver did not answer within {timeout_s:.0f} s")
    except (OSError, IndexError, msgspec.DecodeError) as err:
        return _none(f"the NVIDIA driver could not be asked: {err}")


def _none(problem: str) -> _Answer:
    return _Answer(None, (), problem)


def find_libraries() -> dict[Library, str]:
    """Versions of the TensorRT libraries that Python can import, found without importing them."""
    found: dict[Library, str] = {}
    for library, (module, packages) in INSTALLED_AS.items():
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:  # the latter is any folder of that name
            continue
        # Installed by apt on a Jetson it may be known to no package manager of Python.
        version = _packaged_version(packages) or _written_version(spec.origin)
        found[library] = version or "of unknown version"
    return found


def _packaged_version(packages: tuple[str, ...]) -> str:
    for package in packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _written_version(origin: str) -> str:
    if not origin.endswith(".py"):
        return ""
    text = Path(origin).read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^__version__ = [\"']([^\"']+)[\"']", text, re.MULTILINE)
    return found[1] if found else ""


def why_not(record: PlanRecord, machine: Machine) -> str:
    """Say why a plan must not be tried on a machine; empty where it fits.

    The text says what the plan needs, what is here, and what to run.

    Example:
        >>> plan = PlanRecord(
        ...     library="tensorrt",
        ...     version="10.3.0",
        ...     precision="int8",
        ...     compute_capabilities=("8.7",),
        ...     gpu="Orin",
        ...     is_hardware_compatible=False,
        ...     is_version_compatible=False,
        ...     needs_host_code=False,
        ...     device_memory_bytes=None,
        ...     graph_sha256="",
        ...     layers={},
        ...     command="",
        ... )
        >>> orin = Gpu("Orin", "8.7", 2**33)
        >>> why_not(plan, Machine("12.6", (orin,), {"tensorrt": "10.3.0"}))
        ''
        >>> why_not(plan, Machine("12.6", (orin,), {"tensorrt": "10.16.2"}))
        'it needs TensorRT 10.3.0, here is 10.16.2; run: irstd-build BUNDLE'
    """
    if not machine.gpus:
        return (
            f"it needs an NVIDIA GPU ({_gpus_of(record)}), here is none ({machine.problem}); "
            "install the driver, or run the bundle's ONNX graph on the CPU"
        )
    if problem := _host_code_problem(record) or _version_problem(record, machine):
        return problem
    problems = [_gpu_problem(record, gpu) for gpu in machine.gpus]
    return "" if "" in problems else problems[0]


def find_gpu(record: PlanRecord, machine: Machine) -> int | None:
    """The number of the first GPU that a plan fits; None where it fits none."""
    problems = [_gpu_problem(record, gpu) for gpu in machine.gpus]
    return problems.index("") if "" in problems else None


def choose_plan(
    plans: Mapping[str, PlanRecord], machine: Machine, precision: Precision
) -> str | None:
    """The file name of the plan that runs best on a machine; None where none fits.

    A plan built on the very GPU comes before one built ahead of time, TensorRT before TensorRT for
    RTX, and one for fewer GPUs before one for more, which had to compromise.

    Args:
        plans: of the manifest.
        machine: where it shall run.
        precision: that it shall have.
    """

    def rank(name: str) -> tuple[bool, bool, bool, int, str]:
        plan = plans[name]
        return (
            plan.gpu == "",
            plan.library != "tensorrt",
            plan.is_hardware_compatible,
            len(plan.compute_capabilities),
            name,
        )

    fitting = [
        name
        for name, plan in plans.items()
        if plan.precision == precision and not why_not(plan, machine)
    ]
    return min(fitting, key=rank, default=None)


def _host_code_problem(record: PlanRecord) -> str:
    if not record.needs_host_code:
        return ""
    return (
        "it needs leave to run CPU code that it carries with it (it is version-compatible), which "
        f"irstd never gives a file; run: {BUILD}"
    )


def _version_problem(record: PlanRecord, machine: Machine) -> str:
    newer = " or newer" if record.is_version_compatible else ""
    needed = f"it needs {TITLES[record.library]} {record.version}{newer}"
    here = machine.libraries.get(record.library)
    if here is None:
        others = " and ".join(f"{TITLES[one]} {two}" for one, two in machine.libraries.items())
        return f"{needed}, here is {others or 'none'}; run: {BUILD}"
    wanted, found = read_version(record.version), read_version(here)
    shared = min(len(wanted), len(found))  # packages leave out the build's number
    if shared >= 3 and wanted[:shared] == found[:shared]:
        return ""
    if record.is_version_compatible and found > wanted:
        return ""
    return f"{needed}, here is {here}; run: {BUILD}"


def _gpu_problem(record: PlanRecord, gpu: Gpu) -> str:
    """What a plan needs that a GPU is not; empty where it fits."""
    here = f"here is {gpu.name} ({gpu.compute_capability})"
    capability = read_version(gpu.compute_capability)
    listed = [read_version(one) for one in record.compute_capabilities]
    is_newer = record.is_hardware_compatible and capability > max(listed, default=(0,))
    is_same_chip = not record.gpu or record.is_hardware_compatible or record.gpu == gpu.name
    if not (is_newer or (capability in listed and is_same_chip)):
        return f"it needs {_gpus_of(record)}, {here}; run: {BUILD}"
    if (record.device_memory_bytes or 0) > gpu.memory_bytes:
        return (
            f"it needs {_mib(record.device_memory_bytes or 0)} of device memory, {here} with "
            f"{_mib(gpu.memory_bytes)}; export with a smaller --size, --int8 or --fp16"
        )
    return ""


def _gpus_of(record: PlanRecord) -> str:
    capabilities = ", ".join(record.compute_capabilities)
    newer = " or newer" if record.is_hardware_compatible else ""
    if record.gpu and not record.is_hardware_compatible:
        return f"{record.gpu} ({capabilities})"
    return f"a GPU of compute capability {capabilities}{newer}"


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"


def read_version(text: str) -> tuple[int, ...]:
    """The numbers of a version, which compare as versions do.

    Example:
        >>> read_version("10.3.0") > read_version("8.6.1.6")
        True
    """
    return tuple(int(number) for number in re.findall(r"\d+", text))
