from __future__ import annotations

from pathlib import Path

import pytest

from irstd.runtime.clip import Clip, Step
from irstd.runtime.datasets import Dataset, Sample, open_dataset
from irstd.runtime.evaluation import read_labelled
from irstd.runtime.frame import ClipContract, FrameContract, fit_geometry, prepare
from irstd.runtime.media_cv2 import read_image
from irstd.runtime.sequences import clips, find_gaps, follow
from irstd.tests.runtime.dataset_trees import draw, draw_mask


def dataset(*places: tuple[str | None, int | None], folder: Path = Path()) -> Dataset:
    samples = tuple(
        Sample(f"{sequence}/{number}", folder / f"{number}.png", sequence=sequence, number=number)
        for sequence, number in places
    )
    return Dataset(folder, "masks", samples, "all")


def numbers(found: Dataset, contract: ClipContract) -> list[list[int | None]]:
    return [[found.samples[place].number for place in clip] for clip in clips(found, contract)]


def test_another_sequence_is_new_also_where_its_numbers_go_on() -> None:
    found = dataset(("a", 1), ("a", 2), ("b", 3), ("b", 4), ("a", 5))
    assert [step.value for step in follow(found, span=9)] == ["next", "next", "new", "next", "new"]


def test_the_step_of_a_sequence_is_its_own() -> None:
    found = dataset(("a", 1), ("a", 2), ("b", 0), ("b", 5), ("b", 10), ("b", 20))
    assert [step.value for step in follow(found, span=9)][3:] == ["next", "next", "gap"]


@pytest.mark.parametrize("stride", [1, 2, 7])
def test_frames_of_every_stride_are_a_sequence(stride: int) -> None:
    steps = (0, 1, 2, 3, 5, 6)  # one is missing
    found = dataset(*(("a", 100 + stride * step) for step in steps))
    assert find_gaps(found, span=8) == [f"a/{100 + 5 * stride}"]
    assert len(numbers(found, ClipContract(3))) == 4 - (stride > 2)


def test_frames_that_stand_alone_count_on() -> None:
    assert list(follow(dataset((None, None), (None, None)), span=3)) == [Step.NEXT, Step.NEXT]


def test_clips_cross_no_border() -> None:
    found = dataset(
        *(("a", number) for number in range(4)), *(("b", number) for number in range(3))
    )
    assert numbers(found, ClipContract(3)) == [[0, 1, 2], [1, 2, 3], [0, 1, 2]]
    assert numbers(found, ClipContract(2, stride=2)) == [[0, 2], [1, 3], [0, 2]]
    assert [found.samples[clip[0]].sequence for clip in clips(found, ClipContract(3))] == [
        "a",
        "a",
        "b",
    ]
    assert numbers(found, ClipContract(5)) == []


def test_a_short_gap_is_bridged_and_a_long_one_is_not() -> None:
    found = dataset(("a", 1), ("a", 2), ("a", 4), ("a", 5), ("a", 9), ("a", 10), ("a", 11))
    assert numbers(found, ClipContract(3)) == [[1, 2, 4], [2, 4, 5], [9, 10, 11]]
    assert find_gaps(found, span=3) == ["a/4", "a/9"]
    assert find_gaps(dataset(("a", 1), ("b", 7), ("b", 8)), span=3) == []
    assert find_gaps(dataset(), span=3) == []


@pytest.mark.parametrize("contract", [ClipContract(3), ClipContract(2, stride=3)])
def test_clips_are_those_that_a_detector_has(tmp_path: Path, contract: ClipContract) -> None:
    found = dataset(("a", 1), ("a", 3), ("a", 4), ("a", 5), ("a", 6), ("b", 7), folder=tmp_path)
    for place, sample in enumerate(found):
        draw(sample.image, target=(10 + 5 * place, 20), side=48)
    frame = FrameContract(48, 48)
    ring, whole = Clip(contract), []
    prepared = [prepare(read_image(sample.image), frame) for sample in found]
    for place, step in enumerate(follow(found, span=contract.span)):
        if step is Step.NEW:
            ring.reset()
        state = ring.add(prepared[place], fit_geometry((48, 48), frame))
        if not state.frames_missing:
            whole.append(ring.stack())
    indices = list(clips(found, contract))
    assert len(whole) == len(indices) > 0
    for stack, clip in zip(whole, indices, strict=True):
        assert (stack[0, -1] == prepared[clip[-1]][0, 0]).all()
        assert len(clip) == stack.shape[1]


def test_labelled_frames_say_where_another_sequence_begins(tmp_path: Path) -> None:
    for sequence, number in (("a", 1), ("a", 2), ("a", 9), ("b", 10), ("b", 11)):
        draw(tmp_path / sequence / f"images/{number}.png", target=(10, 20))
        draw_mask(tmp_path / sequence / f"masks/{number}.png", (10, 20))
    labelled = list(read_labelled(open_dataset(tmp_path), clip=ClipContract(3)))
    assert [one.name for one in labelled] == ["a/1", "a/2", "a/9", "b/10", "b/11"]
    assert [one.begins for one in labelled] == [True, False, True, True, False]
    assert all(one.mask.sum() == 9 for one in labelled)


def test_single_frames_make_no_clips(tmp_path: Path) -> None:
    draw(tmp_path / "images/1.png")
    draw_mask(tmp_path / "masks/1.png", (10, 20))
    assert [one.name for one in read_labelled(open_dataset(tmp_path))] == ["1"]
    with pytest.raises(ValueError, match=r"has single frames, and this network takes clips of 3"):
        next(read_labelled(open_dataset(tmp_path), clip=ClipContract(3)))
