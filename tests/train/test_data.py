from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from irstd.runtime.evaluation import LabelledFrame
from irstd.runtime.frame import FrameContract, prepare
from irstd.runtime.media_cv2 import read_image, write_image
from irstd.tests.train.crops import OFF, PLAIN, SIDE, FloatMap, constant, same, scene
from irstd.train.data import (
    CropSet,
    TrainingFrame,
    as_training_frames,
    fit_spread,
    read_empty,
    read_split,
)
from irstd.train.recipe import Augmentation

CONTRACT = FrameContract(height=64, width=64)


def constants(first: int, count: int) -> list[TrainingFrame]:
    return [constant((first + number) / 1024) for number in range(count)]


def seen(crops: CropSet, indices: range) -> list[int]:
    """Which constant frame each crop shows."""
    return [round(1024 * float(crops[index][0].flat[0])) for index in indices]


@pytest.fixture(scope="module")
def rich() -> CropSet:
    """Two datasets, empty frames and every augmentation."""
    empty = TrainingFrame(scene(9).frame, np.zeros_like(scene(9).mask))
    recipe = replace(PLAIN, crop=32, augmentation=Augmentation(transplants=1.0, injected=1.0))
    return CropSet([[scene(0)], [scene(1), scene(2), scene(3)]], [empty], recipe)


# --- whole frames ---------------------------------------------------------------------------------


def test_spread_frames_are_those_of_a_flight(masks_dataset: Path) -> None:
    contract = FrameContract(height=32, width=48)
    labelled = read_split(masks_dataset, "val")
    found = fit_spread(as_training_frames(labelled, contract), contract, most=5)
    assert len(found) == 2
    for frame, one in zip(found, labelled, strict=True):
        np.testing.assert_array_equal(frame.numpy(), prepare(one.frame, contract))


@pytest.mark.parametrize(
    ("count", "most", "chosen"),
    [(1, 3, [0]), (3, 3, [0, 1, 2]), (9, 3, [0, 4, 8]), (10, 4, [0, 3, 6, 9]), (5, 1, [0])],
)
def test_frames_are_spread_evenly(count: int, most: int, chosen: list[int]) -> None:
    contract = FrameContract(height=32, width=32)
    found = fit_spread(constants(0, count), contract, most=most)
    assert [float(frame.mean()) * 1024 for frame in found] == chosen
    assert all(frame.shape == (1, 1, 32, 32) for frame in found)


# --- read_split, as_training_frames and read_empty ------------------------------------------------


def test_a_split_is_read(dataset: Path) -> None:
    labelled = read_split(dataset, "val")
    assert [one.name for one in labelled] == ["0001", "0002"]
    np.testing.assert_array_equal(labelled[1].frame, read_image(dataset / "images/0002.png"))
    np.testing.assert_array_equal(labelled[1].mask, read_image(dataset / "masks/0002.png") > 0)
    assert len(read_split(dataset, "train")) == 4


def test_what_is_no_split(dataset: Path) -> None:
    with pytest.raises(ValueError, match="has no split 'test', there are train, val"):
        read_split(dataset, "test")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        read_split(dataset / "none", "train")
    write_image(dataset / "masks/0002.png", np.zeros((16, 16), np.uint8))
    with pytest.raises(ValueError, match="mask of 0002 is 16x16, expected 64x64"):
        read_split(dataset, "val")


def test_a_sequence_without_masks_is_refused(sequence: Path, tmp_path: Path) -> None:
    names = tmp_path / "train.txt"
    names.write_text("0001\n")
    with pytest.raises(ValueError, match="is a sequence with centroids; masks are needed"):
        read_split(sequence, str(names))


@pytest.mark.parametrize("bit_depth", [8, 14, 16])
@pytest.mark.parametrize("normalisation", ["stretch", "full-scale"])
def test_frames_are_normalised_as_in_flight(bit_depth: int, normalisation: str) -> None:
    rng, shape = np.random.default_rng(0), (24, 32)
    dtype = np.uint8 if bit_depth == 8 else np.uint16
    frame = rng.integers(0, 2 ** (bit_depth - 1), shape, dtype=dtype)
    mask = rng.random(shape) > 0.9
    flight = FrameContract(*shape, bit_depth=bit_depth, normalisation=normalisation)
    # The network's size plays no part: crops are cut from the sensor's own pixels.
    contract = replace(flight, height=64, width=8)
    (training,) = as_training_frames([LabelledFrame("a", frame, mask)], contract)
    np.testing.assert_array_equal(training.frame, prepare(frame, flight)[0, 0])
    np.testing.assert_array_equal(training.mask, mask)
    assert training.frame.dtype == training.mask.dtype == np.float32
    assert training.frame.max() == 1 or normalisation == "full-scale"


