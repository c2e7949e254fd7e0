"""Evaluation: labelled frames through a detector, into scores. The gate and users share it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from .average_precision import AveragePrecision
from .boxes import on_sensor
from .clip import Step
from .components import connect
from .contrast import Contrast
from .datasets import Dataset, Sample, check_mask
from .detector import Detector
from .frame import ClipContract, FloatMap, Frame, normalise, prepare, resize_nearest
from .media_cv2 import read_image
from .pipeline import Confidence
from .roc import Roc
from .samples import check_box
from .scene import Scene, SceneOptions
from .scoring import Mask, PointScorer, PointScores, Scorer, Scores
from .sequences import follow
from .targets import Targets

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


def read_labelled(dataset: Dataset, *, clip: ClipContract | None = None) -> Iterator[LabelledFrame]:
    """Read the frames and masks of a dataset, one at a time.

    Args:
        dataset: with masks.
        clip: of a network for sequences, which is told where another sequence begins.

    Raises:
        ValueError: the dataset has no masks, or single frames where clips are wanted, a file cannot
            be decoded, or a mask has not its frame's size.
    """
    if clip is not None and not dataset.has_sequences:
        raise ValueError(
            f"{dataset.root} has single frames, and this network takes clips of {clip.span} frames "
            "of a sequence; pass sequences: frames/ and centroids.csv, or a folder for each with "
            "images/ and masks/"
        )
    steps = follow(dataset, span=1 if clip is None else clip.span)
    for place, (sample, step) in enumerate(zip(dataset, steps, strict=True)):
        if sample.mask is None:
            raise ValueError(
                f"{dataset.root} is a sequence with {dataset.kind}; masks are needed here, "
                "name a dataset with images and masks"
            )
        frame = read_image(sample.image)
        shape = (frame.shape[0], frame.shape[1])
        mask = check_mask(read_image(sample.mask), shape, name=sample.name)
        yield LabelledFrame(sample.name, frame, mask, begins=place == 0 or step is Step.NEW)


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
    gives them are filled with their scores.

    Attributes:
        roc: the ROC curve so far; None where it was not asked for.
        contrast: the contrast scores so far; None where they were not asked for.
        average_precision: AP50 so far, in the sensor's pixels, against the boxes around the mask's
            components; None for a network that gives no boxes.
        frames_before_start: how many frames came before a clip was whole; they are not scored.
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
        self.frames_before_start = 0

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
            self.frames_before_start += 1
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


def score_points(
    detector: Detector, dataset: Dataset, *, average: AveragePrecision | None = None
) -> Iterator[PointScores]:
    """Match a detector's targets with the centroids or boxes of a dataset's sequences.

    A network for sequences begins each with an empty clip, and so after a gap as long as the clip;
    frames before it is whole are not scored, but counted.

    Args:
        detector: what is scored.
        dataset: with centroids or boxes, in order of time.
        average: takes all boxes of a network that gives them, where the dataset has boxes.

    Yields:
        The scores so far, after each frame.

    Raises:
        ValueError: the dataset has masks, a frame cannot be decoded, does not fit the bundle or
            changes its size inside a sequence, or a box is outside of its frame; the text names it.
    """
    scorer, waited = PointScorer(), 0
    clip = detector.contract.clip
    detector.reset()
    for sample, step in zip(
        dataset, follow(dataset, span=1 if clip is None else clip.span), strict=True
    ):
        if step is Step.NEW:
            detector.reset()
        try:
            frame = read_image(sample.image)
            confidence = detector.confidence(frame)
        except (TypeError, ValueError) as err:
            raise ValueError(f"{sample.name}: {err}") from err
        if confidence.clip is not None and confidence.clip.frames_missing:
            waited += 1
        else:
            targets = detector.targets(confidence)
            _score(scorer, sample, targets, (frame.shape[0], frame.shape[1]))
            if average is not None and confidence.boxes is not None:
                truth = np.array(sample.boxes or (), np.float64).reshape(-1, 4)
                average.add(on_sensor(confidence.boxes, confidence.geometry), truth)
        yield replace(scorer.result(), frames_before_start=waited)


def _score(scorer: PointScorer, sample: Sample, targets: Targets, shape: tuple[int, int]) -> None:
    found = np.stack([targets.row, targets.column], axis=1)
    if sample.points is not None:
        scorer.add(found, sample.points)
        return
    if sample.boxes is None:
        raise ValueError(f"{sample.name} has neither centroids nor boxes, expected one of them")
    for box in sample.boxes:
        check_box(box, shape, place=sample.name)
    scorer.add_boxes(found, sample.boxes)
