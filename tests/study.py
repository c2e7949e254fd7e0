"""Studies: the same short training with one thing changed at a time, and a table of what came out.

python tests/study.py recipe|design --data SIRST --data NUDT [--backgrounds DIR]
    [--sequence DIR ...]
    [--set NAME=VALUE ...] [--epochs N] [--threads N] [--only NAME ...] --output FOLDER

`recipe` takes one part out of the recipe, `design` changes one thing in lrrnet-edge. Scores are
those of the last epoch on the val lists (nothing is chosen), with white noise of 20 grey levels
added to them, and on sequences that nothing was trained on. A variant whose result lies in FOLDER
is not trained again.
"""

import json
import statistics
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch

from irstd.export.bundling import make_graph
from irstd.export.graph import count_flop
from irstd.runtime.datasets import open_dataset
from irstd.runtime.detector import Detector
from irstd.runtime.engine import load_engine
from irstd.runtime.evaluation import score_masks, score_points
from irstd.runtime.frame import FrameContract
from irstd.runtime.targets import Extraction
from irstd.train.checkpoint import load_into, read_weights
from irstd.train.commands import make_fabric
from irstd.train.data import read_split
from irstd.train.models.lrrnet_edge import Design, LRRNetEdge
from irstd.train.recipe import read_recipe
from irstd.train.session import Job, read_frames, train
from irstd.train.zoo import find_model

NOISE = 20.0
SIDE = 384  # of the network's input: half the work of the model's own 512
CONTRACT = FrameContract(height=SIDE, width=SIDE)

RECIPE = {
    "the recipe": [],
    "the recipe, another seed": ["seed=1"],
    "no zoom": ["augmentation.zoom=1"],
    "no gain": ["augmentation.gain=0"],
    "no noise, blur, defects": [
        "augmentation.noise=0", "augmentation.blur=0", "augmentation.defects=0",
        "augmentation.finer_levels=0",
    ],
    "no transplants": ["augmentation.transplants=0"],
    "no injected targets": ["augmentation.injected=0"],
    "no empty frames": ["augmentation.empty_share=0"],
    "no burnt-in symbols": ["augmentation.symbols=0"],
    "crops anywhere": ["target_share=0"],
    "SoftIoU of single crops": ["batch_share=0"],
    "clutter weighs 3": ["clutter_weight=3"],
    "no cross-entropy start": ["start_share=0"],
    "no cross-entropy that stays": ["cross_entropy=0"],
    "no reconstruction term": ["reconstruction_weight=0"],
    "no sparsity term": ["sparsity_weight=0"],
    "no average of weights": ["averaging=0"],
    "no augmentation": ["augmentation.share=0", "augmentation.empty_share=0"],
    "every crop augmented": ["augmentation.share=1"],
}  # fmt: skip
DESIGNS = {
    "lrrnet-edge": Design(),
    "without subtraction": Design(subtracts=False),
    "without context": Design(has_context=False),
    "half the channels": Design(widths=(8, 16, 32, 64)),
    "twice the depth at 1/16": Design(deepest=2),
    "wider at 1/2, narrower below": Design(widths=(24, 32, 64, 64)),
}


@click.command()
@click.argument("study", type=click.Choice(["recipe", "design"]))
@click.option("--data", required=True, multiple=True, type=click.Path(path_type=Path))
@click.option("--backgrounds", multiple=True, type=click.Path(path_type=Path))
@click.option("--sequence", "sequences", multiple=True, type=click.Path(path_type=Path))
@click.option("--set", "changes", multiple=True, help="Changes every variant's recipe.")
@click.option("--epochs", default=25)
@click.option("--threads", default=1)
@click.option("--only", multiple=True, help="Name of a variant; all by default.")
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(study, data, backgrounds, sequences, changes, epochs, threads, only, output):
    """Train the variants of a study and print its table."""
    torch.set_num_threads(threads)
    output.mkdir(parents=True, exist_ok=True)
    variants = RECIPE if study == "recipe" else DESIGNS
    rows = []
    for name in only or variants:
        result = output / f"{name.replace(' ', '-').replace('/', '-')}.json"
        if not result.is_file():
            job = make_job(study, variants[name], changes, epochs, data, backgrounds, result)
            result.write_text(json.dumps({"name": name, **measure(job, sequences, threads)}))
        rows.append(json.loads(result.read_text()))
        click.echo(f"{name}: {rows[-1]['minutes']:.1f} minutes", err=True)
    latencies = compare_latencies(rows, threads) if study == "design" else {}
    print(table(rows, latencies))


