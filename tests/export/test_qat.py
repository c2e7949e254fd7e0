"""What --qat trains is what the export writes: fake quantisation against the Q/DQ graph."""

import copy

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from irstd.calibration.frames import CalibrationFrame, CalibrationSet
from irstd.calibration.gate import Limits
from irstd.calibration.quantize import LEVELS, list_candidates, list_layers
from irstd.calibration.ranges import estimate, observe
from irstd.export.bundling import make_graph
from irstd.export.graph import find_module
from irstd.export.lowering import Lowering, lower_graph
from irstd.export.precision import layer_precisions
from irstd.runtime import FrameContract
from irstd.runtime.engine_onnxruntime import OnnxRuntimeEngine
from irstd.runtime.scoring import Scores
from irstd.train.fake_quantize import (
    kept_ranges,
    list_convolutions,
    observe_ranges,
    round_convolutions,
    round_weights,
)
from irstd.train.models.lrrnet import ResidualBlock
from irstd.train.zoo import MODELS

pytestmark = pytest.mark.usefixtures("one_thread")

SIDES = (32, 32)
HARMLESS = Scores(
    iou=0.7, niou=0.7, precision=0.8, recall=0.8, f1=0.8, pd=0.95, fa_per_mpix=20.0, frames=10,
    targets=20, false_alarms_per_frame=0.1,
)  # fmt: skip


