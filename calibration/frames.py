"""The frames that a lower precision is calibrated on, each with and without targets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..runtime.clip import Numbering, Step
from ..runtime.datasets import Sample, check_mask, find_images, find_kind, open_train
from ..runtime.frame import Frame, FrameContract, prepare
from ..runtime.media_cv2 import read_image
from ..runtime.scene import Scene, SceneOptions
from ..runtime.scoring import Mask
from ..runtime.sources import frame_number, natural_key
from .coverage import Features, choose_spread, describe, standardise
from .pairs import inject_moving, remove_targets

LEAST_FRAMES = 8
MOST_FRAMES = 32
MOST_LOOKED_AT = 512  # frames of a folder; an hour of video shall not take an hour
MOST_BLANK = 0.9  # part of a frame's pixels that may lie at the ends of the scale
SHOWN_BLANK = 3  # of the blank frames, in the error

MASK_FOLDERS = ("mask", "masks", "label", "labels", "annotation", "annotations", "truth", "gt")

# The gate is measured on other ones: runtime.evaluation.SYNTHETIC_SEEDS.
SYNTHETIC_SEEDS = range(200, 232)
SYNTHETIC_INDICES = (0, 40)  # frames of each scene
SYNTHETIC_SCR = (3.0, 30.0)
SYNTHETIC_TARGETS = 6  # at most, 1 at least


@dataclass(frozen=True, slots=True)
class CalibrationFrame:
    """A scene with targets and without: a lower precision must tell the two apart.

    Attributes:
        name: for messages.
        frame: (H, W) uint8 or uint16, with targets.
        empty: the same scene without them, same shape and sample type.
        older: the frames before, for a network of clips, oldest first; with targets.
        older_empty: the same without.
    """

    name: str
    frame: Frame
    empty: Frame
    older: tuple[Frame, ...] = ()
    older_empty: tuple[Frame, ...] = ()


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """What a lower precision is calibrated on.

    Attributes:
        source: where the frames come from, for the report.
        offered: number of frames there were to choose from.
        frames: the chosen ones in the order of the choice, so that the first few differ most.
        labelled: True where targets are labelled ones (only frames without any got synthetic ones);
            False where all were injected.
        sha256: over shape, sample type and pixels of the chosen frames and of all that they were
            chosen from, and `labelled`; neither names nor order count.
    """

    source: str
    offered: int
    frames: tuple[CalibrationFrame, ...]
    labelled: bool
    sha256: str


@dataclass(frozen=True, slots=True)
class _Offer:
    """A frame to choose from, on disk, its sequence and the number in it.

    Frames that no dataset sorts into sequences are one for each folder, numbered by their names.
    """

    name: str
    image: Path
    mask: Path | None
    sequence: str
    number: int | None
    older: tuple[_Offer, ...] = ()  # that a clip needs before it, oldest first


@dataclass(frozen=True, slots=True)
class _Look:
    """What is kept of a frame that was looked at; the frame itself is read again if chosen."""

    features: Features
    has_targets: bool
    blank: str  # why the frame shows nothing; empty for one that shows something
    digest: bytes


def read_calibration(
    folder: Path, contract: FrameContract, *, most: int = MOST_FRAMES
) -> CalibrationSet:
    """Choose calibration frames out of a folder.

    The choice covers intensity range, clutter, target-like spots and scenes, depends on nothing but
    the frames, and takes at least half of its frames from those with labelled targets. Of more than
    512 frames, 512 evenly spaced ones are looked at, one at a time in memory.

    Args:
        folder: a dataset with masks (its train list, else what its val and test lists leave), a
            sequence with centroids or boxes (its frames only: its own targets stay in both frames
            of a pair), or images in a folder or one folder deeper, which may be of several runs.
        contract: of the engine to be calibrated.
        most: number of frames to choose, 8 or more.

    Raises:
        FileNotFoundError: no such folder, or a frame or mask of a dataset is missing.
        ValueError: no images, fewer than 8, a damaged file, one that does not fit the contract, or
            blank frames. No frame is skipped: ranges from fewer frames would be wrong and look
            right.
    """
    _check_most(most)
    source, offers = _find_offers(folder)
    what = "frames"
    if contract.clip is not None:
        offers = _find_clips(offers, contract.clip.span)
        what = f"clips of {contract.clip.span} frames in a row"
    if len(offers) < LEAST_FRAMES:
        raise ValueError(
            f"{folder} offers {len(offers)} {what}; {LEAST_FRAMES} are the least, {MOST_FRAMES} or "
            "more of different scenes, times of day and ranges help"
        )
    seen = _space_evenly(offers)
    looks = [_look(offer, contract) for offer in seen]
    _refuse_blank(seen, looks, folder)
    has_targets = np.array([look.has_targets for look in looks])
    points = standardise(np.stack([look.features for look in looks]))
    chosen = choose_spread(points, has_targets, most=most)
    frames = tuple(_make_pair(seen[index], contract) for index in chosen)
    labelled = bool(has_targets[chosen].any())
    sha256 = _hash(frames, labelled, [look.digest for look in looks])
    return CalibrationSet(source, len(offers), frames, labelled, sha256)


def synthetic_calibration(contract: FrameContract, *, most: int = MOST_FRAMES) -> CalibrationSet:
    """Choose calibration frames out of 64 synthetic ones; for want of frames from the sensor.

    Args:
        contract: of the engine to be calibrated; gives size and bit depth, 32x32 pixels at least.
        most: number of frames to choose, 8 or more.

    Raises:
        ValueError: the contract's frames are smaller than a scene can be.
    """
    _check_most(most)
    shots = [(seed, index) for seed in SYNTHETIC_SEEDS for index in SYNTHETIC_INDICES]
    features = []
    for seed in SYNTHETIC_SEEDS:
        scene = _scene(contract, seed, targets=_count_targets(seed))
        for index in SYNTHETIC_INDICES:
            frame = scene.frame(_newest(contract, index)).frame
            prepared = prepare(frame, contract)
            features.append(describe(frame, prepared, bit_depth=contract.bit_depth))
    points = standardise(np.stack(features))
    chosen = choose_spread(points, np.ones(len(shots), np.bool_), most=most)
    frames = tuple(_shoot(contract, *shots[index]) for index in chosen)
    sha256 = _hash(frames, True, [])
    return CalibrationSet("the synthetic scene set", len(shots), frames, True, sha256)


def _check_most(most: int) -> None:
    if most < LEAST_FRAMES:
        raise ValueError(
            f"{most} calibration frames were asked for, expected {LEAST_FRAMES} or more"
        )


def _find_offers(folder: Path) -> tuple[str, list[_Offer]]:
    """Where the frames come from, and all of them by name, numbers counted as numbers."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; pass a folder of frames, or a dataset")
    name = folder.resolve().name
    kind = find_kind(folder)
    if kind is None:
        return f"folder {name}", _find_plain(folder)
    dataset = open_train(folder)
    offers = [_offer_sample(sample) for sample in dataset]
    word = "dataset" if kind == "masks" else "sequence"
    # A list may be in any order, and be written anew in another.
    return f"{word} {name}, {dataset.split}", sorted(offers, key=lambda one: natural_key(one.image))


