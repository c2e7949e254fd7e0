from dataclasses import replace

import pytest

from irstd.calibration.gate import CalibrationError, Limits, check_gate
from irstd.runtime.scoring import Scores

BEFORE = Scores(
    iou=0.7, niou=0.7, precision=0.8, recall=0.8, f1=0.8, pd=0.95, fa_per_mpix=20.0, frames=10,
    targets=20, false_alarms_per_frame=0.1,
)  # fmt: skip


def test_equal_scores_and_small_losses_pass():
    check_gate(BEFORE, BEFORE, Limits())
    check_gate(BEFORE, replace(BEFORE, pd=0.946, iou=0.696, fa_per_mpix=21.9), Limits())
    check_gate(BEFORE, replace(BEFORE, pd=1.0, iou=0.9, fa_per_mpix=0.0), Limits())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pd": 0.944}, "Pd 0.9500 -> 0.9440 (limit -0.005)"),
        ({"iou": 0.694}, "IoU 0.7000 -> 0.6940 (limit -0.005)"),
        ({"fa_per_mpix": 22.1}, "Fa 20.00 -> 22.10 per Mpix (limit +10%)"),
    ],
)
def test_each_loss_is_refused_with_its_number(change, said):
    with pytest.raises(CalibrationError, match="loses targets") as caught:
        check_gate(BEFORE, replace(BEFORE, **change), Limits())
    assert said in str(caught.value)


def test_all_losses_are_told_at_once():
    with pytest.raises(CalibrationError) as caught:
        check_gate(BEFORE, replace(BEFORE, pd=0.0, iou=0.0, fa_per_mpix=99.0), Limits())
    assert str(caught.value).count("->") == 3


def test_wider_limits_let_more_through():
    check_gate(BEFORE, replace(BEFORE, pd=0.90), Limits(drop_pd=0.06))


def test_frames_without_target_say_nothing():
    with pytest.raises(ValueError, match="hold no target"):
        check_gate(replace(BEFORE, targets=0), BEFORE, Limits())


@pytest.mark.parametrize("name", ["drop_pd", "drop_iou", "rise_fa"])
def test_limits_are_checked(name):
    with pytest.raises(ValueError, match=f"{name} is -1"):
        Limits(**{name: -1})
