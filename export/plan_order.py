"""Which plan to build on a machine: by which library, for which GPUs, under what name."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Literal, TypeAlias

from ..runtime.bundle import Manifest, Precision
from ..runtime.engine_tensorrt import import_tensorrt
from ..runtime.errors import EngineError
from ..runtime.files import user_cache
from ..runtime.plans import BUILD, INSTALL, TITLES, Gpu, Library, Machine, read_version
from .plan import PlanOptions, known_capabilities

Target: TypeAlias = Literal["auto", "onnx", "tensorrt", "tensorrt-rtx"]

# Laptops and desktops since 2020: RTX 30, 40 and 50.
AHEAD = ("8.6", "8.9", "12.0")
# What a hardware-compatible plan of TensorRT runs on; Jetsons are not among them.
AMPERE_ON = ("8.0", "8.6", "8.9", "9.0", "10.0", "10.3", "12.0", "12.1")
AMPERE = (8, 0)
SHORT: dict[Library, str] = {"tensorrt": "trt", "tensorrt-rtx": "rtx"}


@dataclass(frozen=True, slots=True)
class PlanOrder:
    """A plan to be built.

    Attributes:
        trt: the library's module.
        library: its name.
        options: how to build, complete.
        compute_capabilities: of the GPUs that will run it.
        gpu: that it is built on; None where it is built ahead of time.
    """

    trt: ModuleType
    library: Library
    options: PlanOptions
    compute_capabilities: tuple[str, ...]
    gpu: Gpu | None


def order_target(target: Target, machine: Machine, options: PlanOptions) -> PlanOrder | None:
    """Decide what `irstd-export --target` builds; None where that is nothing.

    Args:
        target: "auto" is TensorRT where there is a GPU with it, else TensorRT for RTX where that
            is installed, else nothing.
        machine: where it is built.
        options: how.

    Raises:
        ValueError: the library cannot do what the options say.
        EngineError: the library is not installed, or has no GPU to build on.
    """
    if target == "onnx":
        return None
    if target != "auto":
        return order_plan(machine, options, library=target)
    if options.compute_capabilities:
        return order_plan(machine, options, library="tensorrt-rtx")
    if machine.gpus and "tensorrt" in machine.libraries:
        return order_plan(machine, options, library="tensorrt")
    if "tensorrt-rtx" not in machine.libraries:
        return None
    known = known_capabilities(import_tensorrt("tensorrt-rtx"))
    if machine.gpus and machine.gpus[0].compute_capability not in known:
        return None
    return order_plan(machine, options, library="tensorrt-rtx")


def order_plan(
    machine: Machine, options: PlanOptions, *, library: Library | None = None
) -> PlanOrder:
    """Complete the order of a plan, or say why it cannot be built on this machine.

    Args:
        machine: where it is built.
        options: how.
        library: that builds; None takes TensorRT where there is a GPU with it, else TensorRT for
            RTX.

    Raises:
        ValueError: the library cannot do what the options say.
        EngineError: the library is not installed, or has no GPU to build on.
    """
    library = library or _choose_library(machine, options)
    if library not in machine.libraries:
        others = ", ".join(TITLES[one] for one in machine.libraries) or "none"
        raise EngineError(
            f"{TITLES[library]} is not installed (here is {others}); {INSTALL[library]}"
        )
    if library == "tensorrt":
        return _order_here(machine, options)
    return _order_ahead(machine, options)


def _choose_library(machine: Machine, options: PlanOptions) -> Library:
    if options.compute_capabilities or "tensorrt" not in machine.libraries:
        return "tensorrt-rtx"
    return "tensorrt" if machine.gpus or "tensorrt-rtx" not in machine.libraries else "tensorrt-rtx"


def _order_here(machine: Machine, options: PlanOptions) -> PlanOrder:
    """TensorRT builds for the GPU that it runs on: it measures there which kernels are fast."""
    if options.compute_capabilities:
        raise ValueError(
            "--compute-capability is for tensorrt-rtx; TensorRT builds for the GPU it runs on: "
            f"leave it out and run {BUILD} on that device"
        )
    if not machine.gpus:
        raise EngineError(
            f"TensorRT builds on the GPU that the plan is for, here is none ({machine.problem}); "
            f"run {BUILD} on the device, or build ahead of time with tensorrt-rtx"
        )
    gpu = machine.gpus[0]
    capabilities: tuple[str, ...] = (gpu.compute_capability,)
    if options.is_hardware_compatible:
        capabilities = tuple(sorted({*AMPERE_ON, *capabilities}, key=read_version))
    if options.timing_cache is None:
        name = f"tensorrt-{machine.libraries['tensorrt']}-{gpu.name}-{gpu.compute_capability}"
        file = re.sub(r"[^A-Za-z0-9.]+", "-", name) + ".timing"
        options = replace(options, timing_cache=user_cache("timing") / file)
    return PlanOrder(import_tensorrt("tensorrt"), "tensorrt", options, capabilities, gpu)


def _order_ahead(machine: Machine, options: PlanOptions) -> PlanOrder:
    """TensorRT for RTX builds without a GPU, but not for every one."""
    if options.is_version_compatible:
        raise ValueError("TensorRT for RTX builds no version-compatible plans; leave it out")
    if options.dla_core is not None:
        raise ValueError("TensorRT for RTX knows no DLA; use --library tensorrt on the Jetson")
    trt = import_tensorrt("tensorrt-rtx")
    known = known_capabilities(trt)
    if options.is_hardware_compatible:
        if options.compute_capabilities:
            raise ValueError(
                "--hardware-compatible builds for all GPUs since Ampere; leave out "
                "--compute-capability"
            )
        capabilities = tuple(one for one in known if read_version(one) >= AMPERE)
        return PlanOrder(trt, "tensorrt-rtx", options, capabilities, None)
    here = tuple(gpu.compute_capability for gpu in machine.gpus[:1])
    capabilities = options.compute_capabilities or here or AHEAD
    if unknown := [one for one in capabilities if one not in known]:
        raise ValueError(
            f"TensorRT for RTX {trt.__version__} builds for compute capability {', '.join(known)}, "
            f"not for {', '.join(unknown)}; on a device with that GPU install TensorRT and run "
            f"{BUILD}"
        )
    # It keeps no timing cache: kernels are chosen when the plan is loaded.
    options = replace(options, compute_capabilities=capabilities, timing_cache=None)
    return PlanOrder(trt, "tensorrt-rtx", options, capabilities, None)


def read_capabilities(text: str | None) -> tuple[str, ...]:
    """Read what the user gives as --compute-capability.

    Example:
        >>> read_capabilities("8.9, 8.6,8.9")
        ('8.6', '8.9')
    """
    if text is None:
        return ()
    return tuple(sorted({one.strip() for one in text.split(",")}, key=read_version))


def name_plan(manifest: Manifest, precision: Precision, order: PlanOrder, version: str) -> str:
    """The file name of a plan: model, precision, size, library and version, GPUs."""
    options = order.options
    parts = [
        manifest.model,
        precision,
        f"{manifest.frame.height}x{manifest.frame.width}",
        f"{SHORT[order.library]}{'.'.join(map(str, read_version(version)[:3]))}",
    ]
    if options.is_hardware_compatible:
        parts.append(f"sm{order.compute_capabilities[0].replace('.', '')}plus")
    else:
        parts += [f"sm{one.replace('.', '')}" for one in order.compute_capabilities]
    if options.dla_core is not None:
        parts.append(f"dla{options.dla_core}")
    if options.is_version_compatible:
        parts.append("vc")
    return "-".join(parts) + ".plan"


def write_command(order: PlanOrder, precision: Precision) -> str:
    """The command that builds the plan again."""
    options = order.options
    parts = [BUILD, f"--library {order.library}", f"--precision {precision}"]
    if options.compute_capabilities:
        parts.append(f"--compute-capability {','.join(options.compute_capabilities)}")
    for value, option in (
        (options.workspace_mib, "--workspace"),
        (options.level, "--level"),
        (options.dla_core, "--dla"),
    ):
        if value is not None:
            parts.append(f"{option} {value}")
    parts += ["--hardware-compatible"] * options.is_hardware_compatible
    parts += ["--version-compatible"] * options.is_version_compatible
    return " ".join(parts)
