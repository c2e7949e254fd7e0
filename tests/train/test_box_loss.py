import math

import pytest
import torch

from irstd.train.box_loss import (
    assign,
    box_distance,
    box_loss,
    complete_overlap,
    focal,
    pair_overlaps,
    wasserstein,
)
from irstd.train.models.box_head import BoxHead, Predictions, decode, rate
from irstd.train.models.tridos import Design, Tridos

pytestmark = pytest.mark.usefixtures("one_thread")


def raw(height=4, width=4, stride=4):
    """A head that says the same of every place: centred, a cell large, unsure."""
    said = torch.zeros(1, 6, height, width)
    said[:, :2] = 0.5
    return said, stride


def one(predictions):
    return Predictions(
        predictions.boxes[0],
        predictions.objects[0],
        predictions.quality[0],
        predictions.centres,
        predictions.stride,
    )


def test_a_head_is_decoded_by_hand():
    said, stride = raw(2, 3)
    said[0, :, 1, 2] = torch.tensor([0.25, 0.75, math.log(2.0), math.log(0.5), 1.0, -1.0])
    found = decode(said, stride=stride)
    # Place (1, 2): centre (1.25, 2.75) cells of 4 pixels, 8 high and 2 wide.
    torch.testing.assert_close(found.boxes[0, 5], torch.tensor([1.0, 10.0, 9.0, 12.0]))
    torch.testing.assert_close(found.boxes[0, 0], torch.tensor([0.0, 0.0, 4.0, 4.0]))
    torch.testing.assert_close(found.centres[5], torch.tensor([6.0, 10.0]))
    expected = math.sqrt(1 / (1 + math.exp(-1)) / (1 + math.exp(1)))
    assert float(rate(found)[0, 5]) == pytest.approx(expected)


def test_sides_stay_finite():
    said, stride = raw()
    said[:, 2:4] = 1000.0
    assert decode(said, stride=stride).boxes.isfinite().all()


def test_a_fresh_head_is_sure_of_nothing():
    head = BoxHead(8, 16).eval()
    with torch.inference_mode():
        said = head(torch.zeros(1, 8, 4, 4))
    assert float(rate(decode(said, stride=4)).max()) < 0.05


def test_overlaps_by_hand():
    first = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    second = torch.tensor([[0.0, 1.0, 2.0, 3.0], [5.0, 5.0, 6.0, 6.0], [0.0, 0.0, 2.0, 2.0]])
    torch.testing.assert_close(
        pair_overlaps(first, second), torch.tensor([[1 / 3, 0.0, 1.0]]), atol=1e-5, rtol=0
    )


def test_the_complete_overlap_by_hand():
    said = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 4.0]])
    true = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 2.0, 2.0]])
    # 1/3 less 1 of the hull's squared diagonal 4 + 9; both are squares.
    turn = 4 / math.pi**2 * (math.atan(1.0) - math.atan(2.0)) ** 2
    second = 0.5 - 1 / 20 - turn**2 / (1 - 0.5 + turn)
    expected = torch.tensor([1 / 3 - 1 / 13, second])
    torch.testing.assert_close(complete_overlap(said, true), expected, atol=1e-5, rtol=0)


def test_the_wasserstein_distance_by_hand():
    said = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
    true = torch.tensor([[3.0, 4.0, 5.0, 6.0], [-1.0, 0.0, 3.0, 2.0]])
    expected = torch.tensor([math.exp(-5.0 / 12.8), math.exp(-1.0 / 12.8)])
    torch.testing.assert_close(wasserstein(said, true), expected, atol=1e-4, rtol=0)


def test_equal_boxes_are_no_distance_apart_and_gradients_stay_finite():
    said = torch.tensor([[1.0, 1.0, 4.0, 4.0]], requires_grad=True)
    distance = box_distance(said, said.detach())
    assert float(distance.detach()) == pytest.approx(0.0, abs=1e-3)
    distance.sum().backward()
    assert said.grad.isfinite().all()


