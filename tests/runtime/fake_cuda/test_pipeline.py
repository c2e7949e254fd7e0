"""The whole way of a frame on a fake device: its targets are the CPU's, frame by frame."""

import logging

import numpy as np
import pytest

from irstd.runtime import Detection, Detector, Extraction, FrameContract
from irstd.runtime.engine import load_engine
from irstd.runtime.errors import OutputError
from irstd.runtime.sources import BadFrame, SourceFrame
from irstd.tests.conftest import bright_spot_graph
from irstd.tests.runtime.fake_cuda.parts import ORIN, Fault

COLUMNS = ("row", "column", "area", "peak", "score", "box")
CONTRACT = FrameContract(24, 20, bit_depth=14)
EXTRACTION = Extraction(0.3)


def make_frames(count, shape=(30, 27), *, top=16383, seed=0):
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        frame = rng.normal(0.3, 0.01, shape) * top
        for row, column in rng.integers(3, min(shape) - 3, (3, 2)):
            frame[row - 1 : row + 2, column - 1 : column + 2] = 0.8 * top
        frames.append(frame.astype(np.uint8 if top == 255 else np.uint16))
    return frames


def items_of(frames):
    return [SourceFrame(index, f"{index:03}", frame) for index, frame in enumerate(frames)]


def on_cpu(contract=CONTRACT, extraction=EXTRACTION, **graph):
    size = (contract.height, contract.width)
    model = bright_spot_graph(*size, **graph).SerializeToString()
    return Detector(load_engine(model, threads=1), contract, extraction)


def expected(frames, contract=CONTRACT, extraction=EXTRACTION):
    with on_cpu(contract, extraction) as detector:
        return [detector(frame) for frame in frames]


def assert_same(targets, truth):
    assert targets.found == truth.found
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(targets, column), getattr(truth, column), column)


def assert_all_same(results, truth):
    assert [result.source.index for result in results] == list(range(len(truth)))
    for result, one in zip(results, truth, strict=True):
        assert_same(result.targets, one)


@pytest.mark.parametrize("is_integrated", [False, True])
def test_frames_one_by_one(bench, library, is_integrated):
    bench.install(library, is_integrated=is_integrated, devices=(ORIN,))
    frames = make_frames(5)
    with Detector(bench.engine(), CONTRACT, EXTRACTION) as detector:
        before = len(bench.driver.said)
        for frame, truth in zip(frames, expected(frames), strict=True):
            assert_same(detector(frame), truth)
            stages = detector.stages()
            assert list(stages) == ["upload", "compute", "read back"]
            assert all(taken > 0 for taken in stages.values())
    copies = [bench.driver.said[before:].count(word) for word in ("upload", "download")]
    tables = 2  # of taps, once
    # Where host and device share memory, only what kernels count in is copied.
    expected_copies = (tables, 2) if is_integrated else (tables + len(frames), 3)
    assert copies == [expected_copies[0], expected_copies[1] * len(frames)]
    bench.driver.assert_clean()


@pytest.mark.parametrize(
    "contract",
    [
        FrameContract(24, 20),
        FrameContract(33, 28, 12, "full-scale", "pad"),
        FrameContract(30, 27, 16, "stretch", "pad"),
    ],
    ids=str,
)
def test_every_contract(bench, contract):
    bench.install("cupy")
    frames = make_frames(2, top=2**contract.bit_depth - 1)
    engine = bench.engine(size=(contract.height, contract.width))
    with Detector(engine, contract, EXTRACTION) as detector:
        for frame, truth in zip(frames, expected(frames, contract), strict=True):
            assert_same(detector(frame), truth)
    bench.driver.assert_clean()


def test_a_network_that_takes_fp16(bench):
    bench.install("cupy")
    (frame,) = make_frames(1)
    with Detector(bench.engine(is_half=True), CONTRACT, EXTRACTION) as detector, on_cpu() as truth:
        seen, exact = detector.confidence(frame), truth.confidence(frame)
        assert len(detector(frame)) == len(truth(frame)) > 0
        prepared = np.random.default_rng(0).random((1, 1, 24, 20), np.float32)
        ran, exactly = detector.engine.run(prepared), truth.engine.run(prepared)
    np.testing.assert_allclose(seen.values, exact.values, atol=2e-3)
    assert not np.array_equal(seen.values, exact.values)
    np.testing.assert_allclose(ran, exactly, atol=2e-3)
    bench.driver.assert_clean()


def test_confidence_is_the_cpus(bench, library):
    bench.install(library)
    (frame,) = make_frames(1)
    with Detector(bench.engine(), CONTRACT, EXTRACTION) as detector, on_cpu() as truth:
        seen, exact = detector.confidence(frame), truth.confidence(frame)
    np.testing.assert_array_equal(seen.values, exact.values)
    assert (seen.geometry, seen.frame_shape) == (exact.geometry, exact.frame_shape)
    bench.driver.assert_clean()


