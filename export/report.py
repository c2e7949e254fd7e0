"""The bundle's report.md: what a person reads about a bundle."""

from __future__ import annotations

from collections.abc import Sequence

from ..runtime.bundle import Accuracy, Calibration, CpuChoice, Manifest, Precision
from ..runtime.evaluation import SYNTHETIC_NAME
from .lowering import TRAINED
from .outcome import Outcome
from .outcome_report import write_outcome
from .plan_report import describe_plans
from .unroll import Cost, tell_cost


def write_report(
    manifest: Manifest,
    outcome: Outcome | None = None,
    pictures: Sequence[str] = (),
    *,
    cost: Cost | None = None,
) -> str:
    """Describe a bundle in Markdown.

    Args:
        manifest: of the bundle; its files need not be there yet.
        outcome: of a lower precision; None where there is none.
        pictures: files that lie beside the report.
        cost: of unrolling a solver; None for what is none.
    """
    frame = manifest.frame
    converted = sum(kind == manifest.precision for kind in manifest.layers.values())
    lowered = "" if outcome is None else write_outcome(outcome, pictures)
    return f"""# {manifest.model}, {manifest.precision}

{manifest.source}

## Frames
{frame.bit_depth}-bit sensor frames, normalised by "{frame.normalisation}", fitted by \
"{frame.fit}" to {frame.height}x{frame.width}. A pixel belongs to a target when its confidence is \
above {manifest.threshold}.

## Exactness
Torch against ONNX Runtime on {manifest.parity.frames} frames: largest difference of confidence \
{manifest.parity.max_difference:.1e} (refused above {manifest.parity.tolerance:.0e}).

{_unrolling(cost)}## Accuracy
| precision | engine | labelled set | frames | IoU | nIoU | Pd | Fa per Mpix |
|---|---|---|---|---|---|---|---|
{_rows(manifest.accuracy)}
{_measured_on(manifest.accuracy[-1].dataset)}\
{lowered}{_calibration(manifest.calibration, manifest.precision)}## Graphs
{_graphs(manifest)}; input `{manifest.input.name}` {list(manifest.input.shape)}, output \
`{manifest.output.name}`. TensorRT builds from `{manifest.graphs[manifest.precision]}`: \
{converted} of {len(manifest.layers)} convolutions and matrix products in {manifest.precision}, \
operators {_counts(manifest.operators)}.

{describe_plans(manifest.plans)}## On a CPU
ONNX Runtime runs {manifest.cpu.precision}: {manifest.cpu.reason}.

| precision | median ms | least | most |
|---|---|---|---|
{_latencies(manifest.cpu)}
## Weights
{_weights(manifest)}
## Made with
{_versions(manifest.versions)}
"""


def _unrolling(cost: Cost | None) -> str:
    if cost is None:
        return ""
    rows = "".join(
        f"| {one.iterations} | {one.error:.2e} | {one.iou:.4f} |\n" for one in cost.curve
    )
    return f"""## Unrolling
{tell_cost(cost)}.

| iterations | error of the target image | IoU of its segmentation |
|---|---|---|
{rows}
"""


def _weights(manifest: Manifest) -> str:
    weights = manifest.weights
    if weights is None:
        return "none: this model has no parameters.\n"
    notes = "".join(f"- {name}: {text}\n" for name, text in sorted(weights.notes.items()))
    return f"`{weights.file}`, sha256 `{weights.sha256}`\n{notes}"


def _rows(accuracy: tuple[Accuracy, ...]) -> str:
    return "".join(
        f"| {entry.precision} | {entry.engine} | {entry.dataset} | {entry.frames} | "
        f"{_figure(entry.iou)} | {_figure(entry.niou)} | {_figure(entry.pd)} | "
        f"{entry.fa_per_mpix:.2f} |\n"
        for entry in accuracy
    )


def _measured_on(dataset: str) -> str:
    if dataset != SYNTHETIC_NAME:
        return ""
    return (
        f"In {dataset} frames are drawn by a program, for want of labelled ones. They show "
        "what a change of precision costs; scores on real frames are other ones. To measure on "
        "your own: `irstd-export --labelled DATASET`.\n\n"
    )


def _calibration(calibration: Calibration | None, precision: Precision) -> str:
    if calibration is None:
        return ""
    targets = "labelled" if calibration.labelled else "injected"
    found = "The range of FP16 checked"
    if precision == "int8":
        found = f'Ranges by "{calibration.method}"'
    if calibration.method == TRAINED:
        found = "Ranges of the training (they came with the weights), layers compared"
    return f"""## Calibration
{found} on {calibration.frames} of {calibration.offered} frames of \
{calibration.source}, targets {targets}, sha256 `{calibration.sha256}`. Of the \
FLOP of convolutions and matrix products \
{calibration.share:.0%} run in the lower precision.

"""


def _graphs(manifest: Manifest) -> str:
    return ", ".join(f"`{name}` ({precision})" for precision, name in manifest.graphs.items())


def _latencies(cpu: CpuChoice) -> str:
    return "".join(
        f"| {precision} | {taken.median:.1f} | {taken.least:.1f} | {taken.most:.1f} |\n"
        for precision, taken in cpu.latency_ms.items()
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _counts(operators: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in operators.items())


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