def _offer_sample(sample: Sample) -> _Offer:
    if sample.sequence is not None:
        return _Offer(sample.name, sample.image, sample.mask, sample.sequence, sample.number)
    return _offer_plain(sample.name, sample.image, sample.mask)


def _offer_plain(name: str, image: Path, mask: Path | None = None) -> _Offer:
    return _Offer(name, image, mask, str(image.parent), frame_number(name))


def _find_clips(offers: Sequence[_Offer], span: int) -> list[_Offer]:
    """The frames that end a clip, with those before them; a clip stays within a sequence."""
    clips: list[_Offer] = []
    run: list[_Offer] = []
    numbering = Numbering(span)
    for index, offer in enumerate(offers):
        number = index if offer.number is None else offer.number
        if numbering.follow(number, sequence=offer.sequence) is Step.NEW:
            run = []
        run.append(offer)
        if len(run) >= span:
            clips.append(replace(offer, older=tuple(run[-span:-1])))
    return clips


def _find_plain(folder: Path) -> list[_Offer]:
    for place in sorted(folder.iterdir()):
        if place.is_dir() and place.name.lower().endswith(MASK_FOLDERS) and find_images(place):
            raise ValueError(
                f"{place} looks like masks, but {folder} has no layout of a dataset that is known, "
                "and masks are no frames; arrange it as images/ and masks/, or pass the folder "
                "that holds the frames alone"
            )
    images = find_images(folder, required=True)
    return [_offer_plain(name, path) for name, path in images.items()]


def _space_evenly(offers: list[_Offer]) -> list[_Offer]:
    if len(offers) <= MOST_LOOKED_AT:
        return offers
    places = np.linspace(0, len(offers) - 1, MOST_LOOKED_AT).round().astype(int)
    return [offers[place] for place in places]


def _read(offer: _Offer) -> tuple[Frame, Mask]:
    """A frame and what is labelled in it; nothing where there is no mask."""
    frame = read_image(offer.image)
    shape = (frame.shape[0], frame.shape[1])
    if offer.mask is None:
        return frame, np.zeros(shape, np.bool_)
    return frame, check_mask(read_image(offer.mask), shape, name=offer.name)


