"""Model cards: what is known about shipped weights, measured, and the tables made of it.

python -m irstd.export.cards measure MODEL --data SIRST --data NUDT ...   writes the model's card
python -m irstd.export.cards tables                                       writes the README's table
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import click
import msgspec
import onnx
from torch import nn

from ..runtime.commands.shared import PlainCommand
from ..runtime.datasets import open_dataset
from ..runtime.detector import Detector
from ..runtime.engine import Engine, load_engine
from ..runtime.evaluation import (
    MaskEvaluation,
    Resolution,
    read_labelled,
    score_points,
)
from ..runtime.files import write_whole
from ..runtime.frame import ClipContract, FrameContract
from ..runtime.targets import Extraction
from ..runtime.timing import time_in_turn, warm_up
from ..train.checkpoint import Weights, load_into, read_weights
from ..train.zoo import MODELS, Model, find_model
from .bundling import make_graph
from .graph import count_flop
from .speed import name_machine
from .unroll import unroll

FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)
SIZES = (256, 512)
PAPERS_SIZE = (256, 256)  # at which most papers resize frames and masks and score
THRESHOLD = 0.5
LICENCE = (
    "Apache-2.0 for the weights; the data they were trained on are published for research: check "
    "the licences of those sets before you put the weights to another use"
)
BEGIN, END = "<!-- models: begin, made by `make models` -->", "<!-- models: end -->"
RUNS = 15


class Scored(msgspec.Struct, frozen=True):
    """Scores on one list of labelled frames.

    Attributes:
        dataset: folder and list.
        frames: how many.
        resolution: "native" scores the model at its own size in the sensor frame's pixels,
            "network" with everything resized to 256x256, as most papers do.
        iou: and the others: as in `irstd.runtime.scoring.Scores`.
        niou: likewise.
        pd: likewise.
        fa_per_mpix: likewise.
    """

    dataset: str
    frames: int
    resolution: str
    iou: float
    niou: float
    pd: float
    fa_per_mpix: float


class Followed(msgspec.Struct, frozen=True):
    """Scores on one sequence with centroids."""

    sequence: str
    frames: int
    pd: float
    false_alarms_per_frame: float


class Card(msgspec.Struct, frozen=True):
    """What is known about the weights of a model.

    Attributes:
        model: name in the zoo.
        sha256: of the weights' file.
        parameters: how many numbers a training may change.
        gflop: of the exported graph by side of the square input, a multiply-add counting as two.
        latency_ms: (median, least, most) of ONNX Runtime by side, on one thread.
        machine: what that was measured on.
        training: what the weights' file says about its training.
        command: what trains such weights.
        scores: on validation lists.
        sequences: on sequences that nothing was trained on.
        licence: of weights and data.
    """

    model: str
    sha256: str
    parameters: int
    gflop: dict[str, float]
    latency_ms: dict[str, tuple[float, float, float]]
    machine: str
    training: dict[str, str]
    command: str
    scores: list[Scored]
    sequences: list[Followed]
    licence: str = LICENCE


def card_path(model: Model) -> Path:
    """Where the card of a model's shipped weights lies."""
    return model.weights.with_suffix(".card.json")


