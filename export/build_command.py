"""`irstd-build`: on the device, without torch, a bundle gets the plan that this machine runs."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from ..runtime.bundle import Precision, read_manifest
from ..runtime.commands.shared import PlainCommand
from ..runtime.plans import Library, probe_machine
from .bundle_plans import MadePlan, add_plan
from .plan import HIGHEST_LEVEL, PlanOptions
from .plan_order import AHEAD, order_plan, read_capabilities


@click.command(cls=PlainCommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--library",
    type=click.Choice(get_args(Library)),
    help="TensorRT where there is a GPU with it, else TensorRT for RTX, by default.",
)
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    help="Graph of the bundle to build from; the bundle's own by default.",
)
@click.option(
    "--workspace", type=click.IntRange(min=1), metavar="MIB", help="Memory a layer may borrow."
)
@click.option(
    "--level",
    type=click.IntRange(0, HIGHEST_LEVEL),
    help="0 builds fast, 5 runs fast; TensorRT's own (3) by default.",
)
@click.option(
    "--dla",
    type=click.IntRange(min=0),
    metavar="CORE",
    help="Core of a Jetson's DLA; the GPU computes what that cannot, and both wait for each other.",
)
@click.option(
    "--hardware-compatible",
    is_flag=True,
    help="Runs on every GPU since Ampere (no Jetson), at the cost of speed: kernels made for one "
    "GPU are left out.",
)
@click.option(
    "--version-compatible",
    is_flag=True,
    help="Runs on newer TensorRT too, at the cost of speed and of trust: the plan carries tens of "
    "MB of code, which irstd refuses to run. For trtexec and DeepStream.",
)
@click.option(
    "--timing-cache",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Measured kernels, which make the next build fast; kept for each GPU and version in the "
    "user's cache folder by default. TensorRT for RTX measures none.",
)
@click.option(
    "--compute-capability",
    metavar="LIST",
    help="For tensorrt-rtx, GPUs to build for ahead of time, e.g. 8.6,8.9; the GPU of this machine "
    f"by default, without one {','.join(AHEAD)}.",
)
def build_command(
    bundle: Path,
    library: Library | None,
    precision: Precision | None,
    workspace: int | None,
    level: int | None,
    dla: int | None,
    hardware_compatible: bool,
    version_compatible: bool,
    timing_cache: Path | None,
    compute_capability: str | None,
) -> None:
    """Build the TensorRT plan of this machine into a bundle. It is added whole or not at all."""
    read_manifest(bundle)  # what is no bundle is told before anything else
    options = PlanOptions(
        workspace_mib=workspace,
        level=level,
        dla_core=dla,
        is_hardware_compatible=hardware_compatible,
        is_version_compatible=version_compatible,
        compute_capabilities=read_capabilities(compute_capability),
        timing_cache=timing_cache,
    )
    order = order_plan(probe_machine(), options, library=library)
    made = add_plan(bundle, precision, order, say=lambda line: click.echo(line, err=True))
    click.echo(_closing(made, bundle))


def _closing(made: MadePlan, bundle: Path) -> str:
    record = made.record
    counts = ", ".join(f"{count} {kind}" for kind, count in record.layers.items())
    memory = record.device_memory_bytes
    needs = "" if memory is None else f", {memory / 2**20:.0f} MiB of device memory"
    return f"""{bundle / made.name}: {len(made.content) / 2**20:.1f} MiB{needs}
  convolutions and matrix products: {counts}
next:
  irstd-profile {bundle}"""
