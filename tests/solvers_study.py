"""Study of the solvers: exact against unrolled, on the val lists of labelled datasets.

python tests/solvers_study.py --data SIRST --data NUDT --only ipi --every 5 --output FOLDER

Scores are those of irstd-evaluate at native resolution. "same" is the IoU between the masks of the
exact solver (decompositions and transforms, run to rest) and of its unrolled graph in ONNX Runtime.
--graph-only leaves the exact solver out. A second table has the graph's scores where the target
image is cut at other numbers of standard deviations. Every finished row is kept in FOLDER and not
measured again.
"""

import json
import math
import time
from pathlib import Path

import click
import numpy as np
import torch

from irstd.export.bundling import make_graph
from irstd.export.graph import count_flop
from irstd.export.unroll import unroll
from irstd.runtime.datasets import open_dataset
from irstd.runtime.detector import Detector
from irstd.runtime.engine import load_engine
from irstd.runtime.evaluation import read_labelled
from irstd.runtime.frame import FrameContract
from irstd.runtime.scoring import Scorer
from irstd.runtime.targets import Extraction
from irstd.train.solvers.ipi_truncated import IpiTruncated
from irstd.train.zoo import MODELS, Model

# Measured, and not offered.
TRUNCATED = Model(
    name="ipi-truncated",
    build=IpiTruncated,
    stride=1,
    size=(256, 256),
    source="IPI's patch image split by GoDec (ICML 2011)",
    is_trained=False,
)
SOLVERS = {name: model for name, model in MODELS.items() if not model.is_trained}
SOLVERS[TRUNCATED.name] = TRUNCATED

HEAD = (
    "| model | GFLOP | list | frames | exact: IoU, Pd, Fa per Mpix | unrolled: IoU, Pd, Fa "
    "| same | CPU s a frame, exact | CPU s a frame, graph |\n|---|---|---|---|---|---|---|---|---|"
)


CUTS = (3, 5, 7, 10, 15)  # standard deviations above the mean of the target image


class TorchEngine:
    """Runs a model of the zoo as it stands, exact, in torch."""

    description = "torch"

    def __init__(self, network, size):
        self.network, self.input_shape = network, (1, 1, *size)

    @torch.inference_mode()
    def run(self, prepared):
        _, logits = self.network(torch.from_numpy(prepared))
        return logits.sigmoid()[0, 0].float().numpy()

    def close(self):
        pass


class Timed:
    """Keeps the processor seconds of an engine, which other jobs do not lengthen."""

    def __init__(self, engine):
        self.engine, self.input_shape, self.seconds = engine, engine.input_shape, []
        self.description = engine.description

    def run(self, prepared):
        begun = time.process_time()
        confidence = self.engine.run(prepared)
        self.seconds.append(time.process_time() - begun)
        return confidence

    def close(self):
        self.engine.close()


class Measured:
    """A detector, its scores and its time."""

    def __init__(self, engine, size):
        self.engine = Timed(engine)
        self.detector = Detector(self.engine, FrameContract(*size), Extraction())
        self.scorer = Scorer()
        self.cuts = {cut: Scorer() for cut in CUTS}

    def add(self, labelled, *, sigmas):
        confidence = self.detector.confidence(labelled.frame).on_sensor()
        mask = confidence > self.detector.extraction.threshold
        self.scorer.add(mask, labelled.mask)
        for cut, scorer in self.cuts.items():
            scorer.add(confidence > 1.0 / (1.0 + math.exp(sigmas - cut)), labelled.mask)
        return mask

    def row(self):
        cuts = {cut: figures(scorer) for cut, scorer in self.cuts.items()}
        seconds = float(np.median(self.engine.seconds)) if self.engine.seconds else math.nan
        return figures(self.scorer) | {"seconds": seconds, "cuts": cuts}


def figures(scorer):
    """What the tables have of scores."""
    scores = scorer.result()
    return {name: getattr(scores, name) for name in ("iou", "pd", "fa_per_mpix", "frames")}


def study(model, root, *, every, threads, graph_only):
    """A row of the table."""
    torch.set_num_threads(threads)
    exact = model.build().eval()
    graph = make_graph(unroll(exact, iterations=None).eval(), model.size)
    unrolled = Measured(load_engine(graph.SerializeToString(), threads=threads), model.size)
    reference = Measured(TorchEngine(exact, model.size), model.size)
    both = either = 0
    for number, labelled in enumerate(read_labelled(open_dataset(root, split="val"))):
        if number % every:
            continue
        ours = unrolled.add(labelled, sigmas=exact.sigmas)
        theirs = ours if graph_only else reference.add(labelled, sigmas=exact.sigmas)
        both += int((ours & theirs).sum())
        either += int((ours | theirs).sum())
    return {
        "model": model.name,
        "list": f"{root.name} val, every {every}" if every > 1 else f"{root.name} val",
        "gflop": count_flop(graph) / 1e9,
        "exact": reference.row(),
        "unrolled": unrolled.row(),
        "same": math.nan if graph_only else both / either if either else 1.0,
    }


def line(row):
    """A row in Markdown."""
    cells = [tell(row[name]) for name in ("exact", "unrolled")]
    return (
        f"| {row['model']} | {row['gflop']:.1f} | {row['list']} | {row['unrolled']['frames']} "
        f"| {cells[0]} | {cells[1]} | {row['same']:.4f} | {row['exact']['seconds']:.2f} "
        f"| {row['unrolled']['seconds']:.2f} |"
    )


def tell(scores):
    """IoU, Pd and Fa of a cell."""
    return "{iou:.3f}, {pd:.3f}, {fa_per_mpix:.0f}".format(**scores)


def cut_line(row):
    """A row of the second table."""
    cells = [tell(scores) for scores in row["unrolled"]["cuts"].values()]
    return f"| {row['model']} | {row['list']} | " + " | ".join(cells) + " |"


@click.command()
@click.option("--data", required=True, multiple=True, type=click.Path(path_type=Path))
@click.option("--only", multiple=True, help="Models; all solvers by default.")
@click.option("--every", default=1, help="Take every n-th frame of a list.")
@click.option("--threads", default=1)
@click.option("--graph-only", is_flag=True)
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(data, only, every, threads, graph_only, output):
    """Measure and print the table."""
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in only or SOLVERS:
        for root in data:
            path = output / f"{name}-{root.name}-{every}.json"
            if not path.is_file():
                row = study(
                    SOLVERS[name], root, every=every, threads=threads, graph_only=graph_only
                )
                path.write_text(json.dumps(row))
            rows.append(json.loads(path.read_text()))
            click.echo(line(rows[-1]), err=True)
    click.echo("\n".join([HEAD, *map(line, rows)]))
    head = f"\n| model | list | {' | '.join(f'{cut} deviations' for cut in CUTS)} |\n"
    click.echo("\n".join([head + "|---|---|" + "---|" * len(CUTS), *map(cut_line, rows)]))


if __name__ == "__main__":
    main()
