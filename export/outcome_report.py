"""The part of a bundle's report.md that tells what a lower precision costs."""

from __future__ import annotations

from collections.abc import Sequence

from ..calibration.gate import find_losses, highest_fa
from ..calibration.sensitivity import Mix
from ..runtime.scoring import MATCH_DISTANCE, Scores
from .lowering import DAMAGE_FRAMES, Reached
from .outcome import DISAGREEMENTS, RANGES, SENSITIVITY, Layer, Outcome, shorten, shorten_all

SHOWN_LAYERS = 10
SEARCHED: dict[Reached, str] = {
    "int8": "From nine tenths of the arithmetic on, engines are about equally fast: of three mixes "
    "there that stay inside the limits, the one with the highest IoU is chosen. Only if there is "
    "none, the search tries what lies between them, then goes further down, to the first inside. "
    "Mixes beside these are there for comparison.",
    "fp16": "The search begins with all that FP16 can take and goes down to the first share inside "
    "the limits.",
}


def write_outcome(outcome: Outcome, pictures: Sequence[str]) -> str:
    """Tell in Markdown what the gate decided, and why.

    Args:
        outcome: of the lower precision.
        pictures: files that lie beside the report.
    """
    parts = (
        _gate(outcome),
        _targets(outcome, pictures),
        _layers(outcome),
        _curve(outcome, pictures),
        _ranges(outcome, pictures),
    )
    return "".join(f"{part}\n" for part in parts if part)


def _gate(outcome: Outcome) -> str:
    lower = outcome.precision.upper()
    after = outcome.lowered.scores
    sets = "".join(
        _changes(name, before, after[name], outcome) for name, before in outcome.before.items()
    )
    each = " each of the sets below" if len(outcome.before) > 1 else " the set below"
    return f"""## {lower} against FP32
{lower} lost no more than was allowed on{each}, or there would be no bundle. A point is a hundredth.

{sets}{lower} is computed here as the graph is written, with every rounding that the graph asks \
for. TensorRT may round in fewer places, and what a CPU computes stands last under Accuracy.
"""


def _changes(name: str, before: Scores, after: Scores, outcome: Outcome) -> str:
    lower, limits = outcome.precision.upper(), outcome.limits
    one = 100.0 / before.targets
    alarms = (after.fa_per_mpix / before.fa_per_mpix - 1.0) if before.fa_per_mpix else None
    return f"""On {name} ({before.frames} frames, {before.targets} targets; one target is \
{one:.2f} points of Pd):

| | FP32 | {lower} | change | allowed |
|---|---|---|---|---|
| Pd | {before.pd:.4f} | {after.pd:.4f} | {100 * (after.pd - before.pd):+.2f} points | \
{100 * limits.drop_pd:g} points less |
| IoU | {before.iou:.4f} | {after.iou:.4f} | {100 * (after.iou - before.iou):+.2f} points | \
{100 * limits.drop_iou:g} points less |
| Fa per Mpix | {before.fa_per_mpix:.2f} | {after.fa_per_mpix:.2f} | \
{"-" if alarms is None else f"{alarms:+.1%}"} | up to {highest_fa(before, limits):.2f} |

"""


def _targets(outcome: Outcome, pictures: Sequence[str]) -> str:
    lower, compared = outcome.precision.upper(), outcome.compared
    said = "".join(
        f"- {name}: of {one.targets} true targets both find {one.both} and neither finds "
        f"{one.neither}. FP32 finds {one.lost} that {lower} misses, {lower} finds {one.won} that "
        "FP32 misses.\n"
        for name, one in compared.items()
    )
    shown = "No target is found by only one of them, so there is no picture of such frames.\n"
    if any(one.lost or one.won for one in compared.values()):
        shown = _picture(DISAGREEMENTS, "Frames with targets that one precision misses", pictures)
    return f"""### Target by target
{said}
Found means, as for Pd, that a detection is centred less than {MATCH_DISTANCE:g} pixels from the \
target's centre.

{shown}"""


def _layers(outcome: Outcome) -> str:
    lower, layers, kept = outcome.precision.upper(), outcome.layers, outcome.kept
    if not kept:
        text = f"All {len(layers)} layers (convolutions and matrix products) are in {lower}.\n"
    else:
        held = sum(layer.share for layer in kept)
        text = (
            f"{len(kept)} of {len(layers)} layers (convolutions and matrix products) stay in FP32, "
            f"with {held:.1%} of the arithmetic:\n{_reasons(outcome)}"
        )
    return f"### Layers\n{text}{_worst(outcome)}"


