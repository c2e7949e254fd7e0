import numpy as np
import pytest

from irstd.runtime.timing import time_in_turn, warm_up


class Recorder:
    """An engine that writes down its runs in a common list."""

    input_shape = (1, 1, 8, 8)

    def __init__(self, name, runs):
        self.name = name
        self.runs = runs

    def run(self, prepared):
        self.runs.append((self.name, prepared))


def test_engines_are_timed_in_turn_on_one_frame():
    runs = []
    measured = time_in_turn({name: Recorder(name, runs) for name in "ab"}, rounds=3)
    assert [name for name, _ in runs] == list("ababab")
    for _, frame in runs:
        np.testing.assert_array_equal(frame, runs[0][1])
    assert (runs[0][1].shape, runs[0][1].dtype) == ((1, 1, 8, 8), np.float32)
    assert list(measured) == ["a", "b"]
    for taken in measured.values():
        assert 0 <= taken.least <= taken.median <= taken.most


@pytest.mark.parametrize(("asked", "count"), [({}, 3), ({"runs": 1}, 1)])
def test_warming_up_runs_the_engine(asked, count):
    runs = []
    assert warm_up(Recorder("a", runs), **asked) >= 0
    assert len(runs) == count
