"""Work that is queued for frame after frame: launches at first, one CUDA graph then."""

from __future__ import annotations

import logging
from collections.abc import Callable

from .device import Device, Graph, Stream
from .errors import DeviceError

LOG = logging.getLogger(__name__)

# TensorRT sets itself up in the first run with a buffer, which a capture must not hold.
RUNS_BEFORE_CAPTURE = 2


class Graphs:
    """Whether a device makes graphs of what is queued; tried until it refuses.

    Attributes:
        device: whose graphs.
        is_usable: whether none was refused.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.is_usable = True

    def give_up(self, err: Exception) -> None:
        """Go on without CUDA graphs, and say why."""
        self.is_usable = False
        LOG.warning("frames run without a CUDA graph, by single launches: %s", str(err))


class Repeated:
    """Work in a stream that is always the same; it becomes one graph after a frame or two."""

    def __init__(self, graphs: Graphs, stream: Stream, queue_launches: Callable[[], None]) -> None:
        """Nothing is queued yet.

        Args:
            graphs: whether there are any.
            stream: that the work is queued in.
            queue_launches: queues it, launch by launch.
        """
        self._graphs = graphs
        self._stream = stream
        self._queue_launches = queue_launches
        self._runs = 0
        self._graph: Graph | None = None

    def queue(self) -> None:
        """Queue the work once."""
        if self._graph is None and self._runs == RUNS_BEFORE_CAPTURE and self._graphs.is_usable:
            self._capture()
        if self._graph is not None:
            self._graphs.device.replay(self._graph, self._stream)
            return
        self._runs += 1
        self._queue_launches()

    def _capture(self) -> None:
        device = self._graphs.device
        refusals: tuple[type[Exception], ...] = (*device.failures, DeviceError)
        try:
            self._graph = device.capture(self._queue_launches, self._stream)
        except refusals as err:
            self._graphs.give_up(err)

    def close(self) -> None:
        """Let the graph go."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None
