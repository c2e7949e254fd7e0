"""Clips to train on: what a network for sequences takes, prepared and registered as in flight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from ..runtime.clip import fit_older
from ..runtime.frame import ClipContract, FloatMap, FrameContract, normalise
from ..runtime.sensor import log_uniform
from .augment import Pair
from .degrade import gain_offset
from .moving import Box, MovingFrame, MovingOptions, MovingScene
from .recipe import Recipe

# Of the flight's registration on such scenes, frame to frame; see RESULTS.md.
REGISTRATION_ERROR = (0.003, 0.05)  # pixels, standard deviation
LOST = 0.02  # part of the clips in which one frame's motion was not measured
GAPS, LONGEST_GAP = 0.15, 3  # part of the clips with missing frames, and how many at most
SQUEEZED = 0.4  # part of the clips whose contrast is squeezed, as by a hot object elsewhere

EPOCH = 1024  # clips; generated ones never end

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


class ClipSet(Dataset[Pair]):
    """Clips of generated scenes; number `index` is the same whoever draws it, and when.

    Attributes:
        backgrounds: target-free frames, float32 in 0..1.
        clip: what the network takes.
        recipe: crop size and seed.
    """

    def __init__(self, backgrounds: Sequence[FloatMap], clip: ClipContract, recipe: Recipe) -> None:
        self.backgrounds = backgrounds
        self.clip = clip
        self.recipe = recipe
        self._options = scene_options((recipe.crop, recipe.crop), clip)

    def __len__(self) -> int:
        """Clips in an epoch."""
        return EPOCH

    def __getitem__(self, index: int) -> Pair:
        """Clip number `index`: (T, side, side) frames and (1, side, side) mask, float32."""
        drawn = self.draw(index)
        return drawn.frames, drawn.mask[None]

    def draw(self, index: int) -> DrawnClip:
        """Clip number `index`, with boxes."""
        seed = self.recipe.seed
        scene = MovingScene(self._options, self.backgrounds, seed=seed, index=index)
        random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
        return draw_clip(scene, self.clip, random)