def _look(offer: _Offer, contract: FrameContract) -> _Look:
    frame, mask = _read(offer)
    try:
        prepared = prepare(frame, contract)
    except (TypeError, ValueError) as err:
        raise ValueError(f"{offer.image}: {err}{_depth_hint(frame, contract)}") from err
    features = describe(frame, prepared, bit_depth=contract.bit_depth)
    blank = _find_blank(frame, 2**contract.bit_depth - 1)
    return _Look(features, bool(mask.any()), blank, _digest(frame))


def _depth_hint(frame: Frame, contract: FrameContract) -> str:
    """The option that helps, where the frame is of another depth than the contract."""
    bits = int(frame.max()).bit_length()
    if frame.dtype == contract.dtype and bits <= contract.bit_depth:
        return ""
    fitting = "8" if frame.dtype == np.uint8 else f"{max(bits, 9)} or more"
    return f"; calibrate on the sensor's own frames, or say their depth: --bit-depth {fitting}"


def _find_blank(frame: Frame, full_scale: int) -> str:
    low, high = int(frame.min()), int(frame.max())
    if low == high:
        return f"every pixel is {low}"
    at_ends = np.count_nonzero((frame == 0) | (frame == full_scale)) / frame.size
    return f"{at_ends:.0%} of the pixels are 0 or {full_scale}" if at_ends > MOST_BLANK else ""


def _refuse_blank(offers: Sequence[_Offer], looks: Sequence[_Look], folder: Path) -> None:
    pairs = zip(offers, looks, strict=True)
    blank = [f"{offer.image.name} ({look.blank})" for offer, look in pairs if look.blank]
    if not blank:
        return
    more = f" and {len(blank) - SHOWN_BLANK} more" if len(blank) > SHOWN_BLANK else ""
    raise ValueError(
        f"{len(blank)} of {len(offers)} frames in {folder} show nothing: "
        f"{', '.join(blank[:SHOWN_BLANK])}{more}; was the shutter closed, the sensor saturated, or "
        "are these masks? take them out"
    )


def _make_pair(offer: _Offer, contract: FrameContract) -> CalibrationFrame:
    read = [_read(one) for one in (*offer.older, offer)]
    frames = [frame for frame, _ in read]
    if not read[-1][1].any():
        seen = inject_moving(frames, bit_depth=contract.bit_depth)
        empty = frames
    else:
        seen = frames
        empty = [_remove(one, *pair) for one, pair in zip((*offer.older, offer), read, strict=True)]
    return CalibrationFrame(offer.name, seen[-1], empty[-1], tuple(seen[:-1]), tuple(empty[:-1]))


def _remove(offer: _Offer, frame: Frame, mask: Mask) -> Frame:
    try:
        return remove_targets(frame, mask)
    except ValueError as err:
        raise ValueError(f"{offer.mask}: {err}") from err


def _scene(contract: FrameContract, seed: int, *, targets: int) -> Scene:
    options = SceneOptions(
        height=contract.height,
        width=contract.width,
        bit_depth=contract.bit_depth,
        targets=targets,
        scr=SYNTHETIC_SCR,
    )
    return Scene(options, seed=seed)


def _count_targets(seed: int) -> int:
    return 1 + seed % SYNTHETIC_TARGETS


def _shoot(contract: FrameContract, seed: int, index: int) -> CalibrationFrame:
    # Scenes of equal seed differ by their targets alone.
    indices = range(index, _newest(contract, index) + 1)
    scenes = [_scene(contract, seed, targets=count) for count in (_count_targets(seed), 0)]
    *older, frame = (scenes[0].frame(one).frame for one in indices)
    *older_empty, empty = (scenes[1].frame(one).frame for one in indices)
    name = f"scene {seed}, frame {indices[-1]}"
    return CalibrationFrame(name, frame, empty, tuple(older), tuple(older_empty))


def _newest(contract: FrameContract, index: int) -> int:
    """The frame of a scene that ends the clip which begins with another; itself without clips."""
    return index if contract.clip is None else index + contract.clip.span - 1


def _hash(frames: Sequence[CalibrationFrame], labelled: bool, offered: Sequence[bytes]) -> str:
    """One changed frame is another set, also where it was not chosen: it might have been."""
    pairs = [
        b"".join(map(_digest, (*one.older, one.frame, *one.older_empty, one.empty)))
        for one in frames
    ]
    whole = hashlib.sha256(str(labelled).encode())
    for digest in (*sorted(pairs), *sorted(offered)):
        whole.update(digest)
    return whole.hexdigest()


def _digest(frame: Frame) -> bytes:
    content = hashlib.sha256(f"{frame.dtype} {frame.shape}".encode())
    content.update(np.ascontiguousarray(frame).tobytes())
    return content.digest()
