"""A stage of `launches` on a GPU: its memory, its kernels, and all that is queued for a frame."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np

from .device import Bytes, Device, Kernel, Memory, Number, Pinned, Stream
from .launches import Buffer, Stage


class Exchange:
    """A buffer that host and device both use: two with copies between, or one where they share.

    Attributes:
        array: (n,) uint8, what the host sees.
        memory: what kernels see.
    """

    def __init__(
        self, device: Device, nbytes: int, stack: ExitStack, *, is_shared: bool = False
    ) -> None:
        """Allocate; `stack` frees.

        Args:
            device: that uses it too.
            nbytes: size.
            stack: closed by the caller.
            is_shared: whether kernels use the host's own memory, where that is no way (Jetson).
                They reach it past their caches: what they read once or write once may lie there,
                what they count in by atomics had better not.
        """
        self._device = device
        self._is_shared = is_shared
        self._pinned = device.allocate_pinned(nbytes)
        stack.callback(self._pinned.close)
        self.array = self._pinned.array
        if is_shared:
            self.memory = Memory(self._pinned.address, nbytes, lambda: None)
            return
        self.memory = device.allocate(nbytes)
        stack.callback(self.memory.close)

    def upload(self, stream: Stream) -> None:
        """Let the device see what the host wrote."""
        if not self._is_shared:
            self._device.upload(self.memory, self._pinned, stream)

    def download(self, stream: Stream) -> None:
        """Let the host see what the device wrote, once the stream has come so far."""
        if not self._is_shared:
            self._device.download(self._pinned, self.memory, stream)


class StageOnDevice:
    """Kernels bound to their memory.

    Attributes:
        memory: of each buffer, by name.
    """

    def __init__(
        self,
        device: Device,
        stage: Stage,
        kernels: Mapping[str, Kernel],
        given: Mapping[str, Memory],
        stack: ExitStack,
    ) -> None:
        """Allocate what is not given; `stack` frees it.

        Args:
            device: where it runs.
            stage: what runs.
            kernels: of the stage's source, by name.
            given: memory for buffers that others use too, by name.
            stack: closed by the caller when the stage is done with.
        """
        self._device = device
        self.memory = dict(given)
        for buffer in stage.buffers:
            if buffer.name not in given:
                self.memory[buffer.name] = device.allocate(buffer.nbytes)
                stack.callback(self.memory[buffer.name].close)
        self._cleared = [self.memory[b.name] for b in stage.buffers if b.is_cleared]
        self._filled = [buffer for buffer in stage.buffers if buffer.contents is not None]
        self._launches = [
            (kernels[launch.kernel], launch.grid, launch.block, self._bind(launch.arguments))
            for launch in stage.launches
        ]

    def _bind(self, arguments: tuple[str | Number, ...]) -> tuple[Number, ...]:
        return tuple(
            np.uintp(self.memory[value].address) if isinstance(value, str) else value
            for value in arguments
        )

    def fill(self, stream: Stream) -> None:
        """Upload what the buffers hold for good; returns when it is there."""
        for buffer in self._filled:
            with ExitStack() as stack:
                pinned = self._device.allocate_pinned(buffer.nbytes)
                stack.callback(pinned.close)
                pinned.array[:] = _bytes(buffer)
                self._device.upload(self.memory[buffer.name], pinned, stream)
                event = self._device.create_event()
                stack.callback(event.close)
                self._device.record(event, stream)
                self._device.synchronise(event)

    def queue(self, stream: Stream) -> None:
        """Queue what a frame takes."""
        for memory in self._cleared:
            self._device.clear(memory, stream)
        for kernel, grid, block, arguments in self._launches:
            kernel(grid, block, arguments, stream)


def read_back(device: Device, memory: Memory, pinned: Pinned, stream: Stream) -> None:
    """Copy memory to the host; returns when it is there."""
    with ExitStack() as stack:
        device.download(pinned, memory, stream)
        event = device.create_event()
        stack.callback(event.close)
        device.record(event, stream)
        device.synchronise(event)


def _bytes(buffer: Buffer) -> Bytes:
    return np.ascontiguousarray(buffer.contents).reshape(-1).view(np.uint8)
