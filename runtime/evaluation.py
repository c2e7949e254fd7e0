"""Evaluation: labelled frames through a detector, into scores. The gate and users share it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from .average_precision import AveragePrecision
from .boxes import on_sensor
from .clip import Numbering, Step
from .components import connect
from .contrast import Contrast
from .datasets import Dataset, check_mask
from .detector import Detector
from .frame import ClipContract, FloatMap, Frame, normalise, prepare, resize_nearest
from .media_cv2 import read_image
from .pipeline import Confidence
from .roc import Roc
from .scene import Scene, SceneOptions
from .scoring import Mask, PointScorer, PointScores, Scorer, Scores
from .sources import frame_number

Resolution: TypeAlias = Literal["native", "network"]

SYNTHETIC_NAME = "the synthetic scene set"
SYNTHETIC_SEEDS = range(100, 108)
SYNTHETIC_FRAMES = 3  # of each scene
SYNTHETIC_STEP = 20  # frames of the scene between those
SYNTHETIC_SCR = (8.0, 16.0)


@dataclass(frozen=True, slots=True)
class LabelledFrame:
    """A sensor frame and what is true about it.

    Attributes:
        name: for messages.
        frame: (H, W) uint8 or uint16.
        mask: (H, W) bool.
        begins: whether it is the first of a sequence; only networks for sequences ask.
    """

    name: str
    frame: Frame
    mask: Mask
    begins: bool = False


def read_labelled(dataset: Dataset) -> Iterator[LabelledFrame]:
    """Read the frames and masks of a dataset, one at a time.

    Raises:
        ValueError: the dataset has centroids and no masks, a file cannot be decoded, or a mask has
            not its frame's size.
    """
    for sample in dataset:
        if sample.mask is None:
            raise ValueError(
                f"{dataset.root} is a sequence with centroids; masks are needed here, "
                "name a dataset with images and masks"
            )
        frame = read_image(sample.image)
        shape = (frame.shape[0], frame.shape[1])
        yield LabelledFrame(
            sample.name, frame, check_mask(read_image(sample.mask), shape, name=sample.name)
        )


def synthetic_frames(
    bit_depth: int, *, height: int, width: int, clip: ClipContract | None = None
) -> Iterator[LabelledFrame]:
    """The synthetic labelled set that stands in where the user has no labelled frames.

    Args:
        bit_depth: of the frames, 8 to 16.
        height: rows.
        width: columns.
        clip: of a network for sequences, which gets frames one after another of each scene, as
            many as give 3 whole clips; None for single frames far apart.
    """
    options = SceneOptions(height=height, width=width, bit_depth=bit_depth, scr=SYNTHETIC_SCR)
    indices = range(0, SYNTHETIC_FRAMES * SYNTHETIC_STEP, SYNTHETIC_STEP)
    if clip is not None:
        indices = range(clip.span + SYNTHETIC_FRAMES - 1)
    for seed in SYNTHETIC_SEEDS:
        scene = Scene(options, seed=seed)
        for index in indices:
            shown = scene.frame(index)
            name = f"scene {seed}, frame {index}"
            yield LabelledFrame(name, shown.frame, shown.mask, begins=index == 0)


class MaskEvaluation:
    """Scores confidence maps against masks, frame by frame.

    At "native" resolution the confidence is brought to the sensor frame; at "network" the mask is
    brought to the network's input by nearest neighbour, as most papers do. Boxes of a network that
    gives them are filled with their scores, and also give AP50, always in the sensor's pixels,
    against the boxes around the mask's components.
    """

    def __init__(
        self, detector: Detector, *, resolution: Resolution = "native", with_curves: bool = False
    ) -> None:
        """Start empty.

        Args:
            detector: its threshold decides what is a target.
            resolution: where masks and confidence meet.
            with_curves: also collect the ROC curve and the contrast scores.
        """
        self._detector = detector
        self._resolution = resolution
        self._scorer = Scorer()
        self.roc = Roc() if with_curves else None
        self.contrast = Contrast() if with_curves else None
        gives_boxes = detector.contract.answer == "boxes"
        self.average_precision = AveragePrecision() if gives_boxes else None

    def add(self, labelled: LabelledFrame) -> None:
        """Run the detector on a frame and score what it says.

        Frames before a clip is whole are not scored.

        Raises:
            ValueError: the frame does not fit the bundle; the text names it.
        """
        if labelled.begins:
            self._detector.reset()
        try:
            confidence = self._detector.confidence(labelled.frame)
        except (TypeError, ValueError) as err:
            raise ValueError(f"{labelled.name}: {err}") from err
        if confidence.clip is not None and confidence.clip.frames_missing:
            return
        values, mask = self._meet(confidence, labelled.mask)
        self._scorer.add(values > self._detector.extraction.threshold, mask)
        if self.average_precision is not None and confidence.boxes is not None:
            truth = connect(labelled.mask).boxes() - 0.5
            self.average_precision.add(on_sensor(confidence.boxes, confidence.geometry), truth)
        if self.roc is not None:
            self.roc.add(values, mask)
        if self.contrast is not None:
            self.contrast.add(self._frame_for(labelled, values), values, mask)

    def _meet(self, confidence: Confidence, mask: Mask) -> tuple[FloatMap, Mask]:
        if self._resolution == "native":
            return confidence.on_sensor(), mask
        geometry = confidence.geometry
        seen = confidence.values[: geometry.height, : geometry.width]
        return seen, resize_nearest(mask, (seen.shape[0], seen.shape[1]))

    def _frame_for(self, labelled: LabelledFrame, values: FloatMap) -> FloatMap:
        if self._resolution == "native":
            return normalise(labelled.frame, self._detector.contract)
        prepared: FloatMap = prepare(labelled.frame, self._detector.contract)[0, 0]
        rows, columns = values.shape
        return np.asarray(prepared[:rows, :columns], np.float32)

    def result(self) -> Scores:
        """The scores of the frames so far."""
        return self._scorer.result()


def score_masks(detector: Detector, frames: Iterable[LabelledFrame]) -> Scores:
    """Score a detector on labelled frames at their native resolution."""
    evaluation = MaskEvaluation(detector)
    for labelled in frames:
        evaluation.add(labelled)
    return evaluation.result()


def score_points(detector: Detector, dataset: Dataset) -> Iterator[PointScores]:
    """Match a detector's targets with the centroids of a sequence.

    A network for sequences begins with an empty clip; frames before it is whole are not scored,
    but counted. Where the frames' numbers go back, or on by more than the clip, another sequence
    begins.

    Yields:
        The scores so far, after each frame.

    Raises:
        ValueError: a frame cannot be decoded or does not fit the bundle; the text names it.
    """
    scorer, waited = PointScorer(), 0
    detector.reset()
    numbering = None if detector.contract.clip is None else Numbering(detector.contract.clip.span)
    for index, sample in enumerate(dataset):
        number = frame_number(sample.name)
        if numbering and numbering.follow(index if number is None else number) is Step.NEW:
            detector.reset()
        try:
            targets = detector(read_image(sample.image))
        except (TypeError, ValueError) as err:
            raise ValueError(f"{sample.name}: {err}") from err
        if targets.clip is not None and targets.clip.frames_missing:
            waited += 1
        else:
            scorer.add(np.stack([targets.row, targets.column], axis=1), sample.points or ())
        yield replace(scorer.result(), frames_before_start=waited)
