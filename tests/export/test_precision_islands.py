from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from irstd.export.graph import count_operators
from irstd.export.precision import layer_precisions, to_fp16
from irstd.tests.export.precision_graphs import (
    CHAIN,
    CONSTANTS,
    FLOAT,
    HALF,
    build,
    conv,
    converted,
    evaluate,
    node,
    random,
    reader,
    types,
)


def sources(model: onnx.ModelProto, name: str) -> list[str]:
    """The operators that make what a node reads; constants and the input are named themselves."""
    makers = {output: entry.op_type for entry in model.graph.node for output in entry.output}
    found = next(entry for entry in model.graph.node if entry.name == name)
    return [makers.get(value, value) for value in found.input]


def test_an_island_computes_in_single_between_casts() -> None:
    model = converted(build(CHAIN), islands=["Conv_d"])
    kinds = types(model)
    assert [kinds[name] for name in ("c", "r", "d", "s")] == [HALF, HALF, FLOAT, HALF]
    assert sources(model, "Conv_d") == ["Cast", "second_weight", "bias"]
    assert kinds["second_weight"] == kinds["bias"] == FLOAT
    assert sources(model, "Relu_s") == ["Cast"]
    assert sources(model, "Conv_y")[0] == "Relu"
    assert count_operators(model)["Cast"] == 4  # around the island, the frame, the output
    assert layer_precisions(model) == {"Conv_c": "fp16", "Conv_d": "fp32", "Conv_y": "fp16"}


def test_an_island_keeps_its_digits() -> None:
    x = random((1, 3, 6, 6), 9)
    model = build(CHAIN, dict.fromkeys(("r", "d", "y"), (1, 4, 6, 6)))
    weight, bias = (torch.from_numpy(CONSTANTS[name]) for name in ("second_weight", "bias"))
    for islands in ([], ["Conv_d"]):
        seen, found, _ = evaluate(to_fp16(model, islands=islands), x)
        expected = torch.nn.functional.conv2d(torch.from_numpy(seen), weight, bias)
        assert (np.abs(found - expected.numpy()).max() < 1e-5) == bool(islands)


def test_neighbouring_islands_share_no_cast() -> None:
    model = converted(build(CHAIN), islands=["Conv_d", "Relu_s"])
    assert sources(model, "Relu_s") == ["Conv"]
    assert sources(model, "Conv_y")[0] == "Cast"
    assert count_operators(model)["Cast"] == 4


def test_an_island_at_the_input_reads_it_as_it_is() -> None:
    model = converted(build(CHAIN), islands=["Conv_c"])
    assert sources(model, "Conv_c")[0] == "x"
    assert types(model)["r"] == HALF
    assert count_operators(model)["Cast"] == 2


def test_an_island_at_the_output_makes_it_itself() -> None:
    model = converted(build(CHAIN), islands=["Conv_y"])
    assert model.graph.node[-1].name == "Conv_y"
    assert [value.name for value in model.graph.output] == ["y"]
    assert types(model)["y"] == FLOAT
    assert count_operators(model)["Cast"] == 2


def test_a_graph_of_islands_stays_as_it_is() -> None:
    model = build(CHAIN)
    kept = to_fp16(model, islands=[entry.name for entry in CHAIN])
    assert list(kept.graph.node) == list(model.graph.node)
    assert list(kept.graph.initializer) == list(model.graph.initializer)


def test_an_island_that_half_and_single_read() -> None:
    nodes = [
        conv("c"),
        reader("d", data="c"),
        node("Sigmoid", "d", "s"),
        reader("e", data="d"),
        node("Add", "s e", "y"),
    ]
    model = converted(build(nodes), islands=["Conv_d"])
    assert sources(model, "Sigmoid_s") == ["Conv"]
    assert sources(model, "Conv_e")[0] == "Cast"
    kinds = types(model)
    assert (kinds["s"], kinds["e"]) == (FLOAT, HALF)


def test_every_output_of_an_island_leads_back_to_half() -> None:
    split = helper.make_node("Split", ["c"], ["p", "q"], name="split", axis=1)
    nodes = [conv("c"), split, node("Relu", "p", "s"), node("Relu", "q", "t")]
    nodes.append(node("Concat", "s t", "y", axis=1))
    kinds = types(converted(build(nodes), islands=["split"]))
    assert kinds["p"] == kinds["q"] == FLOAT
    assert kinds["s"] == kinds["t"] == HALF


def test_weights_that_an_island_and_others_read() -> None:
    model = converted(build(CHAIN), islands=["Conv_y"])
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert stored["second_weight"] == FLOAT and stored["second_weight_fp16"] == HALF
    assert sources(model, "Conv_d")[1] == "second_weight_fp16"
    assert sources(model, "Conv_y")[1] == "second_weight"


def test_values_that_half_does_not_hold() -> None:
    # Weights of some 100,000 and sums of a million, brought back before FP16 goes on.
    huge = (1e5 * CONSTANTS["weight"] / 0.3).astype(np.float32)
    tiny = np.full((1, 4, 1, 1), 1e-6, np.float32)
    wide = conv("c")
    wide.input[1] = "huge"
    nodes = [wide, node("Mul", "c tiny", "m"), node("Relu", "m", "r"), reader("y", data="r")]
    model = build(nodes)
    model.graph.initializer.extend(
        [numpy_helper.from_array(huge, "huge"), numpy_helper.from_array(tiny, "tiny")]
    )
    half = converted(model, islands=["Conv_c", "Mul_m"])
    kinds = types(half)
    assert (kinds["huge"], kinds["tiny"], kinds["c"], kinds["r"]) == (FLOAT, FLOAT, FLOAT, HALF)
    with pytest.warns(RuntimeWarning, match="overflow"):
        to_fp16(model)


def test_islands_that_are_nowhere() -> None:
    with pytest.raises(ValueError, match="no node is called 'Conv_z'"):
        to_fp16(build(CHAIN), islands=["Conv_d", "Conv_z"])
