"""Training on clips: generated scenes, recorded sequences, resumed to the bit, or refused."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from irstd.runtime.backdrop import paint
from irstd.runtime.clip import prepare_input
from irstd.runtime.frame import ClipContract, FrameContract
from irstd.runtime.scene import Scene, SceneOptions
from irstd.train import clips
from irstd.train.checkpoint import read_weights
from irstd.train.clip_data import part_backgrounds, read_clips
from irstd.train.commands import train_command
from irstd.train.loop import TrainingError
from irstd.train.recipe import Recipe
from irstd.train.recorded import RecordedClips, as_recordings, find_boxes, read_sequences
from irstd.train.session import Job, Progress, read_frames, steps_per_epoch, train
from irstd.train.zoo import Model

pytestmark = pytest.mark.usefixtures("one_thread")

CLIP = ClipContract(3, stride=2)
SIZE = 48, 48
RECIPE = Recipe(epochs=2, batch=2, crop=32, learning_rate=0.01, validate_every=2, seed=3)
STEPS = 4
FRAMES = 9  # of a recorded sequence
SEQUENCE = "Sequence1"


class TinyClip(nn.Module):
    """A network of clips with a norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout2d(0.2)
        self.head = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        background, logits = self.head(self.drop(self.norm(self.body(clip)).relu())).split(1, dim=1)
        return background, logits


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short epochs and a short validation."""
    monkeypatch.setattr(clips, "EPOCH", 4)
    monkeypatch.setattr(clips, "SCENES", 1)


@pytest.fixture(scope="module")
def backgrounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four target-free frames, the last of them bright."""
    folder = tmp_path_factory.mktemp("sky")
    for number in range(4):
        frame = paint(np.random.default_rng(number), "terrain", (96, 96))
        cv2.imwrite(str(folder / f"{number}.png"), (frame * 250).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sequence of nine labelled frames, on both lists."""
    root = tmp_path_factory.mktemp("recorded")
    scene = Scene(SceneOptions(height=64, width=64, bit_depth=8, scr=(20.0, 30.0)), seed=1)
    for folder in ("images", "masks"):
        (root / SEQUENCE / folder).mkdir(parents=True)
    for number in range(FRAMES):
        shown = scene.frame(number)
        cv2.imwrite(str(root / SEQUENCE / "images" / f"{number + 1}.png"), shown.frame)
        mask = shown.mask.astype(np.uint8) * 255
        cv2.imwrite(str(root / SEQUENCE / "masks" / f"{number + 1}.png"), mask)
    write_lists(root, range(1, FRAMES + 1))
    return root


def write_lists(root: Path, numbers: range | list[int]) -> None:
    for split in ("train", "val"):
        (root / f"{split}.txt").write_text("".join(f"{SEQUENCE}/{number}\n" for number in numbers))


@pytest.fixture
def copied(recorded: Path, tmp_path: Path) -> Path:
    """The recorded sequence, to be changed."""
    return Path(shutil.copytree(recorded, tmp_path / "copied"))


@pytest.fixture
def job(backgrounds: Path, tmp_path: Path) -> Job:
    model = Model("tiny-clip", TinyClip, stride=1, size=SIZE, source="tests", clip=CLIP)
    output = tmp_path / "runs" / "best.safetensors"
    return Job(model, RECIPE, (), (backgrounds,), None, output, 0)


def moved(job: Job, folder: str) -> Job:
    return replace(job, output=job.output.parents[1] / folder / job.output.name)


def begin(job: Job, fabric: Fabric, *, resume: bool = False) -> Iterator[Progress]:
    job.output.parent.mkdir(exist_ok=True)
    return train(job, read_frames(job), fabric, resume=resume)


# --- generated scenes -----------------------------------------------------------------------------


def test_a_training_without_any_dataset(job: Job, fabric: Fabric) -> None:
    frames = read_frames(job)
    assert steps_per_epoch(frames.crops) == 2
    assert job.names == ["scenes-8bit", "scenes-14bit"]
    assert [one[0].frame.dtype for one in frames.validation] == [np.uint8, np.uint16]
    steps = list(begin(job, fabric))
    assert len(steps) == STEPS
    last = steps[-1].row
    assert last is not None and [score.frames for score in last.scores] == [2, 2]
    notes = read_weights(job.last).notes
    assert notes["trained_on"] == notes["chosen_on"] == "scenes-8bit, scenes-14bit"
    assert notes["training.backgrounds"].startswith("sky")


@pytest.mark.parametrize(("workers", "after"), [(0, 1), (1, 2)])
def test_an_interrupted_training_goes_on_to_the_bit(
    job: Job, fabric: Fabric, workers: int, after: int
) -> None:
    whole = moved(job, "uninterrupted")
    expected = [progress.loss for progress in begin(whole, fabric)]
    job = replace(job, workers=workers)
    found = []
    with pytest.raises(TrainingError, match=f"^interrupted after step {after} of {STEPS}"):
        for progress in begin(job, fabric):
            found.append(progress.loss)
            if progress.step == after:
                os.kill(os.getpid(), signal.SIGTERM)
    found += [progress.loss for progress in begin(job, fabric, resume=True)]
    assert found == expected
    for ours, theirs in ((job.output, whole.output), (job.last, whole.last)):
        one, other = read_weights(ours), read_weights(theirs)
        assert one.notes == other.notes
        torch.testing.assert_close(dict(one.tensors), dict(other.tensors), rtol=0, atol=0)


def test_the_background_of_the_newest_frame_is_what_is_compared(job: Job, fabric: Fabric) -> None:
    """A network that gives the newest frame back has no error of reconstruction, ever."""

    class Newest(TinyClip):
        def forward(self, clip: Tensor) -> tuple[Tensor, Tensor]:
            return clip[:, -1:], super().forward(clip)[1]

    losses = []
    for weight in (0.0, 100.0):
        recipe = replace(RECIPE, reconstruction_weight=weight)
        changed = replace(job, model=replace(job.model, build=Newest), recipe=recipe)
        losses.append(next(begin(moved(changed, f"weight{weight}"), fabric)).loss)
    assert losses[0] == losses[1]


def test_backgrounds_that_validate_are_not_trained_on(backgrounds: Path) -> None:
    training, held_out = part_backgrounds((backgrounds,), FrameContract(*SIZE))
    assert (len(training), len(held_out)) == (3, 1)
    assert not any(np.array_equal(one, held_out[0]) for one in training)


def test_validation_does_not_depend_on_the_seed(backgrounds: Path) -> None:
    contract = FrameContract(*SIZE, clip=CLIP)
    sets = [read_clips((), (backgrounds,), contract, replace(RECIPE, seed=seed)) for seed in (0, 1)]
    for one, other in zip(sets[0][1][0], sets[1][1][0], strict=True):
        np.testing.assert_array_equal(one.frame, other.frame)
    assert not np.array_equal(sets[0][0][0][0], sets[1][0][0][0])


# --- recorded sequences ---------------------------------------------------------------------------


def test_generated_and_recorded_clips_take_turns(job: Job, recorded: Path, fabric: Fabric) -> None:
    both = replace(job, data=(recorded,))
    assert both.names == ["scenes-8bit", "scenes-14bit", recorded.name]
    frames = read_frames(both)
    assert len(frames.crops) == 4 + FRAMES - CLIP.span + 1
    row = list(begin(both, fabric))[-1].row
    assert row is not None and len(row.scores) == 3
    assert row.scores[2].frames == FRAMES - CLIP.span + 1


def test_a_recorded_clip_is_what_the_flight_makes_of_it(recorded: Path) -> None:
    contract = FrameContract(*SIZE, clip=CLIP)
    labelled = read_sequences(recorded, "train", CLIP)
    made = RecordedClips(
        as_recordings(labelled, contract, CLIP), CLIP, replace(RECIPE, crop=SIZE[0])
    )
    stack, mask = made._stack(made._recordings[0], 7)
    expected = prepare_input([one.frame for one in labelled[3:8]], contract)
    assert expected is not None
    np.testing.assert_allclose(stack, expected[0], atol=1e-6)
    assert mask.any()


def test_recorded_crops_follow_from_their_number(recorded: Path) -> None:
    labelled = read_sequences(recorded, "train", CLIP)
    recordings = as_recordings(labelled, FrameContract(64, 64, clip=CLIP), CLIP)
    first, second = (RecordedClips(recordings, CLIP, RECIPE) for _ in range(2))
    assert len(first) == FRAMES - CLIP.span + 1
    seen = 0
    for number in range(6):
        one, other = first.draw(number), second.draw(number)
        np.testing.assert_array_equal(one.frames, other.frames)
        assert one.frames.shape == (3, 32, 32) and one.mask.shape == (32, 32)
        assert one.boxes == find_boxes(one.mask > 0.5)
        seen += bool(one.boxes)
    assert seen >= 3  # target_share is 0.75


def test_a_clip_stays_within_a_folder_and_a_long_gap(copied: Path) -> None:
    first = read_sequences(copied, "train", CLIP)
    assert [one.begins for one in first] == [True] + [False] * (FRAMES - 1)
    for folder in ("images", "masks"):
        (copied / SEQUENCE / folder / "9.png").rename(copied / SEQUENCE / folder / "90.png")
    write_lists(copied, [*range(1, 9), 90])
    assert [one.begins for one in read_sequences(copied, "train", CLIP)][-1]
    write_lists(copied, [1, 2, 3, 4, 6, 7, 8])  # a short gap is bridged
    assert sum(one.begins for one in read_sequences(copied, "train", CLIP)) == 1


def test_boxes_of_a_mask() -> None:
    mask = np.zeros((8, 9), np.bool_)
    mask[1:3, 2:5] = mask[6, 8] = True
    assert find_boxes(mask) == ((1, 2, 2, 4), (6, 8, 6, 8))
    assert find_boxes(np.zeros((8, 9), np.bool_)) == ()


# --- refusals -------------------------------------------------------------------------------------


def test_too_few_frames_for_a_clip(copied: Path) -> None:
    write_lists(copied, [1, 2, 3, 4])
    with pytest.raises(ValueError, match="has 4 frames in a row, the clip needs 5; a list must"):
        read_sequences(copied, "train", CLIP)


def test_frames_that_change_their_size(copied: Path) -> None:
    for folder in ("images", "masks"):
        path = str(copied / SEQUENCE / folder / "5.png")
        cv2.imwrite(path, cv2.imread(path, cv2.IMREAD_GRAYSCALE)[:40])
    with pytest.raises(ValueError, match="Sequence1/5 is 40x64, the frame before it 64x64"):
        read_sequences(copied, "train", CLIP)


def test_centroids_are_no_masks(sequence: Path) -> None:
    (sequence / "train.txt").write_text("0001\n")
    with pytest.raises(ValueError, match="is a sequence with centroids; masks are needed here"):
        read_sequences(sequence, "train", CLIP)


def test_a_crop_larger_than_the_network_sees(recorded: Path) -> None:
    recordings = as_recordings(
        read_sequences(recorded, "train", CLIP), FrameContract(*SIZE, clip=CLIP), CLIP
    )
    with pytest.raises(ValueError, match="frames of 48 pixels' side .* the crop of 64; lower"):
        RecordedClips(recordings, CLIP, replace(RECIPE, crop=64))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("tenrpcanet", "tenrpcanet learns from clips; pass --backgrounds FOLDER with target-free"),
        ("lrrnet-edge", "lrrnet-edge learns from labelled frames; pass --data DATASET"),
    ],
)
def test_nothing_to_learn_from(refused, tmp_path: Path, model: str, said: str) -> None:  # type: ignore[no-untyped-def]
    line = refused(train_command, "--model", model, "--output", tmp_path / "w.safetensors")
    assert said in line
    assert not list(tmp_path.iterdir())


def test_the_command_trains_on_backgrounds_alone(  # type: ignore[no-untyped-def]
    run, backgrounds: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    outcome = run(
        train_command, "--model", "tenrpcanet", "--backgrounds", backgrounds, "--crop", 32,
        "--batch", 2, "--epochs", 1, "--size", "48x48", "--device", "cpu", "--threads", 1,
        "--workers", 0, "--output", tmp_path / "w.safetensors",
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.stderr
    path = tmp_path / "w.safetensors"
    assert outcome.stdout == f"best weights on scenes-8bit, scenes-14bit: {path}\n"
    assert read_weights(path).notes["training.reconstruction_weight"] == "10.0"
