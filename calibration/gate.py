"""The accuracy gate: a lower precision that loses targets never reaches a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..runtime.errors import IrstdError
from ..runtime.scoring import Scores

FEW_ALARMS = 10.0  # per Mpix; of fewer, a single false pixel would be a rise without measure
ROUNDING = 1e-9  # one target of 200 is 0.005, but 1 - 0.995 is a bit more in binary


class CalibrationError(IrstdError):
    """A lower precision costs more than the limits allow."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a lower precision may cost against FP32 on the same frames.

    Attributes:
        drop_pd: largest fall of Pd, as a fraction (0.005 = 0.5 points).
        drop_iou: largest fall of IoU, as a fraction.
        rise_fa: largest rise of Fa, relative to FP32's (0.1 = 10 %), or to 10 per Mpix where FP32
            has less.
    """

    drop_pd: float = 0.005
    drop_iou: float = 0.005
    rise_fa: float = 0.1

    def __post_init__(self) -> None:
        for name in ("drop_pd", "drop_iou", "rise_fa"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more")


def find_losses(
    before: Mapping[str, Scores], after: Mapping[str, Scores], limits: Limits
) -> list[str]:
    """Say what a lower precision loses beyond the limits, which hold on each labelled set.

    Args:
        before: FP32 on the labelled sets, by their names.
        after: the lower precision on the same sets; empty where its output was no confidence.
        limits: what it may cost.

    Returns:
        A text with both numbers for each limit that is passed; of several sets it names the one.

    Raises:
        ValueError: a set holds no targets, or FP32 finds none there, so nothing can be said.
    """
    for name, scores in before.items():
        _check(name, scores)
    if not after:
        return ["the output holds NaN or infinity"]
    lost = {name: _compare(scores, after[name], limits) for name, scores in before.items()}
    if len(lost) == 1:
        return list(*lost.values())
    return [f"{text} on {name}" for name, texts in lost.items() for text in texts]


def _check(name: str, before: Scores) -> None:
    if before.targets == 0:
        raise ValueError(
            f"the {before.frames} labelled frames of {name} hold no target, so the gate cannot "
            "tell what a lower precision loses; name a labelled set with targets"
        )
    if before.pd == 0:
        raise ValueError(
            f"fp32 finds none of the {before.targets} targets of {name}, so the gate cannot tell "
            "what a lower precision loses; name a labelled set like the frames that the weights "
            "were trained on, take other weights, or export in fp32"
        )


def _compare(before: Scores, after: Scores, limits: Limits) -> list[str]:
    losses = []
    if before.pd - after.pd > limits.drop_pd + ROUNDING:
        losses.append(f"Pd {before.pd:.4f} -> {after.pd:.4f} (limit -{limits.drop_pd:g})")
    if before.iou - after.iou > limits.drop_iou + ROUNDING:
        losses.append(f"IoU {before.iou:.4f} -> {after.iou:.4f} (limit -{limits.drop_iou:g})")
    if after.fa_per_mpix > highest_fa(before, limits) + ROUNDING:
        losses.append(
            f"Fa {before.fa_per_mpix:.2f} -> {after.fa_per_mpix:.2f} per Mpix "
            f"(limit {highest_fa(before, limits):.2f}, +{limits.rise_fa:.0%})"
        )
    return losses


def highest_fa(before: Scores, limits: Limits) -> float:
    """The false-alarm pixels per million that a lower precision may have."""
    return before.fa_per_mpix + limits.rise_fa * max(before.fa_per_mpix, FEW_ALARMS)
