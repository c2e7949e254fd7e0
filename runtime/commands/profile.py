"""`irstd-profile`: FPS and latency of a bundle on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import click
import msgspec

from ..bundle import Precision
from ..detector import Detector
from ..engine import EngineOption
from ..frame import Frame
from ..profiling import Profile, profile
from ..scene import Scene, SceneOptions
from ..sources import BadFrame, open_source
from .shared import (
    PlainCommand,
    detector_options,
    engine_option,
    load_detector,
    precision_option,
    track,
)

SCENE_FRAMES = 16


@click.command(cls=PlainCommand, context_settings={"show_default": True})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("source", required=False)
@click.option("--frames", "count", default=100, help="Frames to time.")
@click.option("--warm-up", default=10, help="Frames to run before.")
@click.option("--rate", type=float, metavar="HZ", help="Pace of the frames; as fast as possible.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Write the profile to a file, - for standard output.",
)
@engine_option("the fastest of those installed")
@precision_option("the fastest on this CPU")
@detector_options
def profile_command(
    bundle: Path,
    source: str | None,
    count: int,
    warm_up: int,
    rate: float | None,
    json_file: Path | None,
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
    """Time BUNDLE on SOURCE (by default a synthetic scene): percentiles of every stage, FPS."""
    with load_detector(
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
    ) as detector:
        frames = _source_frames(source) if source else _scene_frames(detector)
        steps = profile(detector, frames, count=count, warm_up=warm_up, rate_hz=rate)
        measured = list(track(steps, label="profiling", count=count))[-1]
    if json_file is None:
        click.echo(_table(measured))
        return
    text = msgspec.json.format(msgspec.json.encode(measured), indent=2).decode()
    if str(json_file) == "-":
        click.echo(text)
        return
    json_file.write_text(text + "\n", encoding="utf-8")
    click.echo(_table(measured))


def _scene_frames(detector: Detector) -> Iterator[Frame]:
    contract = detector.contract
    options = SceneOptions(
        height=contract.height, width=contract.width, bit_depth=contract.bit_depth
    )
    scene = Scene(options, seed=0)
    return cycle([scene.frame(index).frame for index in range(SCENE_FRAMES)])


def _source_frames(text: str) -> Iterator[Frame]:
    """Read a source again and again; a live one lasts by itself."""
    while True:
        with open_source(text) as source:
            for item in source:
                if isinstance(item, BadFrame):
                    raise ValueError(f"{item.name}: {item.reason}")
                yield item.frame


def _table(measured: Profile) -> str:
    lines = [
        f"{measured.engine}, {measured.precision}; frames {measured.frame_shape[0]}x"
        f"{measured.frame_shape[1]}, network {measured.network_shape[0]}x"
        f"{measured.network_shape[1]}",
        f"{'ms':<10}{'p50':>10}{'p90':>10}{'p99':>10}{'max':>10}",
    ]
    for stage, latency in measured.stages.items():
        figures = (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.max_ms)
        lines.append(f"{stage:<10}" + "".join(f"{figure:>10.2f}" for figure in figures))
    lines.append(
        f"{measured.fps:.1f} FPS over {measured.frames} frames after {measured.warm_up} to warm "
        f"up, {measured.cpu_cores:.1f} CPU cores, {measured.peak_memory_mib:.0f} MiB at most"
    )
    if measured.throughput_fps is not None:
        lines.append(f"{measured.throughput_fps:.1f} FPS with several frames under way")
    if measured.rate_hz is not None:
        lines.append(f"at {measured.rate_hz:g} Hz: {measured.late} of {measured.frames} late")
    return "\n".join(lines)
