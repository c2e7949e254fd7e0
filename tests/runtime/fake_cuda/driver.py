"""A CUDA driver without a GPU: memory, streams, events, graphs, kernels on the simulator.

It is as late as CUDA may be: nothing queued happens before somebody waits for it, and then only
what must have happened by then, in an order that a seed decides. So what was not waited for is not
there, and what was not ordered comes in the wrong order. Beside that it stops the program
(`Fault`) at
    races      two accesses to the same bytes, one of them a write, that neither a stream nor an
               event orders: found by vector clocks, whatever the order was;
    bounds     copies, clears and kernels that leave their memory;
    lifetimes  use after free, freeing twice, freeing what queued work still needs, leaks;
    contexts   calls without a current context, or in another device's.
What a program may expect from CUDA as an error comes as `CudaError`, which the fakes of CuPy and
PyCUDA turn into theirs.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import numpy as np

from irstd.runtime.launches import Launch
from irstd.tests.runtime.fake_cuda.parts import (
    DESKTOP,
    HOST,
    Access,
    Block,
    CudaError,
    Fault,
    Mark,
    Module,
    Operation,
    Queue,
    Span,
)
from irstd.tests.runtime.shim.simulation import GARBAGE, GUARD, launch_kernel


class Driver:
    """The machine.

    Args:
        simulation: runs kernels.
        seed: of every order that is left open.
        devices: compute capability of each GPU.
        is_integrated: whether they share the host's memory.
        memory: bytes of each.
        version: CUDA of the driver; 0 for none.

    Attributes:
        calls_left: calls until the device is lost; None for never.
        refuses_capture: whether a capture fails, as with a layer that must synchronise.
        said: what was queued and waited for, in order.
    """

    def __init__(
        self,
        simulation,
        *,
        seed=0,
        devices=(DESKTOP,),
        is_integrated=False,
        memory=2**30,
        version=13000,
    ):
        self.simulation = simulation
        self.random = random.Random(seed)
        self.devices, self.is_integrated = devices, is_integrated
        self.memory, self.version = memory, version
        self.calls_left: int | None = None
        self.refuses_capture = False
        self.blocks: list[Block] = []
        self.queues: dict[int, Queue] = {}
        self.marks: dict[int, Mark] = {}
        self.graphs: dict[int, list[Operation]] = {}
        self.modules = 0
        self.pending: list[Operation] = []
        self.host: dict[int, int] = {HOST: 0}
        self.numbers = iter(range(1001, 10**9))
        self.local = threading.local()
        self.said: list[str] = []
        self.time = 0.0

    # Contexts

    @property
    def contexts(self) -> list[int]:
        """Devices whose contexts are current in this thread, the innermost last."""
        if not hasattr(self.local, "contexts"):
            self.local.contexts = []
        return self.local.contexts

    def current(self) -> int:
        if not self.contexts:
            raise Fault("no context is current in this thread")
        return self.contexts[-1]

    def count(self) -> int:
        if self.version == 0:
            raise CudaError("InsufficientDriver", "CUDA driver version is insufficient")
        return len(self.devices)

    def call(self, what: str, *, may_be_captured: bool = False) -> None:
        """What every call begins with."""
        self.current()
        self.said.append(what)
        self.time += 1.0
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise CudaError("LaunchFailure", "unspecified launch failure")
        capturing = [queue for queue in self.queues.values() if queue.captured is not None]
        if capturing and not may_be_captured:
            capturing[0].is_invalid = True
            raise CudaError(
                "StreamCaptureUnsupported", f"{what} is not permitted when stream is capturing"
            )

    # Memory

    def allocate(self, nbytes: int, kind: str) -> int:
        self.call(f"allocate {kind}")
        if nbytes <= 0:
            raise Fault(f"{nbytes} bytes are allocated")
        held = sum(b.nbytes for b in self.blocks if not b.is_free and b.kind == "device")
        if kind == "device" and held + nbytes > self.memory:
            raise CudaError("MemoryAllocation", "out of memory")
        block = Block(kind, self.current(), nbytes)
        self.blocks.append(block)
        return block.address

    def free(self, address: int, kind: str) -> None:
        self.call(f"free {kind}")
        block = next((b for b in self.blocks if b.address == address), None)
        if block is None or block.kind != kind:
            raise Fault(f"{address} is no {kind} memory")
        if block.is_free:
            raise Fault(f"{kind} memory is freed twice")
        waiting = [op.what for op in self.pending if self._touches(op, block)]
        if waiting:
            raise Fault(f"{kind} memory is freed while {waiting[0]} is under way")
        block.check_guards()
        block.content[GUARD:-GUARD] = GARBAGE
        block.is_free = True

    def _touches(self, operation: Operation, block: Block) -> bool:
        return any(self.block_of(span) is block for span in operation.spans)

    def block_of(self, span: Span) -> Block:
        """The memory that holds a span, whole."""
        for block in self.blocks:
            if block.address <= span.address < block.address + block.nbytes:
                if span.address + span.nbytes > block.address + block.nbytes:
                    raise Fault(
                        f"{span.nbytes} bytes at {span.address - block.address} leave {block.kind} "
                        f"memory of {block.nbytes}"
                    )
                if block.is_free:
                    raise Fault(f"{block.kind} memory is used after it was freed")
                return block
        raise Fault(f"{span.address} is no memory of the driver's")

    def view(self, address: int, nbytes: int) -> np.ndarray:
        """The bytes of a span."""
        block = self.block_of(Span(address, nbytes, False))
        low = address - block.address + GUARD
        return block.content[low : low + nbytes]

    def memory_info(self) -> tuple[int, int]:
        self.call("memory info")
        held = sum(b.nbytes for b in self.blocks if not b.is_free and b.kind == "device")
        return self.memory - held, self.memory

    # Streams and events

    def create_queue(self) -> int:
        self.call("create stream")
        number = next(self.numbers)
        self.queues[number] = Queue(number, self.current())
        return number

    def create_mark(self) -> int:
        self.call("create event")
        number = next(self.numbers)
        self.marks[number] = Mark(self.current())
        return number

    def destroy(self, things: dict, number: int) -> None:
        if number not in things:
            raise Fault(f"{number} is destroyed twice")
        del things[number]

    def queue(self, number: int) -> Queue:
        queue = self.queues.get(number)
        if queue is None:
            raise Fault(f"there is no stream {number}")
        if queue.device != self.current():
            raise Fault(f"a stream of device {queue.device} is used in {self.current()}'s context")
        return queue

    def mark(self, number: int) -> Mark:
        mark = self.marks.get(number)
        if mark is None:
            raise Fault(f"there is no event {number}")
        return mark

    def record(self, number: int, stream: int) -> None:
        self.call("record", may_be_captured=True)
        queue, mark = self.queue(stream), self.mark(number)
        mark.clock, mark.after = dict(queue.clock), list(queue.last)
        mark.when = self.time

    def wait(self, number: int, stream: int) -> None:
        self.call("wait", may_be_captured=True)
        queue, mark = self.queue(stream), self.mark(number)
        if mark.clock is not None:  # never recorded: nothing to wait for
            _merge(queue.clock, mark.clock)
            queue.last += mark.after

    def synchronise(self, number: int) -> None:
        self.call("synchronise")
        mark = self.mark(number)
        if mark.clock is not None:
            self._finish(mark.after)
            _merge(self.host, mark.clock)

    def milliseconds(self, start: int, end: int) -> float:
        self.call("elapsed")
        marks = self.mark(start), self.mark(end)
        if any(mark.clock is None or not all(op.is_done for op in mark.after) for mark in marks):
            raise CudaError("NotReady", "device not ready")
        return marks[1].when - marks[0].when

    # Work

    def enqueue(self, what: str, spans: list[Span], run: Callable[[], None], stream: int) -> None:
        """Queue work, after checking that nothing races with it."""
        self.call(what, may_be_captured=True)
        queue = self.queue(stream)
        for span in spans:
            self.check_device(span)
        operation = Operation(what, spans, run)
        if queue.captured is not None:
            if self.refuses_capture:
                queue.is_invalid = True
                raise CudaError("StreamCaptureUnsupported", "operation not permitted")
            queue.captured.append(operation)
            return
        self._start(operation, queue)

    def check_device(self, span: Span) -> None:
        block = self.block_of(span)
        if block.kind == "device" and block.device != self.current():
            raise Fault(f"memory of device {block.device} is used in {self.current()}'s context")

    def _start(self, operation: Operation, queue: Queue) -> None:
        _merge(queue.clock, self.host)
        queue.clock[queue.number] = queue.clock.get(queue.number, 0) + 1
        for span in operation.spans:
            self._claim(span, queue, operation.what)
        operation.after = list(queue.last)
        queue.last = [operation]
        self.pending.append(operation)

    def _claim(self, span: Span, queue: Queue, what: str) -> None:
        block = self.block_of(span)
        low = span.address - block.address
        mine = Access(
            queue.number, queue.clock[queue.number], low, low + span.nbytes, span.is_write, what
        )
        for other in block.accesses:
            overlap = other.low < mine.high and mine.low < other.high
            is_ordered = queue.clock.get(other.stream, 0) >= other.time
            if overlap and (other.is_write or mine.is_write) and not is_ordered:
                raise Fault(f"race: {what} is not ordered after {other.what}")
        known = [
            one for one in block.accesses if self.host.get(one.stream, 0) < one.time
        ]  # what the host has seen the end of can race with nothing that comes
        block.accesses = [*known, mine]

    def _finish(self, operations: list[Operation]) -> None:
        """Do what must be done for these to be done, no more, in some order that is allowed."""
        stack = list(operations)
        while stack:
            operation = stack[-1]
            waiting = [one for one in operation.after if not one.is_done]
            if operation.is_done or not waiting:
                stack.pop()
                self._run(operation)
                continue
            self.random.shuffle(waiting)
            stack += waiting

    def _run(self, operation: Operation) -> None:
        if operation.is_done:
            return
        for span in operation.spans:
            self.block_of(span)
        operation.run()
        operation.is_done = True
        self.pending.remove(operation)
        for span in operation.spans:
            self.block_of(span).check_guards()

    def copy(self, target: int, source: int, nbytes: int, what: str, stream: int) -> None:
        spans = [Span(source, nbytes, False), Span(target, nbytes, True)]
        host, device = (target, source) if what == "download" else (source, target)
        kinds = [self.block_of(Span(place, 1, False)).kind for place in (host, device)]
        if kinds != ["pinned", "device"]:
            raise Fault(f"{what} between {kinds[0]} memory of the host and {kinds[1]}")

        def run() -> None:
            self.view(target, nbytes)[:] = self.view(source, nbytes)

        self.enqueue(what, spans, run, stream)

    def clear(self, address: int, nbytes: int, stream: int) -> None:
        def run() -> None:
            self.view(address, nbytes)[:] = 0

        self.enqueue("clear", [Span(address, nbytes, True)], run, stream)

    # Kernels

    def compile(self, code: str, options: tuple[str, ...]) -> Module:
        self.call("compile")
        return Module(
            code, self.simulation.library(code, tuple(one for one in options if one[:2] == "-D"))
        )

    def launch(self, module: Module, name: str, grid, block, values, stream: int) -> None:
        touched = [
            Span(int(value), self.block_of(Span(int(value), 1, False)).nbytes, is_written)
            for value, is_written in zip(values, module.pointers(name), strict=True)
            if is_written is not None
        ]
        launch = Launch(name, tuple(grid[:2]), tuple(block[:2]), ())
        ranges = [(span.address, span.nbytes) for span in touched]
        seed = self.random.randrange(2**31)

        def run() -> None:
            faults = launch_kernel(module.library, launch, values, ranges, seed)
            if faults:
                raise Fault(faults)

        self.enqueue(name, touched, run, stream)

    # Graphs

    def begin_capture(self, stream: int) -> None:
        self.call("begin capture")
        self.queue(stream).captured = []

    def end_capture(self, stream: int) -> int:
        queue = self.queue(stream)
        operations, queue.captured = queue.captured, None
        is_invalid, queue.is_invalid = queue.is_invalid, False
        self.call("end capture")
        if operations is None:
            raise Fault("a capture ends that did not begin")
        if is_invalid:
            raise CudaError("StreamCaptureInvalidated", "operation failed due to a previous error")
        number = next(self.numbers)
        self.graphs[number] = operations
        return number

    def replay(self, graph: int, stream: int) -> None:
        operations = self.graphs.get(graph)
        if operations is None:
            raise Fault("a graph is replayed after it was destroyed")
        for operation in operations:
            self.enqueue(f"{operation.what} (graph)", operation.spans, operation.run, stream)

    def assert_clean(self) -> None:
        """Nothing is left: no memory, no streams, no events, no graphs, no work, no context."""
        left = {
            "memory": [f"{b.kind} {b.nbytes}" for b in self.blocks if not b.is_free],
            "streams": list(self.queues),
            "events": list(self.marks),
            "graphs": list(self.graphs),
            "contexts": list(self.contexts),
        }
        if any(left.values()):
            raise Fault(f"left behind: { {name: held for name, held in left.items() if held} }")


def _merge(clock: dict[int, int], other: dict[int, int]) -> None:
    for stream, time in other.items():
        clock[stream] = max(clock.get(stream, 0), time)
