"""A `tensorrt` module made out of a frozen listing: it has what that version has, and nothing else.

Whoever touches a name that the version lacks gets an AttributeError that says so, as does a call
with parameters that no overload has. Every call is kept. Nothing is computed: what calls and
properties give is in `answers`, which a test may change:

    trt = fake_tensorrt("tensorrt-10.3.0")
    trt.answers["OnnxParser.parse"] = lambda parser, model: False
    build(trt)
    assert ("Builder.create_network", (3,)) in trt.said
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
# "tensorrt-10.3.0", ..., "tensorrt-rtx-1.7.1.116"
LISTINGS = tuple(sorted(path.stem for path in HERE.glob("*.json")))


@dataclass(frozen=True)
class Tensor:
    """An input or output of the network that the fake pretends to parse and run."""

    name: str
    mode: str = "INPUT"  # of TensorIOMode
    shape: tuple[int, ...] = (1, 1, 64, 64)
    dtype: str = "FLOAT"  # of DataType


@dataclass(frozen=True)
class Node:
    """A layer of that network, as the parser would have made it, with one output."""

    name: str
    type: str = "CONVOLUTION"  # of LayerType
    dtype: str = "FLOAT"  # of DataType


TENSORS = (Tensor("frame"), Tensor("confidence", mode="OUTPUT"))
NODES = (Node("conv"),)
# As an engine's inspector tells them.
LAYERS = (
    {
        "Name": "conv",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "frame", "Format/Datatype": "Row major linear FP32"}],
    },
)


@dataclass(frozen=True)
class Call:
    """A call of a method, or a value given to a property (whose name then ends in " =").

    Attributes:
        name: "Class.member".
        owner: the object that it was called on.
        given: the arguments by position.
        named: those by name.
    """

    name: str
    owner: object = field(compare=False)
    given: tuple[object, ...] = ()
    named: dict[str, object] = field(default_factory=dict)


class Unanswered(LookupError):
    """A test uses something that the real library has, and has not told the fake what it gives.

    No `AttributeError`: `hasattr` and `getattr(..., None)` must not take it for something that the
    version lacks.
    """


class FakeTensorRT(ModuleType):
    """The module.

    Attributes:
        listing: what the version has.
        calls: every call, in order.
        answers: what "Class.member" gives: a function of the object and the arguments of the call
            for a method, of the object alone for a property.
    """

    def __init__(
        self,
        listing: dict,
        *,
        tensors: tuple[Tensor, ...],
        nodes: tuple[Node, ...],
        layers: tuple[dict, ...],
    ) -> None:
        super().__init__(listing["library"].replace("-", "_"))
        self.listing = listing
        self.tensors, self.nodes, self.layers = tensors, nodes, layers
        self.title = f"{listing['library']} {listing['version']}"
        self.__version__ = listing["version"]
        self.calls: list[Call] = []
        self.answers: dict[str, Callable] = dict(ANSWERS)
        for name, members in listing["enums"].items():
            if "." not in name:
                setattr(self, name, self._enum(name, members))
        for name, members in listing["classes"].items():
            setattr(self, name, self._class(name, members))
        for name in listing["functions"]:
            setattr(self, name, self._function(name))

    def __getattr__(self, name: str) -> object:
        if name in self.__dict__.get("listing", {}).get("other classes", ()):
            raise Unanswered(
                f"{self.title} has {name}, its listing no more than that: add it to freeze.CLASSES"
            )
        raise AttributeError(f"{self.__dict__.get('title', 'TensorRT')} has no {name}")

    @property
    def said(self) -> list[tuple[str, tuple[object, ...]]]:
        """Name and arguments by position of every call."""
        return [(call.name, call.given) for call in self.calls]

    def called(self, name: str) -> list[tuple[object, ...]]:
        """The arguments of every call of one method, or the values given to a property."""
        return [call.given for call in self.calls if call.name in (name, f"{name} =")]

    def make(self, name: str, /, **values: object) -> object:
        """An object of a class, without its constructor; `values` is what its properties hold."""
        cls = getattr(self, name)
        made = cls.__new__(cls)
        made.__dict__["values"] = values
        return made

    def memory(self, content: bytes) -> object:
        """An IHostMemory."""
        made = self.IHostMemory.__new__(self.IHostMemory, content)
        made.__dict__["values"] = {"nbytes": len(content)}
        return made

    def _enum(self, name: str, members: dict[str, int]) -> type:
        title = f"{self.title}: {name}"

        class Listed(enum.EnumMeta):
            def __getattr__(cls, member: str) -> object:
                found = cls.__dict__.get("_member_map_", {})
                if member in found:
                    return found[member]
                raise AttributeError(f"{title} has no {member}")

        class Numbered(enum.Enum, metaclass=Listed):
            def __int__(self) -> int:
                return self.value

        return Numbered(name, members)

    def _class(self, name: str, members: dict) -> type:
        base = (Listed, bytes) if name == "IHostMemory" else (Listed,)
        body: dict[str, object] = {"module": self, "listed": name}
        for method, overloads in members["methods"].items():
            body[method] = _method(self, f"{name}.{method}", overloads)
        for attribute, access in members["properties"].items():
            body[attribute] = _property(self, f"{name}.{attribute}", is_writable="write" in access)
        cls = type(name, base, body)
        for enum_name, values in self.listing["enums"].items():
            owner, _, nested = enum_name.partition(".")
            if owner == name:
                setattr(cls, nested, self._enum(enum_name, values))
        if members["constants"]:  # of the loggers: Severity, and its members once more
            cls.Severity = vars(cls).get("Severity") or self.ILogger.Severity
            for constant in {*members["constants"]} - {"Severity"}:
                setattr(cls, constant, getattr(cls.Severity, constant))
        return cls

    def _function(self, name: str) -> Callable:
        def function(*given: object) -> object:
            self.calls.append(Call(name, self, given))
            return self.answers.get(name, lambda *_: True)(*given)

        return function


class Listed:
    """What every class of a fake shares: only listed names can be read or set."""

    module: FakeTensorRT
    listed: str

    def __getattr__(self, name: str) -> object:
        raise AttributeError(f"{self.module.title}: {self.listed} has no {name}")

    def __setattr__(self, name: str, value: object) -> None:
        # A class of the user's own, derived from ILogger say, holds what it likes.
        is_own = "listed" not in vars(type(self))
        if not is_own and not hasattr(type(self), name):
            raise AttributeError(f"{self.module.title}: {self.listed} has no {name}")
        object.__setattr__(self, name, value)


def _method(module: FakeTensorRT, name: str, overloads: list[str]) -> Callable:
    def method(self: Listed, *given: object, **named: object) -> object:
        if not any(_fits(overload, given, named) for overload in overloads):
            raise TypeError(
                f"{module.title}: {name} takes ({') or ('.join(overloads) or 'no call'}), "
                f"got {given} {named}"
            )
        module.calls.append(Call(name, self, given, named))
        if name.endswith(".__init__"):
            module.answers.get(name, lambda *_, **__: None)(self, *given, **named)
            self.__dict__["values"] = {"arguments": (*given, *named.values())}
            return None
        if name in module.answers:
            return module.answers[name](self, *given, **named)
        return _default(module, name, overloads[0].rpartition(" -> ")[2])

    return method


def _fits(overload: str, given: tuple, named: dict) -> bool:
    listed = overload.rpartition(" -> ")[0]
    names = listed.split(", ") if listed else []
    left = names[len(given) :]
    plain = [name.rstrip("=") for name in left]
    missing = [name for name in left if not name.endswith("=") and name not in named]
    return len(given) <= len(names) and not missing and named.keys() <= set(plain)


def _default(module: FakeTensorRT, name: str, kind: str) -> object:
    simple = {"None": None, "bool": True, "int": 0}
    if kind in simple:
        return simple[kind]
    if kind == "IHostMemory":
        return module.memory(name.encode())
    if kind in module.listing["classes"]:
        return module.make(kind)
    raise Unanswered(f"say what {name} gives ({kind}) in answers")


def _property(module: FakeTensorRT, name: str, *, is_writable: bool) -> property:
    attribute = name.partition(".")[2]

    def read(self: Listed) -> object:
        values = self.__dict__["values"]
        if attribute in values:
            return values[attribute]
        if name in module.answers:
            return module.answers[name](self)
        raise Unanswered(f"{module.title}: say what {name} is in answers")

    def write(self: Listed, value: object) -> None:
        module.calls.append(Call(f"{name} =", self, (value,)))
        self.__dict__["values"][attribute] = value

    return property(read, write if is_writable else None)


# --- what a network goes through ------------------------------------------------------------------


def _parse(parser: Listed, *_: object, **__: object) -> bool:
    network = parser.__dict__["values"]["arguments"][0]
    network.__dict__["values"]["is_parsed"] = True
    return True


def _tensor(trt: FakeTensorRT, tensor: Tensor) -> object:
    dtype = getattr(trt.DataType, tensor.dtype)
    return trt.make("ITensor", name=tensor.name, shape=tensor.shape, dtype=dtype)


def _layer(trt: FakeTensorRT, index: int) -> object:
    node = trt.nodes[index]
    return trt.make(
        "ILayer",
        name=node.name,
        type=getattr(trt.LayerType, node.type),
        num_outputs=1,
        dtype=getattr(trt.DataType, node.dtype),
    )


def _tensors(trt: FakeTensorRT, mode: str) -> list[Tensor]:
    return [tensor for tensor in trt.tensors if tensor.mode == mode]


def _flags(config: Listed) -> set:
    return config.__dict__["values"].setdefault("set flags", set())


def _build(builder: Listed, network: Listed, config: Listed) -> object:
    trt = builder.module
    assert network.__dict__["values"].get("is_parsed"), "an empty network is built"
    monitor = config.__dict__["values"].get("progress_monitor")
    if monitor is not None:
        monitor.phase_start("Building", None, 2)
        goes_on = monitor.step_complete("Building", 0) and monitor.step_complete("Building", 1)
        monitor.phase_finish("Building")
        if not goes_on:
            return None
    return trt.memory(plan_bytes(trt))


def plan_bytes(trt: FakeTensorRT) -> bytes:
    """What the fake builds, and the only thing that it deserialises."""
    return f"plan of {trt.title}".encode()


def _deserialise(runtime: Listed, content: object) -> object:
    trt = runtime.module
    return trt.make("ICudaEngine") if bytes(content) == plan_bytes(trt) else None


def _named(engine: Listed, name: str) -> Tensor:
    return next(tensor for tensor in engine.module.tensors if tensor.name == name)


def _timing_cache(config: Listed, cache: object, ignore_mismatch: bool) -> bool:
    config.__dict__["values"]["timing cache"] = cache
    return True


# By name of "Class.member"; those of classes or members that a version lacks are never asked.
ANSWERS: dict[str, Callable] = {
    "Builder.num_DLA_cores": lambda _: 0,
    "Builder.build_serialized_network": _build,
    "Builder.create_network": lambda self, flags=0: self.module.make("INetworkDefinition"),
    "IBuilderConfig.set_flag": lambda self, flag: _flags(self).add(flag),
    "IBuilderConfig.clear_flag": lambda self, flag: _flags(self).discard(flag),
    "IBuilderConfig.get_flag": lambda self, flag: flag in _flags(self),
    "IBuilderConfig.set_timing_cache": _timing_cache,
    "IBuilderConfig.get_timing_cache": lambda self: self.__dict__["values"].get("timing cache"),
    "IBuilderConfig.builder_optimization_level": lambda self: 3,
    "IBuilderConfig.can_run_on_DLA": lambda self, layer: True,
    "INetworkDefinition.num_layers": lambda self: len(self.module.nodes),
    "INetworkDefinition.get_layer": lambda self, index: _layer(self.module, index),
    "ILayer.get_output": lambda self, index: self.module.make(
        "ITensor", dtype=self.__dict__["values"]["dtype"]
    ),
    "INetworkDefinition.num_inputs": lambda self: len(_tensors(self.module, "INPUT")),
    "INetworkDefinition.num_outputs": lambda self: len(_tensors(self.module, "OUTPUT")),
    "INetworkDefinition.get_input": lambda self, index: _tensor(
        self.module, _tensors(self.module, "INPUT")[index]
    ),
    "INetworkDefinition.get_output": lambda self, index: _tensor(
        self.module, _tensors(self.module, "OUTPUT")[index]
    ),
    "OnnxParser.num_errors": lambda _: 0,
    "OnnxParser.parse": _parse,
    "OnnxParser.parse_from_file": _parse,
    "Runtime.deserialize_cuda_engine": _deserialise,
    "ICudaEngine.create_engine_inspector": lambda self: self.module.make("EngineInspector"),
    "ICudaEngine.num_io_tensors": lambda self: len(self.module.tensors),
    "ICudaEngine.num_layers": lambda self: len(self.module.layers),
    "ICudaEngine.get_tensor_name": lambda self, index: self.module.tensors[index].name,
    "ICudaEngine.get_tensor_shape": lambda self, name: _named(self, name).shape,
    "ICudaEngine.get_tensor_mode": lambda self, name: getattr(
        self.module.TensorIOMode, _named(self, name).mode
    ),
    "ICudaEngine.get_tensor_dtype": lambda self, name: getattr(
        self.module.DataType, _named(self, name).dtype
    ),
    "ICudaEngine.get_tensor_location": lambda self, name: self.module.TensorLocation.DEVICE,
    "ICudaEngine.device_memory_size": lambda _: 1 << 20,
    "ICudaEngine.device_memory_size_v2": lambda _: 1 << 20,
    "ICudaEngine.name": lambda _: "",
    "EngineInspector.get_engine_information": lambda self, format: json.dumps(
        {"Layers": list(self.module.layers)}
    ),
    "EngineInspector.get_layer_information": lambda self, layer_index, format: json.dumps(
        self.module.layers[layer_index]
    ),
    "IExecutionContext.infer_shapes": lambda self: [],
    "IExecutionContext.get_tensor_shape": lambda self, name: _named(self, name).shape,
}


def fake_tensorrt(
    name: str,
    *,
    tensors: tuple[Tensor, ...] = TENSORS,
    nodes: tuple[Node, ...] = NODES,
    layers: tuple[dict, ...] = LAYERS,
) -> FakeTensorRT:
    """A module out of a listing.

    Args:
        name: one of `LISTINGS`.
        tensors: inputs and outputs of the network that it pretends to know.
        nodes: layers of that network.
        layers: of the engine that it pretends to build, as the engine's inspector tells them.
    """
    listing = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    return FakeTensorRT(listing, tensors=tensors, nodes=nodes, layers=layers)
