"""What a builder made of a graph: the precision that each convolution is computed in.

A builder that finds no kernel in the precision that was asked for may take another and say
nothing. TensorRT lists the layers of a finished engine as JSON; TensorRT for RTX, which cannot load
an engine without a GPU, writes them into its log while it builds.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..runtime.bundle import Precision
from ..runtime.errors import EngineError

# As the libraries write them, the older ones inside of a longer text.
WORDS: dict[str, Precision] = {
    "Float": "fp32",
    "FP32": "fp32",
    "Half": "fp16",
    "FP16": "fp16",
    "Int8": "int8",
    "INT8": "int8",
}
TYPE = re.compile("|".join(WORDS))
# Kinds of layers whose first input and first constant are what is multiplied.
MULTIPLYING = re.compile("correlation|conv(?!ert)|gemm|matrixmultiply|matmul", re.IGNORECASE)
NAMED = 4
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a plan, out of the builder's own list.

    Attributes:
        kind: the library's word, e.g. "correlation" for a convolution; "kgen" is a kernel made
            for several operators, also for small convolutions.
        reads: precisions of its inputs; what is no number of ours is left out.
        holds: precisions of its constants, the weights first; empty where that is not told.
        nodes: the ONNX nodes that went into it.
    """

    kind: str
    reads: tuple[Precision, ...]
    holds: tuple[Precision, ...]
    nodes: tuple[str, ...]

    @property
    def multiplies(self) -> bool:
        """Whether it is a convolution or matrix product of its own."""
        return MULTIPLYING.search(self.kind) is not None


def read_dump(text: str) -> tuple[Layer, ...]:
    """Read the list of layers that TensorRT for RTX logs.

    Example:
        >>> read_dump(
        ...     "Name: a, LayerType: correlation, Inputs: [ { Datatype: Int8 }], Constants: "
        ...     "[ { Datatype: Int8 }], Outputs: [ {}], Metadata: [ONNX Layer: /body/Conv]"
        ... )
        (Layer(kind='correlation', reads=('int8',), holds=('int8',), nodes=('/body/Conv',)),)
    """
    return tuple(_read_line(line) for line in text.splitlines() if line.startswith("Name: "))


def _read_line(line: str) -> Layer:
    front, _, back = line.partition("Outputs: [")
    inputs, _, constants = front.partition("Constants: [")
    kind = re.search(r", LayerType: (\w+),", inputs)
    return Layer(
        kind=kind[1] if kind else "",
        reads=_types(re.findall(r"Datatype: (\w+)", inputs)),
        holds=_types(re.findall(r"Datatype: (\w+)", constants)),
        nodes=_nodes(back.partition("Metadata: ")[2]),
    )


def read_inspector(text: str) -> tuple[Layer, ...]:
    """Read what TensorRT's engine inspector tells as JSON; versions differ in words.

    Raises:
        EngineError: it is no such text.
    """
    try:
        entries = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as err:
        raise EngineError(f"TensorRT's list of layers cannot be read: {err}") from err
    return tuple(_read_entry(entry) for entry in entries if isinstance(entry, dict))


def _read_entry(entry: Mapping[str, object]) -> Layer:
    weights = entry.get("Weights")
    held = [str(weights["Type"])] if isinstance(weights, dict) and "Type" in weights else []
    tensors = entry.get("Inputs")
    nodes = _nodes(str(entry.get("Metadata", "")))
    return Layer(
        kind=f"{entry.get('LayerType', '')} {entry.get('ParameterType', '')}".strip(),
        reads=_types([_typed(one) for one in tensors] if isinstance(tensors, list) else []),
        holds=_types(held),
        # Before it had metadata, TensorRT made a layer's name out of those of its nodes.
        nodes=nodes or tuple(str(entry.get("Name", "")).split(" + ")),
    )


def _typed(tensor: object) -> str:
    """What a tensor's entry says of its type: "Format/Datatype" before TensorRT 11, "Datatype"."""
    fields = tensor.items() if isinstance(tensor, dict) else ()
    return " ".join(str(value) for key, value in fields if "datatype" in str(key).lower())


def _types(texts: Sequence[str]) -> tuple[Precision, ...]:
    found = (TYPE.search(text) for text in texts)
    return tuple(WORDS[one[0]] for one in found if one)


def _nodes(metadata: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\[ONNX Layer: ([^\]]+)\]", metadata))


def computed(layers: Sequence[Layer], names: Sequence[str]) -> dict[str, frozenset[Precision]]:
    """The precisions that convolutions and matrix products are computed in.

    Args:
        layers: of the plan.
        names: of the ONNX nodes.

    Returns:
        By name: one precision where a layer of its own multiplies; several where the node is part
        of a kernel that also holds constants of other operators; none where that is not told.
    """
    parts: dict[str, list[Layer]] = {}
    for layer in layers:
        for node in layer.nodes:
            parts.setdefault(node, []).append(layer)
    return {name: _multiplied(parts.get(name, [])) for name in names}


def _multiplied(layers: Sequence[Layer]) -> frozenset[Precision]:
    # What else bears the node's name adds the bias, pads the channels or changes the format.
    own = [layer for layer in layers if layer.multiplies]
    if own:
        return frozenset(kind for layer in own for kind in (*layer.reads[:1], *layer.holds[:1]))
    return frozenset(kind for layer in layers for kind in layer.holds)


def audit_layers(layers: Sequence[Layer], expected: Mapping[str, Precision]) -> dict[str, int]:
    """Check that each convolution and matrix product is computed as the graph says.

    Args:
        layers: of the plan.
        expected: precision by name of the ONNX node.

    Returns:
        How many are computed in each precision, and how many the builder does not tell apart.

    Raises:
        EngineError: some are computed in another precision; the text names them.
    """
    found = computed(layers, list(expected))
    wrong = [
        f"{name} in {' and '.join(sorted(found[name]))} instead of {precision}"
        for name, precision in expected.items()
        if found[name] and precision not in found[name]
    ]
    if wrong:
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise EngineError(
            f"the plan computes {', '.join(wrong[:NAMED])}{more}; it is not what was measured, so "
            "it was not kept: build from another --precision, or with another TensorRT"
        )
    counts = Counter(precision if found[name] else UNKNOWN for name, precision in expected.items())
    return dict(sorted(counts.items()))
