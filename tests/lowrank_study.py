"""The fit of lowrank3d to real sequences: what each mend brings, and what learned steps make of it.

    python tests/lowrank_study.py --data /data/sequences --output FOLDER

DIR holds sequences, each frames/ and centroids.csv. Fits of whole sequences take hours on a CPU, so
everything sees the same small window: SIDE x SIDE pixels about the mean place of the target, COUNT
frames from number FIRST on. The last COUNT - START of these are scored, as models of clips need the
others. A target is found within 3 pixels; of all thresholds the one is taken that finds most at 0.1
false alarms a frame or fewer in the window, so the figures compare and do not predict. Results are
kept in FOLDER as JSON: what is there is not run again.
"""

import json
import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch

from irstd.export.unroll import unroll
from irstd.runtime import Detector, Extraction, FrameContract
from irstd.runtime.datasets import open_dataset
from irstd.runtime.media_cv2 import read_image
from irstd.runtime.scoring import PointScorer
from irstd.runtime.sources import SourceFrame
from irstd.runtime.targets import extract
from irstd.train.checkpoint import load_into, read_weights
from irstd.train.engine_torch import TorchEngine
from irstd.train.sequences.lowrank3d_fit import Fit, FitOptions, LowRankBackground
from irstd.train.sequences.sequence_fit import find_confidence, register_block
from irstd.train.sequences.spectral import longer_sides
from irstd.train.zoo import MODELS

SIDE, FIRST, COUNT, START = 64, 30, 32, 14
MOST_ALARMS = 0.1  # a frame
LOGITS = np.linspace(-16.0, 12.0, 85)
SCRIPTS_RATE, SCRIPTS_WEIGHT = 0.1, 0.2


class AsReleased(LowRankBackground):
    """The stack of products read in another order, as the released script does."""

    def arrange(self, products):
        frames, height, width = products.shape
        return products.reshape(height, width, frames)


class LastKept(Fit):
    """Keeps the last iterate."""

    def keep(self, loss, background):
        super().keep(float("inf"), background)


class DarkMasked(Fit):
    """Zeroes dark pixels in every term, as the released script does."""

    def _terms(self, background):
        self.seen = (self.frames != 0).to(self.frames)
        return super()._terms(background * self.seen)


CHANGES = {
    "mended": (),
    "re-read, not permuted": ("network",),
    "no smoothness": ("smoothness",),
    "last iterate": ("last",),
    "rate 0.1": ("rate",),
    "L1 weight 0.2": ("weight",),
    "not registered": ("still",),
    "dark pixels masked": ("dark",),
    "share of the largest difference": ("largest",),
    "as released": (
        "network", "smoothness", "last", "rate", "weight", "still", "dark", "largest",
    ),
}  # fmt: skip


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--iterations", default=150)
@click.option("--only", multiple=True, help="These rows only.")
def main(data, output, iterations, only):
    """Measure every row of the table and print it."""
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    windows = [open_window(folder) for folder in sorted(data.iterdir()) if folder.is_dir()]
    for name in only or (*CHANGES, "lowrank3d", "temporal-rpca", "registered-median"):
        kept = output / f"{name}.json"
        if not kept.is_file():
            began = time.process_time()
            cells = [measure(name, *window, iterations) for window in windows]
            seconds = (time.process_time() - began) / len(windows)
            kept.write_text(json.dumps({"cells": cells, "seconds": seconds}))
        result = json.loads(kept.read_text())
        cells = [
            f"{pd:.2f} at {alarms:.2f}, {margin:.1f}" for pd, alarms, margin in result["cells"]
        ]
        click.echo(f"| {name} | {' | '.join(cells)} | {result['seconds']:.1f} |")


