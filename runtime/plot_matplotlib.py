"""Pictures of curves, ranges and frames; the only module that imports matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .comparison import Answer, Compared
from .frame import stretch_limits
from .roc import RocResult
from .scoring import Mask

SMALLEST_RATE = 1e-7  # of the logarithmic axis: one pixel in ten frames of a megapixel
DPI = 100
PANELS_A_ROW = 3  # of the sensitivity: IoU, Pd, Fa
SHOWN_BINS = 128
ROOM_FOR_LEGEND = 1e3  # above the highest bar of a logarithmic axis
CLOSE_UP = 14  # frame pixels to each side of a target
FINE = 8  # an outline runs along the borders of pixels, each drawn as this many small ones
TRUE, MISSED, FOUND, FALSE = "gold", "red", "cyan", "magenta"


@dataclass(frozen=True, slots=True)
class Panel:
    """One score against the share of the arithmetic that is in a lower precision.

    Attributes:
        title: of the panel.
        values: at each share.
        before: of FP32.
        limit: the worst that is allowed.
    """

    title: str
    values: Sequence[float]
    before: float
    limit: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Scores against the share of the arithmetic that is in a lower precision.

    Attributes:
        precision: its name.
        percent: share of the arithmetic, 0..100.
        is_allowed: whether all scores at each share are inside the limits.
        chosen: index of the share that the bundle has.
        panels: a score each, three of each labelled set.
    """

    precision: str
    percent: Sequence[float]
    is_allowed: Sequence[bool]
    chosen: int
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Taken:
    """What the input of a layer took, without its sign, and what of it INT8 carries.

    Attributes:
        title: of the panel.
        counts: (n,) values in equal bins of 0..edge.
        edge: end of the last bin.
        carried: end of the range that is carried.
        largest: the largest value.
        target: the largest value that a target causes; 0 where none changes the input.
    """

    title: str
    counts: npt.NDArray[np.int64]
    edge: float
    carried: float
    largest: float
    target: float


Points = Sequence[tuple[float, float] | None]


