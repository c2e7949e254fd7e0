"""Every network of the zoo becomes a real plan in every precision; no GPU is needed for it."""

import numpy as np
import onnx
import pytest
import torch

from irstd.calibration.quantize import list_candidates, to_int8
from irstd.calibration.ranges import estimate, observe
from irstd.export.bundling import make_graph
from irstd.export.lint import check_graph
from irstd.export.plan import PlanOptions, build_plan
from irstd.export.plan_audit import audit_layers, computed
from irstd.export.precision import layer_precisions, to_fp16
from irstd.tests.export.rtx import GPUS
from irstd.train.models.drtenet import DRTENet
from irstd.train.zoo import MODELS

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = (64, 96)
# lowrank3d is unrolled first, and built of fewer steps: test_lowrank3d. The attention of tridos
# becomes kernels that name no product: test_box_engines.
APART = ("lowrank3d", "tridos")
NAMES = [name for name, one in MODELS.items() if one.is_trained and name not in APART]
NARROW = {"drtenet": lambda: DRTENet(width=8)}  # the same layers, built in a tenth of the time


@pytest.fixture(scope="module", params=NAMES)
def graph(request):
    torch.manual_seed(0)
    entry = MODELS[request.param]
    build_network = NARROW.get(request.param, entry.build)
    frames = entry.clip.length if entry.clip else 1
    return make_graph(build_network().eval(), SIZE, frames=frames)


@pytest.fixture(scope="module")
def ranges(graph):
    """By tensor; a network that has learned nothing is silent in places, so these get any range."""
    sides = [side.dim_value for side in graph.graph.input[0].type.tensor_type.shape.dim]
    frames = np.random.default_rng(0).random((2, *sides), dtype=np.float32)
    tensors = [node.input[0] for node in list_candidates(graph)]
    observed = observe(graph, tensors, [(frames[0], frames[1])], threads=1)
    return {tensor: value or 1.0 for tensor, value in estimate(observed, "minmax").items()}


def build(graph, precision):
    """Build one plan for three GPUs; gives its layers, which are the same for all of them."""
    rtx = pytest.importorskip(
        "tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install tensorrt-rtx"
    )
    check_graph(graph)
    options = PlanOptions(compute_capabilities=GPUS)
    model = graph.SerializeToString()
    built = build_plan(rtx, model, precision, options, say=print, watch=lambda text: None)
    assert built.content[32] == 0b11100  # SM75, SM80, SM86, SM89, SM120, ...
    assert built.device_memory_bytes > 1e6
    (layers,) = built.variants
    # What no kernel tells of would be missing in the counts.
    counts = audit_layers(layers, layer_precisions(graph))
    assert sum(counts.values()) == len(layer_precisions(graph))
    assert "unknown" not in counts
    return layers


def one_pixel(graph):
    """Convolutions that weigh one number for each channel and frame."""
    values = onnx.shape_inference.infer_shapes(graph).graph.value_info
    sides = {
        info.name: [one.dim_value for one in info.type.tensor_type.shape.dim] for info in values
    }
    return {node.name for node in list_candidates(graph) if sides[node.output[0]][-2:] == [1, 1]}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_floating_point_plan_is_built(graph, precision):
    lowered = to_fp16(graph) if precision == "fp16" else graph
    names = [node.name for node in list_candidates(graph)]
    asked = layer_precisions(lowered)
    types = computed(build(lowered, precision), names)
    assert types == {name: {asked[name]} for name in names}
    # What weighs one number a frame stays with the statistics it comes from, in FP32.
    small = one_pixel(graph)
    assert {asked[name] for name in names if name not in small} == {precision}


def test_an_int8_plan_is_built(graph, ranges):
    names = [node.name for node in list_candidates(graph)]
    check_int8(graph, build(to_int8(graph, ranges, names), "int8"), names, chosen=set(names))


@pytest.mark.parametrize("graph", ["lrrnet-edge", "rpcanet"], indirect=True)
def test_a_mixed_plan_is_built(graph, ranges):
    names = [node.name for node in list_candidates(graph)]
    lowered = to_int8(graph, ranges, names[::2])
    check_int8(graph, build(lowered, "int8"), names, chosen=set(names[::2]))


def check_int8(graph, layers, names, *, chosen):
    own = {node for layer in layers if layer.multiplies for node in layer.nodes}
    fused = chosen - own
    # On maps of one pixel the builder puts rounding, convolution and activation into one kernel,
    # whose scales and biases are FP32 constants beside the INT8 weights.
    assert fused <= one_pixel(graph)
    types = computed(layers, names)
    for name in names:
        if name in fused:
            assert "int8" in types[name], name
            continue
        assert types[name] == {"int8" if name in chosen else "fp32"}, name
    int8 = [layer for layer in layers if layer.kind == "correlation" and "int8" in layer.reads]
    assert len(int8) == len(chosen - fused)
    assert all(layer.reads[0] == layer.holds[0] == "int8" for layer in int8)
