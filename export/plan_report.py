"""The part of a bundle's report.md that tells of its plans; `irstd-build` writes it anew."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..runtime.plans import BUILD, TITLES, PlanRecord

HEADING = "## TensorRT plans\n"
SECTION = re.compile(rf"^{re.escape(HEADING)}.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def describe_plans(plans: Mapping[str, PlanRecord]) -> str:
    """The section, with its heading and an empty line behind it."""
    if not plans:
        return f"{HEADING}None was built. On the device: `{BUILD}`.\n\n"
    rows = "".join(_row(name, plans[name]) for name in sorted(plans))
    return f"""{HEADING}Layers are convolutions and matrix products, by what they are computed in.

| plan | built by | runs on | layers | device memory |
|---|---|---|---|---|
{rows}
Each runs on that version of its library alone. For another device, on it: `{BUILD}`.

"""


def replace_plans(report: str, plans: Mapping[str, PlanRecord]) -> str:
    """A report with its section on plans written anew; without one it comes back with one more."""
    section = describe_plans(plans)
    if not SECTION.search(report):
        return f"{report.rstrip()}\n\n{section}"
    return SECTION.sub(lambda _: section, report, count=1)


def _row(name: str, plan: PlanRecord) -> str:
    memory = plan.device_memory_bytes
    needs = "-" if memory is None else f"{memory / 2**20:.0f} MiB"
    counts = ", ".join(f"{count} {kind}" for kind, count in plan.layers.items())
    return (
        f"| `{name}` | {TITLES[plan.library]} {plan.version} | {_runs_on(plan)} | {counts or '-'} "
        f"| {needs} |\n"
    )


def _runs_on(plan: PlanRecord) -> str:
    if plan.gpu and not plan.is_hardware_compatible:
        return f"{plan.gpu} ({plan.compute_capabilities[0]})"
    newer = " and newer" if plan.is_hardware_compatible else ""
    return f"compute capability {', '.join(plan.compute_capabilities)}{newer}"
