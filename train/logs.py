"""What a training writes while it runs: a CSV file and a TensorBoard log."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tensorboardX import SummaryWriter

from ..runtime.files import write_whole
from ..runtime.scoring import Scores

SCORES = ("iou", "niou", "pd", "fa_per_mpix")


@dataclass(frozen=True, slots=True)
class Row:
    """What is known after an epoch.

    Attributes:
        epoch: epochs done.
        step: steps done.
        loss: mean over the steps of the epoch.
        learning_rate: of its last step.
        seconds: that its steps took.
        waiting: part of these in which the step waited for its crops, 0..1.
        scores: of each validation list; empty where the epoch was not validated.
    """

    epoch: int
    step: int
    loss: float
    learning_rate: float
    seconds: float
    waiting: float
    scores: tuple[Scores, ...] = ()


class TrainingLog:
    """A CSV file with one row an epoch, and the same for TensorBoard in a folder.

    Resuming takes up both after the step at which the training goes on.
    """

    def __init__(
        self, path: Path, datasets: Sequence[str], *, after: int, is_written: bool = True
    ) -> None:
        """Begin a log, or go on with one.

        Args:
            path: of the CSV file; the TensorBoard log goes to a folder of the same stem.
            datasets: names of the validation sets.
            after: steps that are done already; rows beyond are dropped.
            is_written: False in all processes but one.
        """
        self._path = path
        self._datasets = datasets
        scores = [f"{name}.{kind}" for name in datasets for kind in SCORES]
        self._head = ["epoch", "step", "loss", "learning_rate", "seconds", "waiting", *scores]
        self._rows = _rows_until(path, after) if after else []
        self._board: SummaryWriter | None = None
        if is_written:
            folder = str(path.with_suffix(".tensorboard"))
            self._board = SummaryWriter(folder, purge_step=after + 1)
            self._write()

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._board is not None:
            self._board.close()

    def add(self, row: Row) -> None:
        """Write a row down; the file is whole after every row."""
        if self._board is None:
            return
        cells = [str(row.epoch), str(row.step), f"{row.loss:.6f}", f"{row.learning_rate:.3e}"]
        cells += [f"{row.seconds:.1f}", f"{row.waiting:.3f}"]
        board = {"loss": row.loss, "learning_rate": row.learning_rate, "waiting": row.waiting}
        for name, scores in zip(self._datasets, row.scores, strict=False):
            for kind in SCORES:
                cells.append(f"{getattr(scores, kind):.4f}")
                board[f"{name}/{kind}"] = getattr(scores, kind)
        missing = len(self._head) - len(cells)
        self._rows.append(cells + [""] * missing)
        self._write()
        for kind, value in board.items():
            self._board.add_scalar(kind, value, row.step)

    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self._head)
        writer.writerows(self._rows)
        write_whole(self._path, text.getvalue().encode())


def _rows_until(path: Path, step: int) -> list[list[str]]:
    """The rows of a log up to a step; none where the log is gone."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return [row for row in rows if int(row[1]) <= step]
