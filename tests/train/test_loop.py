from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from irstd.runtime.scoring import Scores
from irstd.train.checkpoint import Weights, load_into, read_weights
from irstd.train.data import TrainingFrame
from irstd.train.loop import (
    Progress,
    Recipe,
    TrainingLog,
    save_with,
    steps_per_epoch,
    train,
    validate,
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class OneConvolution(nn.Module):
    """The smallest network of the zoo's form."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        reconstruction, logits = self.conv(x).split(1, dim=1)
        return reconstruction, logits


class BrighterThan(nn.Module):
    """Takes every pixel above a limit for a target."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = nn.Parameter(torch.tensor(limit))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x - self.limit


def network(seed: int = 0) -> OneConvolution:
    torch.manual_seed(seed)
    return OneConvolution()


def frames(count: int, *, seed: int = 0, targets: bool = True) -> list[TrainingFrame]:
    """Dim noise, one bright 3x3 target a frame."""
    rng = np.random.default_rng(seed)
    labelled = []
    for _ in range(count):
        frame = 0.2 * rng.random((16, 16), dtype=np.float32)
        mask = np.zeros((16, 16), np.float32)
        row, column = rng.integers(0, 13, 2)
        if targets:
            window = np.s_[row : row + 3, column : column + 3]
            frame[window], mask[window] = 0.9, 1
        labelled.append(TrainingFrame(frame, mask))
    return labelled


def recipe(**changes: float) -> Recipe:
    options: dict[str, float] = {
        "epochs": 6, "batch": 4, "crop": 12, "learning_rate": 0.05, "averaging": 0.5,
    }  # fmt: skip
    return Recipe(**{**options, **changes})  # type: ignore[arg-type]


def ignore(weights: Weights) -> None:
    """A `keep` that forgets."""


def run(net: nn.Module, chosen: Recipe, *, count: int = 8, seed: int = 0) -> list[Progress]:
    training, validation = [frames(count, seed=seed)], [frames(2, seed=99)]
    return list(train(net, chosen, training=training, validation=validation, keep=ignore))


# --- Recipe ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["epochs", "batch", "crop", "validate_every"])
@pytest.mark.parametrize("value", [0, -3])
def test_recipes_that_make_no_sense(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"^{name} is {value}, expected 1 or more$"):
        recipe(**{name: value})


def test_steps_per_epoch_rounds_up() -> None:
    assert steps_per_epoch([frames(5), frames(4)], recipe(batch=4)) == 3
    assert steps_per_epoch([frames(8)], recipe(batch=4)) == 2
    assert steps_per_epoch([frames(1)], recipe(batch=64)) == 1


# --- train ----------------------------------------------------------------------------------------


def test_the_loss_falls_and_the_target_is_found() -> None:
    kept: list[Weights] = []
    training, validation = frames(8), frames(4, seed=99)
    net = network()
    # Without the fading start the loss is the same function at every step.
    chosen = recipe(epochs=40, start_share=0.0, batch=8, learning_rate=0.5)
    steps = list(train(net, chosen, training=[training], validation=[validation], keep=kept.append))
    losses = [progress.loss for progress in steps]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    load_into(net, kept[-1].tensors, name="kept")
    assert validate(net, validation).pd == 1


def test_progress_counts_every_step() -> None:
    steps = run(network(), recipe(epochs=3, batch=4), count=9)
    assert [progress.step for progress in steps] == list(range(1, 10))
    assert {progress.steps for progress in steps} == {9}
    assert all(math.isfinite(progress.loss) for progress in steps)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9, 10, 11, 20, 30])
def test_any_number_of_steps(steps: int) -> None:
    assert len(run(network(), recipe(epochs=steps, batch=2), count=2)) == steps


def test_the_network_changes_only_as_the_caller_iterates() -> None:
    net = network()
    before = net.conv.weight.detach().clone()
    steps = train(net, recipe(), training=[frames(4)], validation=[frames(1)], keep=ignore)
    assert torch.equal(net.conv.weight, before)
    next(steps)
    assert not torch.equal(net.conv.weight, before)


@pytest.mark.parametrize(
    ("epochs", "every", "expected"),
    [(6, 2, [4, 8, 12]), (5, 2, [4, 8, 10]), (3, 5, [6]), (2, 1, [2, 4])],
)
def test_validation_on_schedule_and_at_the_end(
    epochs: int, every: int, expected: list[int]
) -> None:
    steps = run(network(), recipe(epochs=epochs, validate_every=every, batch=4), count=8)
    assert [progress.step for progress in steps if progress.validation] == expected