def plot_sequences(curves: Mapping[str, Mapping[str, Points]], path: Path) -> None:
    """Draw Pd against false alarms a frame of several models, a panel for each sequence.

    Args:
        curves: by model, then by sequence: (Pd, false alarms a frame) by rising threshold, None
            where too much was found to be counted. Every model has the same sequences.
        path: PNG, written anew.
    """
    sequences = list(next(iter(curves.values())))
    figure = _figure(5 * len(sequences) + 2.5, 5)
    panels = np.atleast_1d(figure.subplots(1, len(sequences)))
    for axes, sequence in zip(panels, sequences, strict=True):
        for number, (model, own) in enumerate(curves.items()):
            points = [point for point in own[sequence] if point is not None]
            axes.plot(
                [alarms for _, alarms in points],
                [pd for pd, _ in points],
                label=model,
                linestyle=("-", "--", ":")[number // 10 % 3],
            )
        axes.set(
            xlim=(0, 100),
            ylim=(0, 1.02),
            xlabel="false alarms a frame (linear up to 1)",
            ylabel="Pd",
            title=sequence,
        )
        axes.set_xscale("symlog", linthresh=1.0)
        axes.grid(alpha=0.3)
    panels[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8)
    _save(figure, path)


def plot_roc(result: RocResult, path: Path) -> None:
    """Draw the pixel curve and, beside it, Pd against Fa of whole targets.

    Args:
        result: a finished curve.
        path: PNG, written anew.
    """
    figure = _figure(10, 4.5)
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
    _save(figure, path)


def plot_sensitivity(curve: Curve, path: Path) -> None:
    """Draw scores against the share of the arithmetic in a lower precision, one panel a score.

    Args:
        curve: at least one share.
        path: PNG, written anew.
    """
    rows = -(-len(curve.panels) // PANELS_A_ROW)
    figure = _figure(12, 0.5 + 3.7 * rows)
    panels = figure.subplots(rows, PANELS_A_ROW, squeeze=False).ravel()
    for axes, panel in zip(panels, curve.panels, strict=True):
        _draw_panel(axes, curve, panel)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    _save(figure, path)


def _draw_panel(axes: Axes, curve: Curve, panel: Panel) -> None:
    low, high = sorted((panel.before, panel.limit))
    axes.axhspan(low, high, color="tab:green", alpha=0.18, label="loss that is allowed")
    axes.axhline(panel.before, color="black", linestyle="--", linewidth=1)
    places = np.array([curve.percent, panel.values]).T
    line = np.vstack([(0.0, panel.before), places[np.argsort(curve.percent)]])
    axes.plot(*line[np.isfinite(line[:, 1])].T, color="grey", linewidth=1)
    axes.plot(0, panel.before, "ks", markersize=8, clip_on=False, label="FP32")
    allowed = np.array(curve.is_allowed)
    for some, marker, colour, said in (
        (allowed, "o", "tab:blue", "inside all limits"),
        (~allowed, "X", "tab:red", "beyond some limit"),
    ):
        if some.any():
            label = f"{curve.precision}, {said}"
            axes.plot(*places[some].T, marker, color=colour, markersize=9, label=label)
    place = places[curve.chosen, 0], places[curve.chosen, 1]
    axes.scatter(*place, 320, "none", edgecolors="black", label="in this bundle")
    axes.set(xlim=(0, 104), xlabel=f"% of the arithmetic in {curve.precision}", title=panel.title)
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)


def plot_ranges(inputs: Sequence[Taken], path: Path) -> None:
    """Draw what the inputs of some layers took, with the range that INT8 carries.

    Args:
        inputs: one or more.
        path: PNG, written anew.
    """
    rows = -(-len(inputs) // 2)
    figure = _figure(12, 3.8 * rows)
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes, taken in zip(panels, inputs, strict=False):
        _draw_taken(axes, taken)
    for axes in panels[len(inputs) :]:
        axes.remove()
    _save(figure, path)


def _draw_taken(axes: Axes, taken: Taken) -> None:
    borders = np.linspace(0.0, taken.edge, taken.counts.size + 1)
    used = int(np.searchsorted(borders, taken.largest))
    starts = np.arange(0, used, max(1, used // SHOWN_BINS))
    shown = np.add.reduceat(taken.counts[:used], starts)
    axes.stairs(shown, borders[[*starts, used]], fill=True, color="lightsteelblue")
    beyond = int(taken.counts[borders[:-1] >= taken.carried].sum())
    clipped = f"clips {beyond:,} of {taken.counts.sum() / 1e6:.1f} million values"
    label = f"range of INT8: up to {taken.carried:.3g} ({clipped if beyond else 'clips nothing'})"
    axes.axvline(taken.carried, color="tab:blue", linewidth=3, label=label)
    if taken.target:
        label = f"largest that a target causes: {taken.target:.3g}"
        axes.axvline(taken.target, color="tab:green", linestyle="--", linewidth=2, label=label)
    label = f"largest of all: {taken.largest:.3g}"
    axes.axvline(taken.largest, color="tab:red", linestyle=":", linewidth=2, label=label)
    axes.set(
        yscale="log",
        ylim=(0.5, float(shown.max()) * ROOM_FOR_LEGEND),
        xlim=(0, 1.04 * taken.largest),
        xlabel="absolute value of the layer's input",
        ylabel="how often",
        title=taken.title,
    )
    axes.legend(loc="upper right", fontsize=9)


def plot_disagreements(
    frames: Sequence[Compared], captions: Sequence[str], names: tuple[str, str], path: Path
) -> None:
    """Draw labelled frames side by side, as two detectors answer them.

    Args:
        frames: one or more; in each the first target that only one detector finds is enlarged.
        captions: of each frame.
        names: of the two detectors.
        path: PNG, written anew.
    """
    shapes = np.array([one.labelled.frame.shape for one in frames], np.float64)
    heights = (shapes[:, 0] / shapes[:, 1]).tolist()
    figure = _figure(11, 5.3 * sum(heights) + 0.8 * len(frames) + 0.7)
    panels = figure.subplots(len(frames), 2, squeeze=False, height_ratios=heights)
    for (left, right), compared, caption in zip(panels, frames, captions, strict=True):
        _draw_answer(left, compared, compared.reference)
        _draw_answer(right, compared, compared.other)
        said = f"{caption}\n{_count(names[0], compared.reference)}"
        left.set_title(said, loc="left", fontsize=10)
        right.set_title(_count(names[1], compared.other), loc="left", fontsize=10)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    _save(figure, path)


def _count(name: str, answer: Answer) -> str:
    false = len(answer.is_target) - int(answer.is_target.sum())
    alarms = f"{false} false alarm{'' if false == 1 else 's'}"
    return f"{name}: finds {answer.finds.sum()} of {len(answer.finds)}, {alarms}"


def _draw_answer(axes: Axes, compared: Compared, answer: Answer) -> None:
    """A frame with what a detector says about it, and a close-up away from the target in it."""
    row, column = compared.targets[compared.first_disputed]
    height, width = compared.labelled.frame.shape
    is_high, is_left = row < height / 2, column < width / 2
    inset = axes.inset_axes((0.65 if is_left else 0.0, 0.0 if is_high else 0.65, 0.35, 0.35))
    inset.set_anchor((float(is_left), float(not is_high)))
    low, high = stretch_limits(compared.labelled.frame)
    for one in (axes, inset):
        one.imshow(compared.labelled.frame, cmap="gray", vmin=low, vmax=max(high, low + 1))
        one.set(xticks=[], yticks=[])
    for centres, is_one, colour, marker, size, label in (
        (compared.targets, answer.finds, TRUE, "o", 220, "true target, found"),
        (compared.targets, ~answer.finds, MISSED, "o", 220, "true target, missed"),
        (answer.centroids, answer.is_target, FOUND, "s", 80, "detection of a true target"),
        (answer.centroids, ~answer.is_target, FALSE, "s", 80, "false alarm"),
    ):
        rows, columns = centres[is_one].T
        axes.scatter(columns, rows, size, "none", marker=marker, edgecolors=colour, label=label)
    inset.set(xlim=_window(column, width), ylim=_window(row, height)[::-1])
    for mask, colour, thick, label in (
        (answer.mask, FOUND, 3.5, "in the close-up: detected pixels"),
        (compared.labelled.mask, TRUE, 1.5, "in the close-up: true pixels"),
    ):
        _outline(inset, mask, colour, linewidth=thick)
        axes.plot([], [], color=colour, linewidth=thick, label=label)
    inset.spines[:].set_color("white")
    axes.indicate_inset_zoom(inset, edgecolor="white", alpha=0.8)


def _window(centre: float, side: int) -> tuple[float, float]:
    """The part of a side of the frame that a close-up shows, moved inwards at the border."""
    reach = min(CLOSE_UP, side / 2)
    middle = min(max(centre, reach - 0.5), side - reach - 0.5)
    return middle - reach, middle + reach


def _outline(axes: Axes, mask: Mask, colour: str, *, linewidth: float) -> None:
    """Draw the border of a mask's pixels inside the view of some axes."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    first, start = max(int(top), 0), max(int(left), 0)
    seen = mask[first : int(bottom) + 2, start : int(right) + 2]
    fine = np.pad(seen, 1).repeat(FINE, axis=0).repeat(FINE, axis=1)
    if not seen.any():
        return
    rows, columns = ((np.arange(side) + 0.5) / FINE - 1.5 for side in fine.shape)
    places = columns + start, rows + first
    axes.contour(*places, fine, levels=[0.5], colors=colour, linewidths=linewidth)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    # Without the version of matplotlib in it the same picture has the same bytes.
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
