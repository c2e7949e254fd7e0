from __future__ import annotations

import csv
import math
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from irstd.runtime.detector import Detector
from irstd.runtime.evaluation import score_masks
from irstd.runtime.targets import Extraction
from irstd.train.checkpoint import Weights, load_into, read_weights, save_weights
from irstd.train.commands import make_fabric
from irstd.train.data import fit_spread
from irstd.train.engine_torch import TorchEngine
from irstd.train.fake_quantize import kept_ranges, observe_ranges, round_convolutions
from irstd.train.loop import TrainingError
from irstd.train.recipe import Arithmetic, Recipe
from irstd.train.session import (
    RANGE_FRAMES,
    Job,
    Progress,
    read_frames,
    steps_per_epoch,
    train,
)
from irstd.train.state import read_state, save_state, state_path
from irstd.train.zoo import Model

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 8  # four epochs of two steps
RECIPE = Recipe(
    epochs=4, batch=2, crop=16, learning_rate=0.05, averaging=0.5, validate_every=2, seed=1
)


@pytest.fixture
def job(tiny: Model, dataset: Path, tmp_path: Path) -> Job:
    """A whole training of the tiny network, done in a blink."""
    return Job(tiny, RECIPE, (dataset,), (), None, tmp_path / "runs" / "best.safetensors", 0)


@pytest.fixture
def elsewhere(job: Job) -> Job:
    """The same job with another output."""
    return moved(job, "uninterrupted")


def moved(job: Job, folder: str) -> Job:
    return replace(job, output=job.output.parents[1] / folder / job.output.name)


def begin(job: Job, fabric: Fabric, *, resume: bool = False) -> Iterator[Progress]:
    job.output.parent.mkdir(exist_ok=True)
    return train(job, read_frames(job), fabric, resume=resume)


def losses(steps: Iterator[Progress]) -> list[float]:
    return [progress.loss for progress in steps]


def interrupt(
    job: Job, fabric: Fabric, *, after: int, resume: bool = False, by: int = signal.SIGINT
) -> list[float]:
    """Train until a signal comes after a step; gives the losses until then."""
    found = []
    with pytest.raises(TrainingError, match=rf"^interrupted after step {after} of 8; .* --resume"):
        for progress in begin(job, fabric, resume=resume):
            found.append(progress.loss)
            if progress.step == after:
                os.kill(os.getpid(), by)
    return found


def table(job: Job) -> list[dict[str, str]]:
    """The rows of the log, less what the clock says."""
    with job.output.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{key: row[key] for key in row if key not in ("seconds", "waiting")} for row in rows]


def assert_same_outcome(job: Job, expected: Job) -> None:
    """Weights to the bit, notes and rows to the letter."""
    for ours, theirs in ((job.output, expected.output), (job.last, expected.last)):
        found, wanted = read_weights(ours), read_weights(theirs)
        assert found.notes == wanted.notes
        torch.testing.assert_close(dict(found.tensors), dict(wanted.tensors), rtol=0, atol=0)
    assert table(job) == table(expected)
    assert not state_path(job.output).exists()


# --- a whole training -----------------------------------------------------------------------------


def test_progress_counts_every_step(job: Job, fabric: Fabric) -> None:
    assert steps_per_epoch(read_frames(job).crops) == 2
    steps = list(begin(job, fabric))
    assert [progress.step for progress in steps] == list(range(1, STEPS + 1))
    assert {progress.steps for progress in steps} == {STEPS}
    rows = [progress.row for progress in steps]
    assert all(row is None for row in rows[0::2])
    ends = [row for row in rows[1::2] if row is not None]
    assert [(row.epoch, row.step, len(row.scores)) for row in ends] == [
        (1, 2, 0), (2, 4, 1), (3, 6, 0), (4, 8, 1),
    ]  # fmt: skip
    means = [(steps[place].loss + steps[place + 1].loss) / 2 for place in range(0, STEPS, 2)]
    assert [row.loss for row in ends] == pytest.approx(means)
    assert all(row.seconds > 0 and 0 <= row.waiting <= 1 for row in ends)


