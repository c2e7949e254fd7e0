from dataclasses import replace

import pytest

from irstd.calibration.sensitivity import Mix
from irstd.export.outcome import shorten, shorten_all
from irstd.export.report import write_report
from irstd.runtime.bundle import Accuracy, Calibration, Latency, read_manifest
from irstd.runtime.evaluation import SYNTHETIC_NAME
from irstd.tests.export.conftest import SET, scores


@pytest.fixture
def manifest(bundle_int8):
    """Of a bundle with an INT8 graph; two engines measured it."""
    read = read_manifest(bundle_int8)
    cpu = replace(read.cpu, latency_ms={"fp32": Latency(45.8, 44.0, 50.0)}, reason="fp32 is faster")
    accuracy = (
        Accuracy("fp32", "ONNX Runtime", "set, val", 24, 0.7, 0.71, 0.95, 20.0),
        Accuracy("int8", "ONNX Runtime, no optimisation", "set, val", 24, 0.69, None, 0.94, 21.5),
    )
    return replace(read, cpu=cpu, accuracy=accuracy, layers={"first": "int8", "last": "fp32"})


def test_every_graph_is_named_with_its_precision(manifest):
    report = write_report(manifest)
    assert report.startswith("# bright-spot, int8\n")
    assert "`model.onnx` (fp32), `model.int8.onnx` (int8); input `frame` [1, 1, 64, 64]" in report
    assert "TensorRT builds from `model.int8.onnx`: 1 of 2 convolutions" in report


def test_the_choice_for_a_cpu_is_told_with_its_latencies(manifest):
    report = write_report(manifest)
    assert "ONNX Runtime runs fp32: fp32 is faster.\n" in report
    assert "| fp32 | 45.8 | 44.0 | 50.0 |\n" in report


def test_each_accuracy_names_its_engine(manifest):
    report = write_report(manifest)
    assert "| fp32 | ONNX Runtime | set, val | 24 | 0.7000 | 0.7100 | 0.9500 | 20.00 |\n" in report
    int8 = (
        "| int8 | ONNX Runtime, no optimisation | set, val | 24 | 0.6900 | - | 0.9400 | 21.50 |\n"
    )
    assert int8 in report


@pytest.mark.parametrize(("labelled", "said"), [(True, "labelled"), (False, "injected")])
def test_a_calibration_is_described(manifest, labelled, said):
    assert "## Calibration" not in write_report(manifest)
    calibration = Calibration("entropy", "folder x", 24, 100, labelled, "abc", 0.934)
    report = write_report(replace(manifest, calibration=calibration))
    assert 'Ranges by "entropy" on 24 of 100 frames of folder x, ' in report
    assert (
        f"targets {said}, sha256 `abc`. Of the FLOP of convolutions and matrix products 93% run"
        in report
    )


def test_the_check_of_a_range_is_not_called_a_range(manifest):
    calibration = Calibration("target", "folder x", 24, 100, True, "abc", 1.0)
    manifest = replace(manifest, precision="fp16", graphs={"fp32": "a.onnx", "fp16": "b.onnx"})
    report = write_report(replace(manifest, calibration=calibration))
    assert "The range of FP16 checked on 24 of 100 frames of folder x" in report
    assert '"target"' not in report


def test_fp32_alone_says_nothing_of_a_lower_precision(manifest):
    report = write_report(manifest)
    for word in ("against FP32", "### Layers", ".png", "drawn by a program"):
        assert word not in report


def test_the_shipped_labelled_set_is_told_from_real_frames(manifest):
    accuracy = tuple(replace(entry, dataset=SYNTHETIC_NAME) for entry in manifest.accuracy)
    report = write_report(replace(manifest, accuracy=accuracy))
    assert f"In {SYNTHETIC_NAME} frames are drawn by a program" in report
    assert "`irstd-export --labelled DATASET`" in report


def test_the_gate_is_told_with_its_limits(manifest, int8):
    report = write_report(manifest, int8)
    assert "## INT8 against FP32\nINT8 lost no more" in report
    assert "\nOn set, val (24 frames, 40 targets; one target is 2.50 points of Pd):\n" in report
    assert "| Pd | 0.9500 | 0.9500 | +0.00 points | 0.5 points less |\n" in report
    assert "| IoU | 0.7000 | 0.6980 | -0.20 points | 0.5 points less |\n" in report
    assert "| Fa per Mpix | 20.00 | 21.00 | +5.0% | up to 22.00 |\n" in report
    silent = replace(int8, before={SET: replace(int8.before[SET], fa_per_mpix=0.0)})
    assert "| Fa per Mpix | 0.00 | 21.00 | - | up to 1.00 |\n" in write_report(manifest, silent)


def test_layers_in_fp32_are_told_with_the_reason(manifest, int8):
    report = write_report(manifest, int8)
    assert "2 of 3 layers (convolutions and matrix products) stay in FP32, with 10.0%" in report
    assert "- 1 because lowering them costs most for their arithmetic: stem.0\n" in report
    assert "- 1 because INT8 takes only convolutions with constant weights: MatMul\n" in report
    assert "| stem.0 | 6.0% | 2.0e-05 | fp32 |\n| body | 90.0% | 3.0e-06 | int8 |\n\n" in report


def test_a_layer_that_reads_zeros_is_told(manifest, int8):
    ranges = int8.lowered.ranges | {"product": 0.0}
    report = write_report(manifest, replace(int8, lowered=replace(int8.lowered, ranges=ranges)))
    assert "- 1 because they read nothing but zeros on the calibration frames: MatMul\n" in report


def test_a_layer_that_the_training_left_is_told(manifest, int8):
    lowered = replace(int8.lowered, untrained=frozenset({int8.layers[2].name}))
    report = write_report(manifest, replace(int8, lowered=lowered))
    said = "the training that the ranges come from did not round them"
    assert f"- 1 because {said}: MatMul\n" in report


