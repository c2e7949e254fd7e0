"""Clips on a fake device: targets, states and errors are those of the host's way."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from irstd.runtime import Detection, Detector, Extraction, FrameContract
from irstd.runtime.engine import load_engine
from irstd.runtime.engine_choice import Loaded
from irstd.runtime.errors import DeviceError, OutputError
from irstd.runtime.frame import ClipContract
from irstd.runtime.sources import BadFrame
from irstd.tests.runtime.fake_cuda.parts import ORIN, Fault
from irstd.tests.runtime.fake_cuda.test_pipeline import assert_same, items_of
from irstd.tests.runtime.test_clip import textured

SHAPE = (30, 32)
MOVED = FrameContract(32, 36, bit_depth=14, fit="pad", clip=ClipContract(3, 2))
LEFT = replace(MOVED, clip=ClipContract(3, registration="none"))
CONTRACTS = pytest.mark.parametrize("contract", [MOVED, LEFT], ids=["moved", "left"])
EXTRACTION = Extraction(0.3)


def newness_graph(contract, *, gain=4.0):
    """Confidence is how far the newest frame exceeds the mean of the others."""
    length, size = contract.clip.length, (contract.height, contract.width)
    kernel = np.full((1, length, 1, 1), -gain / (length - 1), np.float32)
    kernel[0, -1] = gain
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["frame", "kernel"], ["raised"]),
            helper.make_node("Clip", ["raised", "zero", "one"], ["confidence"]),
        ],
        "newness",
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, [1, length, *size])],
        [helper.make_tensor_value_info("confidence", TensorProto.FLOAT, [1, 1, *size])],
        [
            numpy_helper.from_array(kernel, "kernel"),
            numpy_helper.from_array(np.float32(0), "zero"),
            numpy_helper.from_array(np.float32(1), "one"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class OnHost:
    """The engine without its device's way: its frames are kept, moved and stacked by numpy."""

    def __init__(self, engine):
        self.engine = engine
        self.description, self.input_shape = engine.description, engine.input_shape

    def run(self, prepared):
        return self.engine.run(prepared)

    def close(self):
        self.engine.close()


def make_frames(count, *, shape=SHAPE, seed=0, places=None):
    """A camera that drifts over a texture, and a target that comes and goes."""
    texture = textured(seed, shape)
    frames = []
    for number in range(count):
        row, column = (20 + number % 3, 24 - number) if places is None else places[number]
        seen = texture[row : row + shape[0], column : column + shape[1]] * 9000
        seen = seen + 500 * (number % 2)
        if number % 2:
            seen[11:14, 17 + number : 20 + number] += 6000
        frames.append(seen.clip(0, 16383).astype(np.uint16))
    return frames


def detectors(bench, contract=MOVED, **options):
    """One on the device, one on the host."""
    graph = newness_graph(contract)
    engines = [bench.engine_of(graph, **options) for _ in range(2)]
    return Detector(engines[0], contract, EXTRACTION), Detector(
        OnHost(engines[1]), contract, EXTRACTION
    )


def assert_alike(targets, truth):
    assert_same(targets, truth)
    assert targets.clip == truth.clip


@CONTRACTS
@pytest.mark.parametrize(("driven_by", "is_integrated"), [("cupy", False), ("pycuda", True)])
def test_frames_one_by_one(bench, contract, driven_by, is_integrated):
    bench.install(driven_by, is_integrated=is_integrated, devices=(ORIN,))
    detector, host = detectors(bench, contract)
    found, missing = 0, []
    with detector, host:
        for frame in make_frames(8):
            targets, truth = detector(frame), host(frame)
            assert_alike(targets, truth)
            found += len(targets)
            missing.append(targets.clip.frames_missing)
            assert list(detector.stages()) == ["prepare", "register", "compute", "read back"]
        span = contract.clip.span
        assert missing == [*range(span - 1, 0, -1), *[0] * (9 - span)]
        assert found > 0
        seen, exact = detector.confidence(frame), host.confidence(frame)
        np.testing.assert_array_equal(seen.values, exact.values)
        assert (seen.geometry, seen.frame_shape) == (exact.geometry, exact.frame_shape)
        assert seen.clip == exact.clip
        if contract is MOVED:
            assert targets.clip.shift.is_trusted
    bench.driver.assert_clean()


