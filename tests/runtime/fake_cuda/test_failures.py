"""Devices that fail: what is said, and what stands in where that is allowed."""

import numpy as np
import pytest

from irstd.runtime import Detector, EngineError
from irstd.runtime.engine_choice import Loaded
from irstd.runtime.errors import DeviceError
from irstd.tests.runtime.fake_cuda.parts import DESKTOP, ORIN
from irstd.tests.runtime.fake_cuda.test_pipeline import (
    CONTRACT,
    EXTRACTION,
    assert_all_same,
    assert_same,
    expected,
    items_of,
    make_frames,
    on_cpu,
)


def on_cpu_instead():
    return Loaded(on_cpu().engine, "fp32", "")


def test_memory_that_is_full_is_told_with_what_helps(bench, library):
    bench.install(library, memory=5_000)
    with Detector(bench.engine(), CONTRACT, EXTRACTION) as detector:
        with pytest.raises(DeviceError, match="out of memory: 0.[0-9] MiB more are needed") as said:
            detector(make_frames(1)[0])
    assert "of the GPU's 0.0 MiB are free; close other programs" in str(said.value)
    assert "smaller --size" in str(said.value)
    bench.driver.assert_clean()


def test_the_second_device_runs_all_of_it(bench, library):
    bench.install(library, devices=(DESKTOP, ORIN))
    frames = make_frames(3)
    with Detector(bench.engine(number=1), CONTRACT, EXTRACTION) as detector:
        assert_all_same(list(detector.stream(items_of(frames))), expected(frames))
        assert {queue.device for queue in bench.driver.queues.values()} == {1}
        assert "(sm_87)" in detector.description
    bench.driver.assert_clean()


def test_a_lost_device_is_an_error_with_the_frames_number(bench, library):
    bench.install(library)
    with pytest.raises(DeviceError, match=r"^frame 2 \(002\): Fake GPU .* failed: .*launch fail"):
        with Detector(bench.engine(), CONTRACT, EXTRACTION) as detector:
            for result in detector.stream(items_of(make_frames(6)), ahead=1):
                if result.source.index == 1:
                    bench.driver.calls_left = 3
    bench.install(library)
    with pytest.raises(DeviceError, match=r"^frame 1: .*allow_cpu=True \(--allow-cpu\)"):
        with Detector(bench.engine(), CONTRACT, EXTRACTION) as detector:
            for frame in make_frames(2):
                detector(frame)
                bench.driver.calls_left = 3


def test_the_cpu_stands_in_where_that_is_allowed(bench, library):
    """Wherever the device is lost, every frame has its targets, in order, and says what it was."""
    frames = make_frames(6)
    truth = expected(frames)
    for calls in (0, 5, 40, 60, 80, 95, 110, 140, 170):
        bench.install(library, seed=calls)
        detector = Detector(bench.engine(), CONTRACT, EXTRACTION, stand_in=on_cpu_instead)
        bench.driver.calls_left = calls
        results = list(detector.stream(items_of(frames)))
        assert_all_same(results, truth)
        notes = [result.targets.note for result in results]
        failed = notes.index(next(filter(None, notes)))
        assert notes == [""] * failed + [detector.note] * (len(frames) - failed)
        assert "; the CPU stands in" in detector.note
        assert "ONNX Runtime" in detector.engine.description
        assert detector.note in detector.description
        assert detector(frames[0]).note == detector.note
        detector.close()


def test_the_cpu_stands_in_for_a_call(bench, library):
    bench.install(library)
    frames = make_frames(3)
    detector = Detector(bench.engine(), CONTRACT, EXTRACTION, stand_in=on_cpu_instead)
    notes = []
    for frame, truth in zip(frames, expected(frames), strict=True):
        targets = detector(frame)
        assert_same(targets, truth)
        notes.append(targets.note)
        bench.driver.calls_left = 2
    assert notes[0] == ""
    assert notes[1] == notes[2]
    assert "failed at frame 1 (" in notes[1]
    detector.close()


def test_what_is_no_failure_of_the_device_lets_nothing_stand_in(bench):
    bench.install("cupy")
    engine = bench.engine(gain=np.nan)
    with Detector(engine, CONTRACT, EXTRACTION, stand_in=on_cpu_instead) as detector:
        with pytest.raises(EngineError, match="NaN"):
            detector(make_frames(1)[0])
        assert detector.note == ""
