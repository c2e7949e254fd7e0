"""A network of boxes from the command line to targets, and as real plans in every precision."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from irstd.calibration.quantize import list_layers, to_int8
from irstd.calibration.ranges import estimate, observe
from irstd.export.bundling import make_graph
from irstd.export.commands import export_command
from irstd.export.graph import count_layer_flop, count_operators
from irstd.export.lint import check_graph
from irstd.export.parity import ParityError, compare_answers
from irstd.export.plan import PlanOptions, build_plan
from irstd.export.plan_audit import audit_layers, computed
from irstd.export.precision import emulate_fp16, layer_precisions, to_fp16
from irstd.runtime import Detector
from irstd.runtime.bundle import read_manifest
from irstd.runtime.commands.evaluate import evaluate_command
from irstd.runtime.commands.profile import profile_command
from irstd.runtime.engine import load_engine
from irstd.runtime.media_cv2 import write_image
from irstd.tests.export.rtx import GPUS
from irstd.train.checkpoint import Weights, save_weights
from irstd.train.models.tridos import FRAMES, Design, Tridos

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = (64, 96)
FORBIDDEN = {"Loop", "If", "Scan", "DFT", "NonZero", "Shape", "TopK", "GatherND", "Atan"}
ATTENTION = "/network/space/"  # its products and softmax may become one kernel


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return Tridos(Design(channels=16)).eval()


@pytest.fixture(scope="module")
def graph(small):
    return make_graph(small, SIZE, frames=FRAMES)


@pytest.fixture(scope="module")
def clip():
    random = np.random.default_rng(0)
    return random.random((1, FRAMES, *SIZE), dtype=np.float32)


def test_only_operators_of_fixed_shape(graph):
    assert not set(count_operators(graph)) & FORBIDDEN


def test_pixels_stay_in_fp32_where_the_rest_is_fp16(graph, clip):
    """FP16 knows 64..128 to a sixteenth of a pixel; what is left is the rounding of features."""
    lowered = to_fp16(graph)
    asked = layer_precisions(lowered)
    kept = {name for name, precision in asked.items() if precision == "fp32"}
    assert kept >= {f"/network/head/{name}/Conv" for name in ("edges", "object", "quality")}
    cost = count_layer_flop(graph)
    assert sum(cost[name] for name in kept) < 0.12 * sum(cost.values())
    full, half = (
        load_engine(model.SerializeToString(), threads=1).run(clip)
        for model in (graph, emulate_fp16(lowered))
    )
    assert 0.0 < np.abs(full - half)[:, :4].max() < 0.02
    assert np.abs(full - half)[:, 4].max() < 1e-3


def test_parity_sees_an_edge_that_moved_and_a_score(small, graph, clip):
    class Moved:
        def __init__(self, column, by):
            self.engine = load_engine(graph.SerializeToString(), threads=1)
            self.column, self.by = column, by

        def run(self, prepared):
            answer = self.engine.run(prepared).copy()
            answer[7, self.column] += self.by
            return answer

    assert compare_answers(small, Moved(4, 0.0), [clip]).max_difference < 1e-4
    for column, by in ((4, 2e-4), (2, 0.02)):
        with pytest.raises(ParityError, match="differs from the network"):
            compare_answers(small, Moved(column, by), [clip])


def lower(graph, precision, clip):
    if precision == "int8":
        layers = list_layers(graph)
        observed = observe(graph, [one.input[0] for one in layers], [(clip, clip)], threads=1)
        ranges = {name: value or 1.0 for name, value in estimate(observed, "minmax").items()}
        return to_int8(graph, ranges, [one.name for one in layers])
    return to_fp16(graph) if precision == "fp16" else graph


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_plan_is_built(graph, clip, precision):
    rtx = pytest.importorskip(
        "tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install tensorrt-rtx"
    )
    lowered = lower(graph, precision, clip)
    check_graph(lowered)
    built = build_plan(
        rtx,
        lowered.SerializeToString(),
        precision,
        PlanOptions(compute_capabilities=GPUS),
        say=print,
        watch=lambda text: None,
    )
    (layers,) = built.variants
    asked = layer_precisions(lowered)
    types = computed(layers, list(asked))
    assert all(asked[name] in types[name] for name in asked if not name.startswith(ATTENTION))
    assert audit_layers(layers, asked)[precision] > 100


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A whole bundle of a network that has learned nothing but says much: a low prior is gone."""
    folder = tmp_path_factory.mktemp("tridos")
    torch.manual_seed(0)
    network = Tridos()
    for layer in (network.head.object, network.head.quality):
        torch.nn.init.constant_(layer.bias, 0.0)
    weights = folder / "tridos.safetensors"
    save_weights(weights, Weights(network.state_dict(), {"normalisation": "stretch"}))
    said = CliRunner().invoke(
        export_command,
        [
            *("--model", "tridos", "--weights", str(weights), "--size", "64x96"),
            *("--target", "onnx", "--threshold", "0.3", "--output", str(folder / "bundle")),
        ],
    )
    assert said.exit_code == 0, said.output
    return folder / "bundle"


def test_the_manifest_says_boxes(bundle):
    manifest = read_manifest(bundle)
    assert manifest.frame.answer == manifest.output.name == "boxes"
    assert manifest.output.shape == (1, 16 * 24, 5)
    assert (manifest.frame.clip.length, manifest.frame.clip.registration) == (5, "none")
    assert 0.0 < manifest.parity.max_difference <= 1e-4


def test_a_sliding_clip_gives_targets_in_the_frames_pixels(bundle):
    frames = np.random.default_rng(1).integers(0, 255, (7, 128, 192), np.uint8)
    with Detector.load(bundle, engine="onnxruntime", threads=1) as detector:
        found = [detector(frame) for frame in frames]
        assert [one.clip.frames_missing for one in found] == [4, 3, 2, 1, 0, 0, 0]
        assert [len(one) > 0 for one in found] == [False] * 4 + [True] * 3
        targets = found[-1]
        assert (targets.box[:, :2] >= -0.5).all()
        assert (targets.box[:, 2:] <= (127.5, 191.5)).all()
        assert (np.diff(targets.score) <= 0.0).all()
        # The frame's pixels are twice the network's, so no box is smaller than a cell's size there.
        assert targets.area.max() > 16.0
        # A clip after reset says what it said before.
        detector.reset()
        again = [detector(frame) for frame in frames][-1]
        np.testing.assert_array_equal(again.box, targets.box)


@pytest.fixture
def boxed(tmp_path):
    """Seven frames in the layout with one text file of boxes beside each."""
    random = np.random.default_rng(2)
    for number in range(7):
        frame = random.integers(0, 99, (64, 96), np.uint8)
        frame[20:23, 30 + number : 33 + number] = 250
        for folder in ("images", "boxes"):
            (tmp_path / folder / "1").mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / "images" / "1" / f"{number:04}.png", frame)
        text = f"[{30 + number},20,3,3]"
        (tmp_path / "boxes" / "1" / f"{number:04}.txt").write_text(text)
    return tmp_path


def test_commands_score_and_time_it(bundle, boxed, run):
    scored = run(evaluate_command, bundle, boxed, "--json")
    assert scored.exit_code == 0, scored.output
    figures = json.loads(scored.stdout)
    assert (figures["frames"], figures["frames_before_start"], figures["targets"]) == (3, 4, 3)
    assert 0.0 <= figures["ap50"] <= 1.0
    timed = run(profile_command, bundle, boxed / "images" / "1", "--json", boxed / "timed.json")
    assert timed.exit_code == 0, timed.output
    assert json.loads((boxed / "timed.json").read_text())
