import numpy as np
import pytest

from irstd.runtime import Detector, Extraction, FrameContract
from irstd.runtime.comparison import compare_detectors
from irstd.runtime.evaluation import LabelledFrame, score_masks


class Between:
    """An engine that is sure of pixels in a range of the prepared frame, and of no others."""

    description = "between"
    input_shape = (1, 1, 32, 32)

    def __init__(self, low, high):
        self.limits = low, high

    def run(self, prepared):
        low, high = self.limits
        inside = (prepared[0, 0] > low) & (prepared[0, 0] < high)
        return np.where(inside, 0.9, 0.4).astype(np.float32)

    def close(self):
        pass


def detector(low, high):
    contract = FrameContract(32, 32, normalisation="full-scale")
    return Detector(Between(low, high), contract, Extraction())


def labelled(name, *spots, true=True):
    """Spots of 2x2 pixels, given by level, top and left, at least 4 pixels apart."""
    frame, mask = np.full((32, 32), 20, np.uint8), np.zeros((32, 32), np.bool_)
    for level, top, left in spots:
        frame[top : top + 2, left : left + 2] = level
        mask[top : top + 2, left : left + 2] = true
    return LabelledFrame(name, frame, mask)


BRIGHT, DIM, DARK = 200, 120, 60
FRAMES = [
    labelled("both", (BRIGHT, 5, 5), (DIM, 20, 25)),
    labelled("bright", (BRIGHT, 5, 5), (DARK, 20, 20)),
    labelled("none"),
    labelled("false", (BRIGHT, 9, 9), true=False),
]


def test_targets_lost_and_won_are_counted():
    comparison = compare_detectors(detector(0.7, 1.0), detector(0.4, 0.6), FRAMES)
    assert (comparison.both, comparison.lost, comparison.won, comparison.neither) == (0, 2, 1, 1)
    assert comparison.targets == 4
    assert [one.labelled.name for one in comparison.disputed] == ["both", "bright"]
    first, second = comparison.disputed
    assert first.targets.tolist() == [[5.5, 5.5], [20.5, 25.5]]
    assert first.lost.tolist() == [True, False]
    assert first.won.tolist() == [False, True]
    assert second.lost.tolist() == [True, False]
    assert (first.first_disputed, second.first_disputed) == (0, 0)


def test_answers_tell_components_from_targets():
    comparison = compare_detectors(
        detector(0.7, 1.0),
        detector(0.05, 0.1),  # takes the background for targets
        [FRAMES[0]],
    )
    (compared,) = comparison.disputed
    assert compared.reference.mask.sum() == 4
    assert compared.reference.centroids.tolist() == [[5.5, 5.5]]
    assert compared.reference.is_target.tolist() == [True]
    assert compared.other.is_target.tolist() == [False]
    np.testing.assert_allclose(compared.reference.peaks, [0.9, 0.4])
    np.testing.assert_allclose(compared.other.peaks, [0.9, 0.9])


def test_what_only_the_second_finds_is_pointed_at():
    comparison = compare_detectors(detector(0.7, 1.0), detector(0.4, 1.0), FRAMES)
    assert (comparison.both, comparison.lost, comparison.won, comparison.neither) == (2, 0, 1, 1)
    (compared,) = comparison.disputed
    assert compared.first_disputed == 1


def test_equal_detectors_dispute_nothing():
    comparison = compare_detectors(detector(0.4, 1.0), detector(0.4, 1.0), FRAMES)
    assert (comparison.lost, comparison.won, comparison.disputed) == (0, 0, ())


def test_counts_are_those_of_the_scorer():
    first, second = detector(0.7, 1.0), detector(0.4, 0.6)
    comparison = compare_detectors(first, second, FRAMES)
    before, after = score_masks(first, FRAMES), score_masks(second, FRAMES)
    assert before.targets == after.targets == comparison.targets
    assert before.pd == (comparison.both + comparison.lost) / comparison.targets
    assert after.pd == (comparison.both + comparison.won) / comparison.targets


def test_no_frames():
    comparison = compare_detectors(detector(0.7, 1.0), detector(0.4, 0.6), [])
    assert (comparison.targets, comparison.disputed) == (0, ())


def test_a_frame_of_another_type_is_refused():
    wide = LabelledFrame("wide", np.zeros((32, 32), np.uint16), np.zeros((32, 32), np.bool_))
    with pytest.raises(TypeError):
        compare_detectors(detector(0.7, 1.0), detector(0.4, 0.6), [wide])
