"""Speed, measured: medians and spread of every figure that the README states, in one run.

python tests/bench.py [--quick] [PART ...]; the parts are those at the end, all by default. torch
and skimage stand for the way the papers' scripts go.
"""

import functools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from skimage.measure import label, regionprops

from irstd.calibration.quantize import list_layers, to_int8
from irstd.calibration.ranges import estimate, observe
from irstd.export.bundling import make_graph
from irstd.export.precision import to_fp16
from irstd.runtime.detector import Detector
from irstd.runtime.engine import EngineName, load_engine, usable_threads
from irstd.runtime.frame import FrameContract, fit_geometry, prepare
from irstd.runtime.scene import Scene, SceneOptions
from irstd.runtime.targets import Extraction, extract
from irstd.train.checkpoint import load_into, read_weights
from irstd.train.zoo import find_model

ROUNDS = 3 if "--quick" in sys.argv else 9
CALLS = 20
CONTRACT = FrameContract(height=512, width=512, bit_depth=14)


def milliseconds(call, *, calls=CALLS):
    """Median of one round."""
    call()
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def compare(title, contestants, *, calls=CALLS):
    """Alternate the contestants over the rounds, so that a busy machine is busy for all."""
    rounds = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, call in contestants.items():
            rounds[name].append(milliseconds(call, calls=calls))
    print(f"\n{title}")
    first = next(iter(contestants))
    for name, times in rounds.items():
        ratio = statistics.median(t / o for t, o in zip(times, rounds[first], strict=True))
        print(
            f"  {name:<44}{statistics.median(times):>9.2f} ms  "
            f"({min(times):.2f} to {max(times):.2f})  {ratio:.2f} times the first"
        )


def confidence_with(count, rng):
    values = np.zeros((512, 512), np.float32)
    for row, column in rng.integers(2, 509, (count, 2)):
        values[row - 1 : row + 2, column - 1 : column + 2] = rng.random((3, 3)) * 0.5 + 0.5
    return values


def by_skimage(values):
    regions = regionprops(label(values > 0.5, connectivity=2), intensity_image=values)
    return [(region.centroid_weighted, region.area, region.intensity_max) for region in regions]


def bench_frame_and_targets():
    rng = np.random.default_rng(0)
    frame = Scene(SceneOptions(height=512, width=640), seed=1).frame(0).frame
    geometry = fit_geometry(frame.shape, CONTRACT)
    for count in (3, 500):
        values = confidence_with(count, rng)

        def ours(values=values):
            prepare(frame, CONTRACT)
            extract(values, geometry, Extraction())

        compare(
            f"640x512 uint16 into 512x512, {count} targets, one thread",
            {
                "prepare + extract": ours,
                "  prepare alone": lambda: prepare(frame, CONTRACT),
                "  extract alone": lambda v=values: extract(v, geometry, Extraction()),
                "  skimage label + regionprops in its place": lambda v=values: by_skimage(v),
            },
        )


def bench_engines(threads):
    """The whole detector, from sensor frame to targets, in every engine; first the papers' way."""
    torch.set_num_threads(threads)
    frame = Scene(SceneOptions(height=512, width=640), seed=1).frame(0).frame
    for name in ("lrrnet-edge", "lrrnet"):
        network = shipped(name)

        @torch.inference_mode()
        def eager(network=network):
            prepared = torch.from_numpy(prepare(frame, CONTRACT))
            by_skimage(network(prepared)[1].sigmoid()[0, 0].numpy())

        contestants = {"eager torch, skimage": eager}
        graphs = in_precisions(network, 512)
        for engine in get_args(EngineName):
            for precision in ("FP32", "INT8"):
                loaded = load_engine(graphs[precision], threads=threads, name=engine)
                detector = Detector(loaded, CONTRACT, Extraction())
                contestants[f"Detector, {engine}, {precision}"] = functools.partial(detector, frame)
        compare(f"whole detector, {name} at 512x512, threads: {threads}", contestants, calls=3)


def shipped(name):
    model = find_model(name)
    network = model.build().eval()
    load_into(network, read_weights(model.weights).tensors, name="shipped")
    return network


def bench_networks(threads):
    networks = {name: shipped(name) for name in ("lrrnet", "lrrnet-edge")}
    torch.set_num_threads(threads)
    frame = np.random.default_rng(0).random((1, 1, 512, 512), np.float32)

    @torch.inference_mode()
    def eager():
        networks["lrrnet"](torch.from_numpy(frame))

    contestants = {"LRRNet, eager torch": eager}
    for name, network in networks.items():
        engine = load_engine(optimised(network), threads=threads)
        contestants[f"{name}, ONNX Runtime"] = lambda engine=engine: engine.run(frame)
    compare(f"networks alone at 512x512, threads: {threads}", contestants, calls=3)


def optimised(network):
    return make_graph(network, (512, 512)).SerializeToString()


def in_precisions(network, side):
    """A network's graph in each precision; ranges do not matter for the time."""
    graph = make_graph(network, (side, side))
    frame = np.random.default_rng(0).random((1, 1, side, side), np.float32)
    layers = list_layers(graph)
    observed = observe(graph, [node.input[0] for node in layers], [(frame, frame)])
    lowered = to_int8(graph, estimate(observed, "minmax"), [node.name for node in layers])
    graphs = {"FP32": graph, "FP16": to_fp16(graph), "INT8": lowered}
    return {precision: graph.SerializeToString() for precision, graph in graphs.items()}


def bench_precisions(threads):
    """FP32, FP16 and INT8 of each network alone."""
    frame = np.random.default_rng(0).random((1, 1, 256, 256), np.float32)
    for name in ("lrrnet-edge", "lrrnet"):
        contestants = {}
        for precision, model in in_precisions(shipped(name), 256).items():
            for engine in get_args(EngineName):
                loaded = load_engine(model, threads=threads, name=engine)
                contestants[f"{precision}, {engine}"] = functools.partial(loaded.run, frame)
        compare(f"{name} at 256x256, threads: {threads}", contestants, calls=5)


def bench_start():
    def run(*command):
        return lambda: subprocess.run(command, check=True, capture_output=True, cwd=folder)

    with tempfile.TemporaryDirectory() as folder:
        detect = Path(sys.executable).with_name("irstd-detect")
        compare(
            "start of a process",
            {
                "python -c pass": run(sys.executable, "-c", "pass"),
                "import irstd.runtime": run(sys.executable, "-c", "import irstd.runtime"),
                "irstd-detect --help": run(str(detect), "--help"),
            },
            calls=3,
        )


def on_one_and_four(part):
    for threads in sorted({1, min(4, usable_threads())}):
        part(threads)


PARTS = {
    "frame": bench_frame_and_targets,
    "start": bench_start,
    "networks": lambda: on_one_and_four(bench_networks),
    "engines": lambda: on_one_and_four(bench_engines),
    "precisions": lambda: on_one_and_four(bench_precisions),
}

if __name__ == "__main__":
    asked = [word for word in sys.argv[1:] if word != "--quick"]
    for name in asked or PARTS:
        PARTS[name]()
