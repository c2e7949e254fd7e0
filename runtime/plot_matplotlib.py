"""Pictures of curves; the only module that imports matplotlib."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .roc import RocResult

SMALLEST_RATE = 1e-7  # of the logarithmic axis: one pixel in ten frames of a megapixel


def plot_roc(result: RocResult, path: Path) -> None:
    """Draw the pixel curve and, beside it, Pd against Fa of whole targets.

    Args:
        result: a finished curve.
        path: PNG, written anew.
    """
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    pixels, targets = figure.subplots(1, 2)
    pixels.plot(result.fpr.clip(SMALLEST_RATE), result.tpr, color="tab:blue")
    pixels.set(
        xscale="log",
        xlim=(SMALLEST_RATE, 1),
        ylim=(0, 1.02),
        xlabel="false-positive rate of pixels",
        ylabel="true-positive rate of pixels",
        title=f"ROC, AUC {result.auc:.4f}",
    )
    alarms = [point.fa_per_mpix for point in result.points]
    targets.plot(alarms, [point.pd for point in result.points], marker="o", color="tab:orange")
    for point in result.points:
        if point.threshold in (0.01, 0.5, 0.99):
            targets.annotate(
                f" {point.threshold}", (point.fa_per_mpix, point.pd), va="top", fontsize=8
            )
    targets.set(
        xlabel="Fa, false pixels per million",
        ylabel="Pd",
        xlim=(0, None),
        ylim=(0, 1.02),
        title="targets, by threshold of confidence",
    )
    for axes in (pixels, targets):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
