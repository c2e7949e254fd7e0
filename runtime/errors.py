"""What the library refuses although the caller asked correctly; texts are one line for a person."""

from __future__ import annotations


class IrstdError(RuntimeError):
    """The root of these errors."""


class EngineError(IrstdError):
    """An engine, or a library it needs, cannot be loaded or run on this machine."""


class OutputError(EngineError):
    """A network's output is no confidence: it holds NaN or infinity."""


class DeviceError(EngineError):
    """A GPU failed: it is lost, its memory is full, or a library that drives it gave up."""