def test_sets_of_several_bit_depths_train_together(tmp_path: Path) -> None:
    frame = np.add.outer(np.arange(24), 3 * np.arange(32)).astype(np.uint8)
    recorded = [frame, frame.astype(np.uint16) * 100, frame.astype(np.uint16) * 257]
    labelled = [LabelledFrame("a", one, np.zeros((24, 32), np.bool_)) for one in recorded]
    for number, one in enumerate(recorded):
        write_image(tmp_path / f"{number}.png", one)
    for training in as_training_frames(labelled, CONTRACT) + read_empty(tmp_path, CONTRACT):
        # The stretch goes from the darkest 2x2 pixels to the brightest: from 4 to 112.
        np.testing.assert_allclose(training.frame, ((frame - 4.0) / 108).clip(0, 1), atol=1e-6)


def test_a_frame_that_is_too_small_is_refused() -> None:
    small = LabelledFrame("a", np.zeros((7, 16), np.uint8), np.zeros((7, 16), np.bool_))
    with pytest.raises(ValueError, match="frame is 7x16, expected at least 8x8 pixels"):
        as_training_frames([small], CONTRACT)


def test_empty_frames_are_read_by_name(tmp_path: Path) -> None:
    pictures = {name: scene(seed).frame for seed, name in enumerate(("2.png", "10.png"))}
    for name, picture in pictures.items():
        write_image(tmp_path / name, np.rint(255 * picture).astype(np.uint8))
    (tmp_path / "notes.txt").touch()
    empty = read_empty(tmp_path, CONTRACT)
    assert len(empty) == 2
    for (name, _), one in zip(pictures.items(), empty, strict=True):
        frame = read_image(tmp_path / name)
        expected = prepare(frame, replace(CONTRACT, height=48, width=40))[0, 0]
        np.testing.assert_array_equal(one.frame, expected)
        assert one.mask.shape == frame.shape and not one.mask.any()
        assert one.mask.dtype == np.float32


