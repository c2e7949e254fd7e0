"""The bundle's report.md: what a person reads about a bundle."""

from __future__ import annotations

from ..runtime.bundle import Accuracy, Manifest


def write_report(manifest: Manifest) -> str:
    """Describe a bundle in Markdown, from its manifest alone."""
    frame = manifest.frame
    half = sum(kind == "fp16" for kind in manifest.layers.values())
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
| precision | frames | IoU | nIoU | Pd | Fa per Mpix |
|---|---|---|---|---|---|
{_rows(manifest.accuracy)}
Measured on {manifest.accuracy[-1].dataset}.

## Graph
`{manifest.graph}`, input `{manifest.input.name}` {list(manifest.input.shape)}, output \
`{manifest.output.name}`. Convolutions and matrix products in FP16: {half} of \
{len(manifest.layers)}. Operators: {_counts(manifest.operators)}.

## Weights
`{manifest.weights.file}`, sha256 `{manifest.weights.sha256}`
{notes}
## Made with
{_versions(manifest.versions)}
"""


def _rows(accuracy: tuple[Accuracy, ...]) -> str:
    return "".join(
        f"| {entry.precision} | {entry.frames} | {_figure(entry.iou)} | {_figure(entry.niou)} | "
        f"{_figure(entry.pd)} | {entry.fa_per_mpix:.2f} |\n"
        for entry in accuracy
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _counts(operators: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in operators.items())


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
