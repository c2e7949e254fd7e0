"""The engine against the API of every TensorRT version: a name that one lacks fails the test."""

import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from irstd.runtime import Detector, EngineError
from irstd.runtime.engine import load_engine
from irstd.runtime.engine_tensorrt import TensorRtEngine, import_tensorrt
from irstd.runtime.errors import DeviceError
from irstd.runtime.frame import FrameContract
from irstd.tests.conftest import bright_spot_graph
from irstd.tests.runtime.fake_cuda.fake_network import computing_tensorrt
from irstd.tests.runtime.fake_cuda.test_pipeline import (
    CONTRACT,
    EXTRACTION,
    assert_all_same,
    expected,
    items_of,
    make_frames,
)
from irstd.tests.tensorrt_api.fake import LISTINGS, Tensor, fake_tensorrt, plan_bytes


@pytest.mark.parametrize("listing", LISTINGS)
def test_every_version_runs_frames(bench, listing):
    bench.install("cupy")
    frames = make_frames(3)
    with Detector(bench.engine(listing=listing), CONTRACT, EXTRACTION) as detector:
        assert_all_same(list(detector.stream(items_of(frames))), expected(frames))
        title = "TensorRT for RTX" if "rtx" in listing else "TensorRT"
        version = listing.rpartition("-")[2]
        assert detector.description == (f"{title} {version}, Fake GPU (sm_86), CuPy 14.2.0")
    bench.driver.assert_clean()


def test_frames_that_the_host_prepared(bench, library):
    bench.install(library)
    engine = bench.engine()
    assert engine.input_shape == (1, 1, 24, 20)
    prepared = np.random.default_rng(0).random((1, 1, 24, 20), np.float32)
    graph = bright_spot_graph(24, 20).SerializeToString()
    exact = load_engine(graph, threads=1).run(prepared)
    np.testing.assert_array_equal(engine.run(prepared), exact)
    with pytest.raises(EngineError, match=r"takes \(1, 1, 24, 20\), got \(1, 1, 8, 8\)"):
        engine.run(np.zeros((1, 1, 8, 8), np.float32))
    engine.close()
    bench.driver.assert_clean()


@pytest.mark.parametrize("is_half", [False, True])
def test_frames_of_the_host_take_memory_once(bench, library, is_half):
    bench.install(library)
    engine = bench.engine(is_half=is_half)
    frames = np.random.default_rng(0).random((3, 1, 1, 24, 20), np.float32)
    first = engine.run(frames[0])
    before, held = len(bench.driver.said), len(bench.driver.blocks)
    others = [engine.run(frame) for frame in frames[1:]]
    assert len(bench.driver.blocks) == held
    said = bench.driver.said[before:]
    assert not [word for word in said if word.split()[0] in ("allocate", "free", "create")]
    assert said.count("upload") == said.count("download") == said.count("network") == 2
    np.testing.assert_array_equal(engine.run(frames[0]), first)  # and no frame is another's
    assert not np.array_equal(others[0], others[1])
    engine.close()
    bench.driver.assert_clean()


def test_a_run_that_fails_leaves_nothing_under_way(bench, library):
    bench.install(library)
    engine = bench.engine()
    frame = np.zeros((1, 1, 24, 20), np.float32)
    queue, engine._trt.answers["IExecutionContext.execute_async_v3"] = (
        engine._trt.answers["IExecutionContext.execute_async_v3"],
        lambda context, stream_handle: False,
    )
    with pytest.raises(DeviceError, match="cannot run the plan"):
        engine.run(frame)
    engine._trt.answers["IExecutionContext.execute_async_v3"] = queue
    engine.run(frame)
    engine.close()
    bench.driver.assert_clean()


def make(bench, *, tensors=None, answers=(), listing="tensorrt-10.3.0"):
    trt = fake_tensorrt(listing, **({"tensors": tensors} if tensors else {}))
    trt.answers.update(answers)
    return TensorRtEngine(plan_bytes(trt), bench.open(), trt)


def test_a_plan_that_tensorrt_refuses(bench):
    bench.install("cupy")

    def refuse(runtime, content):
        log = runtime.__dict__["values"]["arguments"][0]
        severity = runtime.module.ILogger.Severity
        log.log(severity.WARNING, "a warning")
        log.log(severity.ERROR, "Serialization assertion\nmagicTag failed")
        log.log(severity.INFO, "some more")

    with pytest.raises(
        EngineError,
        match=r"^TensorRT 10\.3\.0 refuses the plan \(Serialization assertion magicTag failed\); "
        r"build it again: irstd-build BUNDLE$",
    ):
        make(bench, answers={"Runtime.deserialize_cuda_engine": refuse})


