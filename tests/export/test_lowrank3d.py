"""lowrank3d in every precision: what stays in FP32, what each graph says, and real plans."""

import numpy as np
import pytest
import torch

from irstd.calibration.quantize import list_layers, to_int8
from irstd.calibration.ranges import estimate, observe
from irstd.export.bundling import make_graph
from irstd.export.graph import count_operators
from irstd.export.lint import REFUSED, check_graph
from irstd.export.parity import compare_answers
from irstd.export.plan import PlanOptions, build_plan
from irstd.export.plan_audit import audit_layers, computed
from irstd.export.precision import emulate_fp16, layer_precisions, to_fp16
from irstd.export.unroll import unroll
from irstd.runtime.engine import load_engine
from irstd.runtime.engine_onnxruntime import OnnxRuntimeEngine
from irstd.tests.export.rtx import GPUS
from irstd.train.checkpoint import load_into, read_weights
from irstd.train.sequences.lowrank3d import FRAMES, STEPS, LowRank3d
from irstd.train.zoo import find_model

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = (32, 40)
SHORT = 2  # steps of a plan: all are the same operators


def make_clip(seed=0):
    """A still random scene with noise, over which a spot moves two columns a frame."""
    rng = np.random.default_rng(seed)
    clip = 0.4 + 0.1 * rng.random(SIZE) + 0.01 * rng.normal(size=(1, FRAMES, *SIZE))
    for number in range(FRAMES):
        clip[0, number, 14:16, 10 + 2 * number : 12 + 2 * number] += 0.4
    return clip.astype(np.float32)


def build(steps):
    network = LowRank3d().eval()
    load_into(network, read_weights(find_model("lowrank3d").weights).tensors, name="lowrank3d")
    network.steps = network.steps[:steps]
    return unroll(network, iterations=None)


@pytest.fixture(scope="module")
def network():
    return build(STEPS)


@pytest.fixture(scope="module")
def graph(network):
    return make_graph(network, SIZE, frames=FRAMES)


@pytest.fixture(scope="module")
def short():
    return make_graph(build(SHORT), SIZE, frames=FRAMES)


@pytest.fixture(scope="module")
def ranges(graph):
    tensors = [node.input[0] for node in list_layers(graph)]
    observed = observe(graph, tensors, [(make_clip(1), make_clip(2))], threads=1)
    return estimate(observed, "minmax")


def run(graph):
    model = emulate_fp16(graph).SerializeToString()
    return OnnxRuntimeEngine(model, threads=1, is_optimised=False).run(make_clip())


def test_the_graph_says_what_torch_says(network, graph):
    assert not set(count_operators(graph)) & REFUSED.keys()
    engine = load_engine(graph.SerializeToString(), threads=1)
    parity = compare_answers(network, engine, [make_clip(seed) for seed in range(3)])
    assert parity.tolerance <= 1e-3


def test_gram_matrices_and_their_roots_stay_in_fp32(short):
    """Small eigenvalues are squares of small numbers, and have no digits in FP16."""
    half = to_fp16(short)
    check_graph(half)
    precisions = layer_precisions(half)
    convolutions = {node.name for node in half.graph.node if node.op_type == "Conv"}
    assert len(convolutions) == 2 * SHORT
    assert {precisions[name] for name in convolutions} == {"fp16"}
    assert {precisions[name] for name in precisions.keys() - convolutions} == {"fp32"}


def test_fp16_finds_the_same_place(graph):
    full, half = run(graph), run(to_fp16(graph))
    assert np.isfinite(half).all()
    assert full.argmax() == half.argmax()


def test_int8_finds_the_same_place(graph, ranges):
    names = [node.name for node in list_layers(graph)]
    assert len(names) == 2 * STEPS
    lowered = to_int8(graph, ranges, names)
    check_graph(lowered)
    assert run(graph).argmax() == run(lowered).argmax()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_plan_is_built(short, precision):
    rtx = pytest.importorskip(
        "tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install tensorrt-rtx"
    )
    lowered = short
    if precision == "fp16":
        lowered = to_fp16(short)
    elif precision == "int8":
        names = [node.name for node in list_layers(short)]
        lowered = to_int8(short, {node.input[0]: 6.0 for node in list_layers(short)}, names)
    check_graph(lowered)
    options = PlanOptions(compute_capabilities=GPUS)
    model = lowered.SerializeToString()
    built = build_plan(rtx, model, precision, options, say=print, watch=lambda text: None)
    (layers,) = built.variants
    convolutions = [node.name for node in lowered.graph.node if node.op_type == "Conv"]
    assert computed(layers, convolutions) == {name: {precision} for name in convolutions}
    # Products of what was computed: where they are one kernel with others, it does not tell.
    counts = audit_layers(layers, layer_precisions(lowered))
    assert counts["fp32"] >= 22


def test_a_clip_of_nan_is_no_silent_clip(network):
    with torch.inference_mode():
        _, logits = network(torch.full((1, FRAMES, *SIZE), torch.nan))
    assert bool(logits.isnan().all())
