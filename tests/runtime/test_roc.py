from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irstd.runtime.roc import TARGET_THRESHOLDS, Roc, RocResult
from irstd.runtime.scoring import Scorer


def curve(*frames: tuple[np.ndarray, np.ndarray]) -> RocResult:
    roc = Roc()
    for confidence, truth in frames:
        roc.add(confidence, truth)
    return roc.result()


def random_frame(seed: int, shape: tuple[int, int] = (16, 20)) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.random(shape) < 0.1
    truth[3, 3], truth[0, 0] = True, False
    # Multiples of 1/1000 lie on the edges of the bins: there a curve by bins is exact.
    return (random.integers(0, 1001, shape) / 1000).astype(np.float32), truth


def test_hand_counted_curve() -> None:
    confidence = np.array([[0.9, 0.6, 0.6, 0.1]], np.float32)
    truth = np.array([[True, True, False, False]])
    result = curve((confidence, truth))
    # Of the four pairs of a target and a background pixel three are in order, one is a tie.
    assert result.auc == pytest.approx(3.5 / 4)
    at = dict(
        zip(result.thresholds.tolist(), zip(result.fpr, result.tpr, strict=True), strict=True)
    )
    assert at[1.0] == (0.0, 0.0)
    assert at[0.7] == (0.0, 0.5)
    assert at[0.6] == (0.0, 0.5)  # above the threshold, not on it
    assert at[0.5] == (0.5, 1.0)
    assert at[0.05] == at[-math.inf] == (1.0, 1.0)


def test_perfect_blind_and_inverted() -> None:
    truth = np.eye(16, dtype=bool)
    assert curve((truth.astype(np.float32), truth)).auc == 1.0
    assert curve((np.full((16, 16), 0.3, np.float32), truth)).auc == 0.5
    assert curve((np.zeros((16, 16), np.float32), truth)).auc == 0.5
    assert curve(((~truth).astype(np.float32), truth)).auc == 0.0


@given(st.integers(0, 2**32 - 1))
def test_auc_against_every_pair(seed: int) -> None:
    confidence, truth = random_frame(seed)
    target, background = confidence[truth][:, None], confidence[~truth][None]
    wins = (target > background).mean() + 0.5 * (target == background).mean()
    result = curve((confidence, truth))
    assert result.auc == pytest.approx(wins)
    assert (result.tpr[0], result.fpr[0], result.tpr[-1], result.fpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(result.tpr) >= 0).all() and (np.diff(result.fpr) >= 0).all()


@given(st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_rates_against_brute_force(seed: int, step: int) -> None:
    confidence, truth = random_frame(seed)
    result = curve((confidence, truth))
    above = confidence > np.float32(step / 1000)
    place = result.thresholds.tolist().index(step / 1000)
    assert result.tpr[place] == pytest.approx(above[truth].mean())
    assert result.fpr[place] == pytest.approx(above[~truth].mean())


@given(st.integers(0, 2**32 - 1))
def test_operating_points_are_the_scorers(seed: int) -> None:
    frames = [random_frame(seed), random_frame(seed + 1, (9, 11))]
    points = curve(*frames).points
    assert [point.threshold for point in points] == sorted(TARGET_THRESHOLDS)
    for point in points:
        scorer = Scorer()
        for confidence, truth in frames:
            scorer.add(confidence > np.float32(point.threshold), truth)
        scores = scorer.result()
        assert point.pd == scores.pd
        assert point.fa_per_mpix == scores.fa_per_mpix
        assert point.false_alarms_per_frame == scores.false_alarms_per_frame
        assert point.tpr == pytest.approx(scores.recall)


def test_weak_confidences_stay_weak() -> None:
    """Nothing is divided by a frame's largest: 0.004 on an empty frame raises no alarm."""
    result = curve((np.full((8, 8), 0.004, np.float32), np.zeros((8, 8), bool)))
    assert {point.fa_per_mpix for point in result.points} == {0.0}
    assert all(math.isnan(point.pd) for point in result.points)
    assert math.isnan(result.auc) and np.isnan(result.tpr).all()
    assert result.fpr[-1] == 1.0


def test_no_frames_and_no_background() -> None:
    assert math.isnan(Roc().result().auc)
    full = np.ones((8, 8), bool)
    assert np.isnan(curve((full.astype(np.float32), full)).fpr).all()


def test_memory_does_not_grow() -> None:
    one, two = curve(random_frame(1)), curve(*(random_frame(1) for _ in range(5)))
    assert one.tpr.shape == two.tpr.shape == (1002,)
    assert one.auc == pytest.approx(two.auc)


def test_table() -> None:
    truth = np.zeros((10, 10), bool)
    truth[4:6, 4:6] = True
    confidence = np.where(truth, 0.7, 0.0).astype(np.float32)
    confidence[0, 0] = 0.3
    rows = {row[0]: row[1:] for row in curve((confidence, truth)).table()}
    assert rows[0.25] == pytest.approx((1.0, 1 / 96, 1.0, 10_000.0, 1.0))
    assert rows[0.5] == (1.0, 0.0, 1.0, 0.0, 0.0)
    assert rows[0.7] == (0.0, 0.0, 0.0, 0.0, 0.0)


def test_csv_holds_the_whole_curve(tmp_path: Path) -> None:
    result = curve(random_frame(3))
    result.write_csv(tmp_path / "roc.csv")
    with (tmp_path / "roc.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "threshold", "tpr", "fpr", "pd", "fa_per_mpix", "false_alarms_per_frame",
    ]  # fmt: skip
    assert [float(row["tpr"]) for row in rows] == result.tpr.tolist()
    assert [float(row["fpr"]) for row in rows] == result.fpr.tolist()
    measured = [row for row in rows if row["pd"]]
    assert [float(row["threshold"]) for row in measured] == sorted(TARGET_THRESHOLDS)[::-1]
    assert [float(row["pd"]) for row in measured] == [point.pd for point in result.points][::-1]


@pytest.mark.parametrize("value", [np.nan, -0.01, 1.01, np.inf])
def test_refuses_what_is_no_confidence(value: float) -> None:
    confidence = np.full((8, 8), 0.5, np.float32)
    confidence[2, 2] = value
    with pytest.raises(ValueError, match=r"expected 0..1 without NaN; apply the sigmoid"):
        Roc().add(confidence, np.zeros((8, 8), bool))


def test_refuses_other_types_and_sizes() -> None:
    truth = np.zeros((8, 8), bool)
    with pytest.raises(TypeError, match="confidence is float64, expected float32"):
        Roc().add(np.zeros((8, 8)), truth)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="truth is uint8"):
        Roc().add(np.zeros((8, 8), np.float32), truth.astype(np.uint8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected the same"):
        Roc().add(np.zeros((8, 9), np.float32), truth)