@pytest.mark.parametrize("listing", LISTINGS)
def test_memory_that_is_too_small_for_the_plan(bench, listing):
    bench.install("cupy", memory=3 << 20)
    answers = {
        "ICudaEngine.create_execution_context": lambda *_: None,
        "ICudaEngine.device_memory_size": lambda _: 7 << 20,
        "ICudaEngine.device_memory_size_v2": lambda _: 7 << 20,
    }
    with pytest.raises(DeviceError, match="activations take 7 MiB, 3 MiB of the GPU's 3 are free"):
        make(bench, answers=answers, listing=listing)


FRAME, CONFIDENCE = Tensor("frame"), Tensor("confidence", mode="OUTPUT")


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ((FRAME,), "outputs .., expected one of each"),
        ((FRAME, CONFIDENCE, Tensor("more", "OUTPUT")), "'confidence', 'more'"),
        ((Tensor("frame", dtype="INT8"), CONFIDENCE), "maps .*INT8.* to .*FLOAT"),
        ((FRAME, Tensor("c", "OUTPUT", dtype="HALF")), "expected FLOAT or HALF to FLOAT"),
        ((FRAME, Tensor("c", "OUTPUT", (1, 1, 32, 32))), r"to \(1, 1, 32, 32\), expected"),
        ((Tensor("f", shape=(1, 1, -1, -1)), Tensor("c", "OUTPUT", (1, 1, -1, -1))), "all sizes"),
        ((FRAME, Tensor("boxes", "OUTPUT", (1, 96, 4))), r"to \(1, 96, 4\), expected .* boxes"),
        ((Tensor("f", shape=(64, 64)), Tensor("c", "OUTPUT", (64, 64))), r"expected \(1, T, H, W"),
    ],
)
def test_a_plan_that_is_none_of_ours(bench, tensors, said):
    bench.install("cupy")
    with pytest.raises(EngineError, match=said):
        make(bench, tensors=tensors)


def first_pixel_graph(height, width):
    """A graph that gives three boxes: the frame's first pixels, five a box."""
    shape, size = [1, 3, 5], [1, 1, height, width]
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["frame", "flat"], ["pixels"]),
            helper.make_node("Slice", ["pixels", "from", "to", "axis"], ["first"]),
            helper.make_node("Reshape", ["first", "shape"], ["boxes"]),
        ],
        "first_pixels",
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(np.array(values, np.int64), name)
            for name, values in (
                ("flat", [-1]),
                ("from", [0]),
                ("to", [15]),
                ("axis", [0]),
                ("shape", shape),
            )
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_boxes_come_by_the_hosts_way(bench):
    """The engine runs the network, the host prepares the frame and compares the boxes."""
    bench.install("cupy")
    model = first_pixel_graph(24, 20).SerializeToString()
    trt, plan = computing_tensorrt("tensorrt-10.3.0", bench.driver, model)
    contract = FrameContract(24, 20, normalisation="full-scale", fit="pad", answer="boxes")
    frame = np.zeros((24, 20), np.uint8)
    frame[0, :15] = [0, 0, 255, 255, 255, 0, 0, 255, 255, 204, 0, 0, 128, 128, 5]
    with Detector(TensorRtEngine(plan, bench.open(), trt), contract, EXTRACTION) as detector:
        (target,) = detector(frame)
        assert target.box == (-0.5, -0.5, 0.5, 0.5)
        assert target.score == 1.0
        assert list(detector.stages()) == ["prepare", "engine", "extract"]
    bench.driver.assert_clean()


def test_a_run_that_tensorrt_refuses(bench):
    bench.install("cupy")
    model = bright_spot_graph(24, 20).SerializeToString()
    trt, plan = computing_tensorrt("tensorrt-10.3.0", bench.driver, model)
    trt.answers["IExecutionContext.execute_async_v3"] = lambda context, stream_handle: False
    detector = Detector(TensorRtEngine(plan, bench.open(), trt), CONTRACT, EXTRACTION)
    with pytest.raises(DeviceError, match=r"TensorRT 10\.3\.0 cannot run the plan"):
        detector(make_frames(1)[0])


def test_a_library_that_is_not_there_is_told(monkeypatch):
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        EngineError,
        match=r"^TensorRT cannot be loaded \(.*\); install it: pip install 'irstd\[tensorrt\]' "
        r"\(on a Jetson: apt install python3-libnvinfer\)$",
    ):
        import_tensorrt("tensorrt")
    with pytest.raises(EngineError, match=r"TensorRT for RTX .*: pip install 'irstd\[rtx\]'$"):
        import_tensorrt("tensorrt-rtx")
