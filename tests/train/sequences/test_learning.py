import csv

import numpy as np
import pytest
import torch

from irstd.runtime.backdrop import paint
from irstd.runtime.frame import ClipContract
from irstd.runtime.media_cv2 import write_image
from irstd.train.checkpoint import load_into, read_weights
from irstd.train.commands import train_command
from irstd.train.loop import TrainingError
from irstd.train.sequences.learning import Learning, LearningOptions
from irstd.train.sequences.lowrank3d import LowRank3d

pytestmark = pytest.mark.usefixtures("one_thread")
CLIP = ClipContract(8, stride=2)
SMALL = {"crop": 32, "batch": 1}


@pytest.fixture
def backgrounds(tmp_path):
    """A folder of five painted frames without targets."""
    folder = tmp_path / "empty"
    folder.mkdir()
    for number in range(5):
        shown = paint(np.random.default_rng(number), "terrain", (64, 64))
        write_image(folder / f"{number}.png", (255 * shown.clip(0, 1)).astype(np.uint8))
    return folder


def learn(folder, output, **options):
    return Learning([folder], CLIP, LearningOptions(**{**SMALL, **options}), output)


def test_a_training_lowers_the_loss_on_clips_kept_apart(backgrounds, tmp_path):
    output = tmp_path / "w.safetensors"
    learning = learn(backgrounds, output, steps=20, validate_every=5, learning_rate=2e-4)
    learned = list(learning.steps())
    assert [one.step for one in learned] == list(range(21))
    measured = [one.validation for one in learned if one.validation is not None]
    assert len(measured) == 5
    assert min(measured[1:]) < measured[0]
    assert learning.best == min(measured)
    weights = read_weights(output)
    assert float(weights.notes["validation_loss"]) == pytest.approx(min(measured), abs=1e-6)
    assert weights.notes["normalisation"] == "stretch"
    load_into(LowRank3d(), weights.tensors, name="w")
    with output.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == [str(number) for number in range(21)]
    assert [bool(row["validation"]) for row in rows] == [n % 5 == 0 for n in range(21)]


def test_equal_seeds_learn_the_same(backgrounds, tmp_path):
    losses = []
    for seed in (1, 1, 2):
        learning = learn(backgrounds, tmp_path / "w.safetensors", steps=1, seed=seed)
        losses.append([one.loss for one in learning.steps()][1])
    assert losses[0] == losses[1] != losses[2]


def test_a_loss_that_is_no_number_ends_the_training(backgrounds, tmp_path):
    learning = learn(backgrounds, tmp_path / "w.safetensors", steps=1)
    with torch.no_grad():
        learning.network.share.fill_(torch.nan)
    with pytest.raises(TrainingError, match="the loss is nan in step 1 of 1"):
        list(learning.steps())


def test_the_command_writes_weights_and_a_log(run, backgrounds, tmp_path):
    output = tmp_path / "runs" / "w.safetensors"
    words = ("--model", "lowrank3d", "--backgrounds", backgrounds, "--output", output)
    outcome = run(train_command, *words, "--crop", 32, "--batch", 1, "--set", "steps=1")
    assert outcome.exit_code == 0, outcome.output
    assert "step 1 of 1: loss on clips kept apart" in outcome.stderr
    assert output.is_file()
    assert output.with_suffix(".csv").is_file()


def test_what_a_training_without_labels_cannot_do(refused, backgrounds, tmp_path):
    words = ("--model", "lowrank3d", "--output", tmp_path / "w.safetensors")
    assert "pass --backgrounds FOLDER" in refused(train_command, *words)
    words = (*words, "--backgrounds", backgrounds)
    assert "leave --qat out" in refused(train_command, *words, "--qat")
    assert "no 'epochs' here; known: steps" in refused(train_command, *words, "--epochs", 3)
    said = refused(train_command, *words[:3], tmp_path / "w.pkl", *words[4:])
    assert "expected a name that ends in .safetensors" in said
    missing = refused(train_command, *words, "--backgrounds", tmp_path / "none")
    assert "none is no folder" in missing
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"validate_every": 0}, "validate_every is 0"),
        ({"crop": 31}, "crop is 31, expected 32"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        LearningOptions(**options)
