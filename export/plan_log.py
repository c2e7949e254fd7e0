"""What a builder says while it builds: its log, its progress, and the line that shows it."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TextIO

Watch = Callable[[str], None]
SHOWN_EVERY_S = 0.2
# Follows every error on a machine without a GPU, and says nothing of the graph.
HARMLESS = "catchCudaError"


class BuildLog:
    """What is kept of the log.

    Attributes:
        errors: lines of errors.
        dumps: lists of layers, which only TensorRT for RTX logs.
        memory_bytes: weights and activations of the largest variant of the plan, likewise.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.dumps: list[str] = []
        self._memory: dict[str, int] = {}

    @property
    def memory_bytes(self) -> int | None:
        """Device memory that a plan needs; None where the log does not say."""
        return sum(self._memory.values()) if self._memory else None

    def keep(self, text: str, *, is_error: bool) -> None:
        """Keep what matters of a message."""
        if is_error and HARMLESS not in text:
            self.errors.append(text.strip())
        elif text.startswith("Layers:"):
            self.dumps.append(text)
        elif found := re.match(r"Total (Activation|Weights) Memory: (\d+) bytes", text):
            self._memory[found[1]] = max(int(found[2]), self._memory.get(found[1], 0))

    def tell_errors(self) -> str:
        """The last errors in one line."""
        return "; ".join(self.errors[-3:]) or "it does not say why"


def make_logger(trt: ModuleType, log: BuildLog) -> object:
    """A logger of the library's own type that writes into a `BuildLog`."""

    class Logger(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: object, msg: str) -> None:
            worst = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)
            log.keep(msg, is_error=severity in worst)

    return Logger()


class Progress:
    """Follows the phases of a build, one inside the other.

    Attributes:
        is_cancelled: whether the user asked to stop.
    """

    def __init__(self, watch: Watch) -> None:
        self.is_cancelled = False
        self._watch = watch
        self._phases: dict[str, tuple[int, int]] = {}

    def begin(self, phase: str, steps: int) -> None:
        """A phase begins."""
        self._phases[phase] = (0, steps)
        self._tell()

    def step(self, phase: str, step: int) -> bool:
        """A step is done; gives whether to go on."""
        self._phases[phase] = (step + 1, self._phases.get(phase, (0, 0))[1])
        self._tell()
        return not self.is_cancelled

    def end(self, phase: str) -> None:
        """A phase is over."""
        self._phases.pop(phase, None)

    def _tell(self) -> None:
        parts = (f"{phase} {done}/{steps}" for phase, (done, steps) in self._phases.items())
        self._watch(", ".join(parts))

    @contextmanager
    def stopped_by_user(self) -> Iterator[None]:
        """Let Ctrl-C stop the build at its next step, and a second one the process.

        As an exception it would rise in the builder's calls of ours, which swallow it or end the
        process.
        """
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or before is None:
            yield
            return
        signal.signal(signal.SIGINT, self._cancel)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _cancel(self, *_: object) -> None:
        self.is_cancelled = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def make_monitor(trt: ModuleType, progress: Progress) -> object:
    """A progress monitor of the library's own type."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.begin(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.end(phase_name)

    return Monitor()


class StatusLine:
    """Shows the newest progress on one line, if a person is looking; use it in `with`."""

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        self._label = label
        self._stream = sys.stderr if stream is None else stream
        self._is_shown = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._begun = time.monotonic()
        self._last = -SHOWN_EVERY_S

    def __call__(self, text: str) -> None:
        """Show a text, unless the last one is too fresh to be read."""
        now = time.monotonic()
        if not self._is_shown or now - self._last < SHOWN_EVERY_S:
            return
        self._last = now
        line = f"{self._label}: {text} ({now - self._begun:.0f} s)"
        self._stream.write(f"\r\x1b[K{line}")
        self._stream.flush()

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