class Folding(nn.Module):
    """All that an export folds into convolutions: BatchNorm, and the scale of LRRNet's blocks."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.normed = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.block = ResidualBlock(16, 16)
        self.deep = nn.Sequential(nn.Conv2d(16, 24, 1), nn.BatchNorm2d(24, eps=1e-3), nn.ReLU())
        self.target = nn.Conv2d(24, 1, 3, padding=1)

    def forward(self, x):
        shallow = self.stem(x)
        hidden = torch.relu(self.norm(self.normed(shallow)))
        return x, self.target(self.deep(self.block(shallow - hidden)))


@pytest.fixture(scope="module")
def network():
    """With statistics, factors (negative ones too) and biases as a training leaves them."""
    torch.manual_seed(0)
    network = Folding().eval()
    with torch.no_grad():
        for norm in (network.norm, network.deep[1]):
            norm.running_mean.normal_(0.0, 0.3)
            norm.running_var.uniform_(0.2, 3.0)
            norm.weight.normal_(1.0, 0.8)
            norm.weight[0] = -0.7
            norm.bias.normal_(0.0, 0.3)
        network.block.scale.normal_(1.0, 0.8)[:, 0] = -0.7
        network.target.weight.mul_(8.0)
    return network


@pytest.fixture(scope="module")
def graph(network):
    return make_graph(network, SIDES)


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(0)
    return [rng.random((1, 1, *SIDES), dtype=np.float32) for _ in range(4)]


@pytest.fixture(scope="module")
def layers(network, graph):
    """The node of each convolution that is rounded; both lists are in the order of the forward."""
    nodes = [node for node in list_layers(graph) if "stem" not in node.name]
    assert "target" in nodes.pop().name
    names = list(list_convolutions(network))
    for name, node in zip(names, nodes, strict=True):
        assert name.rsplit(".", 1)[-1] in node.name
    return dict(zip(names, nodes, strict=True))


@pytest.fixture(scope="module")
def ranges(network, frames):
    return observe_ranges(network, [torch.from_numpy(frame) for frame in frames])


@pytest.fixture(scope="module")
def lowered(graph, ranges):
    """What an export makes with the ranges of the training, where no score asks for less."""
    rng = np.random.default_rng(1)
    shots = rng.integers(0, 256, (8, *SIDES), dtype=np.uint8)
    pairs = tuple(CalibrationFrame(str(n), shot, shot) for n, shot in enumerate(shots))
    lowering = Lowering(
        precision="int8",
        frames=CalibrationSet("noise", 8, pairs, True, "0" * 64),
        contract=FrameContract(*SIDES, normalisation="full-scale"),
        method="target",
        limits=Limits(),
        trained=ranges,
    )
    return lower_graph(
        graph,
        lowering,
        before={"set": HARMLESS},
        measure=lambda _: {"set": HARMLESS},
        say=lambda _: None,
    )


def folded_factor(network, name):
    """What an export multiplies each output channel of a convolution by."""
    norms = {"normed": network.norm, "deep.0": network.deep[1]}
    if name in norms:
        norm = norms[name]
        return norm.weight / torch.sqrt(norm.running_var + norm.eps)
    if name == "block.conv_2.1":
        return network.block.scale.flatten()
    return torch.ones(network.get_submodule(name).out_channels)


def test_the_export_rounds_what_the_training_rounded_and_nothing_else(layers, lowered):
    kinds = layer_precisions(lowered.graph)
    rounded = {name for name, kind in kinds.items() if kind == "int8"}
    assert rounded == {node.name for node in layers.values()}
    # Both could be INT8: they have constant weights.
    assert lowered.untrained == {"/network/stem/Conv", "/network/target/Conv"}
    assert kinds.keys() == rounded | lowered.untrained


def test_ranges_of_the_training_are_the_steps_of_the_exported_graph(layers, ranges, lowered):
    constants = {one.name: numpy_helper.to_array(one) for one in lowered.graph.graph.initializer}
    makers = {name: node for node in lowered.graph.graph.node for name in node.output}
    nodes = {node.name: node for node in lowered.graph.graph.node}
    for name, node in layers.items():
        step = constants[makers[nodes[node.name].input[0]].input[1]]
        assert step == pytest.approx(ranges[name] / LEVELS, rel=1e-6)
        assert lowered.ranges[node.input[0]] == ranges[name]


def test_a_training_keeps_its_ranges_among_its_tensors(network, ranges):
    fake = copy.deepcopy(network)
    round_convolutions(fake, ranges)
    assert kept_ranges(fake.state_dict()) == ranges
    assert kept_ranges(network.state_dict()) == {}


# lowrank3d learns without labels, and so without --qat.
TRAINED = [name for name, one in MODELS.items() if one.is_trained and name != "lowrank3d"]


@pytest.mark.parametrize("name", TRAINED)
def test_every_convolution_of_a_graph_is_a_module_by_name(name):
    network, clip = MODELS[name].build().eval(), MODELS[name].clip
    rounded, known = list_convolutions(network), dict(network.named_modules())
    graph = make_graph(network, SIDES, frames=clip.length if clip else 1)
    found = {find_module(one.name, known) for one in list_candidates(graph)}
    assert all(isinstance(known[module], nn.Conv2d) for module in found)
    beside = [known[module] for module in found - rounded.keys()]
    assert all(1 in (module.in_channels, module.out_channels) for module in beside)
    # What only the reconstruction needs is not exported.
    assert len(found & rounded.keys()) > 0.8 * len(rounded)


def test_the_rounded_weight_is_that_of_the_exported_graph(network, layers, lowered):
    int8 = lowered.graph
    constants = {one.name: numpy_helper.to_array(one) for one in int8.graph.initializer}
    makers = {name: node for node in int8.graph.node for name in node.output}
    for name, node in layers.items():
        module = network.get_submodule(name)
        weight, step, _ = makers[makers[f"{node.input[1]}_DequantizeLinear_Output"].input[0]].input
        column = constants[step].reshape(-1, 1, 1, 1)
        expected = np.rint(constants[weight] / column).clip(-128, 127) * column
        factor = folded_factor(network, name).detach().numpy().reshape(-1, 1, 1, 1)
        found = round_weights(module.weight).detach().numpy() * factor
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7, err_msg=name)
        assert np.abs(found - constants[weight]).max() > 1e-4  # it is rounded


def test_ranges_are_those_that_the_export_calibrates(graph, layers, ranges, frames):
    """What nothing is clipped from; its default lies a little below, see calibration/RESULTS.md."""
    tensors = [node.input[0] for node in layers.values()]
    observed = observe(graph, tensors, [(frame, frame) for frame in frames])
    widest = estimate(observed, "minmax")
    for name, node in layers.items():
        assert ranges[name] == pytest.approx(widest[node.input[0]], rel=1e-4)


def test_torch_computes_what_the_exported_graph_says(network, graph, lowered, ranges, frames):
    engines = [
        OnnxRuntimeEngine(model.SerializeToString(), threads=1, is_optimised=False)
        for model in (graph, lowered.graph)
    ]
    fake = copy.deepcopy(network)
    round_convolutions(fake, ranges)
    apart, kept = [], []
    for frame in frames:
        with torch.no_grad():
            confidence = fake(torch.from_numpy(frame))[1].sigmoid()[0, 0].numpy()
        exact, lowered = (engine.run(frame) for engine in engines)
        apart.append(np.abs(confidence - lowered))
        kept.append(np.abs(exact - lowered))
    # A value that lies within a float's last bit of a half may go to either side: one step, which
    # moves its surroundings; rounding as such moves everything.
    assert np.mean(kept) > 2e-3
    assert np.mean(apart) < 0.02 * np.mean(kept)
    assert np.max(apart) < 0.2 * np.max(kept)
