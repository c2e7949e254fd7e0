"""Every network of the zoo becomes a real plan, in FP32 and in FP16; no GPU is needed for it."""

import pytest
import torch

from irstd.export.bundling import make_graph
from irstd.export.lint import check_graph
from irstd.export.precision import to_fp16
from irstd.train.zoo import MODELS

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = (64, 96)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", MODELS)
def test_a_plan_is_built(name, precision):
    trt = pytest.importorskip(
        "tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install tensorrt-rtx"
    )
    torch.manual_seed(0)
    graph = make_graph(MODELS[name].build().eval(), SIZE)
    if precision == "fp16":
        graph = to_fp16(graph)
        check_graph(graph)
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse(graph.SerializeToString())
    assert parsed, [str(parser.get_error(number)) for number in range(parser.num_errors)]
    assert tuple(network.get_output(0).shape) == (1, 1, *SIZE)
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    convolved = [layer.get_output(0) for layer in layers if layer.type == trt.LayerType.CONVOLUTION]
    # What weighs one number a frame stays with the statistics it comes from, in FP32.
    maps = [tensor for tensor in convolved if tuple(tensor.shape[-2:]) != (1, 1)]
    expected = trt.float16 if precision == "fp16" else trt.float32
    assert maps and {tensor.dtype for tensor in maps} == {expected}
    assert builder.build_serialized_network(network, builder.create_builder_config()) is not None
