"""Plans in bundles: built from a graph of the bundle, checked, recorded, and put in whole."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..runtime.bundle import (
    MANIFEST,
    Manifest,
    Precision,
    read_file,
    read_manifest,
    seal_bundle,
    stage_bundle,
)
from ..runtime.plans import TITLES, PlanRecord
from .plan import build_plan
from .plan_audit import UNKNOWN, audit_layers
from .plan_log import StatusLine
from .plan_order import PlanOrder, name_plan, write_command
from .plan_report import replace_plans

REPORT = "report.md"


@dataclass(frozen=True, slots=True)
class MadePlan:
    """A plan and what the manifest says of it.

    Attributes:
        name: of its file.
        content: of it.
        record: for the manifest.
    """

    name: str
    content: bytes
    record: PlanRecord


def make_plan(
    model: bytes,
    manifest: Manifest,
    precision: Precision,
    order: PlanOrder,
    *,
    say: Callable[[str], None],
) -> MadePlan:
    """Build a plan and check that it computes what its graph says.

    Args:
        model: a graph of the bundle, its hash already checked.
        manifest: of the bundle.
        precision: of the graph.
        order: what to build.
        say: receives a line before each long step.

    Raises:
        ValueError: the library has not what an option asks for.
        EngineError: the library cannot build the graph, or computes layers in other precisions.
    """
    title = f"{TITLES[order.library]} {order.trt.__version__}"
    where = order.gpu.name if order.gpu else ", ".join(order.compute_capabilities)
    silent = "" if hasattr(order.trt, "IProgressMonitor") else "; it tells no progress"
    say(f"building a plan in {precision} with {title} for {where}{silent}")
    with StatusLine(title) as watch:
        built = build_plan(order.trt, model, precision, order.options, say=say, watch=watch)
    expected = manifest.layers
    if precision != manifest.precision:
        expected = dict.fromkeys(manifest.layers, precision)
    layers = {UNKNOWN: len(expected)}
    for variant in built.variants:
        layers = audit_layers(variant, expected)
    if UNKNOWN in layers:
        say(f"{title} does not tell how {layers[UNKNOWN]} of {len(expected)} layers are computed")
    record = PlanRecord(
        library=order.library,
        version=built.version,
        precision=precision,
        compute_capabilities=order.compute_capabilities,
        gpu=order.gpu.name if order.gpu else "",
        is_hardware_compatible=order.options.is_hardware_compatible,
        is_version_compatible=order.options.is_version_compatible,
        # A version-compatible plan brings its own runtime along.
        needs_host_code=order.options.is_version_compatible,
        device_memory_bytes=built.device_memory_bytes,
        graph_sha256=hashlib.sha256(model).hexdigest(),
        layers=layers,
        command=write_command(order, precision),
    )
    name = name_plan(manifest, precision, order, built.version)
    return MadePlan(name, built.content, record)


def add_plan(
    folder: Path, precision: Precision | None, order: PlanOrder, *, say: Callable[[str], None]
) -> MadePlan:
    """Build a plan from a bundle and put it in; an older one of the same name is replaced.

    The bundle is as it was until all is written beside it, hashed and sealed. Files that the
    manifest does not list stay where they are, unlisted.

    Args:
        folder: the bundle.
        precision: of the graph to build from; None takes the bundle's own.
        order: what to build.
        say: receives a line before each long step.

    Raises:
        FileNotFoundError: the folder is no bundle, or lacks a file.
        ValueError: a file or the manifest was changed, the bundle lacks the precision, or the
            library has not what an option asks for.
        EngineError: the plan cannot be built, or computes layers in other precisions.
        OSError: there is no place for it.
    """
    folder = folder.resolve()
    manifest = read_manifest(folder)
    chosen = precision or manifest.precision
    if chosen not in manifest.graphs:
        raise ValueError(
            f"bundle {folder} has no graph in {chosen}, only in {', '.join(manifest.graphs)}; "
            "take one of these, or export the bundle again"
        )
    model = read_file(folder, manifest, manifest.graphs[chosen])
    made = make_plan(model, manifest, chosen, order, say=say)
    plans = {**manifest.plans, made.name: made.record}
    with stage_bundle(folder) as stage:
        for name in manifest.files.keys() - {made.name}:
            (stage / name).write_bytes(read_file(folder, manifest, name))
        (stage / made.name).write_bytes(made.content)
        if REPORT in manifest.files:
            report = (stage / REPORT).read_text(encoding="utf-8")
            (stage / REPORT).write_text(replace_plans(report, plans), encoding="utf-8")
        seal_bundle(stage, replace(manifest, plans=plans))
        _keep_unlisted(folder, stage)
    return made


def _keep_unlisted(folder: Path, stage: Path) -> None:
    """Copy what the user put into the bundle; it is sealed by then, so this stays unlisted."""
    for path in folder.iterdir():
        if path.name == MANIFEST or (stage / path.name).exists():
            continue
        if path.is_dir():
            shutil.copytree(path, stage / path.name, symlinks=True)
        else:
            shutil.copy2(path, stage / path.name, follow_symlinks=False)
