import signal
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from irstd.export.plan import PlanOptions, build_plan
from irstd.export.plan_audit import audit_layers
from irstd.runtime import EngineError
from irstd.tests.conftest import bright_spot_graph


@pytest.fixture(scope="module")
def rtx():
    return pytest.importorskip(
        "tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install tensorrt-rtx"
    )


@pytest.fixture(scope="module")
def spot():
    """A network of one convolution, with a name."""
    graph = bright_spot_graph(32, 48)
    graph.graph.node[0].name = "conv"
    return graph


def built_by(rtx, graph, options, precision="fp32", watch=lambda text: None):
    model = graph.SerializeToString()
    return build_plan(rtx, model, precision, options, say=print, watch=watch)


@pytest.mark.parametrize(
    ("options", "mask"),
    [
        (PlanOptions(compute_capabilities=("7.5",)), 0b1),
        (PlanOptions(compute_capabilities=("8.6",)), 0b100),
        (PlanOptions(compute_capabilities=("8.6", "8.9", "12.0")), 0b11100),
        (PlanOptions(is_hardware_compatible=True), 0b1111110),
        (PlanOptions(compute_capabilities=("8.6",), workspace_mib=64, level=0), 0b100),
    ],
)
def test_rtx_builds_for_the_gpus_asked_for(rtx, spot, options, mask):
    seen = []
    built = built_by(rtx, spot, options, watch=seen.append)
    assert built.content[32] == mask
    assert built.version == rtx.__version__
    assert built.device_memory_bytes > 0
    assert seen[0].startswith("Building engine 0/")
    (layers,) = built.variants
    assert audit_layers(layers, {"conv": "fp32"}) == {"fp32": 1}
    with pytest.raises(EngineError, match="conv in fp32 instead of int8"):
        audit_layers(layers, {"conv": "int8"})


def test_rtx_can_be_stopped(rtx, spot):
    seen = []

    def interrupt(text):
        seen.append(text)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        built_by(rtx, spot, PlanOptions(compute_capabilities=("8.6",)), watch=interrupt)
    assert len(seen) < 50  # of hundreds


def operator_graph(operator, kind=TensorProto.FLOAT, outputs=1, **attributes):
    shape = [1, 1, 8, 8]
    names = [f"out{number}" for number in range(outputs)]
    node = helper.make_node(operator, ["frame"], names, name="/body/odd", **attributes)
    result = [helper.make_tensor_value_info(name, kind, None) for name in names]
    frame = helper.make_tensor_value_info("frame", TensorProto.FLOAT, shape)
    graph = helper.make_graph([node], "odd", [frame], result)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_rtx_names_the_operator_it_lacks(rtx):
    with pytest.raises(EngineError, match=r"1\.\d.* operator Det, node '/body/odd': .*; export"):
        built_by(rtx, operator_graph("Det"), PlanOptions(compute_capabilities=("8.6",)))


def test_rtx_refuses_types_that_do_not_fit(rtx):
    graph = bright_spot_graph(32, 48)
    kernel = graph.graph.initializer[0]
    half = numpy_helper.to_array(kernel).astype(np.float16)
    kernel.CopyFrom(numpy_helper.from_array(half, kernel.name))
    with pytest.raises(EngineError, match="cannot (read|build) the graph"):
        built_by(rtx, graph, PlanOptions(compute_capabilities=("8.6",)))


def test_the_plan_is_not_changed_by_a_second_build(rtx, spot):
    options = PlanOptions(compute_capabilities=("8.6",))
    first, second = (built_by(rtx, spot, options) for _ in range(2))
    assert first.variants == second.variants
    assert replace(options) == options
