"""OpenVINO: computes what the graph says, in FP32 where it says FP32, and reports to nobody."""

import builtins
import importlib
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from irstd.runtime import engine_choice
from irstd.runtime.engine import load_engine
from irstd.runtime.errors import EngineError, OutputError

if engine_choice.find_version("openvino") is None:
    pytest.skip("needs OpenVINO: pip install 'irstd[openvino]'", allow_module_level=True)
module = importlib.import_module("irstd.runtime.engine_openvino")


def load(model, *, threads=1):
    return load_engine(model, threads=threads, name="openvino")


def graph_of(*nodes, initializers=(), shape=(1, 1, 8, 8)):
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("confidence", TensorProto.FLOAT, list(shape))],
        list(initializers),
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


SIGMOID = graph_of(helper.make_node("Sigmoid", ["frame"], ["confidence"]))
VALUES = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)


def test_the_engine_computes_the_graph():
    engine = load(SIGMOID)
    assert engine.input_shape == (1, 1, 8, 8)
    confidence = engine.run(VALUES)
    assert (confidence.shape, confidence.dtype) == ((8, 8), np.float32)
    np.testing.assert_allclose(confidence, 1 / (1 + np.exp(-VALUES[0, 0])), atol=1e-6)
    assert engine.description == f"OpenVINO {module.VERSION}, CPU, 1 threads"
    engine.close()


def test_threads_are_those_that_run():
    cores = os.cpu_count()
    said = load(SIGMOID, threads=cores + 7).description
    assert 1 <= int(said.split(", ")[2].split()[0]) <= cores


def test_a_result_outlives_the_next_run():
    engine = load(SIGMOID)
    first = engine.run(VALUES)
    kept = first.copy()
    assert not np.array_equal(engine.run(1 - VALUES), kept)
    np.testing.assert_array_equal(first, kept)


def test_a_frame_that_lies_otherwise_in_memory():
    engine = load(SIGMOID)
    turned = VALUES.transpose(0, 1, 3, 2)
    np.testing.assert_array_equal(engine.run(turned), engine.run(turned.copy()))
    np.testing.assert_array_equal(engine.run(turned), engine.run(VALUES).T)


def test_fp32_is_computed_in_fp32():
    """Where the CPU has bfloat16, OpenVINO takes it unless told: errors of 1e-2 here."""
    rng = np.random.default_rng(0)
    kernels = [rng.normal(0, 0.06, (32, 32, 3, 3)) for _ in range(2)]
    kernels = [rng.normal(0, 0.3, (32, 1, 3, 3)), *kernels, rng.normal(0, 0.06, (1, 32, 3, 3))]
    tensors = [
        numpy_helper.from_array(kernel.astype(np.float32), f"kernel{index}")
        for index, kernel in enumerate(kernels)
    ]
    names = ["frame", "a", "b", "c", "confidence"]
    nodes = [
        helper.make_node("Conv", [names[at], f"kernel{at}"], [names[at + 1]], pads=[1, 1, 1, 1])
        for at in range(4)
    ]
    model = graph_of(*nodes, initializers=tensors, shape=(1, 1, 64, 64))
    frame = rng.random((1, 1, 64, 64), np.float32)
    engine = load(model)
    assert "float32" in str(engine._model.get_property("INFERENCE_PRECISION_HINT"))
    exact = load_engine(model, threads=1).run(frame)
    assert np.abs(exact).max() > 1.0
    np.testing.assert_allclose(engine.run(frame), exact, atol=1e-5)


