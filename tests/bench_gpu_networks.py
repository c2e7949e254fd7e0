"""The contestants of bench_gpu.py: every engine that a machine has, in the same detector."""

from contextlib import contextmanager

import numpy as np
import onnxruntime
import torch
from skimage.measure import label, regionprops

from irstd.calibration.quantize import list_layers, to_int8
from irstd.calibration.ranges import estimate, observe
from irstd.export.bundling import make_graph
from irstd.export.plan import PlanOptions, build_plan
from irstd.export.precision import to_fp16
from irstd.runtime.detector import Detector
from irstd.runtime.device import open_device
from irstd.runtime.engine_tensorrt import TensorRtEngine, import_tensorrt
from irstd.runtime.errors import DeviceError
from irstd.runtime.frame import FrameContract, prepare
from irstd.runtime.pipeline_gpu import DevicePipeline
from irstd.runtime.targets import Extraction
from irstd.train.checkpoint import load_into, read_weights
from irstd.train.zoo import find_model


def contestants(machine, size):
    """(name, what opens it) of each; eager torch, which the papers publish, comes first."""
    contract = FrameContract(*size, bit_depth=14)
    for model in ("lrrnet", "lrrnet-edge"):
        network = shipped(model)
        if torch.cuda.is_available():
            yield f"{model}, eager torch, synchronised", eager_torch(network, contract)
            graphs = TorchGraphs(network, open_device(), size)
            yield f"{model}, torch with CUDA graphs", in_detector(graphs, contract)
        precisions = graphs_of(network, size)
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            engine = OnnxRuntimeCuda(precisions["fp32"], open_device(), size)
            yield f"{model}, fp32, ONNX Runtime CUDA", in_detector(engine, contract)
        for library in machine.libraries:
            for precision, graph in precisions.items():
                opened = in_tensorrt(library, graph, precision, contract)
                yield f"{model}, {precision}, {library} {machine.libraries[library]}", opened


def shipped(name):
    model = find_model(name)
    network = model.build().eval()
    load_into(network, read_weights(model.weights).tensors, name="shipped")
    return network


def graphs_of(network, size):
    """The graph in each precision; ranges do not matter for the time."""
    graph = make_graph(network, size)
    layers = list_layers(graph)
    frame = np.random.default_rng(0).random((1, 1, *size), np.float32)
    observed = observe(graph, [node.input[0] for node in layers], [(frame, frame)])
    ranges = estimate(observed, "minmax")
    lowered = to_int8(graph, ranges, [node.name for node in layers])
    graphs = {"fp32": graph, "fp16": to_fp16(graph), "int8": lowered}
    return {name: one.SerializeToString() for name, one in graphs.items()}


@contextmanager
def in_detector(engine, contract):
    with Detector(engine, contract, Extraction()) as detector:
        yield detector, detector.stream


@contextmanager
def in_tensorrt(library, graph, precision, contract):
    trt = import_tensorrt(library)
    device = open_device()
    with device:
        built = build_plan(
            trt, graph, precision, PlanOptions(), say=lambda _: None, watch=lambda _: None
        )
    with in_detector(TensorRtEngine(built.content, device, trt), contract) as opened:
        yield opened


@contextmanager
def eager_torch(network, contract):
    """The published way: prepare on the host, run eagerly, wait, skimage."""
    network = network.cuda()

    @torch.inference_mode()
    def detect(frame):
        prepared = torch.from_numpy(prepare(frame, contract)).cuda()
        values = network(prepared)[1].sigmoid()[0, 0].cpu().numpy()
        regions = regionprops(label(values > 0.5, connectivity=2), intensity_image=values)
        return [(region.centroid_weighted, region.area) for region in regions]

    yield detect, None
    network.cpu()


@contextmanager
def as_device_error():
    """What cannot be captured inside our graph comes as other libraries' errors."""
    try:
        yield
    except Exception as err:
        raise DeviceError(f"{type(err).__name__}: {err}") from err


class OnDevice:
    """A network of another library in our way of a frame."""

    is_half = False

    def __init__(self, device, size):
        self.device = device
        self.input_shape = (1, 1, *size)

    def open_pipeline(self, contract, extraction):
        return DevicePipeline(self, contract, extraction)

    def close(self):
        self.device.close()


class OnnxRuntimeCuda(OnDevice):
    """ONNX Runtime on our memory and stream."""

    description = "ONNX Runtime CUDA"

    def __init__(self, model, device, size):
        super().__init__(device, size)
        self.model = model
        self.session = None
        self.options = onnxruntime.RunOptions()
        self.options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def queue(self, prepared, confidence, stream):
        with as_device_error():
            self.run_on(prepared, confidence, stream)

    def run_on(self, prepared, confidence, stream):
        if self.session is None:
            settings = {"device_id": "0", "user_compute_stream": str(stream.handle)}
            providers = [("CUDAExecutionProvider", settings)]
            self.session = onnxruntime.InferenceSession(self.model, providers=providers)
            if "CUDAExecutionProvider" not in self.session.get_providers():
                raise RuntimeError("ONNX Runtime fell back to the CPU")
        binding = self.session.io_binding()
        taken, given = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name
        shape = self.input_shape
        binding.bind_input(taken, "cuda", 0, np.float32, shape, prepared.address)
        binding.bind_output(given, "cuda", 0, np.float32, shape, confidence.address)
        self.session.run_with_iobinding(binding, self.options)


class TorchGraphs(OnDevice):
    """torch, each run one replay of its own CUDA graph between two copies."""

    description = "torch with CUDA graphs"

    def __init__(self, network, device, size):
        super().__init__(device, size)
        self.network = network
        self.graph = None

    @torch.inference_mode()
    def capture(self):
        self.network = self.network.cuda()
        self.taken = torch.zeros(self.input_shape, device="cuda")
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                self.network(self.taken)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.given = self.network(self.taken)[1].sigmoid()
        torch.cuda.synchronize()

    @torch.inference_mode()
    def queue(self, prepared, confidence, stream):
        with as_device_error():
            self.run_on(prepared, confidence, stream)

    def run_on(self, prepared, confidence, stream):
        if self.graph is None:
            self.capture()
        with torch.cuda.stream(torch.cuda.ExternalStream(stream.handle)):
            self.taken.copy_(torch.as_tensor(Foreign(prepared, self.input_shape), device="cuda"))
            self.graph.replay()
            torch.as_tensor(Foreign(confidence, self.input_shape), device="cuda").copy_(self.given)


class Foreign:
    """Memory that torch did not allocate."""

    def __init__(self, memory, shape):
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": "<f4",
            "data": (memory.address, False),
            "version": 3,
        }
