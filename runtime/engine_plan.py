"""Which plan of a bundle runs on a GPU of this machine, and what runs where none does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from .bundle import Manifest, Precision, read_file
from .engine import EngineOption
from .engine_choice import Loaded
from .errors import DeviceError, EngineError
from .plans import Machine, choose_plan, find_gpu, probe_machine, why_not


class NoPlanError(EngineError):
    """A bundle has no plan that could be tried on this machine."""


def load_fitting(
    folder: Path,
    manifest: Manifest,
    *,
    name: EngineOption | None,
    precision: Precision | None,
    device: int | None,
    load_cpu: Callable[[], Loaded],
    allow_cpu: bool,
) -> Loaded:
    """Load a plan that fits a GPU of this machine, or what runs on the CPU.

    The CPU runs where no plan can be tried, unless TensorRT was named; where one was tried and
    failed, only if that is allowed.

    Args:
        folder: the bundle.
        manifest: of the bundle.
        name: "tensorrt" wants a plan, another name the CPU; None takes a plan where one fits.
        precision: of the plan; None takes the bundle's own.
        device: number of the GPU; None takes the first that the plan fits.
        load_cpu: loads what runs on the CPU.
        allow_cpu: whether the CPU may stand in.

    Raises:
        EngineError: no engine can run the bundle, or not the one named.
        FileNotFoundError: the bundle lacks a file.
        ValueError: a file was changed, or an argument is wrong.
    """
    if name not in (None, "tensorrt"):
        return load_cpu()
    if name is None and device is None and not manifest.plans:
        return load_cpu()
    try:
        return load_plan(folder, manifest, precision=precision, device=device)
    except NoPlanError as err:
        if not allow_cpu and (name is not None or device is not None):
            raise
        loaded, note = load_cpu(), f"no plan runs here: {err}"
    except EngineError as err:
        if not allow_cpu:
            raise type(err)(f"{err}; allow_cpu=True (--allow-cpu) would take the CPU") from err
        loaded, note = load_cpu(), f"{err}; the CPU stands in"
        loaded = replace(loaded, note=note)
    return replace(loaded, reason="; ".join(filter(None, (note, loaded.reason))))


def load_plan(
    folder: Path, manifest: Manifest, *, precision: Precision | None, device: int | None
) -> Loaded:
    """Load the plan that fits a GPU of this machine best.

    Raises:
        NoPlanError: none could be tried: there is no plan, no GPU, no library for it, or none fits.
        EngineError: the GPU or TensorRT failed.
        FileNotFoundError: the bundle lacks the file.
        ValueError: the file was changed, or there can be no such device.
    """
    wanted = precision or manifest.precision
    chosen, number = _choose(manifest, wanted, device)
    plan = read_file(folder, manifest, chosen)
    try:
        from .device import open_device
        from .engine_tensorrt import TensorRtEngine, import_tensorrt

        trt = import_tensorrt(manifest.plans[chosen].library)
        opened = open_device(number)
    except DeviceError:
        raise
    except EngineError as err:
        raise NoPlanError(f"{chosen} fits, but {err}") from err
    try:
        return Loaded(TensorRtEngine(plan, opened, trt), wanted, "")
    except Exception:
        opened.close()
        raise


def _choose(manifest: Manifest, precision: Precision, device: int | None) -> tuple[str, int]:
    """File name of a plan, and the number of its GPU."""
    plans = {name: plan for name, plan in manifest.plans.items() if plan.precision == precision}
    if not plans:
        there = ", ".join(manifest.plans) or "none at all"
        raise NoPlanError(
            f"the bundle has no {precision} plan ({there}); on the device run: irstd-build BUNDLE"
        )
    machine = probe_machine()
    seen = machine if device is None else _with_one(machine, device)
    chosen = choose_plan(plans, seen, precision)
    if chosen is None:
        name, plan = next(iter(plans.items()))
        raise NoPlanError(f"{name}: {why_not(plan, seen)}")
    return chosen, (find_gpu(plans[chosen], machine) or 0) if device is None else device


def _with_one(machine: Machine, device: int) -> Machine:
    """The machine as if it had that GPU alone."""
    if device < 0:
        raise ValueError(f"device is {device}, expected 0 or more")
    if machine.gpus and device >= len(machine.gpus):
        raise NoPlanError(
            f"there is no device {device}: this machine has "
            f"{', '.join(f'{n} ({gpu.name})' for n, gpu in enumerate(machine.gpus))}"
        )
    return replace(machine, gpus=machine.gpus[device : device + 1])
