"""`irstd-evaluate`: a bundle, or another tool's results, scored on a labelled dataset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import click
import msgspec

from ..average_precision import AveragePrecision
from ..bundle import Precision, read_manifest
from ..contrast import Spread
from ..datasets import Dataset, open_dataset
from ..detector import Detector
from ..engine import EngineOption
from ..evaluation import MaskEvaluation, Resolution, read_labelled, score_points
from ..frame import ClipContract, resize_bilinear
from ..predictions import find_prediction, read_prediction
from ..roc import Roc, RocResult
from ..scoring import Scorer
from ..sequences import find_gaps
from .shared import (
    PlainCommand,
    detector_options,
    engine_option,
    load_detector,
    precision_option,
    track,
)

Figures = dict[str, float | None]

SHOWN_GAPS = 3  # of the frames before which some are missing, in the message


@click.command(cls=PlainCommand)
@click.argument("places", nargs=-1, type=click.Path(path_type=Path), metavar="BUNDLE DATASET")
@click.option("--split", help="A list of the dataset (val, test ...) or the path of one.")
@click.option(
    "--resolution",
    type=click.Choice(["native", "network"]),
    default="native",
    show_default=True,
    help="Score in the sensor's pixels, or with frame and mask resized as the papers do.",
)
@click.option(
    "--predictions",
    type=click.Path(path_type=Path, file_okay=False),
    help="Score the maps or masks (.png, .npy) of another tool in place of a bundle.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--roc",
    "roc_folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for roc.csv and roc.png; also adds AUC, SCRG and BSF.",
)
@engine_option("onnxruntime, for the same figures everywhere,")
@precision_option("the bundle's own, never a faster stand-in,")
@detector_options
def evaluate_command(
    places: tuple[Path, ...],
    split: str | None,
    resolution: Resolution,
    predictions: Path | None,
    as_json: bool,
    roc_folder: Path | None,
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
    """Score BUNDLE on DATASET: IoU, nIoU, precision, recall, F1, Pd and Fa.

    A dataset with centroids or boxes gives Pd and false alarms for each frame. A network for
    sequences begins each sequence anew; frames before a clip is whole are counted, not scored.

    With --predictions DIR there is no BUNDLE, only DATASET. Rates are fractions, Fa is in pixels
    per million; what the frames leave undefined is null. Of a network that gives boxes AP50 is
    added where the dataset has masks or boxes. "precision" is the score, true pixels of
    those found; the graph's precision is "graph_precision".
    """
    if len(places) != (1 if predictions else 2):
        raise click.UsageError(
            "expected DATASET alone with --predictions, else BUNDLE and DATASET; "
            f"got {len(places)} arguments"
        )
    dataset = open_dataset(places[-1], split=split)
    if predictions is not None:
        if resolution == "network" or precision is not None or engine is not None:
            raise click.UsageError(
                "--predictions has no network; leave --resolution, --engine and --precision out"
            )
        figures = _score_predictions(
            predictions, dataset, threshold=0.5 if threshold is None else threshold, roc=roc_folder
        )
    else:
        precision = precision or read_manifest(places[0]).precision
        with load_detector(
            places[0],
            engine=engine or "onnxruntime",
            precision=precision,
            threads=threads,
            device=device,
            allow_cpu=allow_cpu,
            threshold=threshold,
            bit_depth=bit_depth,
            min_area=min_area,
            max_targets=max_targets,
        ) as detector:
            _tell_gaps(dataset, detector.contract.clip)
            score = _score_masks if dataset.kind == "masks" else _score_points
            figures = score(detector, dataset, resolution=resolution, roc=roc_folder)
    _print(figures, dataset, precision, as_json=as_json)


def _tell_gaps(dataset: Dataset, clip: ClipContract | None) -> None:
    """Say where frames of a sequence are missing: a shorter gap is bridged, a longer is a start."""
    if clip is None or not (gaps := find_gaps(dataset, span=clip.span)):
        return
    shown = ", ".join(gaps[:SHOWN_GAPS])
    more = f" and {len(gaps) - SHOWN_GAPS} more" if len(gaps) > SHOWN_GAPS else ""
    click.echo(
        f"frames are missing before {shown}{more}; a clip of {clip.span} frames goes on over a "
        "shorter gap and begins anew after a longer one",
        err=True,
    )


def _score_masks(
    detector: Detector, dataset: Dataset, *, resolution: Resolution, roc: Path | None
) -> Figures:
    evaluation = MaskEvaluation(detector, resolution=resolution, with_curves=roc is not None)
    frames = read_labelled(dataset, clip=detector.contract.clip)
    for labelled in track(frames, label="evaluating", count=len(dataset)):
        evaluation.add(labelled)
    figures = _defined(asdict(evaluation.result()))
    if evaluation.average_precision is not None:
        figures |= _defined({"ap50": evaluation.average_precision.result()})
    if detector.contract.clip is not None:
        figures["frames_before_start"] = evaluation.frames_before_start
    if roc is not None and evaluation.roc is not None and evaluation.contrast is not None:
        contrast = evaluation.contrast.result()
        for name in ("scr_in", "scr_out", "scrg", "bsf"):
            spread: Spread = getattr(contrast, name)
            figures |= _defined({name: spread.median, f"{name}_infinite": spread.infinite})
        figures |= _defined({"auc": _write_roc(evaluation.roc.result(), roc)})
    return figures


def _score_points(
    detector: Detector, dataset: Dataset, *, resolution: Resolution, roc: Path | None
) -> Figures:
    if roc is not None or resolution == "network":
        raise click.UsageError(
            f"{dataset.root} has {dataset.kind} and no masks; leave --roc and --resolution out"
        )
    has_boxes = detector.contract.answer == dataset.kind == "boxes"
    average = AveragePrecision() if has_boxes else None
    steps = score_points(detector, dataset, average=average)
    (*_, scores) = track(steps, label="evaluating", count=len(dataset))
    figures = _defined(asdict(scores))
    if average is not None:
        figures |= _defined({"ap50": average.result()})
    if detector.contract.clip is None:
        del figures["frames_before_start"]
    return figures


def _score_predictions(
    folder: Path, dataset: Dataset, *, threshold: float, roc: Path | None
) -> Figures:
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"threshold is {threshold}, expected between 0 and 1")
    scorer, curve = Scorer(), Roc()
    for labelled in track(read_labelled(dataset), label="evaluating", count=len(dataset)):
        shape = (labelled.frame.shape[0], labelled.frame.shape[1])
        values = read_prediction(find_prediction(folder, labelled.name))
        fitted = values if values.shape == shape else resize_bilinear(values, shape)
        scorer.add(fitted > threshold, labelled.mask)
        if roc is not None:
            curve.add(fitted, labelled.mask)
    figures = _defined(asdict(scorer.result()))
    if roc is not None:
        figures |= _defined({"auc": _write_roc(curve.result(), roc)})
    return figures


def _write_roc(result: RocResult, folder: Path) -> float:
    try:
        from ..plot_matplotlib import plot_roc
    except ImportError as err:
        raise ValueError("--roc draws with matplotlib: pip install 'irstd[plots]'") from err
    folder.mkdir(parents=True, exist_ok=True)
    result.write_csv(folder / "roc.csv")
    plot_roc(result, folder / "roc.png")
    click.echo(f"wrote {folder / 'roc.csv'} and {folder / 'roc.png'}", err=True)
    return result.auc


def _defined(figures: Mapping[str, float]) -> Figures:
    """Figures for JSON, which knows no NaN and no infinity."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _print(
    figures: Figures, dataset: Dataset, precision: Precision | None, *, as_json: bool
) -> None:
    if as_json:
        rounded = {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in figures.items()
        }
        # "precision" alone is the score of that name.
        fields = rounded | ({"graph_precision": precision} if precision else {})
        click.echo(msgspec.json.encode(fields).decode())
        return
    by = f", {precision}" if precision else ""
    click.echo(f"{dataset.root.resolve().name}, split {dataset.split}{by}")
    for name, value in figures.items():
        shown = "-" if value is None else f"{value:.4f}" if isinstance(value, float) else value
        click.echo(f"  {name:<24} {shown}")