def _reasons(outcome: Outcome) -> str:
    """Why layers stay in FP32, a line for each reason."""
    reasons: dict[str, list[str]] = {}
    for layer in outcome.kept:
        reasons.setdefault(_reason(layer, outcome), []).append(layer.name)
    return "".join(
        f"- {len(names)} because {reason}: {shorten_all(names)}\n"
        for reason, names in reasons.items()
    )


def _reason(layer: Layer, outcome: Outcome) -> str:
    if layer not in outcome.unfit:
        return "lowering them costs most for their arithmetic"
    if outcome.precision == "fp16":
        return "values come near 65504, where FP16 ends, or are statistics of the frame"
    if layer.name in outcome.lowered.untrained:
        return "the training that the ranges come from did not round them"
    if outcome.lowered.ranges.get(layer.input) == 0.0:
        return "they read nothing but zeros on the calibration frames"
    return "INT8 takes only convolutions with constant weights"


def _worst(outcome: Outcome) -> str:
    lower, worst = outcome.precision.upper(), outcome.measured[:SHOWN_LAYERS]
    if not worst:
        return "\nThe scores asked for no more, so none was lowered alone to see what it costs.\n"
    return f"""
When one layer alone is in {lower}, the confidence changes. The {len(worst)} layers where it does \
most, on {DAMAGE_FRAMES} calibration frames:

| layer | share of the arithmetic | mean squared change of confidence | precision here |
|---|---|---|---|
{"".join(map(_layer_row, worst))}
Layers with the most change for their arithmetic are left out first; one that holds much of it \
is lowered all the same if the scores allow it. Names are shortened; `manifest.json` has them whole.
"""


def _layer_row(layer: Layer) -> str:
    return (
        f"| {shorten(layer.name)} | {layer.share:.1%} | {layer.damage:.1e} | {layer.precision} |\n"
    )


def _curve(outcome: Outcome, pictures: Sequence[str]) -> str:
    lower, before = outcome.precision.upper(), outcome.before
    rows = "".join(_mix_rows(mix, outcome) for mix in outcome.lowered.curve)
    rows += "".join(f"| none | {name} | {_scores(one)} | FP32 |\n" for name, one in before.items())
    return f"""### How much can be lowered
{SEARCHED[outcome.precision]}

| arithmetic in {lower} | labelled set | IoU | nIoU | Pd | Fa per Mpix | |
|---|---|---|---|---|---|---|
{rows}
{_picture(SENSITIVITY, f"Scores against the share of the arithmetic in {lower}", pictures)}"""


def _mix_rows(mix: Mix, outcome: Outcome) -> str:
    """A row for each labelled set, or one where there was nothing to score."""
    share = f"{outcome.share(mix):.1%}"
    if not mix.scores:
        return f"| {share} | | - | - | - | - | gives NaN or infinity |\n"
    rows = (
        f"| {share} | {name} | {_scores(after)} | {_verdict(mix, name, outcome)} |\n"
        for name, after in mix.scores.items()
    )
    return "".join(rows)


def _verdict(mix: Mix, name: str, outcome: Outcome) -> str:
    if mix == outcome.lowered.chosen:
        return "**chosen**"
    one = {name: outcome.before[name]}
    lost = find_losses(one, mix.scores, outcome.limits)
    return "beyond the limits" if lost else "inside the limits"


def _scores(scores: Scores) -> str:
    figures = (scores.iou, scores.niou, scores.pd)
    shown = (*(f"{value:.4f}" for value in figures), f"{scores.fa_per_mpix:.2f}")
    return " | ".join("-" if value == "nan" else value for value in shown)


def _ranges(outcome: Outcome, pictures: Sequence[str]) -> str:
    shown = _picture(RANGES, "Values and ranges of layer inputs", pictures)
    if not shown:
        return ""
    return f"""### Ranges
INT8 has 127 steps to each side of zero and clips what lies beyond the last. A wide range clips \
nothing and blurs dim targets; a narrow one clips bright ones. These are the inputs of the layers \
that change the confidence most.

{shown}"""


def _picture(name: str, says: str, pictures: Sequence[str]) -> str:
    return f"![{says}]({name})\n" if name in pictures else ""
