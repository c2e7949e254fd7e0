"""The median over time as background: what every solver of clips has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .saliency import newest, to_wide_logits, weigh


class MedianDifference(nn.Module):
    """What the newest frame has over the median of the clip, weighed by its top-hat.

    Shape:
        (N, T, H, W) in 0..1, T odd, newest last -> background, target logits, both (N, 1, H, W).
    """

    sigmas = 55.0

    def forward(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """The median, and what stands above it."""
        background = median([clip[:, place : place + 1] for place in range(clip.shape[1])])
        frame = newest(clip)
        target = weigh(frame - background, frame)
        return background, to_wide_logits(target, sigmas=self.sigmas)


def median(values: Sequence[Tensor]) -> Tensor:
    """The median of an odd number of tensors, by minima and maxima of pairs alone.

    Of n // 2 + 2 of n values neither the smallest nor the largest is the median: both are
    forgotten, the next value comes in, and so on.

    Raises:
        ValueError: their number is even.

    Example:
        >>> median([torch.tensor(float(number)) for number in (9, 1, 7, 3, 4)])
        tensor(4.)
    """
    if len(values) % 2 == 0:
        raise ValueError(f"the median of {len(values)} frames is not one of them; take an odd clip")
    first = len(values) // 2 + 2
    held = list(values[:first])
    for value in values[first:]:
        held = [*_forget(held), value]
    while len(held) > 1:
        held = _forget(held)
    return held[0]


def _forget(values: list[Tensor]) -> list[Tensor]:
    """All but the smallest and the largest, in any order."""
    kept: list[Tensor] = []
    lowest = values[0]
    for value in values[1:]:
        kept.append(torch.maximum(lowest, value))
        lowest = torch.minimum(lowest, value)
    rest: list[Tensor] = []
    highest = kept[0]
    for value in kept[1:]:
        rest.append(torch.minimum(highest, value))
        highest = torch.maximum(highest, value)
    return rest
