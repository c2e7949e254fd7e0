"""Every solver and network on labelled sequences: ROC curves, and operating points held out.

    python tests/sequences_study.py --data /data/sequences --output FOLDER

DIR holds sequences, each frames/ and centroids.csv. A target is found within 3 pixels. Every model
is scored on the same frames, those after the longest start-up of a clip. The threshold is chosen on
all sequences but one and reported on that one: the middle of those that find 0.95 of the targets at
0.5 false alarms a frame or fewer on each; where there is none, the largest mean of Pd less false
alarms.
Curves are kept in FOLDER as JSON: a model that is there is not run again.
"""

import json
import math
from pathlib import Path

import click
import numpy as np

from irstd.export.bundling import make_graph
from irstd.export.graph import count_flop
from irstd.export.unroll import unroll
from irstd.runtime import Detector, Extraction, FrameContract
from irstd.runtime.datasets import open_dataset
from irstd.runtime.engine import load_engine
from irstd.runtime.media_cv2 import read_image
from irstd.runtime.plot_matplotlib import plot_sequences
from irstd.runtime.scoring import PointScorer
from irstd.runtime.targets import extract
from irstd.train.checkpoint import load_into, read_weights
from irstd.train.zoo import MODELS

NAMES = [name for name, model in MODELS.items() if model.answer == "confidence"]
START_UP = max(model.clip.span for model in MODELS.values() if model.clip) - 1
LOGITS = np.linspace(-14.0, 14.0, 113)  # of the thresholds; float32 tells no confidence beyond
THRESHOLDS = 1.0 / (1.0 + np.exp(-LOGITS))
MOST_PIXELS = 0.02  # of a frame; above that nobody flies, and components are not counted
AIM = 0.95, 0.5  # Pd, false alarms a frame


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--model", "names", multiple=True, type=click.Choice(NAMES), help="These only.")
@click.option("--weights", type=click.Path(path_type=Path), help="Of networks, NAME.safetensors.")
@click.option("--every", default=1, help="Score every n-th frame; clips still see all.")
@click.option("--threads", default=1)
def main(data, output, names, weights, every, threads):
    """Measure the models and print their tables; networks without weights are left out."""
    names = [name for name in names or NAMES if find_weights(MODELS[name], weights)]
    output.mkdir(parents=True, exist_ok=True)
    sequences = [open_dataset(folder) for folder in sorted(data.iterdir()) if folder.is_dir()]
    for name in names:
        kept = output / f"{name}.json"
        if not kept.is_file():
            kept.write_text(json.dumps(measure(name, sequences, weights, every, threads)))
            click.echo(f"{name} done", err=True)
    results = {name: json.loads((output / f"{name}.json").read_text()) for name in names}
    for name, result in results.items():
        click.echo(row(name, result))
    curves = {name: result["curves"] for name, result in results.items()}
    plot_sequences(curves, output / "sequences.png")


def find_weights(model, folder):
    """Where the weights of a network lie, a path; true for a model that needs none."""
    if not model.is_trained:
        return True
    path = model.weights if folder is None else folder / model.weights.name
    return path if path.is_file() else None


def measure(name, sequences, folder, every, threads):
    """Pd and false alarms at every threshold for each sequence; GFLOP, milliseconds."""
    model = MODELS[name]
    network, normalisation = model.build().eval(), "stretch"
    if model.is_trained:
        weights = read_weights(find_weights(model, folder))
        load_into(network, weights.tensors, name=name)
        normalisation = weights.notes.get("normalisation", "full-scale")
    contract = FrameContract(*model.size, normalisation=normalisation, clip=model.clip)
    frames = contract.input_shape[1]
    graph = make_graph(unroll(network, iterations=None).eval(), model.size, frames=frames)
    engine = load_engine(graph.SerializeToString(), threads=threads)
    with Detector(engine, contract, Extraction()) as detector:
        times, curves = [], {}
        for dataset in sequences:
            curves[dataset.root.name] = sweep(detector, dataset, every, times)
    return {
        "gflop": count_flop(graph) / 1e9,
        "size": model.size,
        "ms": float(np.median(times)),
        "curves": curves,
    }


def sweep(detector, dataset, every, times):
    """(Pd, false alarms a frame) at each threshold; None where there are too many to count."""
    scorers = [PointScorer() for _ in THRESHOLDS]
    is_full = [False] * len(THRESHOLDS)
    detector.reset()
    for index, sample in enumerate(dataset):
        frame = read_image(sample.image)
        if index < START_UP or index % every:
            if detector.contract.clip:
                detector.open_slot().submit(frame)  # the clip sees it, the engine does not run
            continue
        confidence = detector.confidence(frame)
        times.append(detector.stages()["engine"])
        for place, threshold in enumerate(THRESHOLDS):
            if (confidence.values > threshold).mean() > MOST_PIXELS or is_full[place]:
                is_full[place] = True
                continue
            extraction = Extraction(float(threshold), max_targets=10**6)
            found = extract(confidence.values, confidence.geometry, extraction)
            scorers[place].add(np.stack([found.row, found.column], axis=1), sample.points)
    results = [scorer.result() for scorer in scorers]
    return [
        None if full or not result.frames else (result.pd, result.false_alarms_per_frame)
        for full, result in zip(is_full, results, strict=True)
    ]


def choose(curves):
    """The middle of the thresholds that reach the aim on some sequences, or of the best ones."""
    worth = np.full(len(THRESHOLDS), -math.inf)
    for place in range(len(THRESHOLDS)):
        points = [curve[place] for curve in curves]
        if all(points):
            is_reached = all(pd >= AIM[0] and alarms <= AIM[1] for pd, alarms in points)
            worth[place] = (
                1.0 if is_reached else np.mean([pd - alarms for pd, alarms in points]) - 1
            )
    best = np.flatnonzero(worth >= worth.max() - 1e-9)
    return int(best[len(best) // 2])


def row(name, result):
    """A line of the table: for each sequence, what the threshold chosen on the others gives."""
    cells = [name, f"{result['gflop']:.1f}", f"{result['ms']:.0f}"]
    for held_out, curve in result["curves"].items():
        others = [other for key, other in result["curves"].items() if key != held_out]
        point = curve[choose(others)]
        cells.append("-" if point is None else f"{point[0]:.3f} at {point[1]:.2f}")
    best = [
        min((point[1] for point in curve if point and point[0] >= AIM[0]), default=math.inf)
        for curve in result["curves"].values()
    ]
    cells += [f"{alarms:.2f}" for alarms in best]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
