from dataclasses import replace

import pytest

from irstd.calibration import gate
from irstd.calibration.gate import Limits, highest_fa
from irstd.runtime.scoring import Scores

BEFORE = Scores(
    iou=0.7, niou=0.7, precision=0.8, recall=0.8, f1=0.8, pd=0.95, fa_per_mpix=20.0, frames=10,
    targets=20, false_alarms_per_frame=0.1,
)  # fmt: skip


def find_losses(before, after, limits):
    """Of one labelled set."""
    return gate.find_losses({"set": before}, {"set": after}, limits)


def test_equal_scores_and_small_losses_pass():
    assert find_losses(BEFORE, BEFORE, Limits()) == []
    small = replace(BEFORE, pd=0.946, iou=0.696, fa_per_mpix=21.9)
    assert find_losses(BEFORE, small, Limits()) == []
    better = replace(BEFORE, pd=1.0, iou=0.9, fa_per_mpix=0.0)
    assert find_losses(BEFORE, better, Limits()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pd": 0.944}, "Pd 0.9500 -> 0.9440 (limit -0.005)"),
        ({"iou": 0.694}, "IoU 0.7000 -> 0.6940 (limit -0.005)"),
        ({"fa_per_mpix": 22.1}, "Fa 20.00 -> 22.10 per Mpix (limit 22.00, +10%)"),
    ],
)
def test_each_loss_is_told_with_its_numbers(change, said):
    assert find_losses(BEFORE, replace(BEFORE, **change), Limits()) == [said]


def test_all_losses_are_told_at_once():
    worse = replace(BEFORE, pd=0.0, iou=0.0, fa_per_mpix=99.0)
    losses = find_losses(BEFORE, worse, Limits())
    assert [loss.split()[0] for loss in losses] == ["Pd", "IoU", "Fa"]


@pytest.mark.parametrize("targets", [200, 400, 1000, 2000])
def test_a_loss_of_just_the_limit_passes(targets):
    # In binary 1 - 0.995 is more than 0.005.
    lost = round(0.005 * targets)
    whole = replace(BEFORE, pd=1.0, iou=1.0)
    for found in range(lost, targets + 1):
        before = replace(whole, pd=found / targets, iou=found / targets)
        after = replace(whole, pd=(found - lost) / targets, iou=(found - lost) / targets)
        assert find_losses(before, after, Limits()) == []
    one_more = replace(whole, pd=(targets - lost - 1) / targets)
    assert len(find_losses(whole, one_more, Limits())) == 1


def test_false_alarms_may_rise_by_just_the_limit():
    before = replace(BEFORE, fa_per_mpix=30.0)
    assert find_losses(before, replace(before, fa_per_mpix=33.0), Limits()) == []
    assert find_losses(before, replace(before, fa_per_mpix=33.1), Limits())
    none = replace(BEFORE, fa_per_mpix=0.0)
    assert find_losses(none, none, Limits()) == []
    assert find_losses(none, replace(none, fa_per_mpix=1.01), Limits())


def test_nothing_may_be_lost():
    strict = Limits(drop_pd=0, drop_iou=0, rise_fa=0)
    assert find_losses(BEFORE, BEFORE, strict) == []
    worse = replace(BEFORE, pd=0.9499, iou=0.6999, fa_per_mpix=20.01)
    assert len(find_losses(BEFORE, worse, strict)) == 3


def test_wider_limits_let_more_through():
    assert find_losses(BEFORE, replace(BEFORE, pd=0.90), Limits(drop_pd=0.06)) == []


def test_limits_are_shown_as_they_were_given():
    after = replace(BEFORE, pd=0.5, fa_per_mpix=50.0)
    losses = find_losses(BEFORE, after, Limits(drop_pd=0.025, rise_fa=0.5))
    assert losses[0].endswith("(limit -0.025)") and losses[1].endswith("(limit 30.00, +50%)")


def test_frames_without_target_say_nothing():
    with pytest.raises(ValueError, match="the 10 labelled frames of set hold no target"):
        find_losses(replace(BEFORE, targets=0), BEFORE, Limits())


def test_where_fp32_finds_nothing_nothing_passes():
    blind = replace(BEFORE, pd=0.0, iou=0.0)
    with pytest.raises(
        ValueError, match="fp32 finds none of the 20 targets of set, .* other weights"
    ):
        find_losses(blind, blind, Limits())
    assert find_losses(replace(BEFORE, pd=0.05), replace(BEFORE, pd=0.0), Limits())


def test_an_output_that_was_no_confidence_loses_everything():
    losses = gate.find_losses({"day": BEFORE, "night": BEFORE}, {}, Limits())
    assert losses == ["the output holds NaN or infinity"]


def test_limits_hold_on_each_of_several_sets_which_are_named():
    before = {"day": BEFORE, "night": replace(BEFORE, pd=0.5)}
    assert gate.find_losses(before, dict(before), Limits()) == []
    after = {"day": replace(BEFORE, pd=1.0), "night": replace(BEFORE, pd=0.4, iou=0.6)}
    assert gate.find_losses(before, after, Limits()) == [
        "Pd 0.5000 -> 0.4000 (limit -0.005) on night",
        "IoU 0.7000 -> 0.6000 (limit -0.005) on night",
    ]


def test_one_set_that_nothing_can_be_said_of_is_named():
    before = {"day": BEFORE, "night": replace(BEFORE, targets=0)}
    with pytest.raises(ValueError, match="the 10 labelled frames of night hold no target"):
        gate.find_losses(before, dict(before), Limits())


@pytest.mark.parametrize("value", [-1, float("nan")])
@pytest.mark.parametrize("name", ["drop_pd", "drop_iou", "rise_fa"])
def test_limits_are_checked(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}, expected 0 or more"):
        Limits(**{name: value})


@pytest.mark.parametrize(
    ("before", "rise", "highest"), [(0.0, 0.1, 1.0), (5.0, 0.1, 6.0), (10.0, 0.1, 11.0), (0, 0, 0)]
)
def test_where_there_are_few_false_alarms_the_rise_counts_from_ten(before, rise, highest):
    scores, limits = replace(BEFORE, fa_per_mpix=before), Limits(rise_fa=rise)
    assert highest_fa(scores, limits) == pytest.approx(highest)
    assert not find_losses(scores, replace(scores, fa_per_mpix=highest), limits)
    assert find_losses(scores, replace(scores, fa_per_mpix=highest + 0.01), limits)
