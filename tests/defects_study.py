"""By how much must a pixel last to be a defect? temporal-rpca on labelled sequences, several steps.

    python tests/defects_study.py --data /data/sequences

DIR holds sequences, each frames/ and centroids.csv. A clip is solved once, without any repair; then
what a step lowers in the newest frame is taken from its sparse part too, in place of solving anew.
Counted are peaks of the target image (largest within 3 pixels), within 3 pixels of a target or not.
"""

from pathlib import Path

import click
import numpy as np
import torch
from torch.nn import functional as F

from irstd.export.unroll import unroll
from irstd.runtime.clip import Clip
from irstd.runtime.datasets import open_dataset
from irstd.runtime.defects import repair_lasting
from irstd.runtime.frame import ClipContract, FrameContract, fit_geometry, prepare
from irstd.runtime.media_cv2 import read_image
from irstd.train.sequences.saliency import weigh
from irstd.train.solvers.solver import to_logits
from irstd.train.zoo import MODELS

STEPS = 1.0, 1 / 16, 1 / 8, 1 / 4  # nothing exceeds its neighbours by more than 1
SIGMAS = 50, 60, 70, 80, 90, 100
NEAR = 3  # pixels
MODEL = MODELS["temporal-rpca"]
LEFT = ClipContract(MODEL.clip.length, MODEL.clip.stride)  # whose stacks repair nothing


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--every", default=2, help="Score every n-th frame.")
def main(data, every):
    """Print a row for each sequence and step."""
    torch.set_num_threads(1)
    for folder in sorted(folder for folder in data.iterdir() if folder.is_dir()):
        results = measure(open_dataset(folder), every)
        for step in STEPS:
            lowered, targets, alarms = zip(*results[step], strict=True)
            targets, alarms = np.array(targets), np.concatenate(alarms)
            cells = [folder.name, f"{step:.4f}", f"{np.mean(lowered):.2f}"]
            for sigma in SIGMAS:
                rate = (alarms >= sigma).sum() / len(targets)
                cells.append(f"{(targets >= sigma).mean():.3f} at {rate:.2f}")
            click.echo("| " + " | ".join(cells) + " |")


def measure(dataset, every):
    """For each step and frame: pixels lowered, the target's peak, other peaks."""
    contract = FrameContract(*MODEL.size, clip=MODEL.clip)  # whose frames are not repaired
    twin, clip = unroll(MODEL.build(), iterations=None).eval(), Clip(LEFT)
    results, frames = {step: [] for step in STEPS}, []
    for index, sample in enumerate(dataset):
        frame = read_image(sample.image)
        prepared = prepare(frame, contract)
        frames = [*frames, prepared[0, 0]][-LEFT.span :]
        state = clip.add(prepared, fit_geometry(frame.shape, contract))
        if state.frames_missing or (index - LEFT.span + 1) % every:
            continue
        sparse = solve(twin, torch.from_numpy(clip.stack()))
        for step in STEPS:
            repaired = repair_lasting(frames[-1], frames, step=step)
            lowered = frames[-1] - repaired
            target = weigh(
                sparse - torch.from_numpy(lowered), torch.from_numpy(repaired[None, None])
            )
            peaks = find_peaks(to_logits(target, sigmas=0.0), sample.points[0])
            results[step].append((np.count_nonzero(lowered), *peaks))
    return results


def solve(twin, clip):
    """The sparse part of the newest frame, (1, 1, H, W)."""
    with torch.no_grad():
        state = twin.solver.start(clip)
        for number in range(twin.iterations):
            state = twin.solver.step(state, number)
        return twin.solver.restore(state.sparse, clip)


def find_peaks(deviations, point):
    """The highest peak near the target, 0 where there is none, and all peaks far from it."""
    largest = F.max_pool2d(deviations, 2 * NEAR + 1, stride=1, padding=NEAR)
    places = ((deviations == largest) & (deviations > SIGMAS[0]))[0, 0].nonzero().numpy()
    values = deviations[0, 0].numpy()[tuple(places.T)]
    is_near = np.hypot(*(places - np.asarray(point)).T) <= NEAR
    return values[is_near].max(initial=0.0), values[~is_near]


if __name__ == "__main__":
    main()