def read_card(path: Path) -> Card:
    """Read a card.

    Raises:
        ValueError: the file is no card.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Card)
    except msgspec.DecodeError as err:
        raise ValueError(f"{path} is no model card: {err}; measure the model again") from err


def measure(model: Model, data: Sequence[Path], sequences: Sequence[Path], *, command: str) -> Card:
    """Measure the shipped weights of a model.

    Args:
        model: of the zoo, with weights.
        data: datasets with a list "val"; none for a network of clips.
        sequences: folders of frames with centroids.
        command: what trains such weights.
    """
    weights = read_weights(model.weights)
    network = model.build().eval()
    load_into(network, weights.tensors, name=model.weights.name)
    graphs = {side: _trace(network, (side, side), model.clip) for side in SIZES}
    scores: list[Scored] = []
    with _detector(network, model.size, model.clip) as own:
        followed = [_follow(own, root) for root in sequences]
        if data:
            with _detector(network, PAPERS_SIZE, model.clip) as papers:
                for root in data:
                    scores += [_score(own, root, "native"), _score(papers, root, "network")]
    return Card(
        model=model.name,
        sha256=hashlib.sha256(model.weights.read_bytes()).hexdigest(),
        parameters=sum(one.numel() for one in network.parameters()),
        gflop={str(side): round(count_flop(graph) / 1e9, 2) for side, graph in graphs.items()},
        latency_ms={str(side): _latency(graph) for side, graph in graphs.items()},
        machine=name_machine(threads=1),
        training=_said(weights),
        command=command,
        scores=scores,
        sequences=followed,
    )


def _engine(graph: onnx.ModelProto) -> Engine:
    return load_engine(graph.SerializeToString(), threads=1)


def _trace(network: nn.Module, size: tuple[int, int], clip: ClipContract | None) -> onnx.ModelProto:
    twin = unroll(network, iterations=None).eval()
    return make_graph(twin, size, frames=1 if clip is None else clip.length)


def _detector(network: nn.Module, size: tuple[int, int], clip: ClipContract | None) -> Detector:
    engine = _engine(_trace(network, size, clip))
    return Detector(engine, FrameContract(*size, clip=clip), Extraction(THRESHOLD))


def _score(detector: Detector, root: Path, resolution: Resolution) -> Scored:
    evaluation = MaskEvaluation(detector, resolution=resolution)
    for labelled in read_labelled(open_dataset(root, split="val")):
        evaluation.add(labelled)
    scores = evaluation.result()
    figures = {name: round(getattr(scores, name), 4) for name in ("iou", "niou", "pd")}
    fa = round(scores.fa_per_mpix, 1)
    name = f"{root.resolve().name} val"
    return Scored(name, scores.frames, resolution, **figures, fa_per_mpix=fa)


def _follow(detector: Detector, root: Path) -> Followed:
    *_, last = score_points(detector, open_dataset(root))
    alarms = round(last.false_alarms_per_frame, 2)
    return Followed(root.resolve().name, last.frames, round(last.pd, 4), alarms)


def _latency(graph: onnx.ModelProto) -> tuple[float, float, float]:
    """Median, least and most milliseconds of a run."""
    with closing(_engine(graph)) as engine:
        warm_up(engine)
        latency = time_in_turn({"engine": engine}, rounds=RUNS)["engine"]
    return round(latency.median, 1), round(latency.least, 1), round(latency.most, 1)


def _said(weights: Weights) -> dict[str, str]:
    """What a weights' file says of its training, without the scores, which are measured here."""
    # Sorted, as a file of weights gives them in any order, and a card shall change with its facts.
    notes = sorted(weights.notes.items())
    return {name: text for name, text in notes if not name.startswith("val.")}


def models_table(cards: Sequence[Card]) -> str:
    """The README's table: one row a model and validation list."""
    head = (
        "| model | parameters | GFLOP at 256², 512² | ms at 256², 512² | validation list | IoU "
        "| nIoU | Pd | Fa per Mpix | IoU at 256² |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    rows = [head]
    for card in cards:
        gflop = ", ".join(f"{card.gflop[str(side)]:.1f}" for side in SIZES)
        speed = ", ".join(f"{card.latency_ms[str(side)][0]:.0f}" for side in SIZES)
        first = f"| {card.model} | {card.parameters / 1e6:.2f} M | {gflop} | {speed} "
        if not card.scores:  # masks of single frames say nothing of a network of clips
            rows.append(f"{first}| clips: see train/RESULTS.md | | | | | |")
        at_network = {one.dataset: one.iou for one in card.scores if one.resolution == "network"}
        for one in (one for one in card.scores if one.resolution == "native"):
            rows.append(
                f"{first}| {one.dataset} ({one.frames} frames) | {one.iou:.3f} | {one.niou:.3f} "
                f"| {one.pd:.3f} | {one.fa_per_mpix:.0f} | {at_network[one.dataset]:.3f} |"
            )
            first = "| | | | "
    machines = sorted({card.machine for card in cards})
    return "\n".join([*rows, "", f"Milliseconds: medians on {'; '.join(machines)}."])


def put_between(text: str, table: str) -> str:
    """Replace what stands between the two marks of a README.

    Raises:
        ValueError: a mark is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the README lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


@click.group()
def main() -> None:
    """Measure shipped weights and write the tables made of it."""


@main.command("measure", cls=PlainCommand)
@click.argument("name")
@click.option("--data", multiple=True, type=FOLDER, help="Dataset with val.txt.")
@click.option("--sequence", "sequences", multiple=True, type=FOLDER, help="With centroids.csv.")
@click.option("--command", required=True, help="What trains such weights, for the card.")
def measure_command(
    name: str, data: tuple[Path, ...], sequences: tuple[Path, ...], command: str
) -> None:
    """Measure the shipped weights of NAME and write their card beside them."""
    model = find_model(name)
    card = measure(model, data, sequences, command=command)
    path = card_path(model)
    write_whole(path, msgspec.json.format(msgspec.json.encode(card), indent=1))
    click.echo(models_table([card]))


@main.command("tables", cls=PlainCommand)
@click.option(
    "--readme", default="README.md", type=click.Path(path_type=Path, dir_okay=False, exists=True)
)
def tables_command(readme: Path) -> None:
    """Write the table of all models with a card into the README."""
    paths = [card_path(model) for model in MODELS.values()]
    cards = [read_card(path) for path in paths if path.is_file()]
    text = put_between(readme.read_text(encoding="utf-8"), models_table(cards))
    write_whole(readme, text.encode())
    click.echo(f"{readme}: {', '.join(card.model for card in cards)}")


if __name__ == "__main__":
    main()
