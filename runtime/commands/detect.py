"""`irstd-detect`: frames in, targets out."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from ..bundle import Precision
from ..clip import Numbering, Step
from ..detector import Detector
from ..sinks import Sink, open_sink
from ..sources import BadFrame, Source, SourceFrame, open_source
from .shared import PlainCommand, detector_options, load_detector, precision_option, track


@click.command(cls=PlainCommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("source")
@click.argument("sinks", nargs=-1, metavar="[SINK]...")
@click.option("--skip-bad", is_flag=True, help="Report frames that cannot be used, and go on.")
@precision_option("the fastest on a CPU, as measured at export,")
@detector_options
def detect_command(
    bundle: Path,
    source: str,
    sinks: tuple[str, ...],
    skip_bad: bool,
    precision: Precision | None,
    threads: int | None,
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
                precision=precision,
                threads=threads,
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
    done = skipped = 0
    clip = detector.contract.clip
    numbering = None if clip is None else Numbering(clip.span)
    for item in track(source, label="detecting", count=source.count):
        if numbering is not None and isinstance(item, SourceFrame):
            _follow(numbering, item, detector)
        reason = item.reason if isinstance(item, BadFrame) else _detect(detector, item, sinks)
        if reason is None:
            done += 1
        elif skip_bad:
            skipped += 1
            click.echo(f"skipped {item.name}: {reason}", err=True)
        else:
            raise ValueError(f"{item.name}: {reason} (--skip-bad reports such frames and goes on)")
    return done, skipped


def _follow(numbering: Numbering, item: SourceFrame, detector: Detector) -> None:
    """Say where numbered frames are missing; another sequence begins another clip."""
    step = numbering.follow(item.number)
    if step is Step.GAP:
        click.echo(f"{item.name}: frames are missing before it; the clip goes on", err=True)
    elif step is Step.NEW:
        click.echo(f"{item.name}: does not follow the frame before it; a new clip begins", err=True)
        detector.reset()


def _detect(detector: Detector, item: SourceFrame, sinks: list[Sink]) -> str | None:
    """Write a frame's targets to the sinks; says why if the frame cannot be used."""
    try:
        confidence = detector.confidence(item.frame)
    except (TypeError, ValueError) as err:
        return str(err)
    targets = detector.targets(confidence)
    shown = confidence.on_sensor() if any(sink.needs_confidence for sink in sinks) else None
    for sink in sinks:
        sink.write(item, targets, shown)
    return None
