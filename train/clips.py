"""Clips to train on: what a network for sequences takes, prepared and registered as in flight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..runtime.clip import fit_older
from ..runtime.evaluation import LabelledFrame
from ..runtime.frame import ClipContract, FloatMap, FrameContract, normalise
from ..runtime.sensor import log_uniform
from .augment import Pair
from .data import Examples
from .degrade import gain_offset
from .moving import Box, MovingFrame, MovingOptions, MovingScene
from .recipe import Recipe

# Of the flight's registration on such scenes, frame to frame; see RESULTS.md.
REGISTRATION_ERROR = (0.003, 0.05)  # pixels, standard deviation
LOST = 0.02  # part of the clips in which one frame's motion was not measured
GAPS, LONGEST_GAP = 0.15, 3  # part of the clips with missing frames, and how many at most
SQUEEZED = 0.4  # part of the clips whose contrast is squeezed, as by a hot object elsewhere

EPOCH = 1024  # clips; generated ones never end
# Of validation: seed of the scenes, how many of each bit depth, frames of each that are scored.
VALIDATION_SEED, SCENES, SCORED = 1_000_003, 12, 2

Numbers = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class DrawnClip:
    """A clip as a network sees it, and its truth.

    Attributes:
        frames: (T, H, W) float32 in 0..1, oldest first, all in the newest frame's pixels.
        mask: (H, W) float32, 0 or 1: the newest frame's targets.
        boxes: of each target of the newest frame, as in `MovingFrame`.
    """

    frames: FloatMap
    mask: FloatMap
    boxes: tuple[Box, ...]


def scene_options(size: tuple[int, int], clip: ClipContract, **changes: object) -> MovingOptions:
    """Options of scenes that are long enough for a clip, gaps included."""
    options = MovingOptions(size=size, frames=clip.span + LONGEST_GAP)
    return replace(options, **changes)  # type: ignore[arg-type]


def draw_clip(scene: MovingScene, clip: ClipContract, random: np.random.Generator) -> DrawnClip:
    """Shoot a scene and bring its frames to the newest one.

    They are normalised as in flight, moved by the scene's own motion and an error like that of the
    flight's registration, with the flight's interpolation. Where the contract leaves frames as they
    are, so does this.

    Args:
        scene: of as many frames as the clip spans, or more.
        clip: what the network takes.
        random: draws gaps, errors and the contrast.

    Raises:
        ValueError: the scene has fewer frames than the clip spans.
    """
    numbers = _choose_frames(scene.options.frames, clip, random)
    shown = [scene.frame(int(number)) for number in numbers[:: clip.stride]]
    newest = _normalise(shown[-1], scene)
    errors = _registration_errors(scene, numbers, random)[:: clip.stride]
    frames = [
        _register(one, shown[-1], newest, error, clip, scene)
        for one, error in zip(shown[:-1], errors[:-1], strict=True)
    ]
    stack = np.stack([*frames, newest])
    if random.random() < SQUEEZED:
        stack = gain_offset(stack, strength=0.6, rng=random)
    return DrawnClip(stack, shown[-1].mask.astype(np.float32), shown[-1].boxes)


def _choose_frames(frames: int, clip: ClipContract, random: np.random.Generator) -> Numbers:
    """The numbers of the frames that arrive: the last of a scene, in some clips with a gap."""
    spare = frames - clip.span
    if spare < 0:
        raise ValueError(
            f"the scene has {frames} frames, the clip needs {clip.span}; make a longer scene"
        )
    gap = int(random.integers(1, min(spare, LONGEST_GAP) + 1)) if spare else 0
    if gap == 0 or random.random() >= GAPS:
        return np.arange(spare, frames)
    place = int(random.integers(1, clip.span))
    numbers = np.arange(frames - clip.span - gap, frames)
    return np.delete(numbers, np.arange(place, place + gap))


def _normalise(shown: MovingFrame, scene: MovingScene) -> FloatMap:
    depth = 8 if shown.frame.dtype == np.uint8 else 16
    return normalise(shown.frame, FrameContract(*scene.options.size, bit_depth=depth))


def _registration_errors(
    scene: MovingScene, numbers: Numbers, random: np.random.Generator
) -> npt.NDArray[np.float64]:
    """(frames, 2) pixels: errors from frame to frame add up on the way to the newest one."""
    steps = random.normal(0.0, log_uniform(random, *REGISTRATION_ERROR), (len(numbers) - 1, 2))
    if random.random() < LOST:
        step = int(random.integers(len(steps)))
        places = [np.array(scene.camera(int(number))) for number in numbers[step : step + 2]]
        steps[step] = places[0] - places[1]
    totals = np.cumsum(steps[::-1], axis=0)[::-1]
    return np.concatenate([totals, np.zeros((1, 2))])


def _register(
    older: MovingFrame,
    newest_shown: MovingFrame,
    newest: FloatMap,
    error: npt.NDArray[np.float64],
    clip: ClipContract,
    scene: MovingScene,
) -> FloatMap:
    seen = _normalise(older, scene)
    if clip.registration == "none":
        return seen
    row, column = (
        now - then + float(wrong)
        for now, then, wrong in zip(newest_shown.camera, older.camera, error, strict=True)
    )
    return fit_older(seen, newest, (row, column))


class GeneratedClips:
    """Clips of generated scenes."""

    def __init__(self, backgrounds: Sequence[FloatMap], clip: ClipContract, recipe: Recipe) -> None:
        self._backgrounds, self._clip, self._recipe = backgrounds, clip, recipe
        self._options = scene_options((recipe.crop, recipe.crop), clip)

    def __len__(self) -> int:
        """Clips of an epoch; there are ever more."""
        return EPOCH

    def draw(self, number: int) -> DrawnClip:
        """Clip number `number`; it follows from the seed and the number alone."""
        seed = self._recipe.seed
        scene = MovingScene(self._options, self._backgrounds, seed=seed, index=number)
        random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
        return draw_clip(scene, self._clip, random)


class ClipSource(Protocol):
    """Where clips come from."""

    def __len__(self) -> int: ...

    def draw(self, number: int) -> DrawnClip:
        """Clip number `number`, the same whoever draws it."""
        ...


class ClipSet(Examples):
    """Clips of one source or several, which give equally many.

    Attributes:
        sources: at least one.
        recipe: batch, crop size, seed.
    """

    def __init__(self, sources: Sequence[ClipSource], recipe: Recipe) -> None:
        self.sources = sources
        self.recipe = recipe

    def __len__(self) -> int:
        """As many as all sources have together."""
        return sum(map(len, self.sources))

    def __getitem__(self, index: int) -> Pair:
        """Clip number `index`: frames and the newest one's mask."""
        drawn = self.draw(index)
        return drawn.frames, drawn.mask[None]

    def draw(self, index: int) -> DrawnClip:
        """Clip number `index`, with boxes."""
        turn, source = divmod(index, len(self.sources))
        return self.sources[source].draw(turn)

    def spread(self, contract: FrameContract, *, most: int) -> Iterator[Tensor]:
        """The first clips, of the crop's size."""
        for index in range(most * len(self.sources)):
            yield torch.from_numpy(self[index][0])[None]


def scene_frames(
    backgrounds: Sequence[FloatMap], contract: FrameContract, clip: ClipContract, *, bit_depth: int
) -> Iterator[LabelledFrame]:
    """Generated sequences to validate on, always the same: raw frames, as a sensor gives them.

    Args:
        backgrounds: target-free frames that nothing is trained on.
        contract: gives the size.
        clip: gives the length; the last 2 frames of each sequence end a whole clip.
        bit_depth: of the frames.
    """
    options = MovingOptions(
        size=(contract.height, contract.width),
        frames=clip.span + SCORED - 1,
        bit_depths=(bit_depth,),
        targets=5,
    )
    for index in range(SCENES):
        scene = MovingScene(options, backgrounds, seed=VALIDATION_SEED, index=index)
        for number in range(options.frames):
            shown = scene.frame(number)
            name = f"scene {index}, frame {number}"
            yield LabelledFrame(name, shown.frame, shown.mask, begins=number == 0)