def test_what_a_training_leaves_behind(job: Job, fabric: Fabric) -> None:
    list(begin(job, fabric))
    assert {path.name for path in job.output.parent.iterdir()} == {
        "best.safetensors", "best-last.safetensors", "best.csv", "best.tensorboard",
    }  # fmt: skip
    rows = table(job)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [bool(row["dataset.iou"]) for row in rows] == [False, True, False, True]


def test_weights_know_their_training(job: Job, fabric: Fabric) -> None:
    list(begin(job, fabric))
    notes, row = read_weights(job.last).notes, table(job)[-1]
    assert notes["model"] == notes["training.model"] == "tiny"
    assert (notes["size"], notes["normalisation"]) == ("32x32", "stretch")
    assert (notes["trained_on"], notes["chosen_on"]) == ("dataset train.txt", "dataset val.txt")
    assert notes["step"] == "8 of 8"
    assert (notes["training.seed"], notes["training.initial"]) == ("1", "fresh")
    assert notes["training.augmentation.noise"] == str(RECIPE.augmentation.noise)
    for kind in ("iou", "niou", "pd", "fa_per_mpix"):
        assert notes[f"val.dataset.{kind}"] == row[f"dataset.{kind}"]


class Peaking(nn.Module):
    """Finds the same targets after four and after six steps, and nothing before or later."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.body, self.head = network.body, network.head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        reconstruction, logits = self.head(self.body(x)).split(1, dim=1)
        if self.training:
            return reconstruction, logits
        steps = self.body[1].num_batches_tracked
        is_there = (steps == 4) | (steps == 6)
        return reconstruction, torch.where(is_there, x, 0.0) - 0.5


def test_the_best_weights_are_kept_as_they_were(job: Job, tiny: Model, fabric: Fabric) -> None:
    peaking = replace(
        job,
        model=replace(tiny, build=lambda: Peaking(tiny.build())),
        recipe=replace(RECIPE, validate_every=1),
    )
    rows = [progress.row for progress in begin(peaking, fabric) if progress.row is not None]
    ious = [row.scores[0].iou for row in rows]
    assert ious[1] == ious[2] > 0 == ious[0] == ious[3]
    weights = read_weights(peaking.output)
    assert weights.notes["step"] == "4 of 8"  # the first of equals
    assert weights.notes["val.dataset.iou"] == f"{ious[1]:.4f}"
    assert read_weights(peaking.last).notes["step"] == "8 of 8"
    network = peaking.model.build()
    load_into(network, weights.tensors, name="best")
    engine = TorchEngine(network, size=tiny.size, device=torch.device("cpu"))
    detector = Detector(engine, peaking.contract, Extraction(threshold=0.5))
    assert score_masks(detector, read_frames(peaking).validation[0]) == rows[1].scores[0]


def test_several_datasets(job: Job, dataset: Path, fabric: Fabric) -> None:
    other = dataset.with_name("other")
    for folder in ("images", "masks"):
        (other / folder).mkdir(parents=True)
        (other / folder / "1.png").write_bytes((dataset / folder / "0003.png").read_bytes())
    for split in ("train", "val"):
        (other / f"{split}.txt").write_text("1\n")
    both = replace(job, data=(dataset, other))
    steps = list(begin(both, fabric))
    assert len(steps) == 4 * 3  # five frames, two a step
    assert steps[-1].row is not None and len(steps[-1].row.scores) == 2
    assert read_weights(both.last).notes["chosen_on"] == "dataset val.txt, other val.txt"
    assert table(both)[-1]["other.iou"] and table(both)[-1]["dataset.iou"]


def test_initial_weights_are_where_it_starts(job: Job, tiny: Model, fabric: Fabric) -> None:
    torch.manual_seed(5)
    network = tiny.build()
    initial = job.output.parents[1] / "initial.safetensors"
    save_weights(initial, Weights(network.state_dict()))
    still = replace(job, initial=initial, recipe=replace(RECIPE, learning_rate=1e-9))
    list(begin(still, fabric))
    trained = read_weights(still.last)
    assert trained.notes["training.initial"] == "initial.safetensors"
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(trained.tensors[name], parameter.detach(), atol=1e-6, rtol=0)


def test_workers_draw_the_same_crops(job: Job, elsewhere: Job, fabric: Fabric) -> None:
    expected = losses(begin(elsewhere, fabric))
    assert losses(begin(replace(job, workers=1), fabric)) == expected
    assert_same_outcome(job, elsewhere)


def test_backgrounds_are_drawn(job: Job, fabric: Fabric) -> None:
    folder = job.output.parents[1] / "sky"
    folder.mkdir()
    cv2.imwrite(str(folder / "1.png"), np.arange(4096, dtype=np.uint8).reshape(64, 64))
    with_sky = replace(job, backgrounds=(folder,))
    assert len(read_frames(with_sky).crops.empty) == 1
    assert losses(begin(with_sky, fabric)) != losses(begin(moved(job, "plain"), fabric))
    assert read_weights(with_sky.last).notes["training.backgrounds"] == "sky"


# --- interruption ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "by"),
    [(1, signal.SIGINT), (2, signal.SIGINT), (5, signal.SIGINT), (7, signal.SIGTERM)],
)
def test_an_interrupted_training_goes_on_to_the_bit(
    job: Job, elsewhere: Job, fabric: Fabric, after: int, by: int
) -> None:
    # After an odd step an epoch is under way, after an even one it has just ended.
    expected = losses(begin(elsewhere, fabric))
    before = signal.getsignal(by)
    found = interrupt(job, fabric, after=after, by=by)
    assert signal.getsignal(by) == before
    assert len(found) == after
    found += losses(begin(job, fabric, resume=True))
    assert found == expected
    assert_same_outcome(job, elsewhere)


def test_interrupted_again_and_again(job: Job, elsewhere: Job, fabric: Fabric) -> None:
    expected = losses(begin(elsewhere, fabric))
    found = interrupt(job, fabric, after=1)
    for after in (2, 3, 6):
        found += interrupt(job, fabric, after=after, resume=True)
    found += losses(begin(job, fabric, resume=True))
    assert found == expected
    assert_same_outcome(job, elsewhere)


def test_a_lost_process_goes_on_from_the_last_epoch(
    job: Job, elsewhere: Job, fabric: Fabric
) -> None:
    expected = losses(begin(elsewhere, fabric))
    steps = begin(job, fabric)
    for _ in range(5):
        next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert losses(begin(job, fabric, resume=True)) == expected[4:]
    assert_same_outcome(job, elsewhere)


def test_an_interruption_after_the_last_step_is_none(job: Job, fabric: Fabric) -> None:
    for progress in begin(job, fabric):
        if progress.step == STEPS:
            os.kill(os.getpid(), signal.SIGINT)
    assert job.output.exists() and not state_path(job.output).exists()


def test_a_second_interruption_is_obeyed_at_once(job: Job, fabric: Fabric) -> None:
    before = signal.getsignal(signal.SIGINT)
    steps = begin(job, fabric)
    next(steps)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    steps.close()  # type: ignore[attr-defined]
    assert signal.getsignal(signal.SIGINT) == before


# --- quantisation-aware ---------------------------------------------------------------------------


@pytest.fixture
def int8(job: Job, tiny: Model) -> Job:
    """The same job as a fine-tuning of weights that were trained before."""
    torch.manual_seed(5)
    initial = job.output.parents[1] / "initial.safetensors"
    save_weights(initial, Weights(tiny.build().state_dict()))
    return replace(job, initial=initial, is_int8=True)


def as_int8(job: Job, weights: Path, fabric: Fabric) -> nn.Module:
    """The network of some weights, rounded with the ranges of the job's initial ones."""
    frames = read_frames(job)
    network = job.model.build()
    assert job.initial is not None
    load_into(network, read_weights(job.initial).tensors, name="initial")
    whole = fit_spread(frames.crops.datasets[0], job.contract, most=RANGE_FRAMES)
    ranges = observe_ranges(network, whole)
    load_into(network, read_weights(weights).tensors, name="fine-tuned")
    round_convolutions(network, ranges)
    return network


