import json

import pytest

from irstd.export.plan_audit import audit_layers, computed, read_dump, read_inspector
from irstd.runtime import EngineError


def line(name, kind, reads, holds, *nodes):
    """A layer as TensorRT for RTX logs it."""

    def tensors(types):
        return ", ".join(f"{{ Name: t, Dimensions: [1,8], Datatype: {one} }}" for one in types)

    metadata = "".join(f"[ONNX Layer: {node}]" for node in nodes)
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {tensors(reads)}], Constants: "
        f"[ {tensors(holds)}], Outputs: [ {tensors(['Float'])}], TacticName: t, StreamId: 0, "
        f"Metadata: {metadata}"
    )


DUMP = "\n".join(
    [
        "Layers:",
        line("move", "kgen", ["Float"], [], "/a/Conv"),
        line("a", "correlation", ["Int8", "Int32"], ["Int8", "Float"], "/a/Conv", "/a/Relu"),
        line("b", "correlation", ["Float"], ["Float"], "/b/Conv"),
        line("c", "kgen", ["Float"], ["Int8", "Float"], "/c/Conv", "/c/Sigmoid"),
        line("d", "gemm", ["Half", "Half"], [], "/d/MatMul"),
        "Bindings:",
    ]
)


def test_the_log_of_rtx_is_read():
    layers = read_dump(DUMP)
    assert [layer.kind for layer in layers] == [
        "kgen",
        "correlation",
        "correlation",
        "kgen",
        "gemm",
    ]
    assert layers[1].nodes == ("/a/Conv", "/a/Relu")
    assert layers[1].reads == ("int8",)  # INT32 is no number of a network
    assert layers[1].holds == ("int8", "fp32")


def test_a_layer_of_its_own_tells_more_than_what_shares_its_name():
    names = ["/a/Conv", "/b/Conv", "/c/Conv", "/d/MatMul", "/e/Conv"]
    assert computed(read_dump(DUMP), names) == {
        "/a/Conv": {"int8"},
        "/b/Conv": {"fp32"},
        "/c/Conv": {"int8", "fp32"},  # its weights, its bias
        "/d/MatMul": {"fp16"},
        "/e/Conv": set(),
    }


def test_what_is_computed_as_asked_is_counted():
    asked = {"/a/Conv": "int8", "/b/Conv": "fp32", "/c/Conv": "int8", "/e/Conv": "int8"}
    assert audit_layers(read_dump(DUMP), asked) == {"fp32": 1, "int8": 2, "unknown": 1}


def test_silent_fp32_is_an_error():
    with pytest.raises(EngineError, match=r"/b/Conv in fp32 instead of int8.*was not kept"):
        audit_layers(read_dump(DUMP), {"/a/Conv": "int8", "/b/Conv": "int8"})


def test_a_lower_precision_than_asked_is_an_error_too():
    with pytest.raises(EngineError, match=r"/d/MatMul in fp16 instead of fp32"):
        audit_layers(read_dump(DUMP), {"/d/MatMul": "fp32"})


def test_many_errors_are_told_in_short():
    dump = "\n".join(line("x", "correlation", ["Float"], ["Float"], f"/{n}") for n in range(9))
    with pytest.raises(EngineError, match=r"/3 in fp32 instead of fp16 and 5 more;"):
        audit_layers(read_dump(dump), {f"/{number}": "fp16" for number in range(9)})


# What the inspector tells, in the words of TensorRT 8.6, 10 and 11 as their documentation has them.
INSPECTED = {
    "8.6": {
        "Name": "/a/Conv + /a/Relu",
        "LayerType": "CaskConvolution",
        "Inputs": [
            {
                "Name": "a FP32 name",
                "Dimensions": [1, 8, 4, 4],
                "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format",
            }
        ],
        "ParameterType": "Convolution",
        "Weights": {"Type": "Int8", "Count": 72},
    },
    "10.3": {
        "Name": "/a/Conv_myl0_4",
        "LayerType": "conv",
        "Inputs": [{"Name": "x", "Format/Datatype": "Int8"}],
        "Metadata": "[ONNX Layer: /a/Conv]\u001e[ONNX Layer: /a/Relu]",
    },
    "11.4": {
        "Name": "/a/Conv_myl0_4",
        "LayerType": "conv",
        "Inputs": [{"Name": "x", "Format": "N/A due to dynamic shapes", "Datatype": "Int8"}],
        "Metadata": "[ONNX Layer: /a/Conv]",
    },
}


@pytest.mark.parametrize("version", INSPECTED)
@pytest.mark.parametrize(("word", "found"), [("Int8", "int8"), ("FP16", "fp16"), ("Half", "fp16")])
def test_what_the_inspector_tells_is_read(version, word, found):
    text = json.dumps({"Layers": [INSPECTED[version]], "Bindings": ["x"]}).replace("Int8", word)
    layers = read_inspector(text)
    assert computed(layers, ["/a/Conv"]) == {"/a/Conv": {found}}
    assert audit_layers(layers, {"/a/Conv": found}) == {found: 1}
    with pytest.raises(EngineError, match="instead of fp32"):
        audit_layers(layers, {"/a/Conv": "fp32"})


def test_layers_known_by_name_alone_are_unknown():
    layers = read_inspector(json.dumps({"Layers": ["/a/Conv", "/b/Conv"]}))
    assert audit_layers(layers, {"/a/Conv": "int8"}) == {"unknown": 1}


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"Layers'])
def test_what_cannot_be_read_is_told(text):
    with pytest.raises(EngineError, match="list of layers cannot be read"):
        read_inspector(text)
