"""Top-hat: what is brighter than its surroundings and narrower than a window."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .solver import to_logits


class TopHat(nn.Module):
    """The white top-hat with a flat square (Soille, Morphological Image Analysis, 2nd ed., ch. 4).

    Shape:
        (N, 1, H, W) in 0..1 -> background, target logits, both of it.
    """

    sigmas = 9.0

    def __init__(self, *, radius: int = 3) -> None:
        """Choose the window.

        Args:
            radius: half-width in pixels; targets wider than 2 * radius vanish.

        Raises:
            ValueError: it is below 1.
        """
        super().__init__()
        if radius < 1:
            raise ValueError(f"radius is {radius}, expected at least 1 pixel")
        self.radius = radius

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """The opening, and what stands above it."""
        background = self._dilate(-self._dilate(-frame))
        return background, to_logits(frame - background, sigmas=self.sigmas)

    def _dilate(self, images: Tensor) -> Tensor:
        return F.max_pool2d(images, 2 * self.radius + 1, stride=1, padding=self.radius)
