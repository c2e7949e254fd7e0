"""Two detectors on the same labelled frames, target by target: who finds what the other misses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .components import Components, connect
from .detector import Detector
from .evaluation import LabelledFrame
from .frame import FloatMap
from .scoring import MATCH_DISTANCE, Mask, Points, match_masks

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a detector says about a labelled frame.

    Attributes:
        mask: (H, W) bool, what it takes for targets.
        centroids: (n, 2) row and column of the components of `mask`.
        is_target: (n,) whether each component finds a true target.
        finds: (m,) whether each true target is found.
        peaks: (m,) highest confidence in each true target and up to 3 pixels around it.
    """

    mask: Mask
    centroids: Points
    is_target: Flags
    finds: Flags
    peaks: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Compared:
    """A labelled frame and what two detectors say about it.

    Attributes:
        labelled: the frame.
        targets: (m, 2) row and column of its true targets.
        reference: what the first detector says.
        other: what the second one says.
    """

    labelled: LabelledFrame
    targets: Points
    reference: Answer
    other: Answer

    @property
    def lost(self) -> Flags:
        """(m,) whether only the first detector finds each true target."""
        return self.reference.finds & ~self.other.finds

    @property
    def won(self) -> Flags:
        """(m,) whether only the second detector finds each true target."""
        return self.other.finds & ~self.reference.finds

    @property
    def first_disputed(self) -> int:
        """Index of the first lost target, or else of the first won one."""
        return int(np.argmax(self.lost if self.lost.any() else self.won))


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the finds of two detectors differ over a set of labelled frames.

    Attributes:
        both: true targets that both find.
        lost: that only the first one finds.
        won: that only the second one finds.
        neither: that none finds.
        disputed: the frames with a lost or won target, in their order.
    """

    both: int
    lost: int
    won: int
    neither: int
    disputed: tuple[Compared, ...]

    @property
    def targets(self) -> int:
        """True targets of all frames."""
        return self.both + self.lost + self.won + self.neither


def compare_detectors(
    reference: Detector, other: Detector, frames: Iterable[LabelledFrame]
) -> Comparison:
    """Run two detectors on labelled frames and match both with the truth as `Scorer` does.

    Args:
        reference: the first detector, say of FP32.
        other: the second one, say of INT8.
        frames: gone through once, at their native resolution.

    Raises:
        TypeError: a frame is of another sample type than a detector expects.
        ValueError: a frame does not fit a detector.
    """
    both = lost = won = neither = 0
    disputed = []
    for labelled in frames:
        if labelled.begins:
            reference.reset()
            other.reset()
        if (compared := _compare(reference, other, labelled)) is None:
            continue
        first, second = compared.reference.finds, compared.other.finds
        both += int((first & second).sum())
        lost += int(compared.lost.sum())
        won += int(compared.won.sum())
        neither += int((~first & ~second).sum())
        if (first != second).any():
            disputed.append(compared)
    return Comparison(both, lost, won, neither, tuple(disputed))


def _compare(reference: Detector, other: Detector, labelled: LabelledFrame) -> Compared | None:
    """What both say to a frame; None for one before a clip is whole, which nobody can answer."""
    answers = _ask(reference, labelled), _ask(other, labelled)
    if answers[0] is None or answers[1] is None:
        return None
    return Compared(labelled, connect(labelled.mask).centroids(), answers[0], answers[1])


def _ask(detector: Detector, labelled: LabelledFrame) -> Answer | None:
    confidence = detector.confidence(labelled.frame)
    if confidence.clip is not None and confidence.clip.frames_missing:
        return None
    values = confidence.on_sensor()
    mask = values > detector.extraction.threshold
    matched = match_masks(mask, labelled.mask)
    is_target = np.zeros(matched.components.count, np.bool_)
    finds = np.zeros(matched.targets.count, np.bool_)
    is_target[matched.pairs[:, 0]] = True
    finds[matched.pairs[:, 1]] = True
    return Answer(
        mask, matched.components.centroids(), is_target, finds, _peaks(values, matched.targets)
    )


def _peaks(values: FloatMap, targets: Components) -> npt.NDArray[np.float32]:
    """The highest value in the box around each target, widened by the distance of a match."""
    reach = int(MATCH_DISTANCE)
    peaks = np.zeros(targets.count, np.float32)
    for target in range(targets.count):
        own = targets.labels == target
        rows, columns = targets.rows[own], targets.columns[own]
        box = values[
            max(rows.min() - reach, 0) : rows.max() + reach + 1,
            max(columns.min() - reach, 0) : columns.max() + reach + 1,
        ]
        peaks[target] = box.max()
    return peaks
