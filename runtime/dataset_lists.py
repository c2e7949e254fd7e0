"""Splits of a dataset: lists of names, folders of parts, files of annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from .dataset_boxes import strip_boxes
from .dataset_files import name_of, strip_ending
from .samples import Sample

HELD_OUT = ("val", "test")  # lists and folders that something is measured on

# Where lists of names lie. The first that holds NAME.txt counts; "idx_320/NAME" takes another.
LIST_FOLDERS = ("", "img_idx", "idx_427", "idx_320", "splits", "50_50", "ImageSets/Main")

Names = Mapping[str, Sequence[str]]  # of frames, by the split that an annotation file is for


def has_split(root: Path, samples: Sequence[Sample], named: Names, split: str) -> bool:
    """Whether there is a list, a part or an annotation file of this name, or one such list."""
    lists = find_lists(root)
    begins = [known for known in lists if known.startswith(f"{split}_")]
    is_part = any(sample.name.startswith(f"{split}/") for sample in samples)
    return split in named or is_part or split in lists or len(begins) == 1


def choose(
    root: Path, samples: Sequence[Sample], named: Names, split: str | None
) -> tuple[tuple[Sample, ...], str]:
    """The samples of a split, and what it is called.

    Raises:
        FileNotFoundError: no such list, or it names a frame that is not there.
        ValueError: unknown or ambiguous split, or an empty list.
    """
    if split is None:
        return tuple(samples), "all"
    if split in named:
        wanted = set(named[split])
        return tuple(sample for sample in samples if sample.name in wanted), split
    if part := tuple(sample for sample in samples if sample.name.startswith(f"{split}/")):
        return part, split
    if split.endswith(".txt"):
        path = Path(split) if Path(split).is_file() else root / split
        if not path.is_file():
            raise FileNotFoundError(f"there is no list {split}, neither here nor in {root}")
        return read_list(path, root, samples), path.stem
    lists = find_lists(root)
    parts = {sample.name.split("/")[0] for sample in samples if "/" in sample.name}
    sequences = {sample.sequence for sample in samples}
    name = _match_name(split, lists, sorted({*named, *(parts - sequences)}), root)
    return read_list(lists[name], root, samples), name


def list_held_out(root: Path, samples: Sequence[Sample], named: Names) -> set[str]:
    """Names of the frames that something is measured on."""
    held_out = {
        sample.name
        for name, path in find_lists(root).items()
        if name.split("/")[-1].split("_")[0] in HELD_OUT
        for sample in read_list(path, root, samples)
    }
    held_out |= {name for split in HELD_OUT for name in named.get(split, ())}
    parts = tuple(f"{part}/" for part in HELD_OUT)
    return held_out | {sample.name for sample in samples if sample.name.startswith(parts)}


def find_lists(root: Path) -> dict[str, Path]:
    """Lists of names by what a split calls them; "coco_" before a name does not count."""
    found: dict[str, Path] = {}
    for folder in LIST_FOLDERS:
        for path in sorted((root / folder).glob("*.txt")):
            stem = path.stem.removeprefix("coco_")
            name = f"{folder}/{stem}" if stem in found else stem
            found[name] = path
            if folder:
                found[f"{folder}/{stem}"] = path
    return found


def _match_name(split: str, lists: dict[str, Path], parts: Sequence[str], root: Path) -> str:
    split = split.removeprefix("coco_")
    if split in lists:
        return split
    close = [name for name in lists if name.startswith(f"{split}_")]
    if len(close) == 1:
        return close[0]
    if close:
        raise ValueError(
            f"split {split!r} of {root} could be {' or '.join(close)}; pass one of these names"
        )
    there = [*parts, *(name for name in lists if "/" not in name)]
    raise ValueError(
        f"{root} has no split {split!r}, "
        + (f"there are {', '.join(there)}; " if there else "it has none; ")
        + "pass the path of a .txt list with one name a line, or no split for every frame"
    )


def read_list(path: Path, root: Path, samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """The samples that a list names, in its order.

    A line names a frame as its sample, by its path here or on another machine, with or without
    extension (of a NUDT-MIRSDT list, Sequence85/Mix/00001.mat), with or without boxes behind it; or
    it names a whole sequence.

    Raises:
        FileNotFoundError: there is no such frame.
        ValueError: no line at all.
    """
    known = _Names(samples)
    chosen: dict[str, Sample] = {}
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        name = strip_ending(strip_boxes(line.strip()))
        if not name:
            continue
        found = known.find(name)
        if not found:
            raise FileNotFoundError(
                f"list {path} names {name!r}, but {root} has no such image; "
                "complete the images, or take the name out"
            )
        for sample in found:
            chosen.setdefault(sample.name, sample)
    if not chosen:
        raise ValueError(f"list {path} is empty, expected one name a line")
    return tuple(chosen.values())


class _Names:
    """Finds samples by the names that lists have for them."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._by_name = {sample.name: sample for sample in samples}
        self._sequences: dict[str, list[Sample]] = {}
        tails = Counter(_tail(sample.name) for sample in samples)
        # A stem is clear where no other frame has it, and where frames stand alone.
        self._by_tail = {
            _tail(sample.name): sample for sample in samples if tails[_tail(sample.name)] == 1
        }
        stems = Counter(sample.image.stem for sample in samples)
        is_clear = len(stems) == len(samples)
        self._by_stem = {
            sample.image.stem: sample for sample in samples if is_clear and sample.sequence is None
        }
        for sample in samples:
            if sample.sequence is not None:
                self._sequences.setdefault(sample.sequence, []).append(sample)

    def find(self, name: str) -> Sequence[Sample]:
        """The frame of this name, or the frames of the sequence; none where there is neither."""
        if name in self._by_name:
            return [self._by_name[name]]
        if name in self._sequences:
            return self._sequences[name]
        parts = name_of(name).split("/")
        for first in range(len(parts)):
            end = "/".join(parts[first:])
            if sample := self._by_name.get(end) or self._by_tail.get(end):
                return [sample]
        sample = self._by_stem.get(parts[-1])
        return [sample] if sample else []


def _tail(name: str) -> str:
    """The last folder and the stem of a name."""
    return "/".join(name.split("/")[-2:])