@pytest.mark.parametrize("model", [b"", b"nonsense", SIGMOID[: len(SIGMOID) // 2]])
def test_a_damaged_model_is_an_engine_error_of_one_line(model):
    with pytest.raises(EngineError, match="OpenVINO cannot load the model: .") as caught:
        load(model)
    assert "\n" not in str(caught.value)


def test_an_operator_that_it_lacks_and_a_size_that_is_not_fixed():
    with pytest.raises(EngineError, match="OpenVINO cannot load the model: .*Nothing"):
        load(graph_of(helper.make_node("Nothing", ["frame"], ["confidence"])))
    with pytest.raises(EngineError, match="OpenVINO cannot load the model: .*dynamic"):
        load(graph_of(helper.make_node("Relu", ["frame"], ["confidence"]), shape=(1, 1, "h", 8)))


def test_wrong_input_and_bad_output_are_engine_errors():
    with pytest.raises(EngineError, match="OpenVINO failed: .") as caught:
        load(SIGMOID).run(np.zeros((1, 1, 9, 8), np.float32))
    assert "\n" not in str(caught.value)
    zero = numpy_helper.from_array(np.float32(0), "zero")
    divide = helper.make_node("Div", ["frame", "zero"], ["confidence"])
    with pytest.raises(OutputError, match="NaN or infinity"):
        load(graph_of(divide, initializers=[zero])).run(np.zeros((1, 1, 8, 8), np.float32))


def test_engines_in_threads_agree_with_one_alone(bundle):
    model = (bundle / "model.onnx").read_bytes()
    frames = np.random.default_rng(0).random((10, 1, 1, 64, 64), np.float32)
    expected = [load(model).run(frame) for frame in frames]
    found = {}

    def work(name):
        engine = load(model)
        found[name] = [engine.run(frame) for frame in frames]

    workers = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4
    for results in found.values():
        np.testing.assert_array_equal(results, expected)


# --- not there ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
    [
        ImportError("No module named 'openvino'"),
        OSError("libopenvino.so: cannot open shared object file"),
    ],
)
def test_what_cannot_be_imported_says_what_to_install(monkeypatch, failure):
    real = builtins.__import__

    def without(name, *arguments):
        if name == "openvino":
            raise failure
        return real(name, *arguments)

    monkeypatch.delitem(sys.modules, "irstd.runtime.engine_openvino")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EngineError, match=r"pip install 'irstd\[openvino\]'") as caught:
        load(SIGMOID)
    assert str(failure) in str(caught.value)
    assert "openvino_telemetry" not in sys.modules


@pytest.mark.parametrize("version", ["2024.3.0", "2023.3.1-13775-releases", "of unknown version"])
def test_old_versions_are_refused(version):
    with pytest.raises(ImportError, match=r"2024\.4 or newer"):
        module._check_version(version)


@pytest.mark.parametrize("version", ["2024.4.0-16579-c3152d32c9c", "2025.0.0", "2026.4.1"])
def test_newer_versions_are_taken(version):
    module._check_version(version)


def test_a_name_that_is_no_engine():
    with pytest.raises(ValueError, match="engine is 'tflite', expected one of onnxruntime, openv"):
        load_engine(SIGMOID, name="tflite")


# --- telemetry ------------------------------------------------------------------------------------

# Audit events see what Python does, and the home folder shows what a library does by itself.
PROGRAM = """
import sys
seen = []
EVENTS = ("socket.", "subprocess.", "os.fork", "os.posix_spawn", "os.system", "urllib.")
sys.addaudithook(lambda name, _: seen.append(name) if name.startswith(EVENTS) else None)
{before}
import numpy as np
from irstd.runtime import Detector
for engine in ("openvino", "onnxruntime", None):
    with Detector.load({bundle!r}, threads=1, engine=engine) as detector:
        detector(np.zeros((64, 64), np.uint8))
print(sorted(set(seen)), [name for name in sys.modules if name.startswith("openvino_telemetry")])
"""


def run_at(home, program):
    """Run a program for which `home` is all that the user has; what it says of itself."""
    away = ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "TF_BUILD", "JENKINS_URL")
    kept = {name: value for name, value in os.environ.items() if name not in away}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_nothing_is_reported_and_nothing_lies_in_the_home_folder(bundle, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    assert run_at(home, PROGRAM.format(before="", bundle=str(bundle))) == ["[] []"]
    files = [path.relative_to(home) for path in home.rglob("*") if path.is_file()]
    assert [str(path.parent) for path in files] == ["cache/irstd/engines"]


def test_a_user_who_has_the_telemetry_package_loaded_keeps_it(bundle, tmp_path):
    before = "import openvino_telemetry as mine"
    program = PROGRAM.format(before=before, bundle=str(bundle))
    program += "print(sys.modules['openvino_telemetry'] is mine)\n"
    program += "import openvino.tools.ovc.telemetry_utils as used\nprint(used.tm.__name__)"
    first, same, used = run_at(tmp_path, program)
    assert first.startswith("[] ")
    assert (same, used) == ("True", "openvino.tools.ovc.telemetry_stub")
