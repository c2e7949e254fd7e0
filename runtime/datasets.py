"""Labelled frames on disk: what evaluation, calibration gates and training read.

Only names and labels are read here; a frame is decoded where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import dataset_lists
from .dataset_boxes import find_box_lists, find_box_place, read_box_files, read_box_list
from .dataset_centroids import CENTROIDS, FRAMES, find_centroid_places, read_centroids
from .dataset_coco import FOLDERS, PATTERN, find_coco_files, read_coco
from .dataset_files import PARTS, find_images, list_content
from .dataset_lists import HELD_OUT
from .dataset_masks import LAYOUTS, check_mask, find_mask_places, read_masks, require_mask
from .dataset_voc import FRAME_FOLDERS, XML_FOLDERS, find_voc_place, read_voc
from .samples import Box, Dataset, Kind, Point, Sample
from .sources import natural_key

__all__ = [
    "Box",
    "Dataset",
    "Kind",
    "Point",
    "Sample",
    "check_mask",
    "find_images",
    "find_kind",
    "has_split",
    "open_dataset",
    "open_train",
]


@dataclass(frozen=True, slots=True)
class _Content:
    """All that a folder holds.

    Attributes:
        kind: as in `Dataset`.
        samples: in their order.
        named: names of the frames by the split that an annotation file is for.
    """

    kind: Kind
    samples: Sequence[Sample]
    named: Mapping[str, Sequence[str]]


def open_dataset(root: Path, *, split: str | None = None) -> Dataset:
    """Find the frames of a dataset and what is true about them.

    Single frames: SIRST v1 and v2, NUDT-SIRST, IRSTD-1K, SIRST-Aug and the BasicIRSTD packages are
    read as their owners pack them; `ROOT/images` with `ROOT/masks`, and the same inside
    `ROOT/train` and `ROOT/test`, are for own data.

    Sequences with masks: NUDT-MIRSDT (`SequenceN/images` or `SequenceN/Mix` with
    `SequenceN/masks`) and IRDST (`images/N/1.bmp` with `masks/N/1.bmp`). With centroids:
    `ROOT/frames` with `ROOT/centroids.csv` (header `frame,x,y`, x the column, y the row, one line a
    target), or several such folders in one. With boxes: DAUB, ITSDT-15K and IRDST as COCO JSON or
    as lists of frames with boxes, Pascal VOC, and a text file beside each frame.

    Args:
        root: folder of the dataset.
        split: a list's name ("val" finds val.txt, or val_NUDT-SIRST.txt where no other list begins
            so; "coco_" may stand before it), a folder of frames ("test"), the split that an
            annotation file is for ("test" of instances_test2017.json), or the path of a .txt list
            with one name a line. None takes every frame.

    Raises:
        FileNotFoundError: no such folder or list, no known layout, a frame, mask or annotation is
            missing.
        ValueError: unknown or ambiguous split, an empty list or folder, wrong annotations.
    """
    content = _read(root)
    chosen, name = dataset_lists.choose(root, content.samples, content.named, split)
    return _checked(Dataset(root, content.kind, chosen, name))


def find_kind(root: Path) -> Kind | None:
    """Say what `open_dataset` would read in a folder; None where it knows no layout."""
    if find_centroid_places(root):
        return "centroids"
    if find_mask_places(root):
        return "masks"
    known = (find_coco_files(root), find_box_lists(root), find_voc_place(root))
    return "boxes" if any(known) or find_box_place(root) else None


def open_train(root: Path) -> Dataset:
    """Open the part of a dataset that nothing is measured on.

    That is the list, folder or annotation file "train"; where there is none, every frame that none
    named val, test, val_... or test_... holds.

    Raises:
        FileNotFoundError: as `open_dataset`.
        ValueError: as `open_dataset`, or nothing is left.
    """
    content = _read(root)
    if dataset_lists.has_split(root, content.samples, content.named, "train"):
        chosen, name = dataset_lists.choose(root, content.samples, content.named, "train")
        return _checked(Dataset(root, content.kind, chosen, name))
    held_out = dataset_lists.list_held_out(root, content.samples, content.named)
    samples = tuple(sample for sample in content.samples if sample.name not in held_out)
    if not samples:
        raise ValueError(
            f"every frame of {root} is held out by {' or '.join(HELD_OUT)}, none is left to train "
            "or calibrate on; add a train.txt with the names of frames that nothing is measured on"
        )
    is_whole = len(samples) == len(content.samples)
    name = "all" if is_whole else "all but val and test"
    return _checked(Dataset(root, content.kind, samples, name))


def has_split(root: Path, name: str) -> bool:
    """Whether a dataset has a list, part or annotation file of this name, or one such list.

    Raises:
        FileNotFoundError: as `open_dataset`.
        ValueError: as `open_dataset`.
    """
    content = _read(root)
    return dataset_lists.has_split(root, content.samples, content.named, name)


def _read(root: Path) -> _Content:
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder; pass the folder of a dataset")
    if places := find_centroid_places(root):
        return _Content("centroids", [s for place in places for s in read_centroids(*place)], {})
    if masks := find_mask_places(root):
        return _Content("masks", [sample for place in masks for sample in read_masks(place)], {})
    if files := find_coco_files(root):
        return _join({name: read_coco(root, path) for name, path in files.items()})
    if lists := find_box_lists(root):
        return _join({name: read_box_list(root, path) for name, path in lists.items()})
    if place := find_voc_place(root):
        return _Content("boxes", read_voc(*place), {})
    if place := find_box_place(root):
        return _Content("boxes", read_box_files(*place), {})
    raise FileNotFoundError(_unknown(root))


def _join(files: Mapping[str, Sequence[Sample]]) -> _Content:
    """Put what several annotation files say together; a frame may stand in two that agree."""
    samples: dict[str, Sample] = {}
    for name, read in files.items():
        for sample in read:
            before = samples.setdefault(sample.name, sample)
            if before.boxes != sample.boxes:
                raise ValueError(
                    f"frame {sample.name!r} has other boxes in {name!r} than in an annotation file "
                    "before it; correct one, or move it away"
                )
    named = {name: [sample.name for sample in read] for name, read in files.items()}
    ordered = sorted(samples.values(), key=lambda sample: natural_key(Path(sample.name)))
    return _Content("boxes", ordered, named)


def _checked(dataset: Dataset) -> Dataset:
    """The dataset, if each frame is there, and what is true about it."""
    for sample in dataset:
        if not sample.image.is_file():
            raise FileNotFoundError(
                f"frame {sample.name} of {dataset.root} has annotations, but {sample.image} does "
                "not exist; complete the frames, or name a split that leaves it out"
            )
        if dataset.kind == "boxes" and sample.boxes is None:
            raise FileNotFoundError(
                f"frame {sample.image} has no annotation; add it (without a target for a frame "
                "without one), or name a split that leaves the frame out"
            )
        require_mask(sample)
    return dataset


def _unknown(root: Path) -> str:
    masks = ", ".join(f"{frames} + {masks}" for frames, masks in LAYOUTS)
    coco = ", ".join(f"{folder}/{PATTERN}".lstrip("/") for folder in FOLDERS)
    return (
        f"{root} has no layout of a dataset; looked for the folders {masks}, there, in "
        f"{', '.join(PARTS)}, and in one folder a sequence (also Mix + masks), for {FRAMES} + "
        f"{CENTROIDS} likewise, for boxes in {coco}, in lists *.txt of frames with x0,y0,x1,y1,"
        f"class, in XML files in {' or '.join(XML_FOLDERS)} beside {' or '.join(FRAME_FOLDERS)}, "
        f"and in boxes beside images; found {list_content(root)}; arrange the files in one of these"
    )
