"""The bundle's report.md: what a person reads about a bundle."""

from __future__ import annotations

from ..runtime.bundle import Accuracy, Calibration, CpuChoice, Manifest


def write_report(manifest: Manifest) -> str:
    """Describe a bundle in Markdown, from its manifest alone."""
    frame = manifest.frame
    converted = sum(kind == manifest.precision for kind in manifest.layers.values())
    notes = "".join(f"- {name}: {text}\n" for name, text in manifest.weights.notes.items())
    return f"""# {manifest.model}, {manifest.precision}

{manifest.source}

## Frames
{frame.bit_depth}-bit sensor frames, normalised by "{frame.normalisation}", fitted by \
"{frame.fit}" to {frame.height}x{frame.width}. A pixel belongs to a target when its confidence is \
above {manifest.threshold}.

## Exactness
Torch against ONNX Runtime on {manifest.parity.frames} frames: largest difference of confidence \
{manifest.parity.max_difference:.1e} (refused above {manifest.parity.tolerance:.0e}).

## Accuracy
| precision | engine | frames | IoU | nIoU | Pd | Fa per Mpix |
|---|---|---|---|---|---|---|
{_rows(manifest.accuracy)}
Measured on {manifest.accuracy[-1].dataset}.

{_calibration(manifest.calibration)}## Graphs
{_graphs(manifest)}; input `{manifest.input.name}` {list(manifest.input.shape)}, output \
`{manifest.output.name}`. TensorRT builds from `{manifest.graphs[manifest.precision]}`: \
{converted} of {len(manifest.layers)} convolutions and matrix products in {manifest.precision}, \
operators {_counts(manifest.operators)}.

## On a CPU
ONNX Runtime runs {manifest.cpu.precision}: {manifest.cpu.reason}.

| precision | median ms | least | most |
|---|---|---|---|
{_latencies(manifest.cpu)}

## Weights
`{manifest.weights.file}`, sha256 `{manifest.weights.sha256}`
{notes}
## Made with
{_versions(manifest.versions)}
"""


def _rows(accuracy: tuple[Accuracy, ...]) -> str:
    return "".join(
        f"| {entry.precision} | {entry.engine} | {entry.frames} | {_figure(entry.iou)} | "
        f"{_figure(entry.niou)} | {_figure(entry.pd)} | {entry.fa_per_mpix:.2f} |\n"
        for entry in accuracy
    )


def _calibration(calibration: Calibration | None) -> str:
    if calibration is None:
        return ""
    targets = "labelled" if calibration.labelled else "injected"
    return f"""## Calibration
Ranges by "{calibration.method}" on {calibration.frames} of {calibration.offered} frames of \
{calibration.source}, targets {targets}, sha256 `{calibration.sha256}`. Of the convolutions' FLOP \
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
