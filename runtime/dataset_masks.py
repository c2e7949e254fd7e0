"""Datasets with masks: single frames as SIRST packs them, sequences as NUDT-MIRSDT and IRDST do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .dataset_files import PARTS, number_frames, sequence_of, walk_images
from .frame import Frame
from .samples import Sample
from .sources import IMAGES, natural_key

MASK_SUFFIXES = ("", "_pixels0")  # a mask is named like its frame, SIRST adds the suffix

# (folder of the frames, folder of their masks); the first pair that is there counts.
LAYOUTS = (
    ("mixed", "annotations/masks"),  # SIRST v2
    ("images", "annotations/masks"),  # SIRST v2, frames sorted into images/targets, .../backgrounds
    ("images", "masks"),  # SIRST v1, NUDT-SIRST, IRDST, the BasicIRSTD packages, own data
    ("IRSTD1k_Img", "IRSTD1k_Label"),  # IRSTD-1K
)
CLIPS = ("Mix", "masks")  # NUDT-MIRSDT: MATLAB files, each a frame and those before it

FAINTEST_MASK = 127  # largest values between 1 and this are numbers of labels, not a mask
MOST_SOFT = 0.01  # part of a mask that may lie between target and background, on soft borders


@dataclass(frozen=True, slots=True)
class MaskPlace:
    """A folder with frames and one with their masks.

    Attributes:
        prefix: what stands before the names of its frames: "", "PART/", "SEQUENCE/".
        frames: folder of the frames.
        masks: folder of the masks.
        is_sequence: whether its frames follow one another in time.
    """

    prefix: str
    frames: Path
    masks: Path
    is_sequence: bool = False


def find_mask_places(root: Path) -> list[MaskPlace]:
    """Where a folder has frames with masks; none where it has not.

    A part of the folder is one place, and so is a sequence: `ROOT/SequenceN/images` (or Mix) with
    `ROOT/SequenceN/masks`, there and in `ROOT/train`, `ROOT/test`. A folder with lists of its own
    is a dataset of its own, and no sequence.
    """
    if found := _layout(root):
        return [MaskPlace("", *found)]
    parts = [root / part for part in PARTS if (root / part).is_dir()]
    places = [MaskPlace(f"{part.name}/", *found) for part in parts if (found := _layout(part))]
    if places:
        return places
    folders = [("", root), *((f"{part.name}/", part) for part in parts)]
    return [place for before, folder in folders for place in _sequences(before, folder)]


def _sequences(before: str, folder: Path) -> list[MaskPlace]:
    places = []
    for inner in sorted(folder.iterdir(), key=natural_key):
        if not inner.is_dir() or any(inner.glob("*.txt")):
            continue
        found = _layout(inner) or _pair_in(inner, *CLIPS)
        if found:
            places.append(MaskPlace(f"{before}{inner.name}/", *found, is_sequence=True))
    return places


def _layout(folder: Path) -> tuple[Path, Path] | None:
    for frames, masks in LAYOUTS:
        if found := _pair_in(folder, frames, masks):
            return found
    return None


def _pair_in(folder: Path, frames: str, masks: str) -> tuple[Path, Path] | None:
    is_there = (folder / frames).is_dir() and (folder / masks).is_dir()
    return (folder / frames, folder / masks) if is_there else None


def read_masks(place: MaskPlace) -> list[Sample]:
    """Pair the frames of a place with their masks.

    Where the masks lie in sub-folders as their frames do (IRDST: images/SEQUENCE/1.bmp with
    masks/SEQUENCE/1.bmp), each sub-folder is a sequence, unless it is named train, val or test:
    what is packed so does not tell where a sequence ends. Else a mask is found by its frame's stem.

    Returns:
        One sample a frame; a mask that is missing has the path where it was expected.

    Raises:
        FileNotFoundError: a sequence has a mask without a frame.
        ValueError: no frame, or two of one name.
    """
    images = walk_images(place.frames, endings=(".mat",) if place.frames.name == "Mix" else IMAGES)
    if not images:
        raise ValueError(f"{place.frames} holds no image, expected files ending {' '.join(IMAGES)}")
    masks = walk_images(place.masks)
    if not place.is_sequence and not _folders(images) & _folders(masks):
        return _pair_by_stem(place, images, masks)
    samples = [_pair(place, name, path, masks) for name, path in images.items()]
    for name, path in masks.items():
        if _frame_name(name) not in images and name not in images:
            raise FileNotFoundError(
                f"mask {path} has no frame, expected {place.frames / name} with an image's ending; "
                "a lost frame is a gap in time: complete the frames, or remove the mask"
            )
    return number_frames(samples)


def _folders(files: Mapping[str, Path]) -> set[str]:
    """The sub-folders that files lie in, by their relative paths."""
    return {name.rpartition("/")[0] for name in files} - {""}


def _frame_name(mask: str) -> str:
    return mask.removesuffix(MASK_SUFFIXES[1])


def _pair(place: MaskPlace, name: str, image: Path, masks: Mapping[str, Path]) -> Sample:
    candidates = [masks[name + end] for end in MASK_SUFFIXES if name + end in masks]
    mask = candidates[0] if candidates else place.masks / f"{name}.png"
    whole = place.prefix + name
    sequence = place.prefix.rstrip("/") if place.is_sequence else sequence_of(whole)
    return Sample(whole, image, mask, sequence=sequence)


def _pair_by_stem(
    place: MaskPlace, images: Mapping[str, Path], masks: Mapping[str, Path]
) -> list[Sample]:
    by_stem: dict[str, Path] = {}
    for path in sorted(images.values(), key=natural_key):
        if path.stem in by_stem:
            raise ValueError(
                f"{place.frames} has two images named {path.stem!r}: {by_stem[path.stem]} and "
                f"{path}; rename one, or sort the masks into the same sub-folders"
            )
        by_stem[path.stem] = path
    known = {path.stem: path for path in masks.values()}
    samples = [_pair(place, stem, path, known) for stem, path in by_stem.items()]
    return [replace(sample, sequence=None) for sample in samples]


def require_mask(sample: Sample) -> None:
    """Refuse a frame whose mask is not there.

    Raises:
        FileNotFoundError: so it is.
    """
    if sample.mask is not None and not sample.mask.is_file():
        raise FileNotFoundError(
            f"frame {sample.image} has no mask; expected {sample.mask} or "
            f"{sample.mask.stem}{MASK_SUFFIXES[1]}.png beside it; add it (all zero for a frame "
            "without target), or name a split that leaves the frame out"
        )


def check_mask(mask: Frame, frame_shape: tuple[int, int], *, name: str) -> npt.NDArray[np.bool_]:
    """Turn a mask as it was read from its file into the truth about a frame.

    Public masks are 0/1, 0/255 or 0/255 with soft borders, and nothing in the file says which. A
    pixel is foreground above half of the mask's own largest value, which is right for all three.
    Soft borders are thin; what has in-between values over 1 % of the frame is a picture.

    Args:
        mask: (H, W) uint8 or uint16.
        frame_shape: (H, W) of the frame it belongs to.
        name: name of the sample, for the error.

    Returns:
        (H, W) bool; all False for a mask of zeros.

    Raises:
        ValueError: the mask is not of the frame's size, or not binary (a picture, labels).

    Example:
        >>> check_mask(np.array([[0, 1], [0, 1]], np.uint8), (2, 2), name="Misc_1").sum()
        np.int64(2)
    """
    if mask.shape != frame_shape:
        raise ValueError(
            f"mask of {name} is {'x'.join(map(str, mask.shape))}, expected "
            f"{frame_shape[0]}x{frame_shape[1]} as the frame; pair each frame with its own mask"
        )
    highest = int(mask.max(initial=0))
    if 1 < highest < FAINTEST_MASK:
        raise ValueError(
            f"mask of {name} holds values up to {highest}, expected 0 and 1, or 0 and 255; "
            "numbered labels must be made binary first"
        )
    between = np.count_nonzero((mask > 0.1 * highest) & (mask < 0.9 * highest))
    if between > MOST_SOFT * mask.size:
        raise ValueError(
            f"mask of {name} has {between} pixels that are neither target nor background, expected "
            "two values; is it a picture?"
        )
    return np.asarray(mask > 0.5 * highest)