def test_int8_is_what_is_validated(int8: Job, fabric: Fabric) -> None:
    rows = [progress.row for progress in begin(int8, fabric) if progress.row is not None]
    engines = [
        TorchEngine(network, size=int8.model.size, device=torch.device("cpu"))
        for network in (as_int8(int8, int8.last, fabric), int8.model.build())
    ]
    found = [
        score_masks(
            Detector(engine, int8.contract, Extraction(threshold=0.5)),
            read_frames(int8).validation[0],
        )
        for engine in engines
    ]
    assert found[0] == rows[-1].scores[0] != found[1]


def test_weights_fine_tuned_for_int8_are_plain_weights(int8: Job, fabric: Fabric) -> None:
    list(begin(int8, fabric))
    network = int8.model.build()
    for path in (int8.output, int8.last):
        written = read_weights(path)
        assert set(written.tensors) == set(network.state_dict())
        load_into(network, written.tensors, name="fine-tuned")
        fake = as_int8(int8, path, fabric).state_dict()
        assert written.ranges == kept_ranges(fake) != {}
        assert written.notes["training.qat"] == "int8"
        assert written.notes["training.initial"] == "initial.safetensors"
        assert written.notes["fine_tuned"].startswith("quantisation-aware; val scores are those of")
    assert int8.initial is not None
    started = read_weights(int8.initial).tensors
    assert torch.equal(written.tensors["body.1.running_mean"], started["body.1.running_mean"])
    assert not torch.equal(written.tensors["head.weight"], started["head.weight"])


