from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irstd.tests.train.crops import PLAIN, constant, same, scene
from irstd.train.data import CropSet, Share, TrainingFrame, batches
from irstd.train.recipe import Augmentation


@pytest.fixture(scope="module")
def rich() -> CropSet:
    """Two datasets, empty frames and every augmentation."""
    empty = TrainingFrame(scene(9).frame, np.zeros_like(scene(9).mask))
    recipe = replace(PLAIN, crop=32, augmentation=Augmentation(transplants=1.0, injected=1.0))
    return CropSet([[scene(0)], [scene(1), scene(2), scene(3)]], [empty], recipe)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 16), st.integers(1, 8))
def test_the_parts_of_all_processes_are_the_batch(step: int, size: int, processes: int) -> None:
    batch = size * processes
    parts = [Share(rank, processes).indices(step, batch) for rank in range(processes)]
    assert [index for part in parts for index in part] == list(Share().indices(step, batch))
    assert {len(part) for part in parts} == {size}
    assert Share().indices(step, batch) == range(step * batch, (step + 1) * batch)


def drawn(crops: CropSet, steps: range, share: Share, *, workers: int) -> list[torch.Tensor]:
    return [torch.stack(pair) for pair in batches(crops, steps, share, workers=workers)]


def test_batches_are_the_crops_in_order(rich: CropSet) -> None:
    (batch,) = drawn(rich, range(3, 4), Share(1, 2), workers=0)
    assert batch.shape == (2, 2, 1, 32, 32) and batch.dtype == torch.float32
    expected = [np.stack(images) for images in zip(rich[14], rich[15], strict=True)]
    assert same(list(batch.numpy()), expected)


def test_a_start_in_the_middle_is_the_tail(rich: CropSet) -> None:
    whole = drawn(rich, range(5), Share(), workers=0)
    tail = drawn(rich, range(2, 5), Share(), workers=0)
    assert len(whole) == 5 and len(tail) == 3
    assert all(torch.equal(*pair) for pair in zip(whole[2:], tail, strict=True))
    assert drawn(rich, range(5, 5), Share(), workers=0) == []


def test_a_worker_draws_the_same(rich: CropSet) -> None:
    alone = drawn(rich, range(3), Share(), workers=0)
    helped = drawn(rich, range(3), Share(), workers=1)
    assert all(torch.equal(*pair) for pair in zip(alone, helped, strict=True))


def test_batches_do_not_share_memory_with_the_frames() -> None:
    labelled = constant(1)
    frames, masks = next(batches(CropSet([[labelled]], [], PLAIN), range(1), Share(), workers=0))
    frames.zero_()
    masks.fill_(7)
    assert labelled.frame.min() == 1 and labelled.mask.max() == 0