@pytest.mark.parametrize(("ahead", "seed"), [(1, 0), (2, 1), (None, 2), (None, 3)])
def test_a_stream_gives_the_same_in_order(bench, library, ahead, seed):
    bench.install(library, seed=seed)
    frames = make_frames(7, seed=seed)
    with Detector(bench.engine(), CONTRACT, EXTRACTION) as detector:
        assert detector.frames_ahead == 3
        results = list(detector.stream(items_of(frames), ahead=ahead))
    assert_all_same(results, expected(frames))
    bench.driver.assert_clean()


def test_a_stream_keeps_frames_under_way(bench):
    bench.install("cupy")
    taken = []

    def source():
        for item in items_of(make_frames(6)):
            taken.append(item.index)
            yield item

    with Detector(bench.engine(), CONTRACT, EXTRACTION) as detector:
        for result in detector.stream(source()):
            assert max(taken) == min(result.source.index + 2, 5)
        taken.clear()
        for result in detector.stream(source(), ahead=1):
            assert max(taken) == result.source.index  # nothing waits for the next frame


def test_a_stream_that_is_left_early_leaves_nothing_behind(bench, library):
    bench.install(library)
    with Detector(bench.engine(), CONTRACT, EXTRACTION) as detector:
        for result in detector.stream(items_of(make_frames(6))):
            if result.source.index == 1:
                break
    bench.driver.assert_clean()


def test_a_frame_that_nobody_asked_for_is_no_hazard(bench, library):
    bench.install(library)
    frames = make_frames(3)
    with Detector(bench.engine(), CONTRACT, EXTRACTION) as detector:
        slot = detector.open_slot()
        for frame in frames:
            slot.submit(frame)
        assert_same(slot.targets(), expected(frames)[-1])
        slot.close()
    bench.driver.assert_clean()


def test_a_slot_without_a_frame_has_no_targets(bench):
    bench.install("cupy")
    with Detector(bench.engine(), CONTRACT, EXTRACTION) as detector, on_cpu() as truth:
        for slot in (detector.open_slot(), truth.open_slot()):
            with pytest.raises(ValueError, match="no frame is under way; submit one first"):
                slot.targets()


def test_calls_and_streams_do_not_mix_up_their_frames(bench):
    bench.install("cupy")
    frames, others = make_frames(5), make_frames(5, seed=1)
    truth, other_truth = expected(frames), expected(others)
    with Detector(bench.engine(), CONTRACT, EXTRACTION) as detector:
        for result in detector.stream(items_of(frames)):
            index = result.source.index
            assert_same(result.targets, truth[index])
            assert_same(detector(others[index]), other_truth[index])
    bench.driver.assert_clean()


def test_frames_of_changing_shape(bench, library):
    bench.install(library)
    shapes = [(30, 27), (30, 27), (17, 40), (30, 27), (24, 20)]
    frames = [make_frames(1, shape, seed=n)[0] for n, shape in enumerate(shapes)]
    with Detector(bench.engine(), CONTRACT, EXTRACTION) as detector:
        results = list(detector.stream(items_of(frames)))
    assert_all_same(results, expected(frames))
    bench.driver.assert_clean()


def test_a_stream_with_confidence(bench):
    bench.install("cupy")
    frames = make_frames(4)
    with Detector(bench.engine(), CONTRACT, EXTRACTION) as detector, on_cpu() as truth:
        for result in detector.stream(items_of(frames), with_confidence=True):
            exact = truth.confidence(frames[result.source.index])
            np.testing.assert_array_equal(result.confidence.values, exact.values)


def test_work_becomes_a_graph_after_the_first_frames(bench):
    bench.install("cupy")
    with Detector(bench.engine(), CONTRACT, EXTRACTION) as detector:
        for frame in make_frames(4):
            before = len(bench.driver.said)
            detector(frame)
            work = [word for word in bench.driver.said[before:] if word.startswith("network")]
        assert work == ["network (graph)"]
        captures = bench.driver.said.count("begin capture")
    assert captures == 1


def test_work_that_cannot_be_captured_goes_on_by_launches(bench, library, caplog):
    bench.install(library)
    bench.driver.refuses_capture = True
    frames = make_frames(5)
    with caplog.at_level(logging.WARNING):
        with Detector(bench.engine(), CONTRACT, EXTRACTION) as detector:
            results = list(detector.stream(items_of(frames * 2)))
    assert_all_same(results, expected(frames * 2))
    (said,) = [record.getMessage() for record in caplog.records]
    why = {"cupy": "operation not permitted", "pycuda": "PyCUDA has no CUDA graphs"}
    assert "without a CUDA graph" in said
    assert why[library] in said
    bench.driver.assert_clean()


