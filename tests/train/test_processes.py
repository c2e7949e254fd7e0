from __future__ import annotations

from collections.abc import Callable

import torch

from irstd.train.losses import batch_soft_iou
from irstd.train.processes import count_processes, total

# What each of two processes does: a sum with its gradient, and the loss that is made of such sums.
PROGRAM = """
from irstd.train.losses import batch_soft_iou
from irstd.train.processes import count_processes, total

found["count"] = count_processes()
mine = given["values"][rank].clone().requires_grad_()
sums = total(mine)
sums.square().sum().backward()
found["sums"], found["slope"] = sums.detach(), mine.grad
logits = given["logits"].chunk(2)[rank].clone().requires_grad_()
loss = batch_soft_iou(logits, given["masks"].chunk(2)[rank])
loss.backward()
found["loss"], found["descent"] = loss.detach(), logits.grad
"""


def test_one_process_keeps_what_it_has() -> None:
    value = torch.ones(3)
    assert count_processes() == 1
    assert total(value) is value


def test_two_processes_sum_and_learn_as_one(
    run_twice: Callable[[str, object], list[dict[str, torch.Tensor]]],
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 1, 5, 5, generator=generator)
    masks = (torch.rand(4, 1, 5, 5, generator=generator) > 0.8).float()
    values = torch.tensor([[1.0, 2.0], [10.0, 20.0]])
    given = {"values": values, "logits": logits, "masks": masks}
    found = run_twice(PROGRAM, given)
    whole = logits.clone().requires_grad_()
    expected = batch_soft_iou(whole, masks)
    expected.backward()
    for half in found:
        assert half["count"] == 2
        assert half["sums"].tolist() == [11, 22]
        # Each process adds 2 * sums; their average is the gradient of one process.
        assert half["slope"].tolist() == [2 * 22, 2 * 44]
        torch.testing.assert_close(half["loss"], expected.detach())
    descent = torch.cat([half["descent"] for half in found]) / 2
    torch.testing.assert_close(descent, whole.grad)
