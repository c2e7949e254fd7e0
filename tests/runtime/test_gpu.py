"""On a GPU: kernels and the whole way of a frame against numpy. `pytest -m gpu`."""

import importlib

import numpy as np
import pytest

from irstd.export.plan import PlanOptions, build_plan
from irstd.runtime import Detector, Extraction, FrameContract
from irstd.runtime.device import open_device
from irstd.runtime.engine import load_engine
from irstd.runtime.engine_tensorrt import TensorRtEngine, import_tensorrt
from irstd.runtime.frame import ClipContract
from irstd.runtime.plans import probe_machine
from irstd.runtime.sources import SourceFrame
from irstd.tests.conftest import bright_spot_graph
from irstd.tests.runtime.fake_cuda.test_clips import MOVED, newness_graph
from irstd.tests.runtime.fake_cuda.test_clips import make_frames as moving
from irstd.tests.runtime.gpu_runner import CopyNetwork, GpuRunner
from irstd.tests.runtime.test_kernels import (
    assert_extracted,
    assert_prepared,
    map_of,
    scene,
    shapes,
    special_frames,
)
from irstd.tests.runtime.test_kernels_clip import MOVES, assert_stacked

pytestmark = pytest.mark.gpu
DEVICES = {"cupy": "device_cupy.CupyDevice", "pycuda": "device_pycuda.PycudaDevice"}
CONTRACT = FrameContract(256, 320, bit_depth=14)
COLUMNS = ("row", "column", "area", "peak", "score", "box")


@pytest.fixture(scope="module")
def machine():
    found = probe_machine()
    if not found.gpus:
        pytest.skip(f"no NVIDIA GPU ({found.problem}); run pytest -m gpu where there is one")
    return found


@pytest.fixture(params=sorted(DEVICES))
def device(machine, request):
    home, name = DEVICES[request.param].split(".")
    try:
        module = importlib.import_module(f"irstd.runtime.{home}")
    except ImportError as err:
        pytest.skip(f"{request.param} is not installed ({err}); pip install it")
    opened = getattr(module, name)(0)
    return opened


class Identity:
    """What `CopyNetwork` is, on the CPU."""

    description = "identity"
    input_shape = (1, 1, 256, 320)

    def run(self, prepared):
        return prepared[0, 0]

    def close(self):
        pass


def frames(count):
    return [scene((480, 640), 14, seed=seed) for seed in range(count)]


def assert_same(targets, truth):
    assert targets.found == truth.found
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(targets, column), getattr(truth, column), column)


@pytest.mark.parametrize("is_half", [False, True])
@pytest.mark.parametrize("normalisation", ["stretch", "full-scale"])
@pytest.mark.parametrize("depth", [8, 14, 16])
def test_prepare(device, depth, normalisation, is_half):
    runner = GpuRunner(device)
    for shape in ((37, 70), (512, 640)):
        frame = scene(shape, depth)
        for size, fit in [((30, 41), "resize"), ((61, 70), "resize"), ((520, 650), "pad")]:
            contract = FrameContract(*size, depth, normalisation, fit)
            assert_prepared(runner, frame, contract, is_half=is_half)


def test_prepare_of_special_frames(device):
    runner = GpuRunner(device)
    for _, frame in special_frames():
        for fit in ("resize", "pad"):
            contract = FrameContract(24, 40, 14, fit=fit)
            assert_prepared(runner, frame.astype(np.uint16), contract)


def test_extract_of_every_shape(device):
    runner = GpuRunner(device)
    for _, mask in shapes():
        assert_extracted(runner, map_of(mask), extraction=Extraction(0.48, max_targets=1200))


def test_extract_of_a_whole_map_again_and_again(device):
    """Other orders of blocks and threads each time."""
    runner = GpuRunner(device)
    mask = np.random.default_rng(0).random((512, 512)) < 0.02
    for _ in range(20):
        assert_extracted(runner, map_of(mask), extraction=Extraction(0.48, max_targets=10_000))


@pytest.mark.parametrize("is_half", [False, True])
@pytest.mark.parametrize("registration", ["translation", "none"])
def test_clips(device, registration, is_half):
    runner, clip = GpuRunner(device), ClipContract(5, 2, registration)
    for size, shape, fit in [((256, 320), (250, 320), "pad"), ((61, 70), (61, 70), "resize")]:
        contract = FrameContract(*size, fit=fit, clip=clip)
        for shifts in MOVES.values():
            assert_stacked(runner, contract, shape, shifts=shifts, is_half=is_half)


@pytest.mark.parametrize("ahead", [1, None])
def test_the_whole_way(device, ahead):
    network = CopyNetwork(device, (256, 320))
    extraction = Extraction(0.3)
    shown = frames(12)
    truth = Detector(Identity(), CONTRACT, extraction)
    detector = Detector(network, CONTRACT, extraction)  # it closes the device
    items = [SourceFrame(index, str(index), frame) for index, frame in enumerate(shown)]
    for result in detector.stream(items, ahead=ahead):
        assert_same(result.targets, truth(result.source.frame))
    for frame in shown:
        assert_same(detector(frame), truth(frame))
        seen = detector.confidence(frame).values
        np.testing.assert_array_equal(seen, truth.confidence(frame).values)
    for item in detector.stream(items):  # left early
        if item.source.index == 3:
            break
    detector.close()


@pytest.mark.parametrize("library", ["tensorrt", "tensorrt-rtx"])
def test_tensorrt_gives_the_targets_of_onnx_runtime(machine, device, library):
    if library not in machine.libraries:
        pytest.skip(f"{library} is not installed")
    trt = import_tensorrt(library)
    model = bright_spot_graph(256, 320).SerializeToString()
    with device:
        built = build_plan(
            trt, model, "fp32", PlanOptions(), say=lambda _: None, watch=lambda _: None
        )
    truth = Detector(load_engine(model), CONTRACT, Extraction())
    with Detector(TensorRtEngine(built.content, open_device(), trt), CONTRACT, Extraction()) as one:
        for frame in frames(5):
            seen, exact = one.confidence(frame).values, truth.confidence(frame).values
            np.testing.assert_allclose(seen, exact, atol=1e-4)
            assert one(frame).found == truth(frame).found


def test_tensorrt_gives_the_clips_of_onnx_runtime(machine, device):
    if "tensorrt" not in machine.libraries:
        pytest.skip("tensorrt is not installed")
    trt = import_tensorrt("tensorrt")
    graph = newness_graph(MOVED).SerializeToString()
    with device:
        built = build_plan(
            trt, graph, "fp32", PlanOptions(), say=lambda _: None, watch=lambda _: None
        )
    truth = Detector(load_engine(graph), MOVED, Extraction(0.3))
    engine = TensorRtEngine(built.content, open_device(), trt)
    with Detector(engine, MOVED, Extraction(0.3)) as one:
        for result in one.stream(SourceFrame(n, str(n), f) for n, f in enumerate(moving(12))):
            exact = truth(result.source.frame)
            assert result.targets.found == exact.found
            assert result.targets.clip == exact.clip
