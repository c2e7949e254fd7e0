import csv

import pytest

from irstd.train.checkpoint import load_into, read_weights
from irstd.train.commands import train_command
from irstd.train.models.lrrnet import LRRNet


@pytest.fixture
def dataset(masks_dataset):
    (masks_dataset / "train.txt").write_text("0003\n0004\n")
    return masks_dataset


def test_a_short_training_writes_weights_that_say_where_they_come_from(run, dataset, tmp_path):
    output = tmp_path / "runs" / "lrrnet.safetensors"
    ask = ("--epochs", 1, "--batch", 2, "--crop", 32, "--threads", 1, "--output", output)
    outcome = run(train_command, "--model", "lrrnet", "--data", dataset, *ask)
    assert outcome.exit_code == 0, outcome.output
    weights = read_weights(output)
    load_into(LRRNet(), weights.tensors, name="trained")
    assert weights.notes["normalisation"] == "stretch"
    assert weights.notes["trained_on"] == "dataset train.txt"
    assert weights.notes["chosen_on"] == "dataset val.txt"
    with output.with_suffix(".csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["dataset"] == "dataset"
    assert "val dataset IoU" in outcome.stderr
    assert str(output) in outcome.stdout


def test_refusals(refused, dataset, tmp_path):
    output = ("--output", tmp_path / "w.safetensors")
    data = ("--data", dataset)
    assert "did you mean" in refused(train_command, "--model", "lrrnt", *data, *output)
    lrrnet = ("--model", "lrrnet", *output)
    assert "epochs is 0" in refused(train_command, *lrrnet, *data, "--epochs", 0)
    assert "learning_rate is 0.0" in refused(train_command, *lrrnet, *data, "--learning-rate", 0)
    assert "larger than the frame" in refused(train_command, *lrrnet, *data, "--crop", 999)
    assert "no folder" in refused(train_command, *lrrnet, "--data", tmp_path / "nothing")
    (dataset / "train.txt").unlink()
    assert "no split 'train'" in refused(train_command, *lrrnet, *data)
    assert not list(tmp_path.glob("w.*safetensors*"))