def test_ranges_of_the_training_are_told(manifest):
    calibration = Calibration("trained", "folder x", 24, 100, True, "abc", 0.9)
    report = write_report(replace(manifest, calibration=calibration))
    assert "Ranges of the training (they came with the weights), layers compared on 24" in report


def test_only_the_ten_worst_layers_are_listed(manifest, int8):
    layers = [replace(int8.layers[1], name=f"conv_{n}", damage=1.0 / (n + 1)) for n in range(12)]
    report = write_report(manifest, replace(int8, layers=tuple(layers)))
    assert "The 10 layers where it does" in report
    assert "| conv_9 |" in report
    assert "| conv_10 |" not in report


def test_the_curve_marks_the_chosen_mix(manifest, int8):
    broken = Mix(frozenset(), 0.0, {})
    curve = (*int8.lowered.curve, broken)
    report = write_report(manifest, replace(int8, lowered=replace(int8.lowered, curve=curve)))
    assert "the one with the highest IoU is chosen" in report
    assert "| 96.0% | set, val | 0.6900 | 0.7000 | 0.9000 | 20.00 | beyond the limits |\n" in report
    assert "| 90.0% | set, val | 0.6980 | 0.7080 | 0.9500 | 21.00 | **chosen** |\n" in report
    assert "| 0.0% | | - | - | - | - | gives NaN or infinity |\n" in report
    assert "| none | set, val | 0.7000 | 0.7100 | 0.9500 | 20.00 | FP32 |\n" in report


def test_fp16_that_needed_no_search(manifest, fp16):
    report = write_report(manifest, fp16, ["sensitivity.png"])
    assert "All 3 layers (convolutions and matrix products) are in FP16.\n" in report
    assert "so none was lowered alone" in report
    assert "begins with all that FP16 can take" in report
    assert "| 100.0% | set, val | 0.7000 | 0.7100 | 0.9500 | 20.00 | **chosen** |\n" in report
    assert "### Ranges" not in report


def test_fp16_layers_beyond_its_range_are_told(manifest, fp16):
    chosen = replace(fp16.lowered.chosen, layers=frozenset({fp16.layers[1].name}))
    lowered = replace(fp16.lowered, chosen=chosen, curve=(chosen,))
    layers = tuple(
        layer if layer.name in chosen.layers else replace(layer, precision="fp32")
        for layer in fp16.layers
    )
    report = write_report(manifest, replace(fp16, lowered=lowered, layers=layers))
    assert "- 2 because values come near 65504, where FP16 ends" in report
    assert "| 90.0% | set, val | 0.7000" in report


def test_disagreements_are_counted_both_ways(manifest, int8):
    disputed = replace(int8.compared[SET], both=30, lost=3, won=1, neither=6)
    report = write_report(manifest, replace(int8, compared={SET: disputed}), ["disagreements.png"])
    assert "- set, val: of 40 true targets both find 30 and neither finds 6. " in report
    assert "FP32 finds 3 that INT8 misses, INT8 finds 1 that FP32 misses." in report
    assert "](disagreements.png)" in report
    agreed = write_report(manifest, int8, ["sensitivity.png", "ranges.png"])
    assert "so there is no picture of such frames" in agreed
    assert "](sensitivity.png)" in agreed
    assert "](ranges.png)" in agreed
    assert "disagreements.png" not in agreed


def test_several_labelled_sets_stand_one_after_the_other(manifest, int8):
    other = {SET: scores(), "night, val": scores(iou=0.5, pd=0.6)}
    worse = {SET: scores(), "night, val": scores(iou=0.4, pd=0.6)}
    chosen = replace(int8.lowered.chosen, scores=other)
    beyond = replace(int8.lowered.curve[0], scores=worse)
    lowered = replace(int8.lowered, chosen=chosen, curve=(beyond, chosen))
    compared = dict.fromkeys(other, int8.compared[SET])
    outcome = replace(int8, before=other, lowered=lowered, compared=compared)
    report = write_report(manifest, outcome)
    assert "lost no more than was allowed on each of the sets below" in report
    assert report.index("\nOn set, val (24") < report.index("\nOn night, val (24")
    assert "- night, val: of 40 true targets both find 38" in report
    assert "| 96.0% | set, val | 0.7000 | 0.7100 | 0.9500 | 20.00 | inside the limits |" in report
    assert "| 96.0% | night, val | 0.4000 | 0.4100 | 0.6000 | 20.00 | beyond the limits |" in report
    assert "| none | night, val | 0.5000 | 0.5100 | 0.6000 | 20.00 | FP32 |\n" in report


def test_blank_lines_part_the_sections(manifest, int8, fp16):
    calibration = Calibration("target", "folder x", 24, 100, True, "abc", 0.9)
    for outcome in (None, int8, fp16):
        pictures = () if outcome is None else ("sensitivity.png", "ranges.png")
        report = write_report(replace(manifest, calibration=calibration), outcome, pictures)
        assert "\n\n\n" not in report
        assert report.count("\n#") == report.count("\n\n#")


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("/network/down_4/down_4.1/first/first.0/Conv", "down_4.1/first.0"),
        ("/network/stem/stem.0/stem.0.0/Conv", "stem.0.0"),
        ("/network/block/MatMul_1", "block/MatMul_1"),
        ("/network/body.0/body/body.6/Conv", "body.0/body.6"),
        ("conv", "conv"),
    ],
)
def test_names_are_shortened(name, short):
    assert shorten(name) == short


def test_many_names_are_cut():
    assert shorten_all(["a", "b", "c"]) == "a, b, c"
    assert shorten_all(["a", "b", "c", "d"]) == "a, b, c and 1 more"
