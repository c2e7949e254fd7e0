"""What flies of a network: confidence a pixel, or boxes with scores."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from .box_head import Predictions, rate


class BoxNetwork(nn.Module, ABC):
    """A network whose answer is boxes; its loss is `train.box_loss`, not one of masks."""

    @abstractmethod
    def forward(self, clip: Tensor) -> Tensor:
        """(N, T, H, W) in 0..1 to what the head says, (N, 6, h, w)."""

    @abstractmethod
    def decode(self, raw: Tensor) -> Predictions:
        """What the head says in pixels."""

    def find_boxes(self, clip: Tensor) -> Tensor:
        """All boxes of the newest frame, one a place: top, left, bottom, right, score.

        Returns:
            (N, A, 5); edges in the network's pixels from the frame's corner, scores 0..1.
        """
        found = self.decode(self(clip))
        return torch.cat([found.boxes, rate(found)[..., None]], dim=-1)


def answer(network: nn.Module, frames: Tensor) -> Tensor:
    """What an engine will say: of a `BoxNetwork` boxes (N, A, 5), else confidence (N, 1, H, W).

    Args:
        network: of the zoo.
        frames: (N, T, H, W) in 0..1.
    """
    if isinstance(network, BoxNetwork):
        return network.find_boxes(frames)
    _, logits = network(frames)
    confidence: Tensor = logits.sigmoid()
    return confidence
