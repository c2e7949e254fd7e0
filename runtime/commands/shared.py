"""What all commands share: errors in one line, detector options, progress."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, get_args

import click

from ..bundle import Precision
from ..detector import Detector
from ..engine import EngineOption
from ..errors import IrstdError

Item = TypeVar("Item")
Decorated = TypeVar("Decorated", bound=Callable[..., object])


class PlainCommand(click.Command):
    """A command that tells what went wrong in one line, and leaves nothing half-written behind."""

    def invoke(self, ctx: click.Context) -> object:
        """Run; an error of the input, the files or the engine becomes a line and exit code 1.

        SIGTERM, by which schedulers and init systems end a process, ends it as Ctrl-C does.
        """
        try:
            with _orderly_end():
                return super().invoke(ctx)
        except BrokenPipeError:
            raise  # whoever read the output has gone; click ends quietly
        except OSError as err:
            raise click.ClickException(_plain(err)) from err
        except (ValueError, TypeError, MemoryError, IrstdError) as err:
            raise click.ClickException(" ".join(str(err).split()) or type(err).__name__) from err


@contextmanager
def _orderly_end() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that files are closed and staged folders removed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what becomes of a signal
        return

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)  # what a shell reports of a process that a signal ended

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _plain(err: OSError) -> str:
    if err.strerror is None:
        return " ".join(str(err).split())
    return f"{err.filename}: {err.strerror}" if err.filename else err.strerror


def detector_options(command: Decorated) -> Decorated:
    """Add the options of `load_detector` to a command, but for --engine and --precision."""
    options = (
        click.option("--threads", type=int, help="CPU threads of the engine; all by default."),
        click.option("--device", type=int, help="Number of the GPU; the first that a plan fits."),
        click.option(
            "--allow-cpu", is_flag=True, help="Go on on the CPU if the GPU fails; results say so."
        ),
        click.option("--threshold", type=float, help="Confidence of a target; the bundle's."),
        click.option("--bit-depth", type=int, help="Bits of the sensor, 8 to 16; the bundle's."),
        click.option("--min-area", default=0.0, help="Smallest target in sensor pixels."),
        click.option("--max-targets", default=1000, help="Bound on the targets of a frame."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def precision_option(default: str) -> Callable[[Decorated], Decorated]:
    """Add --precision to a command; its help says what runs by default."""
    return click.option(
        "--precision",
        type=click.Choice(get_args(Precision)),
        help=f"Graph of the bundle to run; {default} by default.",
    )


def engine_option(default: str) -> Callable[[Decorated], Decorated]:
    """Add --engine to a command; its help says what runs by default."""
    return click.option(
        "--engine",
        type=click.Choice(get_args(EngineOption)),
        help=f"Library that runs the graph; {default} by default.",
    )


def load_detector(
    bundle: Path,
    *,
    engine: EngineOption | None,
    precision: Precision | None,
    threads: int | None,
    device: int | None,
    allow_cpu: bool,
    threshold: float | None,
    bit_depth: int | None,
    min_area: float,
    max_targets: int,
) -> Detector:
    """Load a bundle and say on standard error which engine runs it, in which precision, and why."""
    detector = Detector.load(
        bundle,
        engine=engine,
        precision=precision,
        threads=threads,
        device=device,
        allow_cpu=allow_cpu,
        threshold=threshold,
        bit_depth=bit_depth,
        min_area=min_area,
        max_targets=max_targets,
    )
    click.echo(f"{bundle.name}: {detector.description}", err=True)
    return detector


def track(
    items: Iterable[Item],
    *,
    label: str,
    count: int | None,
    say: Callable[[Item | None], str] | None = None,
) -> Iterator[Item]:
    """Show progress and the time left on standard error while iterating, if a person is looking.

    Args:
        items: to iterate over.
        label: what stands before the bar.
        count: how many items there are, if known.
        say: gives the text beside the bar; it receives the newest item, None before the first.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield from items
        return
    with click.progressbar(
        items, length=count, label=label, file=sys.stderr, item_show_func=say
    ) as shown:
        yield from shown