def test_the_focal_loss_by_hand():
    logits, wanted = torch.tensor([0.0, 0.0, 2.0]), torch.tensor([0.0, 1.0, 1.0])
    sure = 1 / (1 + math.exp(-2.0))
    expected = [0.25 * math.log(2), 0.25 * math.log(2), (1 - sure) ** 2 * -math.log(sure)]
    torch.testing.assert_close(focal(logits, wanted), torch.tensor(expected))


def test_a_tiny_target_gets_the_places_that_fit_best():
    """Of 16 equal boxes the one that overlaps most learns; its neighbours do not."""
    said, stride = raw()
    truth = torch.tensor([[4.5, 8.5, 7.5, 11.5]])
    assigned = assign(one(decode(said, stride=stride)), truth)
    assert assigned.places.tolist() == [1 * 4 + 2]
    assert float(assigned.overlaps) == pytest.approx(9 / 16, abs=1e-4)


def test_a_target_on_the_corner_of_four_cells_is_learned_by_one_of_them():
    said, stride = raw()
    assigned = assign(one(decode(said, stride=stride)), torch.tensor([[7.0, 7.0, 9.0, 9.0]]))
    assert len(assigned.places) == 1
    assert assigned.places.item() in (5, 6, 9, 10)


def test_a_large_target_is_learned_by_several_places_and_none_far_away():
    said, stride = raw(8, 8)
    said[:, 2:4] = math.log(4.0)  # each place says a box of 16 pixels
    truth = torch.tensor([[4.0, 4.0, 20.0, 20.0]])
    assigned = assign(one(decode(said, stride=stride)), truth)
    rows, columns = assigned.places // 8, assigned.places % 8
    assert 2 <= len(assigned.places) <= 10
    assert rows.min() >= 1 and rows.max() <= 4 and columns.min() >= 1 and columns.max() <= 4


def test_a_place_that_two_targets_want_learns_one():
    said, stride = raw()
    truth = torch.tensor([[4.0, 4.0, 8.0, 8.0], [4.0, 4.0, 8.0, 8.5]])
    assigned = assign(one(decode(said, stride=stride)), truth)
    assert len(set(assigned.places.tolist())) == len(assigned.places)


def test_no_target_teaches_silence():
    said, stride = raw()
    said.requires_grad_()
    masks = torch.zeros(1, 1, 16, 16)
    loss = box_loss(decode(said, stride=stride), masks)
    assert float(loss.detach()) == pytest.approx(16 * 0.25 * math.log(2))
    loss.backward()
    assert (said.grad[:, 4] > 0).all()  # every place shall say less
    assert said.grad[:, :4].abs().max() == 0.0


def test_masks_become_boxes_component_by_component():
    """What the head says of two targets exactly costs only what their places are unsure of."""
    said, stride = raw()
    masks = torch.zeros(1, 1, 16, 16)
    masks[0, 0, 4:8, 8:12] = masks[0, 0, 12:16, 0:4] = 1.0
    apart = box_loss(decode(said, stride=stride), masks)
    said[0, 4, 1, 2] = said[0, 4, 3, 0] = said[0, 5] = 20.0
    said[0, 4][said[0, 4] == 0.0] = -20.0
    perfect = box_loss(decode(said, stride=stride), masks)
    assert float(perfect) < 0.02 < float(apart)


def test_a_small_network_learns_to_find_a_moving_spot():
    torch.manual_seed(0)
    network = Tridos(Design(channels=16)).train()
    frames = 0.1 * torch.rand(4, 5, 32, 32)
    masks = torch.zeros(4, 1, 32, 32)
    for number in range(4):
        row, column = 6 + 5 * number, 20 - 3 * number
        for time in range(5):
            frames[number, time, row : row + 3, column + time : column + time + 3] = 1.0
        masks[number, 0, row : row + 3, column + 4 : column + 7] = 1.0
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(60):
        loss = box_loss(network.decode(network(frames)), masks)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.35 * losses[0]
    with torch.inference_mode():
        best = network.find_boxes(frames)[0]
    top, left, bottom, right, _ = best[best[:, 4].argmax()].tolist()
    assert (0.5 * (top + bottom), 0.5 * (left + right)) == (
        pytest.approx(7.5, abs=2.0),
        pytest.approx(25.5, abs=2.0),
    )
