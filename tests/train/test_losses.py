from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from irstd.train.losses import (
    balanced_bce,
    batch_soft_iou,
    mean_probability,
    reconstruction_error,
    soft_iou,
)

SURE = 60.0  # the sigmoid of this logit is 1, of its negative 1e-26


def image(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)[None, None]


# --- soft_iou -------------------------------------------------------------------------------------


def test_soft_iou_of_a_perfect_map_is_zero() -> None:
    mask = image([[0, 1, 0], [0, 1, 1]])
    assert float(soft_iou(SURE * (2 * mask - 1), mask)) == pytest.approx(0, abs=1e-12)


def test_soft_iou_by_hand() -> None:
    # Two of three predicted pixels are right, one of three targets is missed:
    # intersection 2, union 4, so 1 - (2 + 1) / (4 + 1).
    mask = image([[1, 1, 1], [0, 0, 0]])
    logits = SURE * image([[1, 1, -1], [1, -1, -1]])
    assert float(soft_iou(logits, mask)) == pytest.approx(1 - 3 / 5)


def test_soft_iou_of_undecided_pixels() -> None:
    # p = 1/2 on 4 pixels, one of them target: intersection 1/2, union 2 + 1 - 1/2.
    logits, mask = image([[0, 0], [0, 0]]), image([[1, 0], [0, 0]])
    assert float(soft_iou(logits, mask)) == pytest.approx(1 - 1.5 / 3.5)


def test_soft_iou_counts_soft_edges_in_part() -> None:
    # intersection 0.25, union 1 + 0.25 - 0.25
    logits, mask = SURE * image([[1, -1]]), image([[0.25, 0.0]])
    assert float(soft_iou(logits, mask)) == pytest.approx(1 - 1.25 / 2)


def test_soft_iou_of_an_empty_mask() -> None:
    logits = image([[0, 0, SURE], [-SURE, -SURE, -SURE]])  # p sums to 2
    assert float(soft_iou(logits, torch.zeros_like(logits))) == pytest.approx(1 - 1 / 3)
    nothing = torch.full_like(logits, -SURE)
    assert float(soft_iou(nothing, torch.zeros_like(logits))) == pytest.approx(0, abs=1e-12)


def test_soft_iou_is_a_mean_over_images_not_over_the_batch_sum() -> None:
    small, large = torch.zeros(2, 1, 8, 8, dtype=torch.float64)[:, None].unbind()
    small[..., 0, 0] = 1
    large[..., :4, :] = 1
    missed = torch.full_like(small, -SURE)
    found = SURE * (2 * large - 1)
    both = soft_iou(torch.cat([missed, found]), torch.cat([small, large]))
    # The missed single pixel alone: 1 - 1 / 2; the large one is perfect.
    assert float(both) == pytest.approx(0.25)


def test_batch_soft_iou_sums_over_the_batch() -> None:
    small, large = torch.zeros(2, 1, 8, 8, dtype=torch.float64)[:, None].unbind()
    small[..., 0, 0] = 1
    large[..., :4, :] = 1
    missed = torch.full_like(small, -SURE)
    found = SURE * (2 * large - 1)
    both = batch_soft_iou(torch.cat([missed, found]), torch.cat([small, large]))
    # 32 of 33 pixels are found, and one pixel smooths both sums.
    assert float(both) == pytest.approx(1 - 33 / 34)


def test_batch_soft_iou_of_one_image_is_soft_iou() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    mask = (torch.rand(1, 1, 6, 6) > 0.7).double()
    assert float(batch_soft_iou(logits, mask)) == pytest.approx(float(soft_iou(logits, mask)))


def test_a_false_alarm_costs_the_same_on_every_frame_of_a_batch() -> None:
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
    mask[0, :, :2, :2] = 1
    losses = []
    for image in (0, 1):
        logits = SURE * (2 * mask - 1)
        logits[image, :, 6, 6] = SURE
        losses.append(float(batch_soft_iou(logits, mask)))
    assert losses[0] == pytest.approx(losses[1]) == pytest.approx(1 - 5 / 6)


def test_clutter_weight_counts_what_lies_apart_from_targets() -> None:
    mask = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    mask[..., 4, 4] = 1
    apart, beside = SURE * (2 * mask - 1), SURE * (2 * mask - 1)
    apart[..., 4, 11], beside[..., 4, 10] = SURE, SURE  # 7 and 6 pixels from the target
    assert float(batch_soft_iou(apart, mask)) == pytest.approx(1 - 2 / 3)
    assert float(batch_soft_iou(apart, mask, clutter_weight=3)) == pytest.approx(1 - 2 / 5)
    assert float(batch_soft_iou(beside, mask, clutter_weight=3)) == pytest.approx(1 - 2 / 3)


