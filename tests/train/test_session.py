from __future__ import annotations

import os
import signal
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
from irstd.tests.train.session_jobs import (
    RECIPE,
    assert_same_outcome,
    begin,
    interrupt,
    losses,
    moved,
    table,
)
from irstd.train.checkpoint import Weights, load_into, read_weights, save_weights
from irstd.train.commands import make_fabric
from irstd.train.engine_torch import TorchEngine
from irstd.train.recipe import Arithmetic
from irstd.train.session import Job, read_frames, steps_per_epoch
from irstd.train.state import state_path
from irstd.train.zoo import Model

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 8  # four epochs of two steps


@pytest.fixture
def elsewhere(job: Job) -> Job:
    """The same job with another output."""
    return moved(job, "uninterrupted")


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
