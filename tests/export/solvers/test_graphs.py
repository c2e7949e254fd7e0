"""Every block and every solver as a graph: no forbidden operator, ONNX Runtime, a real plan."""

import numpy as np
import pytest
import torch
from torch import nn

from irstd.export.bundling import make_graph
from irstd.export.precision import layer_precisions, to_fp16
from irstd.export.solvers.fixed import FixedAlgebra
from irstd.export.solvers.patches import cut_patches, merge_patches
from irstd.export.solvers.projection import project
from irstd.export.solvers.thresholding import Steps, threshold_singular_values
from irstd.export.solvers.transforms import dct, dft, inverse_dct, inverse_dft
from irstd.export.unroll import unroll
from irstd.runtime.engine import load_engine
from irstd.runtime.errors import OutputError
from irstd.tests.export.rtx import Parsed
from irstd.train.solvers.algebra import PatchGrid
from irstd.train.solvers.pyramid import halve
from irstd.train.solvers.solver import Solver, shrink
from irstd.train.solvers.structure import structure_tensor
from irstd.train.zoo import MODELS

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = (48, 56)
GRID = PatchGrid(16, 8)
SMALLEST = (64, 64)  # that every solver takes
FORBIDDEN = {"Loop", "If", "Scan", "SVD", "DFT", "STFT", "NonZero", "Det", "Inverse", "TopK"}
# A shape that is computed, not given.
DYNAMIC = {"Shape", "Size", "Range", "ConstantOfShape", "Expand", "Where", "Gather", "GatherND"}


class AsNetwork(nn.Module):
    """Makes a function of a frame look like a network of the zoo."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, frame):
        return frame, self.function(frame)


def trace_function(function, size):
    return make_graph(AsNetwork(function), size)


def check_operators(graph):
    assert not {node.op_type for node in graph.graph.node} & (FORBIDDEN | DYNAMIC)
    assert all(
        not attribute.HasField("g") for node in graph.graph.node for attribute in node.attribute
    )


def run_graph(graph, frame):
    engine = load_engine(graph.SerializeToString(), threads=1)
    confidence = engine._session.run(None, {"frame": frame})[0]
    engine.close()
    return confidence


def expected(function, frame):
    with torch.inference_mode():
        return function(torch.from_numpy(frame)).sigmoid().numpy()


def build_plan(graph):
    """Build a plan with TensorRT for RTX; needs no GPU."""
    plan = Parsed(graph).build()
    return np.frombuffer(plan, np.uint8)


def thresholded(form):
    def function(frame):
        steps = Steps(0.03 if form == "half" else 0.001, form)
        return threshold_singular_values(frame, frame.mean(dim=(2, 3), keepdim=True), steps)

    return function


def projected(frame):
    return project(frame, frame[:, :, :4].transpose(2, 3), Steps(0.01))[0]


def patched(frame):
    return merge_patches(cut_patches(frame, GRID), SIZE, GRID)


def fourier(frame):
    # Scaled down: a sigmoid stands behind every graph and shall not be sated.
    real, imaginary = dft(frame / 20.0, axis=-1)
    return torch.cat([real, inverse_dft(real, imaginary, axis=2)[1]], dim=1)


def cosine(frame):
    return torch.cat([dct(frame, axis=2), inverse_dct(frame, axis=3)], dim=1)


def tensor(frame):
    cubes = frame.reshape(1, 8, 6, 56)
    threshold = frame.mean(dim=(2, 3), keepdim=True)
    return FixedAlgebra().threshold_tensor(cubes, threshold, kept=1)


def structure(frame):
    return torch.cat(structure_tensor(frame, smooth=1.0, window=1.5), dim=1)


# Function, and whether it is meant for FP16 by lowering; "half" has its own casts.
BLOCKS = {
    "gram": (thresholded("gram"), False),
    "quick": (thresholded("quick"), False),
    "rectangular": (thresholded("rectangular"), True),
    "half": (thresholded("half"), False),
    "projection": (projected, True),
    "patches": (patched, True),
    "fourier": (fourier, True),
    "cosine": (cosine, True),
    "tensor": (tensor, False),
    "shrink": (lambda frame: shrink(frame, 0.3), True),
    "pyramid": (halve, True),
    "structure tensor": (structure, True),
}
# Of values in 0..1 or so, torch against ONNX Runtime, where that is more than 2e-5: FP16, and
# tensors, where keeping the largest values whole amplifies rounding if two are alike.
ROUNDING = {"half": 2e-3, "tensor": 5e-4}
SOLVERS = [name for name, model in MODELS.items() if not model.is_trained]


def iterations_of(model, count):
    """Few iterations of a solver; filters have none."""
    return count if isinstance(model.build(), Solver) else None


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_becomes_a_plan(name, random):
    function, is_lowered = BLOCKS[name]
    graph = trace_function(function, SIZE)
    check_operators(graph)
    frame = random.random((1, 1, *SIZE), np.float32)
    gap = np.abs(run_graph(graph, frame) - expected(function, frame)).max()
    assert gap < ROUNDING.get(name, 2e-5)
    assert build_plan(graph).size
    if name == "half":
        assert "fp16" in layer_precisions(graph).values()
    if is_lowered:
        assert build_plan(to_fp16(graph)).size


FORMS = [*((name, "quick") for name in SOLVERS), ("ipi", "half")]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_a_solver_becomes_a_plan(name, form):
    model = MODELS[name]
    twin = unroll(model.build(), iterations=iterations_of(model, 2), form=form)
    graph = make_graph(twin.eval(), SMALLEST)
    check_operators(graph)
    assert build_plan(graph).size


@pytest.mark.parametrize("name", SOLVERS)
def test_a_frame_of_nan_is_no_silent_frame(name):
    model = MODELS[name]
    twin = unroll(model.build(), iterations=iterations_of(model, 2))
    engine = load_engine(make_graph(twin.eval(), SMALLEST).SerializeToString(), threads=1)
    assert np.isfinite(engine.run(np.full((1, 1, *SMALLEST), 0.5, np.float32))).all()
    with pytest.raises(OutputError, match="NaN"):
        engine.run(np.full((1, 1, *SMALLEST), np.nan, np.float32))
