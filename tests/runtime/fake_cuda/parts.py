"""What a fake CUDA driver is made of: memory, work, streams, events, and what goes wrong."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from irstd.tests.runtime.shim.simulation import GARBAGE, GUARD

HOST = 0
ORIN, DESKTOP = (8, 7), (8, 6)


class Fault(AssertionError):
    """The program did what CUDA leaves undefined, or did not clean up."""


class CudaError(Exception):
    """What CUDA tells a program that it can go on from."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name
        self.text = text


@dataclass(eq=False)
class Block:
    """Memory, with guards on both sides that nobody may write."""

    kind: str  # "device" or "pinned"
    device: int
    nbytes: int
    content: np.ndarray = field(init=False)
    is_free: bool = False
    accesses: list[Access] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.content = np.full(self.nbytes + 2 * GUARD, GARBAGE, np.uint8)

    @property
    def address(self) -> int:
        return self.content.ctypes.data + GUARD

    def check_guards(self) -> None:
        edges = np.concatenate([self.content[:GUARD], self.content[-GUARD:]])
        if (edges != GARBAGE).any():
            raise Fault(f"{self.kind} memory of {self.nbytes} bytes was written beyond its end")


@dataclass(frozen=True)
class Access:
    """Who touches which bytes: place and time in the order of events."""

    stream: int
    time: int
    low: int
    high: int
    is_write: bool
    what: str


@dataclass(frozen=True)
class Span:
    """Bytes that an operation touches."""

    address: int
    nbytes: int
    is_write: bool


@dataclass(eq=False)
class Operation:
    """Queued work."""

    what: str
    spans: list[Span]
    run: Callable[[], None]
    after: list[Operation] = field(default_factory=list)
    is_done: bool = False


@dataclass(eq=False)
class Queue:
    """A stream: what it does, in order, and what it knows to have happened before."""

    number: int
    device: int
    clock: dict[int, int] = field(default_factory=dict)
    last: list[Operation] = field(default_factory=list)  # what the next operation comes after
    captured: list[Operation] | None = None
    is_invalid: bool = False


@dataclass(eq=False)
class Mark:
    """An event: a place in a stream."""

    device: int
    clock: dict[int, int] | None = None
    after: list[Operation] = field(default_factory=list)
    when: float = 0.0


class Module:
    """Compiled kernels."""

    def __init__(self, code: str, library: ctypes.CDLL) -> None:
        self.code = code
        self.library = library

    def pointers(self, name: str) -> list[bool | None]:
        """For each parameter of a kernel whether it is written through; None for numbers."""
        found = re.search(rf"__global__ void {name}\((.*?)\) \{{", self.code, re.DOTALL)
        if found is None:
            raise CudaError("NotFound", f"named symbol not found: {name}")
        listed = [part.strip() for part in found[1].split(",")]
        return [None if "*" not in part else not part.startswith("const ") for part in listed]