def test_every_validation_set_gets_its_scores() -> None:
    steps = train(
        network(),
        recipe(epochs=1),
        training=[frames(4), frames(2)],
        validation=[frames(2), frames(3)],
        keep=ignore,
    )
    last = list(steps)[-1]
    assert [scores.frames for scores in last.validation] == [2, 3]


def trained_and_kept(
    chosen: Recipe, validation: Sequence[Sequence[TrainingFrame]]
) -> tuple[list[Progress], list[Weights]]:
    kept: list[Weights] = []
    steps = train(network(), chosen, training=[frames(8)], validation=validation, keep=kept.append)
    return list(steps), kept


def fitness(scores: Sequence[Scores]) -> float:
    return float(np.mean([score.iou for score in scores]))


def test_the_best_weights_are_kept_as_they_were() -> None:
    validation = [frames(3, seed=98), frames(3, seed=99)]
    steps, kept = trained_and_kept(recipe(epochs=20, validate_every=1), validation)
    course = [fitness(progress.validation) for progress in steps if progress.validation]
    rises = [value for place, value in enumerate(course) if value > max([-1.0, *course[:place]])]
    assert len(kept) == len(rises) > 1
    for weights, value in zip(kept, rises, strict=True):
        net = network()
        load_into(net, weights.tensors, name="kept")
        again = [validate(net, part) for part in validation]
        assert fitness(again) == pytest.approx(value)
        assert weights.notes["validation.iou"] == ", ".join(f"{score.iou:.4f}" for score in again)


def test_kept_weights_know_their_recipe() -> None:
    steps, kept = trained_and_kept(recipe(epochs=2, seed=7), [frames(2)])
    assert kept[-1].notes["recipe.epochs"] == "2"
    assert kept[-1].notes["recipe.seed"] == "7"
    assert kept[-1].notes["recipe.learning_rate"] == "0.05"
    assert kept[-1].notes["step"] == str(len(steps))


def test_the_average_is_kept_not_the_last_step() -> None:
    net, kept = network(), []
    steps = train(
        net,
        recipe(epochs=4, batch=8, averaging=0.75),
        training=[frames(8)],
        validation=[frames(2)],
        keep=kept.append,
    )
    course = []
    for _ in steps:
        course.append({key: tensor.clone() for key, tensor in net.state_dict().items()})
    for key in course[0]:
        average = course[0][key]
        for state in course[1:]:
            average = 0.75 * average + 0.25 * state[key]
        torch.testing.assert_close(kept[-1].tensors[key], average)
        assert not torch.equal(average, course[-1][key])


@pytest.mark.parametrize("limit", ["never", "always"])
def test_weights_are_kept_even_where_no_validation_frame_has_a_target(limit: str) -> None:
    # Nothing predicted and nothing true leaves the IoU undefined; the training must not be lost.
    validation = frames(2, targets=False)
    net = BrighterThan(5.0 if limit == "never" else -5.0)
    kept: list[Weights] = []
    steps = train(
        net, recipe(epochs=2), training=[frames(4)], validation=[validation], keep=kept.append
    )
    list(steps)
    assert kept


def test_without_validation_frames() -> None:
    with pytest.raises(ValueError, match="validation"):
        list(train(network(), recipe(), training=[frames(4)], validation=[], keep=ignore))


@pytest.mark.parametrize("training", [[], [[]], [frames(2), []]])
def test_without_training_frames(training: list[list[TrainingFrame]]) -> None:
    with pytest.raises(ValueError, match="frames"):
        list(train(network(), recipe(), training=training, validation=[frames(1)], keep=ignore))


def test_the_seed_decides_the_course() -> None:
    courses = [
        [progress.loss for progress in run(network(1), recipe(seed=seed))] for seed in (0, 0, 1)
    ]
    assert courses[0] == courses[1] != courses[2]


def test_the_start_fades_to_nothing() -> None:
    # The same steps, with and without a start so heavy that it shows.
    net = network()
    plain = run(net, recipe(epochs=4, start_share=0.0, learning_rate=1e-9))
    started = run(
        network(), recipe(epochs=4, start_share=0.5, learning_rate=1e-9, target_weight=100.0)
    )
    extra = [ours.loss - theirs.loss for ours, theirs in zip(started, plain, strict=True)]
    assert len(extra) == 8
    assert all(value > 0.1 for value in extra[:3])
    assert extra[3:] == pytest.approx([0] * 5, abs=1e-5)


