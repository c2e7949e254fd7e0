"""`irstd-export`: a model of the zoo becomes a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import click
import numpy as np

from ..calibration.frames import CalibrationSet, read_calibration, synthetic_calibration
from ..calibration.gate import Limits
from ..calibration.ranges import METHODS, Method
from ..runtime.bundle import Accuracy, Manifest
from ..runtime.commands.shared import PlainCommand
from ..runtime.datasets import has_split, open_dataset
from ..runtime.evaluation import SYNTHETIC_NAME, LabelledFrame, read_labelled, synthetic_frames
from ..runtime.frame import Fit, FrameContract, Normalisation
from ..runtime.plans import BUILD, TITLES, probe_machine
from ..train.checkpoint import Weights, read_weights
from ..train.zoo import Model, find_model, read_size
from .accuracy import Judge, LabelledSet
from .bundling import Order, export_bundle
from .lowering import Lowering
from .plan import PlanOptions
from .plan_order import AHEAD, PlanOrder, Target, order_target, read_capabilities

# Nothing was trained: solvers expect what fills 0..1.
SOLVER_NOTES = {"normalisation": "stretch"}
LIMIT = click.FloatRange(min=0.0)


@click.command(cls=PlainCommand, context_settings={"show_default": True})
@click.option("--model", "model_name", required=True, help="Model of the zoo, e.g. lrrnet.")
@click.option("--int8", is_flag=True, help="INT8 convolutions; refused if targets are lost.")
@click.option("--fp16", is_flag=True, help="FP16 arithmetic; refused if targets are lost.")
@click.option("--size", metavar="HxW", help="Network input; the model's own by default.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Other weights than the shipped: .safetensors, or .pkl/.pth with nothing but tensors.",
)
@click.option(
    "--labelled",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Dataset to measure on: its val list, or all of it where there is none. May be given "
    "several times: limits then hold on each. By default a synthetic set.",
)
@click.option(
    "--frames",
    type=click.Path(path_type=Path),
    help="Frames of the camera, or a dataset, that --int8 and --fp16 take ranges from. "
    "By default synthetic ones.",
)
@click.option(
    "--calibration",
    type=click.Choice(METHODS),
    help=f"How INT8 ranges follow from what is seen; {METHODS[0]} by default, for which "
    "calibration/RESULTS.md gives the reasons. Weights of irstd-train --qat bring their own ranges "
    "and layers, unless a method is named.",
)
@click.option(
    "--max-drop-pd",
    type=LIMIT,
    help=f"Points of Pd that --int8 and --fp16 may cost; {100 * Limits().drop_pd:g} by default.",
)
@click.option(
    "--max-drop-iou",
    type=LIMIT,
    help=f"Points of IoU likewise; {100 * Limits().drop_iou:g} by default.",
)
@click.option(
    "--max-rise-fa",
    type=LIMIT,
    help=f"Percent that Fa may rise likewise; {100 * Limits().rise_fa:g} by default.",
)
@click.option("--bit-depth", default=8, help="Bits of the sensor, 8 to 16.")
@click.option(
    "--fit",
    type=click.Choice(["resize", "pad"]),
    default="resize",
    help="How frames of another size reach the network: interpolated, or at their own "
    "resolution with the border mirrored.",
)
@click.option(
    "--normalisation",
    type=click.Choice(["stretch", "full-scale"]),
    help="As the weights were trained; asked of foreign weights only, where it is full-scale.",
)
@click.option("--iterations", type=int, help="Of a solver such as ipi; its own by default.")
@click.option("--threshold", default=0.5, help="Confidence of a target, kept in the manifest.")
@click.option(
    "--target",
    type=click.Choice(get_args(Target)),
    default="auto",
    help="Plan to add: for the GPU of this machine; with tensorrt-rtx, which needs none, ahead of "
    "time; none with onnx. What is installed decides in auto.",
)
@click.option(
    "--compute-capability",
    metavar="LIST",
    help="For tensorrt-rtx, GPUs to build for, e.g. 8.6,8.9; the GPU of this machine by default, "
    f"without one {','.join(AHEAD)}.",
)
@click.option(
    "--output", type=click.Path(path_type=Path), help="The bundle; MODEL-PRECISION by default."
)
def export_command(
    model_name: str,
    int8: bool,
    fp16: bool,
    size: str | None,
    weights: Path | None,
    labelled: tuple[Path, ...],
    frames: Path | None,
    calibration: Method | None,
    max_drop_pd: float | None,
    max_drop_iou: float | None,
    max_rise_fa: float | None,
    bit_depth: int,
    fit: Fit,
    normalisation: Normalisation | None,
    iterations: int | None,
    threshold: float,
    target: Target,
    compute_capability: str | None,
    output: Path | None,
) -> None:
    """Make a bundle: trace, check against torch, measure, write. It is whole or absent."""
    model = find_model(model_name)
    if int8 and fp16:
        raise click.UsageError("--int8 and --fp16 are two bundles; make one after the other")
    if frames is not None and not (int8 or fp16):
        raise click.UsageError("--frames are for --int8 and --fp16; --labelled measures FP32")
    if calibration is not None and not int8:
        raise click.UsageError("--calibration is for --int8; FP16 clips nothing")
    asked = {"drop_pd": max_drop_pd, "drop_iou": max_drop_iou, "rise_fa": max_rise_fa}
    limits = _limits(asked, is_lower=int8 or fp16)
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"threshold is {threshold}, expected between 0 and 1")
    plan = _plan(target, compute_capability)
    _check_solver(model, is_int8=int8, weights=weights)
    weights_file = _shipped(model) if weights is None else weights
    read = Weights({}, SOLVER_NOTES) if weights_file is None else read_weights(weights_file)
    contract = FrameContract(
        *_size(size, model, fit), bit_depth=bit_depth, fit=fit, clip=model.clip, answer=model.answer
    )
    contract = replace(contract, normalisation=normalisation or _trained_with(read))
    measured = _labelled(labelled, contract)
    lowering = None
    if int8 or fp16:
        lowering = Lowering(
            precision="int8" if int8 else "fp16",
            frames=_calibration_set(frames, contract),
            contract=contract,
            method=calibration or METHODS[0],
            limits=limits,
            trained=read.ranges if int8 and calibration is None else {},
        )
    order = Order(
        model=model,
        weights=read,
        weights_file=weights_file,
        contract=contract,
        lowering=lowering,
        judge=Judge(measured, threshold),
        plan=plan,
        iterations=iterations,
    )
    folder = output or Path(f"{model.name}-{order.precision}")
    manifest = export_bundle(order, folder, say=lambda line: click.echo(line, err=True))
    click.echo(_closing(manifest, folder))


def _limits(asked: Mapping[str, float | None], *, is_lower: bool) -> Limits:
    """Limits out of points and percent; None stands for the default."""
    named = {
        name: hundredths / 100.0 for name, hundredths in asked.items() if hundredths is not None
    }
    if named and not is_lower:
        options = ", ".join(f"--max-{name.replace('_', '-')}" for name in named)
        raise click.UsageError(
            f"{options} limits what --int8 and --fp16 may lose; FP32 is what they are measured by, "
            "so leave it out or name a precision"
        )
    return replace(Limits(), **named)


def _plan(target: Target, capabilities: str | None) -> PlanOrder | None:
    """What plan to add; it is decided before anything that takes long."""
    if target in ("onnx", "tensorrt") and capabilities is not None:
        raise click.UsageError("--compute-capability is for --target tensorrt-rtx")
    if target == "onnx":
        return None
    options = PlanOptions(compute_capabilities=read_capabilities(capabilities))
    return order_target(target, probe_machine(), options)


def _size(text: str | None, model: Model, fit: Fit) -> tuple[int, int]:
    """Read HxW and bring it to the model's stride, which only padding does without asking."""
    if text is None:
        return model.size
    asked = read_size(text)
    height, width = (-(-side // model.stride) * model.stride for side in asked)
    if (height, width) != asked and fit == "resize":
        raise ValueError(
            f"size is {text}, {model.name} needs multiples of {model.stride}; "
            f"use --size {height}x{width}, or --fit pad to mirror the border up to there"
        )
    return height, width


def _check_solver(model: Model, *, is_int8: bool, weights: Path | None) -> None:
    """Refuse what a model without parameters cannot take."""
    if model.is_trained:
        return
    if weights is not None:
        raise ValueError(f"{model.name} has no parameters to load; leave --weights out")
    if is_int8:
        raise ValueError(
            f"{model.name} has no weights: INT8 is for products with constant weights, while a "
            "solver multiplies what it computed itself, in more digits than 8 bits hold; "
            "export it in fp32 or with --fp16"
        )


def _shipped(model: Model) -> Path | None:
    """The weights that come with the SDK; None for a model that has none."""
    if not model.is_trained:
        return None
    if not model.weights.is_file():
        raise FileNotFoundError(
            f"no weights of {model.name} come with the SDK; pass --weights FILE, or train some: "
            f"irstd-train --model {model.name} --data DATASET --output FILE"
        )
    return model.weights


def _trained_with(weights: Weights) -> Normalisation:
    """The normalisation noted in the weights; published weights were trained on full scale."""
    return "stretch" if weights.notes.get("normalisation") == "stretch" else "full-scale"


def _labelled(roots: Sequence[Path], contract: FrameContract) -> tuple[LabelledSet, ...]:
    if not roots:
        frames = synthetic_frames(
            contract.bit_depth, height=contract.height, width=contract.width, clip=contract.clip
        )
        return (LabelledSet(SYNTHETIC_NAME, list(frames), contract),)
    sets = tuple(_read_set(root, contract) for root in roots)
    names = [one.name for one in sets]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"two labelled sets are called {twice[0]!r}, so the report could not tell them apart; "
            "rename a folder, or leave it out if it is the same"
        )
    return sets


def _read_set(root: Path, contract: FrameContract) -> LabelledSet:
    dataset = open_dataset(root, split="val" if has_split(root, "val") else None)
    frames = list(read_labelled(dataset, clip=contract.clip))
    name = f"{root.resolve().name}, {dataset.split}"
    return LabelledSet(name, frames, _as_recorded(contract, frames))


def _calibration_set(root: Path | None, contract: FrameContract) -> CalibrationSet:
    return synthetic_calibration(contract) if root is None else read_calibration(root, contract)


def _as_recorded(contract: FrameContract, frames: list[LabelledFrame]) -> FrameContract:
    """The contract at 8 bits where the labelled frames have 8 bits, which their type declares."""
    if all(labelled.frame.dtype == np.uint8 for labelled in frames):
        return replace(contract, bit_depth=8)
    return contract


def _closing(manifest: Manifest, folder: Path) -> str:
    size = sum(record.bytes for record in manifest.files.values()) / 2**20
    # As the graph is written, which TensorRT comes closer to than ONNX Runtime.
    lowest = [one for one in manifest.accuracy if one.precision == manifest.precision]
    scores = "\n  ".join(_scores(one) for one in lowest if one.engine == lowest[0].engine)
    frame = manifest.frame
    return f"""
{folder}: {manifest.model}, {manifest.precision}, {frame.height}x{frame.width}, \
{frame.bit_depth}-bit frames, {size:.1f} MiB
  exact to {manifest.parity.max_difference:.1e} in confidence against torch \
({manifest.parity.frames} frames)
  {scores}
  a CPU runs {manifest.cpu.precision}: {manifest.cpu.reason}
  {_plans(manifest)}
next:
  irstd-detect {folder} FRAMES overlay:seen
  irstd-evaluate {folder} DATASET --split val
  irstd-profile {folder}"""


def _scores(accuracy: Accuracy) -> str:
    figures = [
        f"{name} {value:.3f}"
        for name, value in (("IoU", accuracy.iou), ("Pd", accuracy.pd))
        if value is not None
    ]
    alarms = f"Fa {accuracy.fa_per_mpix:.1f} per Mpix"
    return f"{', '.join([*figures, alarms])} on {accuracy.dataset} ({accuracy.frames} frames)"


def _plans(manifest: Manifest) -> str:
    if not manifest.plans:
        return f"no TensorRT plan; on the device: {BUILD}"
    ((name, plan),) = manifest.plans.items()
    where = plan.gpu or f"compute capability {', '.join(plan.compute_capabilities)}"
    return f"{name}: {TITLES[plan.library]} {plan.version}, {where}"
