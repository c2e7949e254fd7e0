"""A network in training behind the runtime's engine protocol: validated exactly as it will fly."""

from __future__ import annotations

import torch
from torch import nn

from ..runtime.frame import FloatMap
from .models.box_network import BoxNetwork, answer


class TorchEngine:
    """Runs a network of the zoo on prepared frames.

    Attributes:
        description: says that torch runs.
        input_shape: of the prepared frame or clip, (1, T, H', W').
    """

    def __init__(
        self, network: nn.Module, *, size: tuple[int, int], device: torch.device, frames: int = 1
    ) -> None:
        self.description = f"torch {torch.__version__} on {device}"
        self.input_shape = (1, frames, *size)
        self._network = network.eval()
        self._gives_boxes = isinstance(network, BoxNetwork)
        self._device = device

    @torch.inference_mode()
    def run(self, prepared: FloatMap) -> FloatMap:
        """Map (1, T, H', W') float32 in 0..1 to confidence (H', W') or boxes (A, 5), float32."""
        said = answer(self._network, torch.from_numpy(prepared).to(self._device)).float()[0]
        values: FloatMap = (said if self._gives_boxes else said[0]).cpu().numpy()
        return values

    def close(self) -> None:
        """Nothing to give back; the network belongs to the training."""
