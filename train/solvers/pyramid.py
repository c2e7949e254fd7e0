"""The Gaussian pyramid as a strided convolution."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .borders import mirror

BINOMIAL = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0


def halve(images: Tensor) -> Tensor:
    """Blur by the 5x5 binomial and take every second pixel: what cv2.pyrDown does.

    Args:
        images: (N, C, H, W), sides of at least 3.

    Returns:
        (N, C, (H + 1) // 2, (W + 1) // 2); the border is mirrored without its edge pixel.
    """
    channels = int(images.shape[1])
    kernels = np.tile(np.outer(BINOMIAL, BINOMIAL), (channels, 1, 1, 1))
    kernel = torch.tensor(kernels, dtype=images.dtype, device=images.device)
    return F.conv2d(mirror(images, 2), kernel, stride=2, groups=channels)
