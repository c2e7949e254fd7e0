"""The configuration of a training: one typed object, read from a file, changed by overrides."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, cast

import msgspec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Arithmetic: TypeAlias = Literal["fp32", "bf16"]
Table: TypeAlias = dict[str, object]


def _check_share(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is {value}, expected 0 to 1")


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is done to a crop; 0 turns a part off, and 1 the zoom.

    Attributes:
        share: part of the crops that is changed at all; the others are only cut and turned, so that
            the network also sees the frames as they are.
        zoom: crops are enlarged by 1/zoom to zoom against what the network sees in flight (random
            rescale of ACM, WACV 2021).
        sharper_sensors: probability that a crop is fitted by less than its frame would be, down to
            not at all: targets of one or two pixels, as sensors of the network's own size see them.
        mosaic: probability that a crop is four, each at half its size (YOLOv4, arXiv 2004.10934):
            where crops are whole frames, that is how they meet targets of one or two pixels.
        gain: largest part of the contrast that is lost, 0..1.
        transplants: targets of other frames added to a crop, on average (Simple Copy-Paste,
            CVPR 2021).
        injected: synthetic point-spread targets added to a crop, on average.
        lowest_scr: least signal-to-clutter ratio of transplanted and injected targets.
        symbols: probability that a crop gets burnt-in text or a reticle.
        blur: largest standard deviation of a blur in pixels, at most 2.
        noise: largest standard deviation of white noise in grey levels of 255.
        defects: largest share of dead and hot pixels.
        finer_levels: probability that the steps between 8-bit levels are filled.
        empty_share: part of the crops that comes from target-free frames, where some are given.
    """

    share: float = 0.5
    zoom: float = 1.4
    sharper_sensors: float = 0.5
    mosaic: float = 0.0
    gain: float = 0.3
    transplants: float = 0.7
    injected: float = 1.0
    lowest_scr: float = 3.0
    symbols: float = 0.2
    blur: float = 0.8
    noise: float = 25.0
    defects: float = 0.0005
    finer_levels: float = 0.5
    empty_share: float = 0.1

    def __post_init__(self) -> None:
        if not 1.0 <= self.zoom <= 4.0:
            raise ValueError(f"augmentation.zoom is {self.zoom}, expected 1 to 4")
        if not 0.0 < self.lowest_scr <= 12.0:
            raise ValueError(f"augmentation.lowest_scr is {self.lowest_scr}, expected up to 12")
        for name in (
            "share",
            "sharper_sensors",
            "mosaic",
            "gain",
            "symbols",
            "defects",
            "finer_levels",
            "empty_share",
        ):
            _check_share(f"augmentation.{name}", getattr(self, name))
        limits = {"transplants": 20.0, "injected": 20.0, "blur": 2.0, "noise": 255.0}
        for name, most in limits.items():
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(
                    f"augmentation.{name} is {getattr(self, name)}, expected 0 to {most:g}"
                )


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the outcome of a training, beside the data.

    Attributes:
        epochs: passes over as many crops as there are training frames.
        batch: crops a step, over all processes.
        crop: side of the square crops, pixels.
        target_share: probability that a crop must hold a target.
        learning_rate: peak of the one-cycle schedule (Smith and Topin, 2018).
        weight_decay: of AdamW (Loshchilov and Hutter, ICLR 2019), on convolution weights only.
        batch_share: weight of the SoftIoU of the whole batch; the rest is that of single crops.
        clutter_weight: what a false pixel apart from targets counts in it against one beside a
            target.
        start_share: part of the steps over which the cross-entropy start fades to nothing.
        target_weight: weight of a target pixel in that cross-entropy.
        cross_entropy: weight of the plain cross-entropy, which stays: SoftIoU has no gradient left
            where a pixel is wrong with confidence.
        reconstruction_weight: weight of LRRNet's reconstruction term.
        sparsity_weight: weight of the mean target probability, LRRNet's sparsity term with a
            gradient.
        averaging: decay a step of the exponential average of the weights that is validated.
        validate_every: epochs between validations; the last epoch is always validated.
        arithmetic: "bf16" runs convolutions in bfloat16 and keeps the weights in FP32.
        seed: of the initial weights, the crops and the dropout.
        augmentation: what is done to the crops.
    """

    epochs: int = 60
    batch: int = 16
    crop: int = 128
    target_share: float = 0.75
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    batch_share: float = 1.0
    clutter_weight: float = 1.0
    start_share: float = 0.3
    target_weight: float = 10.0
    cross_entropy: float = 0.2
    reconstruction_weight: float = 0.1
    sparsity_weight: float = 0.1
    averaging: float = 0.998
    validate_every: int = 5
    arithmetic: Arithmetic = "fp32"
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if self.crop < 16:
            raise ValueError(f"crop is {self.crop}, expected 16 pixels or more")
        if self.crop % 2 and self.augmentation.mosaic:
            raise ValueError(f"crop is {self.crop}, expected an even one for augmentation.mosaic")
        for name in ("target_share", "batch_share", "start_share", "averaging"):
            _check_share(name, getattr(self, name))
        if not 0.0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}, expected more than 0")
        for name in (
            "weight_decay",
            "clutter_weight",
            "target_weight",
            "cross_entropy",
            "reconstruction_weight",
            "sparsity_weight",
        ):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, expected 0 or more")


# Of a quantisation-aware fine-tuning. The weights are trained: no cross-entropy, which would move
# them from where SoftIoU left them, and steps so small that little but the rounding is learned.
FINE_TUNING: Table = {
    "epochs": 3,
    "learning_rate": 2e-5,
    "start_share": 0.0,
    "cross_entropy": 0.0,
    "validate_every": 1,
}
# Of a network of clips: a residual of a few grey levels counts, so the background must be exact.
CLIPS: Table = {
    "epochs": 40,
    "batch": 8,
    "crop": 96,
    "reconstruction_weight": 10.0,
    "cross_entropy": 0.0,  # masks of scenes are soft
}


def read_recipe(
    path: Path | None, overrides: Sequence[str], *, defaults: Mapping[str, object] | None = None
) -> Recipe:
    """Read a recipe from TOML and change single values.

    Args:
        path: a file with the attributes of `Recipe`, `[augmentation]` as a table; None for the
            defaults.
        overrides: NAME=VALUE each, e.g. "batch=8" or "augmentation.noise=0"; later ones win.
        defaults: for what neither says, in place of a recipe's own.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no TOML, a name that a recipe does not have, or a value out of its range.
    """
    table: Table = {**(defaults or {}), **({} if path is None else _read_toml(path))}
    for override in overrides:
        _set(table, override)
    try:
        return msgspec.convert(table, Recipe)
    except msgspec.ValidationError as err:
        raise ValueError(f"recipe: {err}") from err


def _read_toml(path: Path) -> Table:
    if not path.is_file():
        raise FileNotFoundError(f"recipe {path} does not exist")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise ValueError(f"recipe {path} is no TOML: {err}") from err
    _check_names(table, asdict(Recipe()), prefix="")
    return cast(Table, table)


def _check_names(table: Table, known: Table, *, prefix: str) -> None:
    """Refuse what a recipe does not have, table by table: a quoted key may hold dots itself."""
    for name, value in table.items():
        inner = known.get(name)
        if name not in known or isinstance(value, dict) != isinstance(inner, dict):
            raise _unknown(prefix + name)
        if isinstance(value, dict):
            _check_names(value, cast(Table, inner), prefix=f"{prefix}{name}.")


def _set(table: Table, override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator:
        raise ValueError(f"override {override!r} is no NAME=VALUE, e.g. batch=8")
    if name not in flatten(asdict(Recipe())):
        raise _unknown(name)
    *outer, last = name.split(".")
    for part in outer:
        table = cast(Table, table.setdefault(part, {}))
    table[last] = parse_value(text)


def parse_value(text: str) -> object:
    """A value as TOML has it; what is none is a bare word."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # e.g. arithmetic=bf16


def _unknown(name: str) -> ValueError:
    return ValueError(f"a recipe has no {name!r}; known: {', '.join(flatten(asdict(Recipe())))}")


def flatten(table: Table, prefix: str = "") -> dict[str, object]:
    """Nested tables as one, names joined by dots."""
    flat: dict[str, object] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
