"""What several test files share: small bundles, scenes on disk, commands."""

import hashlib

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper

from irstd.runtime import engine_choice
from irstd.runtime.bundle import (
    SCHEMA,
    Accuracy,
    CpuChoice,
    Latency,
    Manifest,
    Parity,
    TensorSpec,
    WeightsRecord,
    seal_bundle,
    stage_bundle,
)
from irstd.runtime.frame import ClipContract, FrameContract
from irstd.runtime.media_cv2 import write_sequence
from irstd.runtime.scene import Scene, SceneOptions

# A busy machine is no failure.
settings.register_profile("irstd", deadline=None)
settings.load_profile("irstd")


def bright_spot_graph(height, width, *, gain=3, frames=1):
    """A network that a person can compute: confidence = clip(gain * (frame - 5x5 mean of it)).

    Of a clip it looks at the newest frame only.
    """
    kernel = np.zeros((1, frames, 5, 5), np.float32)
    kernel[0, -1] = -1 / 25
    kernel[0, -1, 2, 2] += 1
    kernel *= gain
    shape = [1, 1, height, width]
    seen = [1, frames, height, width]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["frame", "kernel"], ["raised"], pads=[2, 2, 2, 2]),
            helper.make_node("Clip", ["raised", "zero", "one"], ["confidence"]),
        ],
        "bright_spot",
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, seen)],
        [helper.make_tensor_value_info("confidence", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(kernel, "kernel"),
            numpy_helper.from_array(np.float32(0), "zero"),
            numpy_helper.from_array(np.float32(1), "one"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_bundle(folder, contract, *, threshold=0.5, lower=None):
    """A whole bundle around `bright_spot_graph`.

    A lower precision has twice the gain, to be told apart, and is slower on a CPU by its manifest.
    """
    gains = {"fp32": 3} | ({lower: 6} if lower else {})
    names = {"fp32": "model.onnx"} | ({lower: f"model.{lower}.onnx"} if lower else {})
    latency_ms = {name: Latency(float(gain), 1.0, 9.0) for name, gain in gains.items()}
    shape = (1, 1, contract.height, contract.width)
    manifest = Manifest(
        schema=SCHEMA,
        model="bright-spot",
        source="tests",
        precision=lower or "fp32",
        graphs=names,
        cpu=CpuChoice("fp32", "fp32 was faster", latency_ms, "a CPU"),
        weights=WeightsRecord("none", hashlib.sha256(b"").hexdigest(), {}),
        solver=None,
        frame=contract,
        threshold=threshold,
        input=TensorSpec("frame", contract.input_shape, "float32"),
        output=TensorSpec("confidence", shape, "float32"),
        operators={"Conv": 1, "Clip": 1},
        layers={"conv": "fp32"},
        parity=Parity(1, 0.0, 1e-4),
        accuracy=(Accuracy("fp32", "ONNX Runtime", "none", 1, None, None, None, 0.0),),
        calibration=None,
        versions={"onnx": onnx.__version__},
        plans={},
        files={},
    )
    with stage_bundle(folder) as stage:
        for name, gain in gains.items():
            graph = bright_spot_graph(
                contract.height, contract.width, gain=gain, frames=contract.input_shape[1]
            )
            (stage / names[name]).write_bytes(graph.SerializeToString())
        seal_bundle(stage, manifest)
    return folder


FIND_VERSION = engine_choice.find_version


@pytest.fixture(scope="session", autouse=True)
def onnx_runtime_alone():
    """Which engine is faster on this machine is nothing that a test may depend on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            engine_choice,
            "find_version",
            lambda name: None if name == "openvino" else FIND_VERSION(name),
        )
        yield


@pytest.fixture
def openvino_installed(monkeypatch):
    """OpenVINO is there again; skips where it never was."""
    if FIND_VERSION("openvino") is None:
        pytest.skip("needs OpenVINO: pip install 'irstd[openvino]'")
    monkeypatch.setattr(engine_choice, "find_version", FIND_VERSION)


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_the_user(tmp_path_factory):
    """No test reads or writes the ranges that exports of this user keep, nor does a fixture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def empty_cache(no_cache_of_the_user, tmp_path_factory, monkeypatch):
    """No test depends on ranges that another one kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def bundle(tmp_path):
    """A bundle for 8-bit frames, resized to 64x64."""
    return write_bundle(tmp_path / "bundle", FrameContract(64, 64))


@pytest.fixture
def bundle_int8(tmp_path):
    """A bundle for 8-bit frames with an INT8 graph that is slower on a CPU than the FP32 one."""
    return write_bundle(tmp_path / "bundle-int8", FrameContract(64, 64), lower="int8")


@pytest.fixture
def bundle14(tmp_path):
    """A bundle for 14-bit frames, resized to 64x64."""
    return write_bundle(tmp_path / "bundle14", FrameContract(64, 64, bit_depth=14))


@pytest.fixture
def bundle_clip(tmp_path):
    """A bundle for clips of 2 14-bit frames, every second of a sequence of 64x64 pixels."""
    clip = ClipContract(2, stride=2)
    return write_bundle(tmp_path / "bundle-clip", FrameContract(64, 64, bit_depth=14, clip=clip))


@pytest.fixture(scope="session")
def sequence(tmp_path_factory):
    """Six labelled 14-bit frames of a sky with strong targets."""
    folder = tmp_path_factory.mktemp("sequence")
    options = SceneOptions(height=64, width=64, targets=1, scr=(30.0, 30.0), defects=0)
    write_sequence(folder, Scene(options, seed=0), frames=6)
    return folder


def write_masks_dataset(root, *, targets, seed, frames, held_out, bit_depth=8):
    """Labelled frames as images/ and masks/, the first `held_out` of them on val.txt."""
    scene = SceneOptions(
        height=64, width=64, bit_depth=bit_depth, targets=targets, scr=(30.0, 30.0), defects=0
    )
    write_sequence(root, Scene(scene, seed=seed), frames=frames)
    (root / "frames").rename(root / "images")
    (root / "centroids.csv").unlink()
    (root / "val.txt").write_text("".join(f"{number:04}\n" for number in range(1, held_out + 1)))
    return root


@pytest.fixture
def masks_dataset(tmp_path):
    """Four labelled 8-bit frames as images/ and masks/ with a val.txt."""
    return write_masks_dataset(tmp_path / "dataset", targets=1, seed=0, frames=4, held_out=2)


@pytest.fixture
def run():
    """Run a command; its outcome has exit_code, stdout and stderr."""

    def invoke(command, *arguments):
        return CliRunner().invoke(command, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def refused(run):
    """Run a command that must fail with one line; gives that line."""

    def invoke(command, *arguments):
        outcome = run(command, *arguments)
        assert outcome.exit_code != 0
        assert isinstance(outcome.exception, SystemExit), outcome.exception
        lines = [line for line in outcome.stderr.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1
        assert "Traceback" not in outcome.output
        return lines[0]

    return invoke


@pytest.fixture(scope="module")
def one_thread():
    """Sums in one order: the same numbers to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