def test_what_is_no_folder_of_empty_frames(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(FileNotFoundError, match="is no folder; pass a folder of target-free"):
            read_empty(path, CONTRACT)
    with pytest.raises(ValueError, match="holds no image"):
        read_empty(tmp_path, CONTRACT)


# --- CropSet: what comes --------------------------------------------------------------------------


def test_a_crop_follows_from_its_number_alone(rich: CropSet) -> None:
    forwards = [rich[index] for index in range(24)]
    again = CropSet(rich.datasets, rich.empty, rich.recipe)
    backwards = [again[index] for index in reversed(range(24))][::-1]
    assert all(same(*pair) for pair in zip(forwards, backwards, strict=True))


def test_another_seed_gives_other_crops(rich: CropSet) -> None:
    other = CropSet(rich.datasets, rich.empty, replace(rich.recipe, seed=1))
    assert not any(same(rich[index], other[index]) for index in range(24))
    frames = [constants(0, 50)]
    orders = [seen(CropSet(frames, [], replace(PLAIN, seed=seed)), range(50)) for seed in (0, 1)]
    assert orders[0] != orders[1]


def test_small_and_large_datasets_give_equally_many() -> None:
    crops = CropSet([constants(0, 1), constants(100, 4), constants(200, 50)], [], PLAIN)
    sources = [value // 100 for value in seen(crops, range(30))]
    assert Counter(sources) == {0: 10, 1: 10, 2: 10}


def test_every_frame_is_seen_before_any_comes_again() -> None:
    crops = CropSet([constants(0, 5), constants(100, 3)], [], PLAIN)
    values = seen(crops, range(60))
    first, second = ([value for value in values if value // 100 == one] for one in (0, 1))
    turns = [first[start : start + 5] for start in range(0, 30, 5)]
    assert all(sorted(turn) == [0, 1, 2, 3, 4] for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 1  # in another order each time
    assert all(sorted(second[start : start + 3]) == [100, 101, 102] for start in range(0, 30, 3))


def test_datasets_are_shuffled_apart() -> None:
    crops = CropSet([constants(0, 20), constants(100, 20)], [], PLAIN)
    values = seen(crops, range(40))
    assert [value + 100 for value in values[::2]] != values[1::2]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_empty_frames_come_in_their_share(share: float) -> None:
    recipe = replace(PLAIN, augmentation=replace(OFF, empty_share=share))
    crops = CropSet([constants(0, 5)], constants(100, 2), recipe)
    counts = Counter(seen(crops, range(600)))
    empty = counts[100], counts[101]
    assert sum(empty) / 600 == pytest.approx(share, abs=0.05 if 0 < share < 1 else 0)
    assert empty[0] == pytest.approx(empty[1], rel=0.3)


def test_without_empty_frames_their_share_is_nothing() -> None:
    recipe = replace(PLAIN, augmentation=replace(OFF, empty_share=1.0))
    assert seen(CropSet([constants(7, 1)], [], recipe), range(20)) == [7] * 20


@pytest.mark.parametrize("datasets", [[], [[]], [[constant(1)], []]])
def test_nothing_to_draw_from(datasets: list[list[TrainingFrame]]) -> None:
    with pytest.raises(ValueError, match=r"datasets hold \[.*\] frames, expected one dataset or"):
        CropSet(datasets, [constant(0)], PLAIN)


# --- CropSet: how it looks ------------------------------------------------------------------------


def test_without_augmentation_crops_are_plain() -> None:
    whole = np.random.default_rng(0).random((SIDE + 3, SIDE + 2), dtype=np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(whole, (SIDE, SIDE)).reshape(-1, SIDE, SIDE)
    known = {
        np.rot90(image, quarters).tobytes()
        for window in windows
        for image in (window, window.T)
        for quarters in range(4)
    }
    assert len(known) == 4 * 3 * 8
    crops = CropSet([[TrainingFrame(whole, (whole > 0.6).astype(np.float32))]], [], PLAIN)
    drawn = [crops[index] for index in range(300)]
    assert {frame.tobytes() for frame, _ in drawn} <= known
    assert len({frame.tobytes() for frame, _ in drawn}) > 80
    for frame, mask in drawn:
        np.testing.assert_array_equal(mask, frame > 0.6)


def test_crops_hold_a_target_where_asked() -> None:
    crops = CropSet([[scene(0)]], [], replace(PLAIN, target_share=1.0))
    assert all(crops[index][1].any() for index in range(40))


@pytest.mark.parametrize("side", [16, 32, 128])
def test_crops_fit_the_network_whatever_the_frame(rich: CropSet, side: int) -> None:
    crops = CropSet(rich.datasets, rich.empty, replace(rich.recipe, crop=side))
    for index in range(40):
        for image in crops[index]:
            assert image.shape == (1, side, side)
            assert image.dtype == np.float32
            assert image.min() >= 0 and image.max() <= 1 + 1e-6


@pytest.mark.parametrize(
    "part",
    [
        {"zoom": 2.0},
        {"gain": 0.6},
        {"transplants": 5.0},
        {"injected": 5.0},
        {"symbols": 1.0},
        {"blur": 1.0},
        {"noise": 30.0},
        {"defects": 0.05},
        {"finer_levels": 1.0},
    ],
    ids=lambda part: next(iter(part)),
)
def test_each_part_of_the_augmentation_is_done(part: dict[str, float]) -> None:
    frames = [[scene(0, 96, 96)]]
    recipe = replace(PLAIN, crop=64)
    plain = CropSet(frames, [], recipe)
    augmented = CropSet(frames, [], replace(recipe, augmentation=replace(OFF, **part)))
    differs = [not same(plain[index], augmented[index]) for index in range(60)]
    assert any(differs)
    # A target comes with its label, and nothing else touches the mask but the zoom.
    areas = [augmented[index][1].sum() - plain[index][1].sum() for index in range(60)]
    assert any(areas) == bool({"zoom", "transplants", "injected"} & part.keys())


@pytest.mark.parametrize(
    "part",
    [{"transplants": 5.0}, {"injected": 5.0}, {"noise": 30.0}, {"defects": 0.05}, {"symbols": 1.0}],
    ids=lambda part: next(iter(part)),
)
def test_augmentation_is_as_coarse_as_the_sensor(part: dict[str, float]) -> None:
    # Enlarged four times, the centre of sensor pixel k lies between columns 4 k + 1 and 4 k + 2;
    # linear interpolation bends nowhere else, whatever was added to the sensor's frame.
    frames = [[replace(scene(0, 96, 96), fit=(4.0, 4.0))]]
    crops = CropSet(frames, [], replace(PLAIN, crop=128, augmentation=replace(OFF, **part)))
    for index in range(20):
        bends = np.diff(crops[index][0][0], 2, axis=1)  # around columns 1 to 126
        between = np.isin(np.arange(1, 127) % 4, (3, 0))
        assert np.abs(bends[:, between]).max() < 1e-6 < np.abs(bends).max()


def test_sharper_sensors_meet_every_fit_from_none_to_the_whole() -> None:
    # A target of 3x3 sensor pixels, on frames that are enlarged four times in flight.
    frames = [[replace(scene(0, 96, 96), fit=(4.0, 4.0))]]
    recipe = replace(PLAIN, crop=64, target_share=1.0)

    def sides(share: float) -> FloatMap:
        wanted = replace(OFF, sharper_sensors=share, share=1.0)
        crops = CropSet(frames, [], replace(recipe, augmentation=wanted))
        whole = [crops[index][1] for index in range(200)]
        inside = [
            mask for mask in whole if not (mask[0, [0, -1]].any() or mask[0, :, [0, -1]].any())
        ]
        return np.sqrt([mask.sum() for mask in inside], dtype=np.float32)

    # 12x12, but for the corners, which no pixel of the target covers by half.
    np.testing.assert_allclose(sides(0.0) ** 2, 12 * 12 - 4, rtol=1e-6)
    met = sides(1.0)
    assert met.min() < 3.5 and met.max() > 11.0
    assert 0.35 < (met < 6.0).mean() < 0.65  # log-uniform: half below the geometric mean


def test_a_mosaic_is_four_frames_of_one_dataset_at_half_their_size() -> None:
    datasets = [constants(100, 32), constants(300, 32)]
    recipe = replace(PLAIN, augmentation=replace(OFF, mosaic=1.0))
    crops = CropSet(datasets, [], recipe)
    half = SIDE // 2
    corners = Counter[int]()
    for index in range(16):
        frame, mask = crops[index]
        assert frame.shape == mask.shape == (1, SIDE, SIDE)
        quarters = frame.reshape(2, half, 2, half).swapaxes(1, 2).reshape(4, -1)
        assert np.ptp(quarters, axis=1).max() == 0
        shown = {round(1024 * float(quarter[0])) for quarter in quarters}
        assert len(shown) == 4  # no frame twice
        assert {number // 100 for number in shown} == {1 if index % 2 == 0 else 3}
        own = seen(CropSet(datasets, [], PLAIN), range(index, index + 1))
        corners[int(np.argmin(np.abs(1024 * quarters[:, 0] - own)))] += 1
    assert len(corners) == 4  # the frame whose turn it is lies in any of them


def test_targets_of_a_mosaic_have_half_their_size() -> None:
    # 3x3 pixels of the sensor, enlarged four times in flight; here twice.
    frames = [[replace(scene(seed, 16, 16), fit=(4.0, 4.0)) for seed in range(4)]]
    recipe = replace(PLAIN, crop=64, augmentation=replace(OFF, mosaic=1.0))
    _, mask = CropSet(frames, [], recipe)[0]
    areas = mask.reshape(2, 32, 2, 32).sum(axis=(1, 3))
    np.testing.assert_array_equal(areas, 6 * 6)


def test_a_mosaic_comes_in_its_share_and_leaves_the_other_crops_alone() -> None:
    frames = [[scene(seed) for seed in range(5)]]
    plain = CropSet(frames, [], PLAIN)
    some = CropSet(frames, [], replace(PLAIN, augmentation=replace(OFF, mosaic=0.3)))
    kept = [same(plain[index], some[index]) for index in range(400)]
    assert 0.6 < np.mean(kept) < 0.8


def test_transplants_come_from_the_same_dataset() -> None:
    bright = replace_target(scene(0, 96, 96), 0.9)
    faint = replace_target(scene(1, 96, 96), 0.45)
    recipe = replace(PLAIN, crop=64, target_share=0.0, augmentation=replace(OFF, transplants=3.0))
    crops = CropSet([[bright], [faint]], [], recipe)
    highest = [float(crops[index][0].max()) for index in range(60)]
    assert max(highest[0::2]) > 0.6 > max(highest[1::2])


def replace_target(labelled: TrainingFrame, value: float) -> TrainingFrame:
    frame = np.where(labelled.mask > 0, np.float32(value), labelled.frame)
    return TrainingFrame(frame, labelled.mask)
