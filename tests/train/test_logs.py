from __future__ import annotations

import csv
import math
import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from irstd.runtime.scoring import Scores
from irstd.train.logs import Row, TrainingLog

HEAD = (
    "epoch,step,loss,learning_rate,seconds,waiting,"
    "NUDT.iou,NUDT.niou,NUDT.pd,NUDT.fa_per_mpix,sky.iou,sky.niou,sky.pd,sky.fa_per_mpix"
)
NAMES = ["NUDT", "sky"]


def scores(iou: float) -> Scores:
    return Scores(
        iou=iou, niou=0.5, precision=1, recall=1, f1=1, pd=0.25, fa_per_mpix=12.34567,
        frames=1, targets=4, false_alarms_per_frame=0,
    )  # fmt: skip


def row(epoch: int, *given: Scores) -> Row:
    """The row after an epoch of ten steps."""
    return Row(
        epoch=epoch, step=10 * epoch, loss=0.12345678, learning_rate=1.5e-3, seconds=61.26,
        waiting=0.25, scores=given,
    )  # fmt: skip


def events(path: Path) -> list[Event]:
    """What TensorBoard reads: records of (length, its checksum, event, its checksum)."""
    found = []
    for file in sorted((path.with_suffix(".tensorboard")).iterdir()):
        content, place = file.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            found.append(Event.FromString(content[place + 12 : place + 12 + length]))
            place += 12 + length + 4
    return found


def scalars(path: Path) -> list[tuple[str, int, float]]:
    return [
        (value.tag, event.step, value.simple_value)
        for event in events(path)
        for value in event.summary.value
    ]


# --- the CSV file ---------------------------------------------------------------------------------


def test_rows_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with TrainingLog(path, NAMES, after=0) as log:
        assert path.read_text() == f"{HEAD}\n"
        log.add(row(1))
        # Whole after every row: a killed training leaves its rows.
        assert path.read_text() == f"{HEAD}\n1,10,0.123457,1.500e-03,61.3,0.250,,,,,,,,\n"
        log.add(row(2, scores(0.6), scores(math.nan)))
    assert path.read_text().splitlines()[2] == (
        "2,20,0.123457,1.500e-03,61.3,0.250,0.6000,0.5000,0.2500,12.3457,nan,0.5000,0.2500,12.3457"
    )
    assert {file.name for file in tmp_path.iterdir()} == {"a.csv", "a.tensorboard"}


def test_a_name_with_a_comma_is_one_cell(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with TrainingLog(path, ["a, b"], after=0) as log:
        log.add(row(1, scores(0.5)))
    with path.open(newline="", encoding="utf-8") as file:
        (read,) = csv.DictReader(file)
    assert read["a, b.iou"] == "0.5000"


def test_a_new_training_begins_a_new_log(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for _ in range(2):
        with TrainingLog(path, NAMES, after=0) as log:
            log.add(row(1))
    assert len(path.read_text().splitlines()) == 2


def test_resuming_drops_the_rows_after_its_step(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with TrainingLog(path, NAMES, after=0) as log:
        for epoch in (1, 2, 3):
            log.add(row(epoch, scores(0.1 * epoch), scores(0.5)))
    before = path.read_text().splitlines()
    with TrainingLog(path, NAMES, after=20) as log:
        assert path.read_text().splitlines() == before[:3]
        log.add(row(3))
    after = path.read_text().splitlines()
    assert after[:3] == before[:3]
    assert after[3:] == ["3,30,0.123457,1.500e-03,61.3,0.250,,,,,,,,"]


def test_resuming_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with TrainingLog(path, NAMES, after=0) as log:
        log.add(row(1))
        log.add(row(2))
    with TrainingLog(path, NAMES, after=19):
        pass
    assert [line.split(",")[0] for line in path.read_text().splitlines()] == ["epoch", "1"]


def test_resuming_without_the_log(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with TrainingLog(path, NAMES, after=20) as log:
        log.add(row(3))
    assert [line.split(",")[0] for line in path.read_text().splitlines()] == ["epoch", "3"]


@pytest.mark.parametrize("after", [0, 10])
def test_other_processes_write_nothing(tmp_path: Path, after: int) -> None:
    with TrainingLog(tmp_path / "a.csv", NAMES, after=after, is_written=False) as log:
        log.add(row(1, scores(0.5), scores(0.5)))
    assert not list(tmp_path.iterdir())


# --- TensorBoard ----------------------------------------------------------------------------------


def test_tensorboard_gets_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with TrainingLog(path, NAMES, after=0) as log:
        log.add(row(1))
        log.add(row(2, scores(0.6), scores(0.7)))
    found = {(tag, step): value for tag, step, value in scalars(path)}
    assert found["loss", 10] == found["loss", 20] == pytest.approx(0.12345678)
    assert found["learning_rate", 20] == pytest.approx(1.5e-3)
    assert found["waiting", 20] == 0.25
    assert found["NUDT/iou", 20] == pytest.approx(0.6)
    assert found["sky/iou", 20] == pytest.approx(0.7)
    assert found["sky/fa_per_mpix", 20] == pytest.approx(12.34567)
    assert ("NUDT/iou", 10) not in found
    assert len(found) == 3 + 3 + 8


def test_tensorboard_drops_what_resuming_does_again(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with TrainingLog(path, NAMES, after=0) as log:
        log.add(row(1))
        log.add(row(2))
    # tensorboardX names its files by the second; a second training comes later than that.
    (file,) = path.with_suffix(".tensorboard").iterdir()
    file.rename(file.with_name("events.out.tfevents.0"))
    with TrainingLog(path, NAMES, after=10) as log:
        log.add(row(2))
    starts = [event.step for event in events(path) if event.HasField("session_log")]
    # TensorBoard forgets everything from the step of a session's start on.
    assert starts == [1, 11]
    assert [step for tag, step, _ in scalars(path) if tag == "loss"] == [10, 20, 20]
