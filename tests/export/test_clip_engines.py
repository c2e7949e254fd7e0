"""Every model of clips becomes a graph without loops, says what torch says, and a real plan."""

import numpy as np
import onnx
import pytest
import torch

from irstd.export.bundling import make_graph
from irstd.export.graph import count_operators
from irstd.export.precision import to_fp16
from irstd.export.unroll import unroll
from irstd.runtime.engine import load_engine
from irstd.tests.export.rtx import Parsed
from irstd.train.solvers.solver import Solver
from irstd.train.zoo import MODELS

SIZE = (48, 64)
NAMES = [name for name, model in MODELS.items() if model.clip and model.answer == "confidence"]
FORBIDDEN = {"Loop", "If", "Scan", "SVD", "DFT", "NonZero", "Shape", "TopK", "GatherND"}
SHORT = 2  # iterations of the plans of solvers: 20 are the same operators and take minutes


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    """The network as it is traced, its graph, and a clip over which a spot moves."""
    entry = MODELS[request.param]
    network = unroll(entry.build(), iterations=None).eval()
    graph = make_graph(network, SIZE, frames=entry.clip.length)
    rng = np.random.default_rng(0)
    still = 0.4 + 0.1 * rng.random(SIZE)
    clip = still + 0.01 * rng.normal(size=(1, entry.clip.length, *SIZE))
    for number in range(entry.clip.length):
        clip[0, number, 20:22, 10 + 2 * number : 12 + 2 * number] += 0.4
    return entry, network, graph, clip.astype(np.float32)


def test_only_operators_of_fixed_shape(model):
    _, _, graph, clip = model
    assert not set(count_operators(graph)) & FORBIDDEN
    (value,) = graph.graph.input
    assert [side.dim_value for side in value.type.tensor_type.shape.dim] == list(clip.shape)


def test_onnx_runtime_says_what_torch_says_and_finds_the_newest_place(model):
    entry, network, graph, clip = model
    with torch.inference_mode():
        expected = network(torch.from_numpy(clip))[1].sigmoid()[0, 0].numpy()
    found = load_engine(graph.SerializeToString(), threads=1).run(clip)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    if entry.is_trained:
        return  # what it finds before it has learned means nothing
    row, column = np.unravel_index(found.argmax(), found.shape)
    first = 10 + 2 * (clip.shape[1] - 1)
    assert row in (20, 21)
    assert column in (first, first + 1)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "lowrank3d"])  # has its own
def test_a_plan_is_built(name, precision):
    entry = MODELS[name]
    exact = entry.build()
    form = "half" if precision == "fp16" else "quick"
    steps = SHORT if isinstance(exact, Solver) else None
    network = unroll(exact, iterations=steps, form=form).eval()
    graph = make_graph(network, SIZE, frames=entry.clip.length)
    if precision == "fp16" and steps is None:
        graph = to_fp16(graph)
    onnx.checker.check_model(graph)
    Parsed(graph).build()
