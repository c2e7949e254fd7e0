"""What a short training teaches tridos, and whether cells of 4 or of 8 pixels suit small targets.

    python tests/tridos_study.py --backgrounds FOLDER --sequences FOLDER [--cell 8]

A small network learns on generated scenes; AP50 and loss on 48 clips over backgrounds that are held
out are printed on the way, and at the end Pd and false alarms a frame on recorded sequences, frames
before a clip is whole left out. One thread; times are those of this process.
"""

import time
from pathlib import Path

import click
import numpy as np
import torch

from irstd.runtime import Detector, Extraction, FrameContract
from irstd.runtime.average_precision import AveragePrecision
from irstd.runtime.boxes import read_boxes, suppress
from irstd.runtime.components import connect
from irstd.runtime.datasets import open_dataset
from irstd.runtime.frame import ClipContract
from irstd.runtime.media_cv2 import read_image
from irstd.runtime.scoring import PointScorer
from irstd.train.box_loss import box_loss
from irstd.train.clip_data import part_backgrounds
from irstd.train.clips import ClipSet, GeneratedClips
from irstd.train.engine_torch import TorchEngine
from irstd.train.models.tridos import FRAMES, Design, Tridos
from irstd.train.recipe import Recipe

CLIP = ClipContract(FRAMES, registration="none")
SIZE = (256, 256)
BATCH, VALIDATED = 8, 6  # clips a batch, batches
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


@click.command()
@click.option("--backgrounds", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--sequences", type=click.Path(path_type=Path, exists=True))
@click.option("--cell", default=4, help="Pixels a cell of the head: 4 or 8.")
@click.option("--channels", default=16)
@click.option("--crop", default=64)
@click.option("--steps", default=200)
@click.option("--frames", default=60, help="Of each sequence, the first ones.")
def main(backgrounds, sequences, cell, channels, crop, steps, frames):
    """Train, then judge."""
    torch.set_num_threads(1)
    training, held_out = part_backgrounds([backgrounds], FrameContract(*SIZE))
    seen, unseen = (
        ClipSet([GeneratedClips(frames, CLIP, recipe)], recipe)
        for seed, frames in enumerate((training, held_out))
        for recipe in [Recipe(crop=crop, batch=BATCH, seed=seed)]
    )
    torch.manual_seed(0)
    network = Tridos(Design(channels=channels, cell=cell))
    network.to(memory_format=torch.channels_last)
    learn(network, seen, unseen, steps)
    if sequences is None:
        return
    for folder in sorted(one for one in sequences.iterdir() if one.is_dir()):
        click.echo(f"{folder.name}: {judge(network, open_dataset(folder), frames)}")


def draw(clips, number):
    """A batch: (N, T, side, side) frames and (N, 1, side, side) masks."""
    pairs = [clips[BATCH * number + place] for place in range(BATCH)]
    frames, masks = (np.stack(parts) for parts in zip(*pairs, strict=True))
    return torch.from_numpy(frames), torch.from_numpy(masks)


def learn(network, seen, unseen, steps):
    """AdamW with one cycle; says six times where it stands."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 2e-3, total_steps=steps, pct_start=0.1
    )
    losses, every, begun = [], max(1, steps // 6), time.process_time()
    for step in range(steps):
        frames, masks = draw(seen, step)
        loss = box_loss(network.decode(network(frames)), masks)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if (step + 1) % every == 0:
            average, expected = validate(network, unseen)
            click.echo(
                f"step {step + 1}: loss {np.mean(losses[-every:]):.3f}, val loss {expected:.3f}, "
                f"AP50 {average:.3f}; {time.process_time() - begun:.0f} s of CPU"
            )


@torch.inference_mode()
def validate(network, unseen):
    """AP50 and mean loss."""
    network.eval()
    average, losses = AveragePrecision(), []
    for number in range(VALIDATED):
        frames, masks = draw(unseen, number)
        losses.append(float(box_loss(network.decode(network(frames)), masks)))
        for boxes, mask in zip(network.find_boxes(frames), masks, strict=True):
            truth = connect(mask[0].numpy() > 0.5).boxes()
            average.add(suppress(boxes.numpy()).values, truth)
    network.train()
    return average.result(), float(np.mean(losses))


def judge(network, dataset, frames):
    """Pd and false alarms a frame at each threshold, as a line."""
    engine = TorchEngine(network, size=SIZE, device=torch.device("cpu"), frames=FRAMES)
    detector = Detector(engine, FrameContract(*SIZE, clip=CLIP, answer="boxes"), Extraction())
    scorers = {threshold: PointScorer() for threshold in THRESHOLDS}
    for sample in dataset.samples[:frames]:
        said = detector.confidence(read_image(sample.image))
        if said.clip.frames_missing:
            continue
        for threshold, scorer in scorers.items():
            found = read_boxes(said.boxes, said.geometry, Extraction(threshold=threshold))
            scorer.add(np.stack([found.row, found.column], axis=1), sample.points)
    results = {threshold: scorer.result() for threshold, scorer in scorers.items()}
    return ", ".join(
        f"{one.pd:.2f} at {one.false_alarms_per_frame:.2f} (> {threshold:g})"
        for threshold, one in results.items()
    )


if __name__ == "__main__":
    main()
