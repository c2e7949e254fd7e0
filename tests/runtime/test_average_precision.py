import math

import numpy as np
import pytest

from irstd.runtime.average_precision import AveragePrecision

HERE, THERE = (0.0, 0.0, 4.0, 4.0), (10.0, 10.0, 14.0, 14.0)
NOTHING = (50.0, 50.0, 54.0, 54.0)


def boxes(*said):
    return np.array([[*box, score] for box, score in said]).reshape(-1, 5)


def truth(*true):
    return np.array(true).reshape(-1, 4)


def average(*frames):
    made = AveragePrecision()
    for said, true in frames:
        made.add(boxes(*said), truth(*true))
    return made.result()


def test_all_found_and_nothing_else():
    assert average(([(HERE, 0.4), (THERE, 0.6)], [HERE, THERE])) == 1.0


def test_a_false_alarm_below_all_finds_costs_nothing_and_one_above_them_does():
    assert average(([(HERE, 0.9), (NOTHING, 0.5)], [HERE])) == 1.0
    assert average(([(HERE, 0.5), (NOTHING, 0.9)], [HERE])) == 0.5


def test_by_hand_over_two_frames():
    """Find 1/1, alarm 1/2, find 2/3, find 3/4 of 4 targets: raised to 1, 3/4, 3/4.

    Each find adds a quarter of recall: (1 + 3/4 + 3/4) / 4.
    """
    first = [(HERE, 0.9), (NOTHING, 0.8), (THERE, 0.6)], [HERE, THERE]
    second = [(HERE, 0.7)], [HERE, THERE]
    assert average(first, second) == pytest.approx(0.625)
    assert average(second, first) == pytest.approx(0.625)


def test_a_target_is_found_once_by_the_best_score():
    """Two boxes on one target: the second is a false alarm, also where it fits better."""
    loose = (0.0, 0.0, 4.0, 5.0)
    assert average(([(loose, 0.9), (HERE, 0.8), (THERE, 0.7)], [HERE, THERE])) == pytest.approx(
        (1.0 + 2.0 / 3.0) / 2.0
    )


@pytest.mark.parametrize(("columns", "expected"), [(2.0, 1.0), (1.9, 0.0)])
def test_an_overlap_of_one_half_is_enough(columns, expected):
    assert average(([((0.0, 0.0, 4.0, columns), 0.9)], [HERE])) == expected


def test_nothing_said_is_zero_and_no_target_is_undefined():
    assert average(([], [HERE])) == 0.0
    assert math.isnan(average(([(HERE, 0.9)], [])))
    assert math.isnan(AveragePrecision().result())
    # A frame without target still counts its false alarms.
    assert average(([(NOTHING, 0.9)], []), ([(HERE, 0.8)], [HERE])) == 0.5


@pytest.mark.parametrize(
    ("said", "true", "expected"),
    [
        (np.zeros((2, 4)), np.zeros((0, 4)), r"boxes have shape \(2, 4\), expected \(n, 5\)"),
        (np.zeros((0, 5)), np.zeros(4), r"true boxes have shape \(4,\)"),
        (np.full((1, 5), np.nan), np.zeros((0, 4)), "NaN"),
    ],
)
def test_what_are_no_boxes_is_refused(said, true, expected):
    with pytest.raises(ValueError, match=expected):
        AveragePrecision().add(said, true)
