"""Which way to choose ranges keeps targets: INT8 by every method against FP32, as a table.

python tests/calibration_study.py MODEL --data SIRST --data NUDT-SIRST [--frames DIR]

All methods see the same calibration frames, by default the synthetic ones that irstd-export takes,
and put the same convolutions into INT8: first all of them, then those that hold 97 % of the
arithmetic and cost least accuracy (--share asks for others). Weights of irstd-train --qat add a
row: "trained", with the ranges and convolutions of the training. A row "uncorrected" is
the default method without bias correction. Scores are of the val lists at
native resolution, computed as the graph says (ONNX Runtime, no optimisation).
"""

from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from irstd.calibration.bias import find_shifts, take_back
from irstd.calibration.frames import read_calibration, synthetic_calibration
from irstd.calibration.quantize import list_candidates, to_int8
from irstd.calibration.ranges import METHODS, estimate, observe
from irstd.calibration.sensitivity import choose_layers, measure_damage
from irstd.export.bundling import make_graph
from irstd.export.graph import count_layer_flop
from irstd.export.lowering import TRAINED, carry_ranges
from irstd.runtime.datasets import open_dataset
from irstd.runtime.detector import Detector
from irstd.runtime.engine import usable_threads
from irstd.runtime.engine_onnxruntime import OnnxRuntimeEngine
from irstd.runtime.evaluation import read_labelled, score_masks
from irstd.runtime.frame import FrameContract, prepare
from irstd.runtime.targets import Extraction
from irstd.train.checkpoint import load_into, read_weights
from irstd.train.zoo import find_model, read_size

FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)
DAMAGE_FRAMES = 4


@click.command()
@click.argument("model_name", metavar="MODEL")
@click.option("--data", multiple=True, required=True, type=FOLDER)
@click.option("--weights", type=click.Path(path_type=Path))
@click.option("--size", help="HxW; the model's own by default.")
@click.option("--frames", type=FOLDER, help="To calibrate on; synthetic ones by default.")
@click.option("--share", "shares", multiple=True, type=float, default=(1.0, 0.97))
@click.option("--method", "methods", multiple=True, type=click.Choice(METHODS), default=METHODS)
def main(model_name, data, weights, size, frames, shares, methods):
    """Print the calibration table of a model."""
    model = find_model(model_name)
    read = read_weights(weights or model.weights)
    network = model.build().eval()
    load_into(network, read.tensors, name=str(weights or model.weights))
    height, width = read_size(size) if size else model.size
    contract = FrameContract(height, width)
    if read.notes.get("normalisation") != "stretch":
        contract = replace(contract, normalisation="full-scale")
    graph = make_graph(network, (height, width))
    val = {
        root.resolve().name: list(read_labelled(open_dataset(root, split="val"))) for root in data
    }
    chosen = read_calibration(frames, contract) if frames else synthetic_calibration(contract)
    pairs = [(prepare(one.frame, contract), prepare(one.empty, contract)) for one in chosen.frames]
    names = [node.name for node in list_candidates(graph)]
    tensors = list(dict.fromkeys(node.input[0] for node in list_candidates(graph)))
    observed = observe(graph, tensors, pairs)
    seen = [with_targets for with_targets, _ in pairs]
    flop = count_layer_flop(graph)
    cost = {name: flop[name] for name in names}
    damage = dict.fromkeys(names, 0.0)
    if min(shares) < 1.0:  # to lower all, no layer has to be chosen
        widest = estimate(observed, "minmax")
        damage = measure_damage(
            graph,
            lambda layers: to_int8(graph, widest, layers),
            names,
            seen[:DAMAGE_FRAMES],
            say=lambda line: click.echo(line, err=True),
        )
    print(f"{model_name} at {height}x{width}, {len(pairs)} frames of {chosen.source}\n")
    columns = "".join(f" {name} IoU | nIoU | Pd | Fa |" for name in val)
    print(f"| ranges | INT8 share |{columns}\n|---|---|{'---|' * (4 * len(val))}")
    print(row("FP32", 0.0, graph, val, contract), flush=True)
    total = sum(flop.values())
    if carried := carry_ranges(list_candidates(graph), read.ranges):
        rounded = [node for node in list_candidates(graph) if node.name in carried]
        ranges = {node.input[0]: carried[node.name] for node in rounded}
        share = sum(flop[name] for name in carried) / total
        print(row(TRAINED, share, to_int8(graph, ranges, carried), val, contract), flush=True)
    for wanted in shares:
        layers = choose_layers(damage, cost, share=wanted)
        share = sum(flop[name] for name in layers) / total
        for method in methods:
            ranges = estimate(observed, method)
            rounded = to_int8(graph, ranges, layers)
            corrected = take_back(rounded, find_shifts(graph, ranges, layers, seen))
            if method == METHODS[0]:
                print(row(f"{method}, uncorrected", share, rounded, val, contract), flush=True)
            print(row(method, share, corrected, val, contract), flush=True)


def row(title, share, graph, val, contract):
    engine = OnnxRuntimeEngine(
        graph.SerializeToString(), threads=usable_threads(), is_optimised=False
    )
    figures = []
    with Detector(engine, contract, Extraction(threshold=0.5)) as detector:
        for frames in val.values():
            scores = score_masks(detector, frames)
            figures += [f"{scores.iou:.4f}", f"{scores.niou:.4f}", f"{scores.pd:.4f}"]
            figures.append(f"{scores.fa_per_mpix:.1f}")
    return f"| {title} | {share:.1%} | {' | '.join(figures)} |"


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