def test_a_plain_training_says_nothing_of_int8(job: Job, fabric: Fabric) -> None:
    list(begin(job, fabric))
    written = read_weights(job.output)
    assert "training.qat" not in written.notes and "fine_tuned" not in written.notes
    assert written.ranges == {}


@pytest.mark.parametrize("after", [1, 4])
def test_an_interrupted_fine_tuning_goes_on_to_the_bit(
    int8: Job, fabric: Fabric, after: int
) -> None:
    whole = moved(int8, "uninterrupted")
    expected = losses(begin(whole, fabric))
    found = interrupt(int8, fabric, after=after)
    state = read_state(state_path(int8.output), int8.origin)
    assert {key for key in state.network if key.endswith("input_range")} == {"head.input_range"}
    found += losses(begin(int8, fabric, resume=True))
    assert found == expected
    assert_same_outcome(int8, whole)


def test_ranges_are_taken_up_from_the_state(int8: Job, fabric: Fabric) -> None:
    interrupt(int8, fabric, after=1)
    path = state_path(int8.output)
    state = read_state(path, int8.origin)
    narrow = {**state.network, "head.input_range": torch.tensor(0.125)}
    averaged = {**state.averaged, "head.input_range": torch.tensor(0.125)}
    save_state(path, replace(state, network=narrow, averaged=averaged))
    interrupt(int8, fabric, after=2, resume=True)
    assert read_state(path, int8.origin).network["head.input_range"] == 0.125


def test_int8_goes_on_with_int8_only(int8: Job, fabric: Fabric) -> None:
    interrupt(int8, fabric, after=1)
    with pytest.raises(ValueError, match="qat int8 then, not set now"):
        next(begin(replace(int8, is_int8=False), fabric, resume=True))


def test_int8_without_trained_weights(job: Job) -> None:
    with pytest.raises(ValueError, match="none of tiny come with the SDK; pass --initial"):
        replace(job, is_int8=True)


