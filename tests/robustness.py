"""How far a bundle stands what flight does to frames, as a table.

python tests/robustness.py BUNDLE DATASET [--split val] [--sequence DIR ...]

The frames of a labelled list are shown as they are, with white noise as in NoisySIRST (standard
deviation 10, 20, 30 grey levels), blurred (Gaussian, 1 pixel), with dead and hot pixels (0.1 %),
and as a 14-bit camera with another gain and offset would give them. Sequences are scored frame by
frame.
"""

import functools
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from irstd.runtime import Detector
from irstd.runtime.bundle import read_manifest
from irstd.runtime.datasets import open_dataset
from irstd.runtime.evaluation import read_labelled, score_masks, score_points
from irstd.train.degrade import gaussian

DEFECTS = 0.001  # part of the pixels
SEED = 0


def noisy(frame, rng, sigma):
    seen = frame + rng.normal(0.0, sigma, frame.shape)
    return np.rint(seen).clip(0, 255).astype(np.uint8)


def blurred(frame, rng):
    return np.rint(gaussian(frame.astype(np.float32), 1.0)).clip(0, 255).astype(np.uint8)


def with_defects(frame, rng):
    seen = frame.copy()
    places = rng.choice(frame.size, max(1, round(DEFECTS * frame.size)), replace=False)
    seen.flat[places] = np.where(rng.random(places.size) < 0.5, 0, 255)
    return seen


def in_14_bits(frame, rng):
    gain, offset = rng.uniform(4.0, 30.0), rng.uniform(500.0, 6000.0)
    return np.rint(frame * gain + offset).astype(np.uint16)


CHANGES = {
    "as recorded": (8, lambda frame, rng: frame),
    "noise, sigma 10": (8, lambda frame, rng: noisy(frame, rng, 10.0)),
    "noise, sigma 20": (8, lambda frame, rng: noisy(frame, rng, 20.0)),
    "noise, sigma 30": (8, lambda frame, rng: noisy(frame, rng, 30.0)),
    "blur, 1 pixel": (8, blurred),
    "dead and hot pixels, 0.1 %": (8, with_defects),
    "14 bits, other gain and offset": (14, in_14_bits),
}


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--split", default="val")
@click.option("--sequence", "sequences", multiple=True, type=click.Path(path_type=Path))
def main(bundle, dataset, split, sequences):
    """Print the robustness table of a bundle."""
    frames = list(read_labelled(open_dataset(dataset, split=split)))
    precision = read_manifest(bundle).precision  # not what a CPU runs in its place
    load = functools.partial(Detector.load, bundle, engine="onnxruntime", precision=precision)
    print(f"{bundle.name} on {dataset.resolve().name} {split}, {len(frames)} frames, {precision}")
    print("| frames | IoU | nIoU | Pd | Fa per Mpix |\n|---|---|---|---|---|")
    for name, (bit_depth, change) in CHANGES.items():
        rng = np.random.default_rng(SEED)
        changed = [replace(one, frame=change(one.frame, rng)) for one in frames]
        with load(bit_depth=bit_depth) as detector:
            scores = score_masks(detector, changed)
        figures = f"{scores.iou:.3f} | {scores.niou:.3f} | {scores.pd:.3f}"
        print(f"| {name} | {figures} | {scores.fa_per_mpix:.0f} |", flush=True)
    if sequences:
        print("\n| sequence | frames | Pd | false alarms per frame |\n|---|---|---|---|")
    for folder in sequences:
        with load() as detector:
            *_, last = score_points(detector, open_dataset(folder))
        name = folder.resolve().name
        print(f"| {name} | {last.frames} | {last.pd:.2f} | {last.false_alarms_per_frame:.2f} |")


if __name__ == "__main__":
    main()