@pytest.mark.parametrize(
    ("contract", "ahead", "seed"), [(MOVED, 1, 0), (MOVED, 2, 1), (MOVED, None, 2), (LEFT, None, 3)]
)
def test_a_stream_gives_the_same_in_order(bench, contract, ahead, seed):
    bench.install("cupy", seed=seed)
    frames = make_frames(9, seed=seed)
    detector, host = detectors(bench, contract)
    with detector, host:
        results = list(detector.stream(items_of(frames), ahead=ahead, with_confidence=True))
        assert [result.source.index for result in results] == list(range(9))
        for result, frame in zip(results, frames, strict=True):
            truth = host.confidence(frame)
            assert_alike(result.targets, host.targets(truth))
            np.testing.assert_array_equal(result.confidence.values, truth.values)
    bench.driver.assert_clean()


def test_slots_and_calls_share_one_clip(bench):
    bench.install("pycuda")
    frames = make_frames(8)
    detector, host = detectors(bench)
    with detector, host:
        slots = [detector.open_slot() for _ in range(3)]
        for number, frame in enumerate(frames):
            slots[number % 3].submit(frame)
            truth = host(frame)
            assert_alike(slots[number % 3].targets(), truth)
        for slot in slots:
            slot.close()
        assert_alike(detector(frames[0]), host(frames[0]))
    bench.driver.assert_clean()


def test_a_network_that_takes_fp16(bench):
    bench.install("cupy")
    detector, host = detectors(bench, is_half=True)
    with detector, host:
        for frame in make_frames(7):
            assert_alike(detector(frame), host(frame))
        assert len(detector(make_frames(8)[7])) > 0
    bench.driver.assert_clean()


def test_a_reset_begins_anew_and_another_size_needs_one(bench):
    bench.install("cupy")
    detector, host = detectors(bench)
    frames, others = make_frames(6), make_frames(6, shape=(28, 30), seed=1)
    with detector, host:
        for frame in frames:
            assert_alike(detector(frame), host(frame))
        for one in (detector, host):
            with pytest.raises(ValueError, match="28x30, the frames .* are 30x32; call reset"):
                one(others[0])
        assert_alike(detector(frames[5]), host(frames[5]))
        detector.reset()
        host.reset()
        for frame in others:
            assert_alike(detector(frame), host(frame))
    bench.driver.assert_clean()


def test_refused_frames_leave_the_clip_as_it_was(bench):
    bench.install("pycuda")
    frames = make_frames(7)
    bad = [frames[0] | 0x8000, frames[0].astype(np.uint8), frames[0][:7], frames[0][:28, :30]]
    items = items_of([*frames[:3], *bad, *frames[3:]])
    detector, host = detectors(bench)
    with detector, host:
        results = list(detector.stream(items))
        truth = list(host.stream(items))
    for result, one in zip(results, truth, strict=True):
        assert type(result) is type(one)
        if isinstance(one, BadFrame):
            assert result == one
        else:
            assert_alike(result.targets, one.targets)
    assert sum(isinstance(one, Detection) for one in truth) == 7
    bench.driver.assert_clean()


def test_scenes_that_are_cut_and_bad_frames(bench):
    bench.install("cupy")
    frames = [*make_frames(7), *make_frames(9, seed=5)]
    frames[3] = make_frames(1, seed=8)[0]
    detector, host = detectors(bench)
    with detector, host:
        states = []
        for frame in frames:
            targets = detector(frame)
            assert_alike(targets, host(frame))
            states.append(targets.clip)
    assert [state.is_cut for state in states].index(True) == 8
    assert [number for number, state in enumerate(states) if state.is_doubtful] == [3, 7]
    assert [state.frames_missing for state in states[4:]] == [0, 0, 0, 0, 3, 2, 1, 0, 0, 0, 0, 0]
    bench.driver.assert_clean()