def test_a_huge_gradient_is_clipped() -> None:
    net = network()
    steps = train(
        net,
        recipe(reconstruction_weight=1e6),
        training=[frames(8)],
        validation=[frames(1)],
        keep=ignore,
    )
    assert next(steps).loss > 1e3
    squares = [parameter.grad.square().sum() for parameter in net.parameters()]
    assert math.sqrt(sum(squares)) == pytest.approx(1, abs=1e-4)


def test_training_trains_and_validation_validates() -> None:
    modes: list[bool] = []

    class Watched(OneConvolution):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            modes.append(self.training)
            return super().forward(x)

    torch.manual_seed(0)
    # The average is a copy of this network, and notes its own passes in the same list.
    run(Watched().eval(), recipe(epochs=2, validate_every=1, batch=8), count=8)
    assert modes == [True, False, False, True, False, False]


# --- validate -------------------------------------------------------------------------------------


def test_validate_by_hand() -> None:
    # Two frames of 4x4: a target of 4 pixels of which 3 are bright, and one bright pixel alone.
    hit, false = np.zeros((2, 16, 16), np.float32)
    mask = np.zeros((16, 16), np.float32)
    mask[2:4, 2:4] = 1
    hit[2:4, 2:4] = ((0.9, 0.9), (0.9, 0.1))
    false[10, 10] = 0.9
    empty = np.zeros((16, 16), np.float32)
    scores = validate(BrighterThan(0.5), [TrainingFrame(hit, mask), TrainingFrame(false, empty)])
    assert scores.iou == pytest.approx(3 / 5)
    assert scores.niou == pytest.approx((3 / 4 + 0) / 2)
    assert (scores.pd, scores.targets, scores.frames) == (1, 1, 2)
    assert scores.fa_per_mpix == pytest.approx(1e6 / 512)
    assert scores.false_alarms_per_frame == 0.5


def test_validate_takes_half_confidence_and_half_masks_as_background() -> None:
    soft = np.full((8, 8), 0.5, np.float32)
    scores = validate(BrighterThan(0.5), [TrainingFrame(soft, soft)])
    assert math.isnan(scores.iou) and scores.targets == 0 and scores.fa_per_mpix == 0


def test_validate_switches_dropout_off_and_leaves_no_gradient() -> None:
    class Dropping(OneConvolution):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            assert not self.training and torch.is_inference_mode_enabled()
            return super().forward(x)

    validate(Dropping().train(), frames(1))


# --- TrainingLog and save_with --------------------------------------------------------------------


def scores(iou: float) -> Scores:
    return Scores(
        iou=iou, niou=0.5, precision=1, recall=1, f1=1, pd=0.25, fa_per_mpix=12.34567,
        frames=1, targets=4, false_alarms_per_frame=0,
    )  # fmt: skip


def test_the_log_has_a_row_a_dataset(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    with TrainingLog(path) as log:
        log.write(Progress(5, 10, 0.123456, (scores(0.6), scores(math.nan))), ["NUDT", "a, b"])
        half = path.read_text(encoding="utf-8")  # flushed: a killed run leaves its rows
        log.write(Progress(10, 10, 0.1, (scores(0.7), scores(0.8))), ["NUDT", "a, b"])
    assert half.count("\n") == 3
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[:3] == [
        ["step", "loss", "dataset", "iou", "niou", "pd", "fa_per_mpix"],
        ["5", "0.1235", "NUDT", "0.6000", "0.5000", "0.2500", "12.3457"],
        ["5", "0.1235", "a, b", "nan", "0.5000", "0.2500", "12.3457"],
    ]
    assert [row[0] for row in rows[3:]] == ["10", "10"]


def test_the_log_refuses_scores_without_a_dataset(tmp_path: Path) -> None:
    with TrainingLog(tmp_path / "log.csv") as log, pytest.raises(ValueError, match="argument 2"):
        log.write(Progress(5, 10, 0.1, (scores(0.6), scores(0.7))), ["NUDT"])


def test_save_with_adds_its_notes(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    keep = save_with(path, {"model": "lrrnet", "step": "none yet"})
    keep(Weights({"a": torch.ones(2)}, {"step": "12"}))
    read = read_weights(path)
    assert dict(read.notes) == {"model": "lrrnet", "step": "12"}
    assert torch.equal(read.tensors["a"], torch.ones(2))
    keep(Weights({"a": torch.zeros(2)}, {"step": "24"}))
    assert read_weights(path).notes["step"] == "24"