def test_soft_iou_has_a_gradient_where_everything_is_undecided() -> None:
    logits = torch.zeros(1, 1, 8, 8, requires_grad=True)
    mask = torch.zeros(1, 1, 8, 8)
    mask[0, 0, 3, 4] = 1
    soft_iou(logits, mask).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0, 3, 4] < 0  # descending raises the target
    rest = logits.grad[mask == 0]
    assert bool((rest > 0).all())  # and lowers the background


def test_soft_iou_pushes_an_empty_frame_down() -> None:
    logits = torch.full((1, 1, 4, 4), -3.0, requires_grad=True)
    soft_iou(logits, torch.zeros(1, 1, 4, 4)).backward()
    assert logits.grad is not None and bool((logits.grad > 0).all())


# --- balanced_bce ---------------------------------------------------------------------------------


def test_balanced_bce_by_hand() -> None:
    # Every pixel costs ln 2 at logit 0, the target ten times as much; mean over 4 pixels.
    logits, mask = image([[0, 0], [0, 0]]), image([[1, 0], [0, 0]])
    expected = (10 + 3) * math.log(2) / 4
    assert float(balanced_bce(logits, mask, target_weight=10)) == pytest.approx(expected)


def test_balanced_bce_with_both_kinds_of_error() -> None:
    # Target at logit 1: ln(1 + e^-1); background at logit 2: ln(1 + e^2).
    logits, mask = image([[1, 2]]), image([[1, 0]])
    expected = (5 * math.log1p(math.exp(-1)) + math.log1p(math.exp(2))) / 2
    assert float(balanced_bce(logits, mask, target_weight=5)) == pytest.approx(expected)


def test_balanced_bce_splits_a_soft_pixel() -> None:
    logits, mask = image([[0]]), image([[0.25]])
    expected = (0.25 * 4 + 0.75) * math.log(2)
    assert float(balanced_bce(logits, mask, target_weight=4)) == pytest.approx(expected)


def test_balanced_bce_stays_finite_and_steep_at_its_worst() -> None:
    mask = image([[1, 0]])
    logits = (1000 * (1 - 2 * mask)).requires_grad_()
    loss = balanced_bce(logits, mask, target_weight=10)
    assert float(loss.detach()) == pytest.approx((10 * 1000 + 1000) / 2)
    loss.backward()
    assert logits.grad is not None
    # Where SoftIoU's sigmoid has no slope left, this term has its full one.
    torch.testing.assert_close(logits.grad, image([[-5, 0.5]]))


def test_balanced_bce_moves_what_soft_iou_leaves() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[0, 0, 8, 8] = 1
    slopes = []
    for loss in (soft_iou, lambda x, y: balanced_bce(x, y, target_weight=10)):
        logits = torch.full((1, 1, 16, 16), -12.0, requires_grad=True)
        loss(logits, mask).backward()
        assert logits.grad is not None
        slopes.append(float(logits.grad[0, 0, 8, 8].abs()))
    assert slopes[0] < 1e-5 < 1e-2 < slopes[1]


# --- reconstruction_error -------------------------------------------------------------------------


def test_reconstruction_error_by_hand() -> None:
    frame, drawn = image([[0, 1], [0.5, 0.5]]), image([[0.5, 1], [0.5, -0.5]])
    assert float(reconstruction_error(drawn, frame)) == pytest.approx((0.25 + 1) / 4)
    assert float(reconstruction_error(frame, frame)) == 0


# --- mean_probability -----------------------------------------------------------------------------


def test_mean_probability_by_hand() -> None:
    # Odds of 3 and of 1/4: probabilities 3/4 and 1/5.
    logits = image([[math.log(3), 0], [-SURE, -math.log(4)]])
    assert float(mean_probability(logits)) == pytest.approx((0.75 + 0.5 + 0.2) / 4)
    both = torch.cat([logits, torch.full_like(logits, SURE)])
    assert float(mean_probability(both)) == pytest.approx((0.3625 + 1) / 2)


def test_mean_probability_has_a_gradient_everywhere() -> None:
    logits = image([[math.log(3), 0], [-3, 2]]).requires_grad_()
    mean_probability(logits).backward()
    probability = logits.detach().sigmoid()
    torch.testing.assert_close(logits.grad, probability * (1 - probability) / 4)
    assert bool((logits.grad > 0).all())  # descending makes targets sparse
