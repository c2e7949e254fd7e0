"""Unrolling: what it gives, what it says it costs, and what irstd-export makes of it."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from irstd.export.commands import export_command
from irstd.export.graph import share_constants
from irstd.export.unroll import (
    Cost,
    Distance,
    Unrolled,
    measure_cost,
    tell_cost,
    unroll,
    unroll_measured,
)
from irstd.runtime import Detector
from irstd.runtime.bundle import read_manifest
from irstd.runtime.commands.evaluate import evaluate_command
from irstd.runtime.frame import FrameContract, prepare
from irstd.runtime.scene import Scene, SceneOptions
from irstd.train.models.lrrnet_edge import LRRNetEdge
from irstd.train.solvers.algebra import PatchGrid
from irstd.train.solvers.ipi import Ipi, IpiOptions
from irstd.train.solvers.pstnn import Pstnn, PstnnOptions
from irstd.train.solvers.ript import Ript, RiptOptions
from irstd.train.solvers.top_hat import TopHat

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def frames():
    options = SceneOptions(height=60, width=64, bit_depth=8, targets=2, scr=(25.0, 25.0), defects=0)
    contract = FrameContract(60, 64)
    return [
        torch.from_numpy(prepare(Scene(options, seed=seed).frame(0).frame, contract))
        for seed in range(2)
    ]


@pytest.fixture
def small():
    return Ipi(IpiOptions(PatchGrid(16, 8)))


@pytest.mark.parametrize(
    "solver",
    [
        Ipi(IpiOptions(PatchGrid(16, 8))),
        Pstnn(PstnnOptions(PatchGrid(16, 16))),
        Ript(RiptOptions(PatchGrid(16, 8))),
    ],
    ids=["ipi", "pstnn", "ript"],
)
def test_a_twin_says_what_the_exact_solver_says(solver, frames):
    cost = measure_cost(solver, unroll(solver, iterations=None), frames)
    assert cost.has_converged, tell_cost(cost)
    assert cost.final.iou >= 0.97
    assert [one.iterations for one in cost.curve] == list(range(1, solver.steps + 1))


def test_fewer_iterations_cost_more_and_that_is_said(small, frames):
    full, few = (
        measure_cost(small, unroll(small, iterations=count), frames) for count in (None, 4)
    )
    assert few.final.error > 5 * full.final.error
    assert few.final == full.curve[3]
    assert not few.has_converged
    assert tell_cost(few).startswith("warning: not converged: 4 iterations leave the target image")
    assert tell_cost(full).startswith("20 iterations leave")
    lines = []
    unrolling = unroll_measured(small, frames[:1], iterations=4, say=lines.append)
    assert unrolling.record.iterations == 4
    assert unrolling.record.coefficients == "minimax-quintic"
    assert unrolling.record.target_error == unrolling.cost.final.error
    assert "warning: not converged" in lines[-1]


def test_what_is_not_converged_is_told_what_brings_it_nearer():
    curve = (Distance(1, 0.5, 0.1), Distance(2, 0.02, 0.99), Distance(3, 0.4, 0.3))
    falling, rising = Cost(30, 2, curve[:1], 2), Cost(30, 2, curve, 2)
    assert tell_cost(falling).endswith("ask for more --iterations, or leave the option out for 2")
    assert tell_cost(replace(falling, own_iterations=1)).endswith("; ask for more --iterations")
    assert "fewer are nearer, 2 leave 2.00%: ask for --iterations 2, or" in tell_cost(rising)
    learned = tell_cost(replace(falling, own_iterations=None))
    assert "--iterations" not in learned and "its steps are learned" in learned


def test_the_exact_solver_is_left_as_it_is(small, frames):
    before = small.algebra
    twin = unroll(small, iterations=2)
    assert isinstance(twin, Unrolled)
    assert small.algebra is before is not twin.solver.algebra
    last = list(twin.targets(frames[0]))[-1]
    assert torch.allclose(twin(frames[0])[0], frames[0] - last)


def test_half_products_find_the_same_targets(small, frames):
    twin, half = (unroll(small, iterations=None, form=form) for form in ("quick", "half"))
    for frame in frames:
        found, other = (network(frame)[1] > 0.0 for network in (twin, half))
        assert (found & other).sum() / (found | other).sum() > 0.9


def test_what_does_not_iterate_is_not_unrolled():
    filtering = TopHat()
    assert unroll(filtering, iterations=None) is filtering
    with pytest.raises(ValueError, match="TopHat does not iterate; leave --iterations out"):
        unroll(filtering, iterations=5)
    with pytest.raises(ValueError, match="LRRNetEdge does not iterate"):
        unroll(LRRNetEdge(), iterations=5)


@pytest.mark.parametrize("count", [0, -1, 201])
def test_iterations_out_of_range(small, count):
    with pytest.raises(ValueError, match=f"iterations is {count}, expected 1 to 200"):
        unroll(small, iterations=count)


def test_a_cost_needs_frames(small):
    with pytest.raises(ValueError, match="at least one frame"):
        measure_cost(small, unroll(small, iterations=1), [])


def test_equal_constants_are_kept_once():
    values = [onnx.numpy_helper.from_array(np.float32([1, 2]), name) for name in "ab"]
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Add", ["x", "a"], ["y"]),
            onnx.helper.make_node("Mul", ["y", "b"], ["z"]),
        ],
        "pair",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])],
        [onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [2])],
        values,
    )
    model = onnx.helper.make_model(graph)
    assert share_constants(model) == 1
    assert [list(node.input) for node in model.graph.node] == [["x", "a"], ["y", "a"]]
    assert share_constants(model) == 0


# --- the command ----------------------------------------------------------------------------------


def test_a_solver_is_exported_and_evaluated(run, masks_dataset, tmp_path):
    folder = tmp_path / "bundle"
    ask = ("--model", "ipi", "--size", "64x64", "--labelled", masks_dataset)
    outcome = run(export_command, *ask, "--iterations", 6, "--output", folder)
    assert outcome.exit_code == 0, outcome.output
    assert "warning: not converged: 6 iterations leave" in outcome.stderr
    manifest = read_manifest(folder)
    assert manifest.weights is None
    solver = manifest.solver
    assert (solver.iterations, solver.inner_iterations, solver.form) == (6, 6, "quick")
    assert solver.exact_iterations > 10
    report = (folder / "report.md").read_text()
    assert "## Unrolling" in report and "none: this model has no parameters" in report
    outcome = run(evaluate_command, folder, masks_dataset, "--split", "val", "--json")
    assert json.loads(outcome.stdout)["pd"] == manifest.accuracy[0].pd
    with Detector.load(folder) as detector:
        assert len(detector(np.full((70, 60), 9, np.uint8))) == 0


@pytest.mark.parametrize("name", ["top-hat", "pstnn"])
def test_fp16_is_measured(run, masks_dataset, tmp_path, name):
    folder = tmp_path / "bundle"
    ask = ("--model", name, "--size", "64x64", "--labelled", masks_dataset, "--fp16")
    short = () if name == "top-hat" else ("--iterations", 3)
    loose = ("--max-drop-iou", 20, "--max-rise-fa", 500)
    outcome = run(export_command, *ask, *short, *loose, "--output", folder)
    assert outcome.exit_code == 0, outcome.output
    manifest = read_manifest(folder)
    assert manifest.graphs == {"fp32": "model.onnx", "fp16": "model.fp16.onnx"}
    assert [entry.precision for entry in manifest.accuracy] == ["fp32", "fp16", "fp16"]
    assert manifest.operators["Cast"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "ipi", "--int8"), "ipi has no weights: INT8 is for products with constant"),
        (("--model", "ipi", "--weights", "w.pkl"), "ipi has no parameters to load; leave"),
        (("--model", "ipi", "--size", "40x64"), "40x64, smaller than a patch of 50x50; use a size"),
        (("--model", "ipi", "--iterations", "0"), "iterations is 0, expected 1 to 200"),
        (("--model", "lrrnet-edge", "--iterations", "5"), "LRRNetEdge does not iterate"),
    ],
)
def test_what_solvers_refuse(refused, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refused(export_command, *arguments)
    assert list(tmp_path.iterdir()) == []
