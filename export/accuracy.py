"""Accuracy of graphs on labelled sets, as a CPU runs them and as they are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from ..runtime.bundle import Accuracy, Precision
from ..runtime.comparison import Comparison, compare_detectors
from ..runtime.detector import Detector
from ..runtime.engine import Engine, load_engine, usable_threads
from ..runtime.engine_onnxruntime import OnnxRuntimeEngine
from ..runtime.evaluation import LabelledFrame, score_masks
from ..runtime.frame import FrameContract
from ..runtime.scoring import Scores
from ..runtime.targets import Extraction
from .precision import emulate_fp16


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Frames that accuracy is measured on.

    Attributes:
        name: in the report.
        frames: in their order.
        contract: what the network expects, at the bit depth of these frames: most labelled sets
            have 8 bits, whatever the sensor has.
    """

    name: str
    frames: Sequence[LabelledFrame]
    contract: FrameContract


@dataclass(frozen=True, slots=True)
class Judge:
    """Scores graphs on labelled sets.

    Attributes:
        sets: one or more, of different names.
        threshold: of confidence, above which a pixel belongs to a target.
    """

    sets: tuple[LabelledSet, ...]
    threshold: float

    @property
    def names(self) -> str:
        """Of the sets, for a person to read."""
        return " and ".join(one.name for one in self.sets)

    @property
    def description(self) -> str:
        """The sets and how many frames they have, for a person to read."""
        return " and ".join(f"{len(one.frames)} frames of {one.name}" for one in self.sets)

    def score(self, graph: onnx.ModelProto) -> dict[str, Scores]:
        """Scores by the name of each set, exactly as a detector will run the graph."""
        model = graph.SerializeToString()
        return {one.name: self._score(load_engine(model), one) for one in self.sets}

    def score_as_written(self, graph: onnx.ModelProto) -> dict[str, Scores]:
        """The same, computed as the graph is written: rounded to INT8 and FP16 where it says so."""
        return {one.name: self._score(_load_as_written(graph), one) for one in self.sets}

    def compare(self, full: onnx.ModelProto, lower: onnx.ModelProto) -> dict[str, Comparison]:
        """Set a lower precision, as it is written, beside FP32, target by target."""
        return {one.name: self._compare(full, lower, one) for one in self.sets}

    def _score(self, engine: Engine, some: LabelledSet) -> Scores:
        with self._detector(engine, some) as detector:
            return score_masks(detector, some.frames)

    def _compare(
        self, full: onnx.ModelProto, lower: onnx.ModelProto, some: LabelledSet
    ) -> Comparison:
        with (
            self._detector(load_engine(full.SerializeToString()), some) as reference,
            self._detector(_load_as_written(lower), some) as other,
        ):
            return compare_detectors(reference, other, some.frames)

    def _detector(self, engine: Engine, some: LabelledSet) -> Detector:
        return Detector(engine, some.contract, Extraction(threshold=self.threshold))


def _load_as_written(graph: onnx.ModelProto) -> Engine:
    model = emulate_fp16(graph).SerializeToString()
    return OnnxRuntimeEngine(model, threads=usable_threads(), is_optimised=False)


def note_accuracy(
    measured: Mapping[str, Scores], *, precision: Precision, engine: str
) -> tuple[Accuracy, ...]:
    """Scores as a manifest keeps them.

    Args:
        measured: by the name of each labelled set.
        precision: of the graph.
        engine: what ran it, for a person to read.
    """
    return tuple(
        Accuracy(
            precision=precision,
            engine=engine,
            dataset=name,
            frames=scores.frames,
            iou=_defined(scores.iou),
            niou=_defined(scores.niou),
            pd=_defined(scores.pd),
            fa_per_mpix=scores.fa_per_mpix,
        )
        for name, scores in measured.items()
    )


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
