import csv
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from irstd.runtime.scoring import Scores
from irstd.train.checkpoint import Weights, load_into, read_weights, save_weights
from irstd.train.commands import _Shown, train_command
from irstd.train.logs import Row
from irstd.train.models.lrrnet_edge import LRRNetEdge
from irstd.train.session import Progress
from irstd.train.state import state_path
from irstd.train.zoo import find_model

pytestmark = pytest.mark.usefixtures("one_thread")

# Small and on the CPU; the same arguments train in this process and in others.
SMALL = ("--batch", 2, "--crop", 32, "--device", "cpu", "--threads", 1, "--workers", 0)


@pytest.fixture
def command(dataset, tmp_path):
    """Arguments of a small training of lrrnet-edge, by the name of its output."""

    def arguments(output, *changes):
        model = ("--model", "lrrnet-edge", "--data", dataset)
        return [*model, *SMALL, "--output", tmp_path / output, *changes]

    return arguments


@pytest.fixture
def start():
    """Start a program in a process group of its own; it is killed when the test ends."""
    processes = []

    def popen(*arguments):
        process = subprocess.Popen(
            [sys.executable, *(str(argument) for argument in arguments)],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield popen
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def rows_of(path):
    with path.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def wait_for_rows(process, path, count):
    """Wait until a log has a number of rows; its file is whole at any time."""
    table, deadline = path.with_suffix(".csv"), time.monotonic() + 60
    while not table.is_file() or len(rows_of(path)) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- in this process ------------------------------------------------------------------------------


def test_a_training_writes_weights_that_say_where_they_come_from(run, command, tmp_path):
    output = tmp_path / "runs" / "edge.safetensors"
    outcome = run(train_command, *command("runs/edge.safetensors", "--epochs", 2))
    assert outcome.exit_code == 0, outcome.output
    weights = read_weights(output)
    load_into(LRRNetEdge(), weights.tensors, name="trained")
    assert weights.notes["model"] == "lrrnet-edge"
    assert weights.notes["trained_on"] == "dataset train.txt"
    assert weights.notes["chosen_on"] == "dataset val.txt"
    assert [row["step"] for row in rows_of(output)] == ["2", "4"]
    assert outcome.stdout == f"best weights on the val lists of dataset: {output}\n"
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("epoch 2, step 4 of 4: loss ")
    assert "; val dataset IoU " in line


def test_what_decides_a_value(run, command, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("epochs = 9\nseed = 9\nlearning_rate = 9\n[augmentation]\nblur = 0.5\n")
    changes = ("--set", "seed=8", "--set", "learning_rate=8", "--set", "augmentation.noise=0")
    named = ("--epochs", 1, "--learning-rate", 1e-3)
    outcome = run(train_command, *command("a.safetensors", "--recipe", recipe, *changes, *named))
    assert outcome.exit_code == 0, outcome.output
    notes = read_weights(tmp_path / "a.safetensors").notes
    assert notes["training.epochs"] == "1"
    assert notes["training.seed"] == "8"
    assert notes["training.learning_rate"] == "0.001"
    assert notes["training.augmentation.noise"] == "0.0"
    assert notes["training.augmentation.blur"] == "0.5"


def test_a_fine_tuning_for_int8_starts_from_the_shipped_weights(run, command, tmp_path):
    outcome = run(train_command, *command("q.safetensors", "--qat", "--size", "64x64"))
    assert outcome.exit_code == 0, outcome.output
    shipped = find_model("lrrnet-edge").weights
    first, *rows = outcome.stderr.splitlines()
    assert first == f"fine-tuning {shipped} for INT8; val scores are those of INT8"
    assert [row.split(":")[0] for row in rows] == [
        f"epoch {epoch}, step {2 * epoch} of 6" for epoch in (1, 2, 3)
    ]
    assert all("; val as int8 dataset IoU " in row for row in rows)
    tuned, before = read_weights(tmp_path / "q.safetensors"), read_weights(shipped)
    load_into(LRRNetEdge(), tuned.tensors, name="tuned")
    assert tuned.notes["training.initial"] == "lrrnet-edge.safetensors"
    assert (tuned.notes["training.learning_rate"], tuned.notes["training.epochs"]) == ("2e-05", "3")
    for key, value in before.tensors.items():
        torch.testing.assert_close(tuned.tensors[key], value, atol=1e-3, rtol=0)


def test_a_fine_tuning_without_shipped_weights_needs_others(refused, command):
    line = refused(train_command, *command("w.safetensors", "--qat", "--model", "rpcanet"))
    assert "none of rpcanet come with the SDK; pass --initial WEIGHTS" in line


def test_help(run):
    outcome = run(train_command, "--help")
    assert outcome.exit_code == 0
    for option in ("--resume", "--set NAME=VALUE", "--backgrounds", "--qat", "--initial"):
        assert option in outcome.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--model", "lrrnt-edge"), "did you mean 'lrrnet-edge'"),
        (("--epochs", 0), "epochs is 0, expected 1 or more"),
        (("--learning-rate", 0), "learning_rate is 0.0, expected more than 0"),
        (("--crop", 8), "crop is 8, expected 16 pixels or more"),
        (("--crop", 40), "crop is 40, lrrnet-edge needs a multiple of 16"),
        (("--size", "64x40"), "size is 64x40, lrrnet-edge needs multiples of 16"),
        (("--size", "64"), "size is '64', expected HEIGHTxWIDTH"),
        (("--seed", -1), "seed is -1, expected 0 or more"),
        (("--set", "augmentation.nois=0"), "a recipe has no 'augmentation.nois'"),
        (("--set", "batch"), "override 'batch' is no NAME=VALUE"),
        (("--recipe", "none.toml"), "recipe none.toml does not exist"),
        (("--data", "nowhere"), "nowhere is no folder"),
        (("--backgrounds", "nowhere"), "nowhere is no folder"),
        (("--initial", "none.safetensors"), "weights none.safetensors do not exist"),
        (("--output", "best.pth"), "output is best.pth, expected a name that ends in .safetensors"),
        (("--resume",), "there is no unfinished training"),
        (("--threads", 0), "threads"),
        (("--workers", -1), "workers"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_refusals(refused, command, tmp_path, options, said):
    assert said in refused(train_command, *command("w.safetensors", "--epochs", 1, *options))
    assert not list(tmp_path.glob("w*.safetensors*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(refused, command):
    line = refused(train_command, *command("w.safetensors", "--device", "cuda"))
    assert "cuda" in line.lower() or "gpu" in line.lower()


def test_refusals_of_the_data(refused, command, dataset, tmp_path):
    (dataset / "train.txt").write_text("")
    assert "train" in refused(train_command, *command("w.safetensors"))
    (dataset / "train.txt").unlink()
    assert "train" in refused(train_command, *command("w.safetensors"))
    (tmp_path / "empty").mkdir()
    (dataset / "train.txt").write_text("0003\n")
    empty = ("--backgrounds", tmp_path / "empty")
    assert "empty" in refused(train_command, *command("w.safetensors", *empty))
    save_weights(tmp_path / "other.safetensors", Weights({"a": torch.zeros(1)}))
    other = ("--initial", tmp_path / "other.safetensors")
    line = refused(train_command, *command("w.safetensors", *other))
    assert "other.safetensors does not fit LRRNetEdge: " in line
    assert not list(tmp_path.glob("w*"))


def test_refusals_over_an_unfinished_training(refused, command, tmp_path):
    state_path(tmp_path / "w.safetensors").write_bytes(b"hello")
    assert "go on with --resume, or delete it" in refused(train_command, *command("w.safetensors"))
    line = refused(train_command, *command("w.safetensors", "--resume"))
    assert "is damaged; delete it and start again" in line


# --- what a person sees ---------------------------------------------------------------------------


def scores(iou):
    return Scores(
        iou=iou, niou=0.5, precision=1, recall=1, f1=1, pd=0.25, fa_per_mpix=12.34567,
        frames=1, targets=4, false_alarms_per_frame=0,
    )  # fmt: skip


def row(*given):
    return Row(
        epoch=2, step=20, loss=0.12345, learning_rate=1e-3, seconds=1, waiting=0, scores=given
    )


def test_what_stands_beside_the_bar():
    assert "; val as int8 " in _Shown(["N"], "val as int8").report(
        Progress(20, 60, 0.5, row(scores(0.6)))
    )
    shown = _Shown(["NUDT", "sky"])
    assert shown.line(None) == ""
    assert shown.line(Progress(1, 60, 0.98765)) == "loss 0.988"
    assert shown.report(Progress(1, 60, 0.98765)) == ""
    assert shown.report(Progress(20, 60, 0.5, row())) == ""  # an epoch that was not validated
    validated = Progress(20, 60, 0.5, row(scores(0.6), scores(float("nan"))))
    seen = "NUDT IoU 0.600 Pd 0.250 Fa 12; sky IoU nan Pd 0.250 Fa 12"
    assert shown.report(validated) == f"epoch 2, step 20 of 60: loss 0.123; val {seen}"
    assert shown.line(Progress(21, 60, 0.4)) == f"loss 0.400; {seen}"


# --- in processes of their own --------------------------------------------------------------------

TRAIN = ("-m", "irstd.train.commands")


def test_a_killed_training_goes_on_with_the_same_losses(run, start, command, tmp_path):
    many = ("--epochs", 20, "--crop", 16, "--set", "validate_every=100")
    killed = tmp_path / "killed.safetensors"
    process = start(*TRAIN, *command(killed.name, *many))
    wait_for_rows(process, killed, 3)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert state_path(killed).exists() and not killed.exists()
    assert 3 <= len(rows_of(killed)) < 20
    outcome = run(train_command, *command(killed.name, *many, "--resume"))
    assert outcome.exit_code == 0, outcome.output
    assert not state_path(killed).exists()
    whole = tmp_path / "whole.safetensors"
    assert run(train_command, *command(whole.name, *many)).exit_code == 0
    losses = [[entry["loss"] for entry in rows_of(path)] for path in (killed, whole)]
    assert losses[0] == losses[1]
    trained = [dict(read_weights(path).tensors) for path in (killed, whole)]
    torch.testing.assert_close(*trained, rtol=0, atol=0)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_ends_a_training_in_order(start, command, tmp_path, by):
    # Ctrl-C in a terminal, and torchrun, reach the processes that draw crops as well.
    output = tmp_path / "w.safetensors"
    process = start(*TRAIN, *command(output.name, "--epochs", 500, "--workers", 1))
    wait_for_rows(process, output, 1)
    os.killpg(process.pid, by)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    lines = [line for line in said.splitlines() if not line.startswith("epoch ")]
    assert len(lines) == 1, said
    assert lines[0].startswith("Error: interrupted after step ")
    assert state_path(output).exists()


def test_two_processes_train_as_one(run, start, command, tmp_path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = ("-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}")
    process = start(*torchrun, *TRAIN, *command(two.name, "--epochs", 2))
    assert run(train_command, *command(one.name, "--epochs", 2)).exit_code == 0
    said, noise = process.communicate(timeout=120)
    assert process.returncode == 0, noise
    assert said.count("best weights on the val lists") == noise.count("epoch 2, step 4 of 4") == 1
    assert len(list(two.with_suffix(".tensorboard").iterdir())) == 1
    ours, expected = rows_of(two), rows_of(one)
    assert [entry["step"] for entry in ours] == ["2", "4"]
    # Two halves are summed in another order than a whole, and AdamW's first steps are as large
    # for a gradient that is rounded off as for any other.
    for entry, theirs in zip(ours, expected, strict=True):
        assert float(entry["loss"]) == pytest.approx(float(theirs["loss"]), rel=1e-3)
    assert not state_path(two).exists()
    assert "Warning" not in noise
