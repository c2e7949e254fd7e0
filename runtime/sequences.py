"""Frames of a dataset as sequences: where one ends, where frames are missing, which make a clip."""

from __future__ import annotations

from collections.abc import Iterator

from .clip import Numbering, Step
from .frame import ClipContract
from .samples import Dataset


def follow(dataset: Dataset, *, span: int) -> Iterator[Step]:
    """Say of each sample how it follows the one before it.

    `Step.NEW` begins another sequence: by name, by a number that goes back, or by one that leaves
    `span` frames or more out. `Step.GAP` is a shorter gap, which a clip bridges.

    Args:
        dataset: frames that stand alone (without a sequence) count on from one another.
        span: frames of the sensor that a clip reaches over.

    Example:
        >>> from pathlib import Path
        >>> from irstd.runtime.datasets import Sample
        >>> places = (("a", 1), ("a", 2), ("a", 4), ("b", 5), ("b", 50))
        >>> samples = tuple(Sample("", Path(), sequence=s, number=n) for s, n in places)
        >>> dataset = Dataset(Path(), "masks", samples, "all")
        >>> [step.value for step in follow(dataset, span=5)]
        ['next', 'next', 'gap', 'new', 'new']
    """
    numbering = Numbering(span)
    for place, sample in enumerate(dataset):
        number = place if sample.number is None else sample.number
        yield numbering.follow(number, sequence=sample.sequence)


def clips(dataset: Dataset, contract: ClipContract) -> Iterator[tuple[int, ...]]:
    """Give the samples that make whole clips, one clip for each frame that can end one.

    The frames are those that a detector has in its clip after the same frames: consecutive samples
    of one sequence, `stride` apart. None crosses a border of sequences, nor a gap as long as the
    clip.

    Args:
        dataset: in order of time.
        contract: length and stride of the clip.

    Yields:
        `length` indices into `dataset.samples`, the oldest first.
    """
    first = 0
    for place, step in enumerate(follow(dataset, span=contract.span)):
        first = place if step is Step.NEW else first
        oldest = place - contract.span + 1
        if oldest >= first:
            yield tuple(range(oldest, place + 1, contract.stride))


def find_gaps(dataset: Dataset, *, span: int) -> list[str]:
    """Names of the samples before which frames of their sequence are missing.

    Args:
        dataset: in order of time.
        span: frames of the sensor that a clip reaches over.
    """
    steps = list(follow(dataset, span=span))
    sequences = [sample.sequence for sample in dataset]
    return [
        sample.name
        for place, (sample, step) in enumerate(zip(dataset, steps, strict=True))
        if step is Step.GAP or (step is Step.NEW and sequences[place] == sequences[place - 1])
    ]