def test_a_clip_that_is_whole_becomes_a_graph(bench):
    bench.install("cupy")
    detector, _ = detectors(bench)
    with detector:
        for frame in make_frames(8):
            before = len(bench.driver.said)
            detector(frame)
        work = [word for word in bench.driver.said[before:] if "(graph)" in word]
    kept = ["clear", "keep_measured", "match_levels", "stack_moved", "network"]
    assert work[:2] == ["clear (graph)", "find_limits (graph)"]
    assert work[3:8] == [f"{word} (graph)" for word in kept]
    assert bench.driver.said.count("begin capture") == 2


@CONTRACTS
def test_what_is_not_registered_is_not_read_back(bench, contract):
    bench.install("cupy")
    detector, _ = detectors(bench, contract)
    with detector:
        for frame in make_frames(6):
            before = len(bench.driver.said)
            detector(frame)
        said = bench.driver.said[before:]
    # Brightest pixel, counts and records; of a moving camera the prepared frame.
    assert said.count("download") == (4 if contract is MOVED else 3)
    assert said.count("upload") == 2  # the frame, and the table


@pytest.mark.parametrize("place", range(2))
@pytest.mark.parametrize("ahead", [1, 3])
def test_a_wait_left_out_is_a_race(bench, monkeypatch, place, ahead):
    bench.install("cupy")
    detector, _ = detectors(bench)
    device = detector.engine.device
    count, wait = iter(range(10**6)), type(device).wait

    def forgetful(device, event, stream):
        if next(count) % 2 != place:
            wait(device, event, stream)

    monkeypatch.setattr(type(device), "wait", forgetful)
    # Frames that only fill the clip are kept without anything being read back for them.
    said = ("race: keep_measured is not ordered after upload", "(after|freed while) keep_measured")
    with pytest.raises(Fault, match=said[place]):
        list(detector.stream(items_of(make_frames(7)), ahead=ahead))


def test_registration_waits_for_the_prepared_frame(bench, monkeypatch):
    bench.install("cupy")
    frames = make_frames(3)
    detector, host = detectors(bench)
    detector(frames[0])
    lane, synchronise = detector._slot._lane, type(detector.engine.device).synchronise

    def forgetful(device, event):
        if event is not lane._prepared:
            synchronise(device, event)

    monkeypatch.setattr(type(detector.engine.device), "synchronise", forgetful)
    host(frames[0])
    assert detector(frames[1]).clip != host(frames[1]).clip  # the frame before was read again


def test_the_ring_is_told_where_memory_is_short(bench, library):
    bench.install(library, memory=30_000)
    detector, _ = detectors(bench)
    with detector:
        with pytest.raises(DeviceError, match="out of memory: 0.1 MiB more are needed for frames"):
            detector(make_frames(1)[0])
    bench.driver.assert_clean()


def test_a_network_that_gives_nan_is_refused_once_it_runs(bench):
    bench.install("cupy")
    engine = bench.engine_of(newness_graph(MOVED, gain=np.nan))
    frames = make_frames(5)
    with Detector(engine, MOVED, EXTRACTION) as detector:
        for frame in frames[:4]:
            assert len(detector(frame)) == 0
        with pytest.raises(OutputError, match="NaN or infinity"):
            detector(frames[4])
    bench.driver.assert_clean()


def test_the_cpu_stands_in_with_a_clip_of_its_own(bench, library):
    bench.install(library)
    graph = newness_graph(MOVED)
    cpu = load_engine(graph.SerializeToString(), threads=1)
    frames = make_frames(8)
    detector = Detector(
        bench.engine_of(graph), MOVED, EXTRACTION, stand_in=lambda: Loaded(cpu, "fp32", "")
    )
    assert [detector(frame).clip.frames_missing for frame in frames[:6]] == [4, 3, 2, 1, 0, 0]
    bench.driver.calls_left = 6
    targets = detector(frames[6])
    assert targets.clip.frames_missing == 4
    assert "failed at frame 6 (" in targets.note
    assert detector(frames[7]).clip.frames_missing == 3
    detector.close()