class OneMap(nn.Module):
    """Nothing between two feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv2d(1, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        reconstruction, logits = self.line(x).split(1, dim=1)
        return reconstruction, logits


def test_int8_of_a_network_that_it_cannot_round(int8: Job, fabric: Fabric) -> None:
    assert int8.initial is not None
    save_weights(int8.initial, Weights(OneMap().state_dict()))
    flat = replace(int8, model=replace(int8.model, build=OneMap))
    with pytest.raises(ValueError, match="^OneMap has no convolution between feature maps"):
        next(begin(flat, fabric))
    assert not list(int8.output.parent.iterdir())


# --- what cannot go on ----------------------------------------------------------------------------


class Diverging(nn.Module):
    """Says nan from a training pass on; before that it is the network that it holds."""

    def __init__(self, network: nn.Module, *, passes: int) -> None:
        super().__init__()
        self.body, self.head = network.body, network.head
        self.left = passes

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.left -= self.training
        reconstruction, logits = self.head(self.body(x)).split(1, dim=1)
        return reconstruction, logits * math.nan if self.left < 0 else logits


def diverging(build: Callable[[], nn.Module], passes: int) -> Callable[[], nn.Module]:
    return lambda: Diverging(build(), passes=passes)


def test_a_loss_that_is_not_finite_keeps_what_was_good(
    job: Job, elsewhere: Job, fabric: Fabric, tiny: Model
) -> None:
    expected = losses(begin(elsewhere, fabric))
    bad = replace(job, model=replace(tiny, build=diverging(tiny.build, 5)))
    found = []
    with pytest.raises(TrainingError, match="the loss is nan in step 6 of 8"):
        for progress in begin(bad, fabric):
            found.append(progress.loss)
    assert found == expected[:5]
    for path in (job.output, job.last):
        weights = read_weights(path)
        assert weights.notes["step"] == "4 of 8"
        assert all(torch.isfinite(tensor).all() for tensor in weights.tensors.values())
    assert read_state(state_path(job.output), job.origin).step == 4
    assert losses(begin(job, fabric, resume=True)) == expected[4:]
    assert_same_outcome(job, elsewhere)


def test_an_unfinished_training_is_not_overwritten(job: Job, fabric: Fabric) -> None:
    interrupt(job, fabric, after=3)
    state, rows = state_path(job.output).read_bytes(), table(job)
    with pytest.raises(ValueError, match="best.safetensors.unfinished is an unfinished training; "):
        next(begin(job, fabric))
    assert state_path(job.output).read_bytes() == state
    assert table(job) == rows


def test_nothing_to_resume(job: Job, fabric: Fabric) -> None:
    with pytest.raises(FileNotFoundError, match="there is no unfinished training .*; leave --res"):
        next(begin(job, fabric, resume=True))
    assert not list(job.output.parent.iterdir())


def test_resuming_something_else(job: Job, fabric: Fabric) -> None:
    interrupt(job, fabric, after=3)
    state, rows = state_path(job.output).read_bytes(), table(job)
    other = replace(job, recipe=replace(RECIPE, seed=2, batch=4))
    with pytest.raises(ValueError, match="batch 2 then, 4 now; seed 1 then, 2 now; resume with"):
        next(begin(other, fabric, resume=True))
    assert state_path(job.output).read_bytes() == state
    assert table(job) == rows


def test_a_batch_that_processes_cannot_share(job: Job) -> None:
    two = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    odd = replace(job, recipe=replace(RECIPE, batch=3))
    with pytest.raises(ValueError, match="^batch is 3, expected a multiple of the 2 processes"):
        next(begin(odd, two))


def test_initial_weights_of_another_network(job: Job, fabric: Fabric) -> None:
    initial = job.output.parents[1] / "initial.safetensors"
    save_weights(initial, Weights(nn.Linear(2, 2).state_dict()))
    with pytest.raises(ValueError, match=r"^initial\.safetensors does not fit Tiny: "):
        next(begin(replace(job, initial=initial), fabric))
    with pytest.raises(FileNotFoundError):
        next(begin(replace(job, initial=initial.with_name("none.safetensors")), fabric))
    assert not list(job.output.parent.iterdir())


def test_backgrounds_that_are_none(job: Job, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        read_frames(replace(job, backgrounds=(tmp_path / "empty",)))
    with pytest.raises(FileNotFoundError, match="none is no folder; pass a folder of target-free"):
        read_frames(replace(job, backgrounds=(tmp_path / "none",)))


# --- a GPU ----------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU here")
@pytest.mark.parametrize(("arithmetic", "tolerance"), [("fp32", 1e-3), ("bf16", 5e-2)])
def test_a_gpu_trains_and_resumes(job: Job, arithmetic: Arithmetic, tolerance: float) -> None:
    recipe = replace(RECIPE, arithmetic=arithmetic)
    job = replace(job, recipe=recipe)
    found = interrupt(job, make_fabric("cuda", recipe), after=3)
    found += losses(begin(job, make_fabric("cuda", recipe), resume=True))
    expected = losses(begin(moved(job, "uninterrupted"), make_fabric("cuda", recipe)))
    # A GPU adds in no fixed order.
    assert found == pytest.approx(expected, rel=tolerance)
    assert {tensor.dtype for tensor in read_weights(job.last).tensors.values()} == {
        torch.float32, torch.int64,
    }  # fmt: skip