def open_window(folder):
    """Frames of the window as a source gives them, and the truth in its pixels."""
    samples = list(open_dataset(folder))[FIRST : FIRST + COUNT]
    middle = np.mean([point for sample in samples for point in sample.points], axis=0)
    first = read_image(samples[0].image)
    top, left = (
        int(np.clip(round(place - SIDE / 2), 0, side - SIDE))
        for place, side in zip(middle, first.shape, strict=True)
    )
    sources = [
        SourceFrame(
            number, sample.name, read_image(sample.image)[top : top + SIDE, left : left + SIDE]
        )
        for number, sample in enumerate(samples)
    ]
    return sources, [np.array(sample.points) - (top, left) for sample in samples]


def measure(name, sources, points, iterations):
    """(Pd, false alarms a frame, target over everything else) of a row on a window."""
    if name in MODELS:
        maps, geometry = run_model(name, sources)
    else:
        maps, geometry = run_fit(CHANGES[name], sources, iterations)
    best = (0.0, 0.0)
    for threshold in 1.0 / (1.0 + np.exp(-LOGITS)):
        scorer = PointScorer()
        for values, truth in list(zip(maps, points, strict=True))[START:]:
            found = extract(values, geometry, Extraction(float(threshold), max_targets=10**6))
            scorer.add(np.stack([found.row, found.column], axis=1), truth)
        result = scorer.result()
        if result.false_alarms_per_frame <= MOST_ALARMS:
            best = max(best, (result.pd, -result.false_alarms_per_frame))
    return best[0], -best[1], margin(maps, points)


def margin(maps, points):
    """Median over frames of the target's logit less the largest elsewhere, in logarithms of 2."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    margins = []
    for values, truth in list(zip(maps, points, strict=True))[START:]:
        logits = np.log2(np.clip(values, 1e-12, 1 - 1e-7) / (1 - np.clip(values, 1e-12, 1 - 1e-7)))
        near = np.hypot(rows - truth[0][0], columns - truth[0][1]) <= 3.0
        margins.append(logits[near].max() - logits[~near].max())
    return float(np.median(margins))


def run_fit(changes, sources, iterations):
    """Confidence of every frame by a fit that is changed."""
    block = register_block(sources, None)
    if "still" in changes:
        block = replace(
            block,
            frames=np.stack([one.frame for one in sources]).astype(np.float32) / 255,
            seen=np.ones_like(block.seen),
            places=((0.0, 0.0),) * len(sources),
        )
    frames = torch.from_numpy(block.frames)
    theory = sum(side**-0.5 for side in longer_sides(frames[None]))
    options = FitOptions(
        iterations=iterations,
        learning_rate=SCRIPTS_RATE if "rate" in changes else FitOptions().learning_rate,
        sparsity=SCRIPTS_WEIGHT / theory if "weight" in changes else FitOptions().sparsity,
        smoothness=0.0 if "smoothness" in changes else FitOptions().smoothness,
    )
    kind = type(
        "Changed",
        (
            *([LastKept] if "last" in changes else []),
            *([DarkMasked] if "dark" in changes else []),
            Fit,
        ),
        {},
    )
    torch.manual_seed(options.seed)
    network = AsReleased if "network" in changes else LowRankBackground
    fit = kind(
        frames,
        torch.from_numpy(block.seen),
        options,
        network(tuple(frames.shape), shrink=options.shrink),
    )
    for _ in fit:
        pass
    background = fit.background.numpy()
    if "largest" in changes:
        rest = (block.frames - background).clip(min=0.0)
        return list(rest / max(rest.max(), 1e-9)), block.geometry
    return [one.values for one in find_confidence(block, background)], block.geometry


def run_model(name, sources):
    """Confidence of every frame by a model of the zoo, as a detector runs it."""
    model = MODELS[name]
    network, size = model.build().eval(), (SIDE, SIDE)
    if model.is_trained:
        load_into(network, read_weights(model.weights).tensors, name=name)
    contract = FrameContract(*size, clip=model.clip)
    twin, frames = unroll(network, iterations=None).eval(), model.clip.length
    engine = TorchEngine(twin, size=size, device=torch.device("cpu"), frames=frames)
    with Detector(engine, contract, Extraction()) as detector:
        seen = [detector.confidence(source.frame) for source in sources]
    return [one.values for one in seen], seen[0].geometry


if __name__ == "__main__":
    main()
