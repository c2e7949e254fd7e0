import builtins
import sys
import threading

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from irstd.runtime import Detector, EngineError, Extraction, FrameContract
from irstd.runtime.engine import load_engine, usable_threads


class Echo:
    """An engine whose confidence is the prepared frame itself."""

    description = "echo"

    def __init__(self, height=32, width=32):
        self.input_shape = (1, 1, height, width)
        self.is_closed = False

    def run(self, prepared):
        return prepared[0, 0]

    def close(self):
        self.is_closed = True


def frame_with_spot(shape, row, column, *, dtype=np.uint8, low=20, high=220):
    frame = np.full(shape, low, dtype)
    frame[row - 1 : row + 2, column - 1 : column + 2] = high
    return frame


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (100, 40), (120, 160)])
def test_a_spot_is_found_in_the_frames_own_pixels(shape):
    row, column = shape[0] // 3, shape[1] // 2
    detector = Detector(Echo(64, 64), FrameContract(64, 64), Extraction(threshold=0.2))
    (target,) = detector(frame_with_spot(shape, row, column))
    assert abs(target.row - row) < 0.6 * max(1, shape[0] / 64)
    assert abs(target.column - column) < 0.6 * max(1, shape[1] / 64)


def test_padding_changes_no_position():
    detector = Detector(Echo(), FrameContract(32, 32, fit="pad"), Extraction())
    (target,) = detector(frame_with_spot((20, 30), 18, 28))  # its mirror image lies in the padding
    assert (target.row, target.column) == (18.0, 28.0)
    confidence = detector.confidence(frame_with_spot((20, 30), 10, 10))
    assert confidence.values.shape == (32, 32)
    assert confidence.on_sensor().shape == (20, 30)


def test_14_bit_frames():
    contract = FrameContract(32, 32, bit_depth=14)
    detector = Detector(Echo(), contract, Extraction())
    (target,) = detector(frame_with_spot((32, 32), 9, 11, dtype=np.uint16, low=5000, high=5400))
    assert (target.row, target.column) == (9.0, 11.0)


def test_a_with_statement_closes_the_engine():
    engine = Echo()
    with Detector(engine, FrameContract(32, 32), Extraction()):
        assert not engine.is_closed
    assert engine.is_closed


def test_engine_and_contract_must_agree():
    with pytest.raises(EngineError, match=r"\(1, 1, 32, 32\).*\(1, 1, 64, 64\)"):
        Detector(Echo(), FrameContract(64, 64), Extraction())


def test_load_takes_the_bundles_settings_unless_told_otherwise(bundle):
    with Detector.load(bundle, threads=1) as detector:
        assert detector.extraction == Extraction(threshold=0.5)
        assert detector.contract.bit_depth == 8
        assert "1 threads" in detector.engine.description
    changed = Detector.load(str(bundle), threshold=0.3, bit_depth=12, min_area=2, max_targets=5)
    assert changed.extraction == Extraction(threshold=0.3, min_area=2, max_targets=5)
    assert changed.contract.bit_depth == 12
    assert changed.contract.height == 64


def test_parts_tell_the_precision_only_if_told():
    detector = Detector(Echo(), FrameContract(32, 32), Extraction())
    assert (detector.precision, detector.description) == (None, "echo")
    told = Detector(Echo(), FrameContract(32, 32), Extraction(), precision="fp16", reason="why")
    assert told.description == "echo, fp16: why"


def test_load_takes_what_a_cpu_runs_fastest_and_says_why(bundle_int8):
    frame = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    with (
        Detector.load(bundle_int8) as fastest,
        Detector.load(bundle_int8, precision="fp32") as full,
        Detector.load(bundle_int8, precision="int8") as lower,
    ):
        assert (fastest.precision, full.precision, lower.precision) == ("fp32", "fp32", "int8")
        assert fastest.description.endswith(" threads, fp32: fp32 was faster")
        assert full.description.endswith(" threads, fp32")
        assert lower.description.endswith(" threads, int8")
        seen = [one.confidence(frame).values for one in (fastest, full, lower)]
    np.testing.assert_array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])


def test_load_says_nothing_where_the_bundles_own_precision_runs(bundle):
    with Detector.load(bundle) as detector:
        assert detector.precision == "fp32"
        assert detector.reason == ""


def test_load_refuses_a_precision_that_the_bundle_lacks(bundle, bundle_int8):
    with pytest.raises(ValueError, match="no graph in int8, only in fp32; "):
        Detector.load(bundle, precision="int8")
    with pytest.raises(ValueError, match="no graph in fp16, only in fp32, int8; "):
        Detector.load(bundle_int8, precision="fp16")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threads": 0}, "threads is 0"),
        ({"threshold": 7.0}, "threshold is 7.0"),
        ({"bit_depth": 3}, "bit depth is 3"),
        ({"max_targets": 0}, "maximum of targets"),
    ],
)
def test_load_refuses(bundle, options, said):
    with pytest.raises(ValueError, match=said):
        Detector.load(bundle, **options)


def test_detectors_in_threads_agree_with_one_alone(bundle):
    rng = np.random.default_rng(0)
    frames = [frame_with_spot((64, 64), *rng.integers(5, 59, 2)) for _ in range(20)]
    with Detector.load(bundle, threads=1) as alone:
        expected = [alone(frame).row.tolist() for frame in frames]
    found = {}

    def work(name):
        with Detector.load(bundle, threads=1) as detector:
            found[name] = [detector(frame).row.tolist() for frame in frames]

    workers = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert list(found.values()) == [expected] * 4


def graph_of(node, initializers=()):
    shape = [1, 1, 8, 8]
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("confidence", TensorProto.FLOAT, shape)],
        list(initializers),
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


SIGMOID = graph_of(helper.make_node("Sigmoid", ["frame"], ["confidence"]))


def test_the_engine_computes_the_graph():
    engine = load_engine(SIGMOID, threads=2)
    assert engine.input_shape == (1, 1, 8, 8)
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)
    np.testing.assert_allclose(engine.run(values), 1 / (1 + np.exp(-values[0, 0])), atol=1e-6)
    assert "ONNX Runtime" in engine.description
    engine.close()


@pytest.mark.parametrize("model", [b"", b"nonsense", SIGMOID[: len(SIGMOID) // 2]])
def test_a_damaged_model_is_an_engine_error_of_one_line(model):
    with pytest.raises(EngineError, match="cannot load the model") as caught:
        load_engine(model)
    assert "\n" not in str(caught.value)


def test_wrong_input_and_bad_output_are_engine_errors():
    engine = load_engine(SIGMOID)
    with pytest.raises(EngineError, match="ONNX Runtime failed"):
        engine.run(np.zeros((1, 1, 9, 8), np.float32))
    zero = numpy_helper.from_array(np.float32(0), "zero")
    divide = helper.make_node("Div", ["frame", "zero"], ["confidence"])
    with pytest.raises(EngineError, match="NaN or infinity"):
        load_engine(graph_of(divide, [zero])).run(np.zeros((1, 1, 8, 8), np.float32))


def test_without_onnx_runtime_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments):
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, *arguments)

    monkeypatch.delitem(sys.modules, "irstd.runtime.engine_onnxruntime", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EngineError, match=r"pip install 'irstd\[cpu\]'"):
        load_engine(SIGMOID)


def test_usable_threads_is_what_the_process_may_use():
    assert 1 <= usable_threads() <= 4096