# Every order that is asked for is needed


@pytest.mark.parametrize("place", range(2))
@pytest.mark.parametrize("ahead", [1, 3])
def test_a_wait_left_out_is_a_race(bench, library, monkeypatch, place, ahead):
    bench.install(library)
    engine = bench.engine()
    count, wait = iter(range(10**6)), type(engine.device).wait

    def forgetful(device, event, stream):
        if next(count) % 2 != place:
            wait(device, event, stream)

    monkeypatch.setattr(type(engine.device), "wait", forgetful)
    detector = Detector(engine, CONTRACT, EXTRACTION)
    what = ("find_limits is not ordered after upload", "download is not ordered after")[place]
    with pytest.raises(Fault, match=f"race: {what}"):
        list(detector.stream(items_of(make_frames(3)), ahead=ahead))


def test_a_synchronisation_left_out_gives_no_targets(bench, library, monkeypatch):
    bench.install(library)
    engine = bench.engine()
    detector = Detector(engine, CONTRACT, EXTRACTION)
    (frame,) = make_frames(1)
    detector(frame)
    monkeypatch.setattr(type(engine.device), "synchronise", lambda device, event: None)
    bench.driver.blocks = [forgotten(block) for block in bench.driver.blocks]
    with pytest.raises((Fault, OutputError, ValueError)):
        detector(frame)


def forgotten(block):
    """What lies in pinned memory from the frame before would hide that nobody waited."""
    if block.kind == "pinned" and not block.is_free:
        block.content[512:-512] = 0xA5
    return block


# Frames and networks that are refused


def test_frames_are_refused_in_the_words_of_the_cpu(bench):
    bench.install("cupy")
    good = make_frames(1)[0]
    bright = good.copy()
    bright[3, 3] = 16384
    bad = [bright, good.astype(np.uint8), good[None], good[:7], good.astype(float), "frame"]
    with Detector(bench.engine(), CONTRACT, EXTRACTION) as detector, on_cpu() as truth:
        for frame in bad:
            with pytest.raises((TypeError, ValueError)) as seen:
                detector(frame)
            with pytest.raises(seen.type) as exact:
                truth(frame)
            assert str(seen.value) == str(exact.value)
        assert_same(detector(good), truth(good))
    contract = FrameContract(24, 20, 14, fit="pad")
    with Detector(bench.engine(), contract, EXTRACTION) as detector:
        with pytest.raises(ValueError, match="larger than the network's 24x20"):
            detector(good)
    bench.driver.assert_clean()


def test_bad_frames_in_a_stream_keep_their_place(bench, library):
    bench.install(library)
    frames = make_frames(6)
    frames[1] = frames[1] | 0x8000
    frames[4] = frames[4].astype(np.float32)
    items = items_of(frames)
    items[2] = BadFrame(2, "002", "cannot be read")
    with Detector(bench.engine(), CONTRACT, EXTRACTION) as detector:
        results = list(detector.stream(items))
    assert [isinstance(result, Detection) for result in results] == [1, 0, 0, 1, 0, 1]
    assert [result.index for result in results if isinstance(result, BadFrame)] == [1, 2, 4]
    assert "above the 16383 of the declared 14 bits" in results[1].reason
    assert results[2] is items[2]
    assert "frame is float32" in results[4].reason
    for index in (0, 3, 5):
        assert_same(results[index].targets, expected(frames[index : index + 1])[0])
    bench.driver.assert_clean()


def test_a_network_that_gives_nan_is_refused(bench):
    bench.install("cupy")
    engine = bench.engine(gain=np.nan)
    with Detector(engine, CONTRACT, EXTRACTION) as detector:
        with pytest.raises(OutputError, match="NaN or infinity; do not fly this bundle"):
            detector(make_frames(1)[0])
        with pytest.raises(OutputError, match=r"^frame 0 \(000\): the network's output holds NaN"):
            list(detector.stream(items_of(make_frames(2))))
        with pytest.raises(OutputError, match="NaN or infinity"):
            engine.run(np.zeros((1, 1, 24, 20), np.float32))
    bench.driver.assert_clean()


def test_more_targets_than_the_lists_hold_are_read_out_of_the_map(bench, library):
    bench.install(library)
    contract = FrameContract(71, 71, normalisation="full-scale", fit="pad")
    frame = np.zeros((71, 71), np.uint8)
    frame[::2, ::2] = 255
    (truth,) = expected([frame], contract)
    assert truth.found == 1296
    with Detector(bench.engine(size=(71, 71)), contract, EXTRACTION) as detector:
        for result in detector.stream(items_of([frame, frame])):
            assert_same(result.targets, truth)
    bench.driver.assert_clean()
