import onnx
import pytest

from irstd.export.speed import choose_for_cpu, count_rounds, decide, distrust, name_machine
from irstd.runtime.bundle import Latency
from irstd.runtime.errors import EngineError


def latency(median):
    return Latency(median, median - 1.0, median + 1.0)


def test_fp32_runs_where_the_lower_precision_takes_longer():
    measured = {"fp32": latency(45.8), "int8": latency(61.2)}
    choice = decide(measured, "int8", machine="a CPU, 2 threads")
    assert choice.precision == "fp32"
    assert choice.reason == (
        "at export int8 took 61.2 ms, fp32 45.8 ms on a CPU, 2 threads, so CPUs run fp32; "
        "TensorRT builds from int8"
    )
    assert choice.latency_ms == measured
    assert choice.machine == "a CPU, 2 threads"


@pytest.mark.parametrize("median", [45.8, 20.0])
def test_the_lower_precision_runs_where_its_median_is_not_above(median):
    # The spread decides nothing: its slowest run may be slower than FP32's.
    measured = {"fp32": latency(45.8), "fp16": Latency(median, 1.0, 500.0)}
    choice = decide(measured, "fp16", machine="a CPU")
    assert choice.precision == "fp16"
    assert choice.reason == f"at export fp16 took {median:.1f} ms, fp32 45.8 ms on a CPU"


def test_fp32_alone_is_recorded():
    choice = decide({"fp32": latency(45.8)}, "fp32", machine="a CPU")
    assert choice.precision == "fp32"
    assert choice.reason == "at export fp32, the only precision here, took 45.8 ms on a CPU"


@pytest.mark.parametrize("median", [20.0, 61.2])
def test_what_loses_targets_on_a_cpu_does_not_run_there_however_fast(median):
    measured = {"fp32": latency(45.8), "int8": latency(median)}
    choice = decide(measured, "int8", machine="a CPU")
    losses = ["Pd 0.9500 -> 0.9000 (limit -0.005)", "IoU 0.7000 -> 0.6000 (limit -0.005)"]
    distrusted = distrust(choice, losses)
    assert distrusted.precision == "fp32"
    assert distrusted.reason == (
        "as ONNX Runtime computes the lower precision it loses targets: "
        "Pd 0.9500 -> 0.9000 (limit -0.005); IoU 0.7000 -> 0.6000 (limit -0.005); " + choice.reason
    )
    assert (distrusted.latency_ms, distrusted.machine) == (measured, "a CPU")


@pytest.mark.parametrize(
    ("slowest_s", "rounds"), [(1e-4, 20), (0.5, 20), (1.0, 10), (1.1, 9), (2.0, 5), (100.0, 5)]
)
def test_slow_engines_get_fewer_rounds(slowest_s, rounds):
    assert count_rounds(slowest_s) == rounds


def test_graphs_are_run_and_one_is_chosen(bundle_int8):
    names = {"fp32": "model.onnx", "int8": "model.int8.onnx"}
    graphs = {precision: onnx.load(bundle_int8 / name) for precision, name in names.items()}
    choice = choose_for_cpu(graphs, "int8")
    full, lower = choice.latency_ms["fp32"], choice.latency_ms["int8"]
    assert choice.precision == ("int8" if lower.median <= full.median else "fp32")
    assert choice.machine in choice.reason
    assert "ONNX Runtime" in choice.machine


def test_a_graph_that_cannot_be_loaded_is_an_engine_error(bundle):
    broken = onnx.load(bundle / "model.onnx")
    broken.graph.node[0].op_type = "Nothing"
    with pytest.raises(EngineError, match="cannot load the model"):
        choose_for_cpu({"fp32": broken}, "fp32")


def test_the_machine_is_named():
    assert name_machine(1).endswith(", 1 thread")
    assert name_machine(4).endswith(", 4 threads")
    assert not name_machine(1).startswith(",")
