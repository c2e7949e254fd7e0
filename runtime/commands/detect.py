"""`irstd-detect`: frames in, targets out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import click

from ..bundle import Precision
from ..clip import Numbering, Step
from ..detector import Detector
from ..engine import EngineOption
from ..sinks import Sink, open_sink
from ..sources import BadFrame, Source, SourceFrame, open_source
from ..streaming import Detection
from .shared import (
    PlainCommand,
    detector_options,
    engine_option,
    load_detector,
    precision_option,
    track,
)


@click.command(cls=PlainCommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("source")
@click.argument("sinks", nargs=-1, metavar="[SINK]...")
@click.option("--skip-bad", is_flag=True, help="Report frames that cannot be used, and go on.")
@engine_option("the fastest of those installed")
@precision_option("the fastest on this CPU")
@detector_options
def detect_command(
    bundle: Path,
    source: str,
    sinks: tuple[str, ...],
    skip_bad: bool,
    engine: EngineOption | None,
    precision: Precision | None,
    threads: int | None,
    device: int | None,
    allow_cpu: bool,
    threshold: float | None,
    bit_depth: int | None,
    min_area: float,
    max_targets: int,
) -> None:
    """Find targets in SOURCE and write them to each SINK (json:- by default).

    SOURCE: an image, a folder of images, a glob in quotes, a video file, a .npy stack, a camera
    index, an rtsp:// address, or a GStreamer pipeline in quotes.

    SINK: json:FILE, csv:FILE, overlay:DIR (a PNG a frame), video:FILE.mp4, maps:DIR (confidence
    as PNG), maps-npy:DIR, maps-mat:DIR; FILE - is standard output.
    """
    with ExitStack() as stack:
        detector = stack.enter_context(
            load_detector(
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
        )
        opened = stack.enter_context(open_source(source))
        outlets = [stack.enter_context(open_sink(sink)) for sink in sinks or ("json:-",)]
        done, skipped = _run(detector, opened, outlets, skip_bad=skip_bad)
    said = f"{done} frames" + (f", {skipped} skipped" if skipped else "")
    click.echo(said, err=True)
    if detector.contract.clip is not None and done < detector.contract.clip.span:
        click.echo(
            f"no frame had a whole clip of {detector.contract.clip.span} frames, so there are no "
            "targets; pass a longer sequence",
            err=True,
        )
    if done == 0:
        raise ValueError(f"no frame of {source} could be used")


def _run(
    detector: Detector, source: Source, sinks: list[Sink], *, skip_bad: bool
) -> tuple[int, int]:
    """Detect in every frame; counts of frames done and skipped."""
    results = detector.stream(
        _follow(source, detector),
        ahead=1 if source.is_live else None,
        with_confidence=any(sink.needs_confidence for sink in sinks),
    )
    done = skipped = 0
    for result in track(results, label="detecting", count=source.count):
        if isinstance(result, Detection):
            done += 1
            _write(result, sinks)
        elif skip_bad:
            skipped += 1
            click.echo(f"skipped {result.name}: {result.reason}", err=True)
        else:
            raise ValueError(
                f"{result.name}: {result.reason} (--skip-bad reports such frames and goes on)"
            )
    if detector.note:
        click.echo(detector.note, err=True)
    return done, skipped


def _follow(source: Source, detector: Detector) -> Iterator[SourceFrame | BadFrame]:
    """Say where numbered frames are missing; another sequence begins another clip."""
    clip = detector.contract.clip
    numbering = None if clip is None else Numbering(clip.span)
    for item in source:
        if numbering is not None and isinstance(item, SourceFrame):
            step = numbering.follow(item.number)
            if step is Step.GAP:
                click.echo(f"{item.name}: frames are missing before it; the clip goes on", err=True)
            elif step is Step.NEW:
                click.echo(
                    f"{item.name}: does not follow the frame before it; a new clip begins", err=True
                )
                detector.reset()
        yield item


def _write(result: Detection, sinks: list[Sink]) -> None:
    shown = None if result.confidence is None else result.confidence.on_sensor()
    for sink in sinks:
        sink.write(result.source, result.targets, shown)
