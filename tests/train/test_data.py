from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from irstd.runtime.datasets import open_dataset
from irstd.runtime.frame import FrameContract, prepare
from irstd.train.data import CropSampler, TrainingFrame, load_frames, open_split

CONTRACT = FrameContract(height=16, width=24)


def scene(seed: int, height: int, width: int) -> tuple[npt.NDArray[np.uint8], ...]:
    """A frame of noise with a 3x3 target, and its 0/255 mask."""
    rng = np.random.default_rng(seed)
    frame = rng.integers(20, 90, (height, width), dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    row, column = int(rng.integers(height - 3)), int(rng.integers(width - 3))
    window = np.s_[row : row + 3, column : column + 3]
    frame[window], mask[window] = 220, 255
    return frame, mask


def write_dataset(root: Path, count: int, *, height: int = 16, width: int = 24) -> Path:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        frame, mask = scene(number, height, width)
        cv2.imwrite(str(root / "images" / f"{number}.png"), frame)
        cv2.imwrite(str(root / "masks" / f"{number}.png"), mask)
    names = [str(number) for number in range(count)]
    (root / "train.txt").write_text("\n".join(names[:-1]), encoding="utf-8")
    (root / "val.txt").write_text(names[-1], encoding="utf-8")
    return root


def constant(value: float, *, side: int = 8) -> TrainingFrame:
    """A frame that can be told from others in any crop and turn."""
    return TrainingFrame(
        np.full((side, side), value, np.float32), np.zeros((side, side), np.float32)
    )


def drawn(sampler: CropSampler, *, size: int, count: int, seed: int = 0) -> list[list[float]]:
    """Which constant frame each place of each batch shows."""
    batches = sampler.batches(size=size, count=count, rng=np.random.default_rng(seed))
    return [frames[:, 0, 0, 0].tolist() for frames, _ in batches]


# --- load_frames and open_split -------------------------------------------------------------------


def test_frames_are_prepared_as_in_flight(tmp_path: Path) -> None:
    dataset = open_dataset(write_dataset(tmp_path, 3))
    frames = load_frames(dataset, CONTRACT)
    assert len(frames) == 3
    for number, labelled in enumerate(frames):
        frame, mask = scene(number, 16, 24)
        np.testing.assert_array_equal(labelled.frame, prepare(frame, CONTRACT)[0, 0])
        np.testing.assert_array_equal(labelled.mask, (mask > 0).astype(np.float32))
        assert labelled.frame.dtype == labelled.mask.dtype == np.float32


def test_the_mask_is_fitted_like_the_frame(tmp_path: Path) -> None:
    dataset = open_dataset(write_dataset(tmp_path, 2, height=32, width=48))
    for number, labelled in enumerate(load_frames(dataset, CONTRACT)):
        assert labelled.frame.shape == labelled.mask.shape == (16, 24)
        _, mask = scene(number, 32, 48)
        # Halving averages 2x2 pixels: the area survives, quartered, and edges become soft.
        quarters = (mask > 0).reshape(16, 2, 24, 2).mean(axis=(1, 3))
        np.testing.assert_allclose(labelled.mask, quarters, atol=1e-6)
        assert labelled.frame[labelled.mask == 1].min() > labelled.frame[labelled.mask == 0].max()


def test_a_padded_frame_keeps_its_mask_in_place(tmp_path: Path) -> None:
    contract = FrameContract(height=24, width=32, fit="pad")
    (labelled,) = load_frames(open_dataset(write_dataset(tmp_path, 1)), contract)
    frame, mask = scene(0, 16, 24)
    np.testing.assert_array_equal(labelled.frame, prepare(frame, contract)[0, 0])
    np.testing.assert_array_equal(labelled.mask[:16, :24], (mask > 0).astype(np.float32))
    # A target that the border mirrors is a target there too.
    bright = labelled.frame > 0.99
    np.testing.assert_array_equal(labelled.mask > 0.5, bright)


def test_sixteen_bit_frames_and_soft_masks(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    frame = np.random.default_rng(0).integers(0, 2**14, (16, 24), dtype=np.uint16)
    mask = np.zeros((16, 24), np.uint8)
    mask[4, 4:7] = (1, 0, 1)
    cv2.imwrite(str(tmp_path / "images/a.png"), frame)
    cv2.imwrite(str(tmp_path / "masks/a.png"), mask)
    contract = FrameContract(height=16, width=24, bit_depth=14, normalisation="full-scale")
    (labelled,) = load_frames(open_dataset(tmp_path), contract)
    np.testing.assert_allclose(labelled.frame, frame / np.float32(2**14 - 1), rtol=1e-6)
    assert np.argwhere(labelled.mask == 1).tolist() == [[4, 4], [4, 6]]


def test_a_sequence_without_masks(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    cv2.imwrite(str(tmp_path / "frames/1.png"), scene(0, 16, 24)[0])
    (tmp_path / "centroids.csv").write_text("frame,x,y\n1,4,5\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"1\.png has no mask; training needs a dataset with"):
        load_frames(open_dataset(tmp_path), CONTRACT)


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    dataset = open_dataset(write_dataset(tmp_path, 2))
    cv2.imwrite(str(tmp_path / "masks/1.png"), np.zeros((16, 16), np.uint8))
    with pytest.raises(ValueError, match="mask of 1 is 16x16, expected 16x24"):
        load_frames(dataset, CONTRACT)


def test_open_split(tmp_path: Path) -> None:
    roots = [write_dataset(tmp_path / "a", 3), write_dataset(tmp_path / "b", 5)]
    assert [len(dataset) for dataset in open_split(roots, "train")] == [2, 4]
    assert [dataset.split for dataset in open_split(roots, "val")] == ["val", "val"]
    with pytest.raises(ValueError, match="has no split 'test'"):
        open_split(roots, "test")


# --- CropSampler ----------------------------------------------------------------------------------


def test_batches_have_the_shape_of_the_network_s_input() -> None:
    sampler = CropSampler([[constant(1, side=12)]], side=5, target_share=0.5)
    batches = list(sampler.batches(size=3, count=4, rng=np.random.default_rng(0)))
    assert len(batches) == 4
    for frames, masks in batches:
        assert frames.shape == masks.shape == (3, 1, 5, 5)
        assert frames.dtype == masks.dtype == torch.float32


def test_frames_and_masks_belong_together() -> None:
    rng = np.random.default_rng(0)
    frames = [rng.random((9, 9), dtype=np.float32) for _ in range(3)]
    labelled = [TrainingFrame(frame, (frame > 0.6).astype(np.float32)) for frame in frames]
    sampler = CropSampler([labelled], side=6, target_share=0.5)
    for batch, masks in sampler.batches(size=4, count=5, rng=rng):
        torch.testing.assert_close(masks, (batch > 0.6).float())


def test_every_crop_holds_a_target_where_asked() -> None:
    labelled = constant(1, side=40)
    labelled.mask[39, 0] = 1
    sampler = CropSampler([[labelled]], side=4, target_share=1.0)
    for _, masks in sampler.batches(size=8, count=5, rng=np.random.default_rng(0)):
        assert bool((masks.sum(dim=(1, 2, 3)) == 1).all())


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_small_and_large_datasets_give_equally_many(size: int) -> None:
    datasets = [
        [constant(0)],
        [constant(10 + number) for number in range(4)],
        [constant(100 + number) for number in range(50)],
    ]
    count = 30
    values = sum(drawn(CropSampler(datasets, 4, 0.0), size=size, count=count), [])
    sources = Counter(len(str(int(value))) for value in values)
    assert sum(sources.values()) == size * count
    assert set(sources.values()) == {size * count // 3}


def test_every_frame_is_visited_before_any_comes_again() -> None:
    datasets = [
        [constant(number) for number in range(5)],
        [constant(10 + number) for number in range(3)],
    ]
    values = sum(drawn(CropSampler(datasets, 4, 0.0), size=2, count=30), [])
    first = [value for value in values if value < 10]
    second = [value for value in values if value >= 10]
    passes = [first[start : start + 5] for start in range(0, 30, 5)]
    assert all(sorted(part) == [0, 1, 2, 3, 4] for part in passes)
    assert len({tuple(part) for part in passes}) > 1  # in another order each time
    assert all(
        sorted(second[start : start + 3]) == [10, 11, 12] for start in range(0, len(second), 3)
    )


def test_the_seed_decides_everything() -> None:
    rng = np.random.default_rng(3)
    frames = [rng.random((12, 12), dtype=np.float32) for _ in range(4)]
    labelled = [TrainingFrame(frame, (frame > 0.9).astype(np.float32)) for frame in frames]
    sampler = CropSampler([labelled[:1], labelled[1:]], side=6, target_share=0.5)

    def draw(seed: int) -> torch.Tensor:
        batches = sampler.batches(size=3, count=4, rng=np.random.default_rng(seed))
        return torch.stack([torch.stack(pair) for pair in batches])

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


def test_batches_do_not_share_memory_with_the_frames() -> None:
    labelled = constant(1)
    sampler = CropSampler([[labelled]], side=8, target_share=0.0)
    frames, masks = next(sampler.batches(size=1, count=1, rng=np.random.default_rng(0)))
    frames.zero_()
    masks.fill_(7)
    assert labelled.frame.min() == 1 and labelled.mask.max() == 0


def test_a_crop_larger_than_the_frames() -> None:
    sampler = CropSampler([[constant(1)]], side=9, target_share=0.0)
    with pytest.raises(ValueError, match="crop is 9x9, larger than the frame of 8x8"):
        next(sampler.batches(size=1, count=1, rng=np.random.default_rng(0)))


@pytest.mark.parametrize("datasets", [[], [[]], [[constant(1)], []]])
def test_nothing_to_draw_from(datasets: list[list[TrainingFrame]]) -> None:
    with pytest.raises(ValueError, match="frame"):
        CropSampler(datasets, side=4, target_share=0.0)
