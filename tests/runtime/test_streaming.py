import numpy as np
import pytest

from irstd.runtime import Detection, Detector, EngineError, Extraction, FrameContract
from irstd.runtime.engine_choice import Loaded
from irstd.runtime.errors import DeviceError
from irstd.runtime.sources import BadFrame, SourceFrame

CONTRACT = FrameContract(32, 32)


class Echo:
    """An engine whose confidence is the prepared frame; it fails at one run."""

    def __init__(self, *, fails_at=None, error=DeviceError, name="echo"):
        self.input_shape = (1, 1, 32, 32)
        self.description = name
        self.runs, self.fails_at, self.error = 0, fails_at, error
        self.is_closed = False

    def run(self, prepared):
        assert not self.is_closed
        self.runs += 1
        if self.runs == self.fails_at:
            raise self.error("it broke")
        return prepared[0, 0]

    def close(self):
        self.is_closed = True


def spot(row, column):
    frame = np.full((32, 32), 20, np.uint8)
    frame[row - 1 : row + 2, column - 1 : column + 2] = 220
    return frame


def items(count):
    return [SourceFrame(n, f"f{n}", spot(5 + n, 20)) for n in range(count)]


def rows(results):
    return [result.targets.row.tolist() for result in results]


@pytest.mark.parametrize("ahead", [None, 1, 3])
def test_results_come_in_order(ahead):
    detector = Detector(Echo(), CONTRACT, Extraction())
    assert detector.frames_ahead == 1
    results = list(detector.stream(items(6), ahead=ahead))
    assert rows(results) == [[5.0 + n] for n in range(6)]
    assert [result.source.index for result in results] == list(range(6))
    assert all(result.confidence is None for result in results)
    assert [result.targets.note for result in results] == [""] * 6


def test_confidence_comes_where_it_is_asked_for():
    detector = Detector(Echo(), CONTRACT, Extraction())
    (result,) = detector.stream(items(1), with_confidence=True)
    np.testing.assert_array_equal(
        result.confidence.values, detector.confidence(result.source.frame).values
    )


def test_an_empty_source_gives_nothing():
    assert list(Detector(Echo(), CONTRACT, Extraction()).stream([])) == []


@pytest.mark.parametrize("ahead", [1, 2])
def test_bad_frames_keep_their_place(ahead):
    mixed = items(5)
    mixed[0] = BadFrame(0, "f0", "unreadable")
    mixed[2] = SourceFrame(2, "f2", np.zeros((32, 32), np.uint16))
    mixed[4] = BadFrame(4, "f4", "unreadable")
    results = list(Detector(Echo(), CONTRACT, Extraction()).stream(mixed, ahead=ahead))
    assert [isinstance(result, Detection) for result in results] == [0, 1, 0, 1, 0]
    assert results[0] is mixed[0]
    assert "frame is uint16" in results[2].reason


def test_no_frame_under_way_is_refused():
    detector = Detector(Echo(), CONTRACT, Extraction())
    with pytest.raises(ValueError, match="0 frames under way, expected 1 or more"):
        next(detector.stream(items(1), ahead=0))


def test_an_engine_that_fails_says_at_which_frame():
    detector = Detector(Echo(fails_at=3, error=EngineError), CONTRACT, Extraction())
    with pytest.raises(EngineError, match=r"^frame 2 \(f2\): it broke$"):
        list(detector.stream(items(5)))


def test_a_device_that_fails_is_an_error_unless_something_may_stand_in():
    detector = Detector(Echo(fails_at=3), CONTRACT, Extraction())
    with pytest.raises(DeviceError, match=r"^frame 2 \(f2\): it broke; allow_cpu=True \(--allow"):
        list(detector.stream(items(5)))


@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("fails_at", [1, 2, 5])
def test_what_stands_in_takes_the_frames_under_way(ahead, fails_at):
    first, second = Echo(fails_at=fails_at, name="GPU"), Echo(name="CPU")
    detector = Detector(first, CONTRACT, Extraction(), stand_in=lambda: Loaded(second, "fp32", ""))
    results = list(detector.stream(items(5), ahead=ahead))
    assert rows(results) == [[5.0 + n] for n in range(5)]
    notes = [result.targets.note for result in results]
    assert notes[: fails_at - 1] == [""] * (fails_at - 1)
    assert set(notes[fails_at - 1 :]) == {
        f"GPU failed at frame {fails_at - 1} (f{fails_at - 1}) (it broke); the CPU stands in"
    }
    assert detector.engine is second
    assert first.is_closed
    assert detector.precision == "fp32"


def test_what_stands_in_may_fail_only_once():
    detector = Detector(
        Echo(fails_at=2),
        CONTRACT,
        Extraction(),
        stand_in=lambda: Loaded(Echo(fails_at=2), "fp32", ""),
    )
    with pytest.raises(DeviceError, match=r"^frame 2 \(f2\): it broke"):
        list(detector.stream(items(5)))
