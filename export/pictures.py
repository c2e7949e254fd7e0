"""The pictures of a bundle in a lower precision: what it costs, carries and misses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..calibration.gate import find_losses, highest_fa
from ..calibration.ranges import Observation
from ..runtime.comparison import Answer, Compared
from ..runtime.plot_matplotlib import (
    Curve,
    Panel,
    Taken,
    plot_disagreements,
    plot_ranges,
    plot_sensitivity,
)
from ..runtime.scoring import Scorer
from .outcome import DISAGREEMENTS, RANGES, SENSITIVITY, Layer, Outcome, shorten_all

SHOWN_INPUTS = 4
SHOWN_FRAMES = 4


def draw_pictures(outcome: Outcome, folder: Path) -> tuple[str, ...]:
    """Draw what there is to show of a lower precision.

    Args:
        outcome: of the lower precision.
        folder: receives sensitivity.png; ranges.png where ranges were observed; disagreements.png
            where one precision finds a target that the other misses.

    Returns:
        The names of the files.

    Raises:
        OSError: the folder cannot be written.
    """
    plot_sensitivity(_curve(outcome), folder / SENSITIVITY)
    drawn = [SENSITIVITY]
    if inputs := _inputs(outcome):
        plot_ranges(inputs, folder / RANGES)
        drawn.append(RANGES)
    disputed = [frame for one in outcome.compared.values() for frame in one.disputed]
    if frames := _most_disputed(disputed):
        captions = [write_caption(frame, outcome) for frame in frames]
        names = ("FP32", outcome.precision.upper())
        plot_disagreements(frames, captions, names, folder / DISAGREEMENTS)
        drawn.append(DISAGREEMENTS)
    return tuple(drawn)


def _curve(outcome: Outcome) -> Curve:
    mixes, before, limits = outcome.lowered.curve, outcome.before, outcome.limits
    return Curve(
        precision=outcome.precision.upper(),
        percent=[100.0 * outcome.share(mix) for mix in mixes],
        is_allowed=[not find_losses(before, mix.scores, limits) for mix in mixes],
        chosen=mixes.index(outcome.lowered.chosen),
        panels=[panel for name in before for panel in _panels(name, outcome)],
    )


def _panels(name: str, outcome: Outcome) -> tuple[Panel, ...]:
    """IoU, Pd and Fa on a labelled set; where nothing could be scored there is no place."""
    before, limits = outcome.before[name], outcome.limits
    nothing = Scorer().result()
    scores = [mix.scores.get(name, nothing) for mix in outcome.lowered.curve]
    return (
        Panel(
            f"IoU (higher is better)\n{name}",
            [one.iou for one in scores],
            before.iou,
            before.iou - limits.drop_iou,
        ),
        Panel(
            f"Pd (higher is better)\n{name}",
            [one.pd for one in scores],
            before.pd,
            before.pd - limits.drop_pd,
        ),
        Panel(
            f"Fa per Mpix (lower is better)\n{name}",
            [one.fa_per_mpix for one in scores],
            before.fa_per_mpix,
            highest_fa(before, limits),
        ),
    )


def _inputs(outcome: Outcome) -> list[Taken]:
    """The inputs of the most damaging layers; layers that read the same tensor share one."""
    observed, ranges = outcome.lowered.observed, outcome.lowered.ranges
    readers: dict[str, list[Layer]] = {}
    for layer in outcome.measured:
        if layer.input in observed:
            readers.setdefault(layer.input, []).append(layer)
    return [
        _take(layers, observed[tensor], ranges[tensor])
        for tensor, layers in list(readers.items())[:SHOWN_INPUTS]
    ]


def _take(layers: Sequence[Layer], observation: Observation, carried: float) -> Taken:
    names = shorten_all([layer.name for layer in layers])
    precisions = " and ".join(sorted({layer.precision for layer in layers}))
    half = observation.counts.size // 2
    return Taken(
        title=f"input of {names} ({precisions} in this bundle)",
        counts=observation.counts[half:] + observation.counts[:half][::-1],
        edge=observation.edge,
        carried=carried,
        largest=observation.largest,
        target=observation.target,
    )


def _most_disputed(frames: Sequence[Compared]) -> list[Compared]:
    """The frames that lose most targets, then those that win most."""
    ranked = sorted(frames, key=lambda one: (one.lost.sum(), one.won.sum()), reverse=True)
    return ranked[:SHOWN_FRAMES]


def write_caption(compared: Compared, outcome: Outcome) -> str:
    """Say which precision misses how many targets of a frame, and why the enlarged one."""
    lower, target = outcome.precision.upper(), compared.first_disputed
    row, column = compared.targets[target]
    sides = [("FP32", compared.reference), (lower, compared.other)]
    finder, loser = sides if compared.lost[target] else sides[::-1]
    return (
        f"{compared.labelled.name}: {_missed(compared, lower)}\n"
        f"enlarged, row {row:.0f}, column {column:.0f}: "
        f"{_reason(finder, loser, target, outcome.threshold)}"
    )


def _missed(compared: Compared, lower: str) -> str:
    counts = ((lower, compared.lost.sum(), "FP32"), ("FP32", compared.won.sum(), lower))
    return ", ".join(
        f"{one} misses {count} target{'' if count == 1 else 's'} that {other} finds"
        for one, count, other in counts
        if count
    )


def _reason(
    finder: tuple[str, Answer], loser: tuple[str, Answer], target: int, threshold: float
) -> str:
    """Why one side misses a target: too little confidence there, or a centre too far off."""
    (finds, found), (misses, missed) = finder, loser
    if missed.peaks[target] > threshold:
        return f"{misses} marks pixels there, but centres no detection of its own on it"
    return (
        f"confidence reaches {missed.peaks[target]:.3f} in {misses}, "
        f"{found.peaks[target]:.3f} in {finds}; threshold {threshold:g}"
    )