def make_job(study, variant, changes, epochs, data, backgrounds, result):
    model, own = replace(find_model("lrrnet-edge"), size=(SIDE, SIDE)), variant
    if study == "design":
        model, own = replace(model, build=partial(LRRNetEdge, variant)), []
    recipe = read_recipe(None, [f"epochs={epochs}", f"validate_every={epochs}", *changes, *own])
    weights = result.with_suffix(".safetensors")
    return Job(model, recipe, data, backgrounds, None, weights, workers=0)


def measure(job, sequences, threads):
    """Train a variant and say how good, how large and how fast it is."""
    begun = time.perf_counter()
    for _ in train(job, read_frames(job), make_fabric("cpu", job.recipe), resume=False):
        pass
    minutes = (time.perf_counter() - begun) / 60
    network = job.model.build().eval()
    load_into(network, read_weights(job.last).tensors, name=job.last.name)
    engine = engine_of(network, SIDE, threads)
    with Detector(engine, CONTRACT, Extraction(0.5)) as detector:
        scores = {
            root.resolve().name: score_set(detector, read_split(root, "val")) for root in job.data
        }
        for folder in sequences:
            *_, last = score_points(detector, open_dataset(folder))
            scores[folder.name] = {"pd": last.pd, "alarms": last.false_alarms_per_frame}
    return {
        "parameters": sum(one.numel() for one in network.parameters()),
        "gflop_512": count_flop(make_graph(network, (512, 512))) / 1e9,
        "minutes": minutes,
        "scores": scores,
    }


def score_set(detector, frames):
    """IoU, Pd and Fa, and the same with noise."""
    clean = score_masks(detector, frames)
    rng = np.random.default_rng(0)
    noisy = score_masks(detector, [replace(one, frame=add_noise(one.frame, rng)) for one in frames])
    return {
        "iou": clean.iou, "pd": clean.pd, "fa": clean.fa_per_mpix,
        "noisy_iou": noisy.iou, "noisy_fa": noisy.fa_per_mpix,
    }  # fmt: skip


def add_noise(frame, rng):
    noisy = frame + rng.normal(0.0, NOISE, frame.shape)
    return np.rint(noisy).clip(0, 255).astype(np.uint8)


def engine_of(network, side, threads):
    return load_engine(make_graph(network, (side, side)).SerializeToString(), threads=threads)


def compare_latencies(rows, threads):
    """Median milliseconds of each design at 512x512, their runs taken in turn."""
    networks = {row["name"]: LRRNetEdge(DESIGNS[row["name"]]).eval() for row in rows}
    engines = {name: engine_of(network, 512, threads) for name, network in networks.items()}
    frame = np.random.default_rng(0).random((1, 1, 512, 512), np.float32)
    times = {name: [] for name in engines}
    for turn in range(3 + 15):
        for name, engine in engines.items():
            start = time.perf_counter()
            engine.run(frame)
            if turn >= 3:  # before that, caches and threads warm up
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(taken) for name, taken in times.items()}


def table(rows, latencies):
    """One row a variant: cost where it varies, each set clean and noisy, then the sequences."""
    sets = [name for name, score in rows[0]["scores"].items() if "iou" in score]
    sequences = [name for name in rows[0]["scores"] if name not in sets]
    head = ["variant"]
    if latencies:
        head += ["GFLOP at 512²", "parameters", "ms at 512²"]
    for name in sets:
        head += [f"{name} IoU", "Pd", "Fa", "IoU, noisy"]
    if sequences:
        head += [f"{', '.join(sequences)}: Pd", "false alarms a frame"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [row["name"]]
        if latencies:
            cells += [f"{row['gflop_512']:.2f}", f"{row['parameters'] / 1e6:.2f} M"]
            cells.append(f"{latencies[row['name']]:.0f}")
        for score in (row["scores"][name] for name in sets):
            cells += [f"{score['iou']:.3f}", f"{score['pd']:.3f}", f"{score['fa']:.0f}"]
            cells.append(f"{score['noisy_iou']:.3f}")
        if sequences:
            followed = [row["scores"][name] for name in sequences]
            cells.append(", ".join(f"{score['pd']:.2f}" for score in followed))
            cells.append(", ".join(f"{score['alarms']:.1f}" for score in followed))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
