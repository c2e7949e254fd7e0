"""Losses of target segmentation and background reconstruction."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

SMOOTH = 1.0  # pixels; keeps SoftIoU defined on a frame without target


def soft_iou(logits: Tensor, mask: Tensor) -> Tensor:
    """1 - IoU of the sigmoid map and the mask, per image, averaged (Rahman and Wang, 2016).

    On an empty mask it is 1 - 1 / (sum of p + 1), which pushes every pixel down.

    Args:
        logits: (N, 1, H, W) target logits.
        mask: (N, 1, H, W), 0..1; soft edges count in part.

    Returns:
        Scalar, 0..1.
    """
    probability = logits.sigmoid()
    both = (probability * mask).sum(dim=(1, 2, 3))
    either = probability.sum(dim=(1, 2, 3)) + mask.sum(dim=(1, 2, 3)) - both
    return (1 - (both + SMOOTH) / (either + SMOOTH)).mean()


def balanced_bce(logits: Tensor, mask: Tensor, *, target_weight: float) -> Tensor:
    """Binary cross-entropy in which a target pixel weighs `target_weight` background pixels.

    SoftIoU alone hardly moves for hundreds of steps, because a target of 0.03 % of the frame
    yields vanishing gradients; this term gives the start.

    Args:
        logits: (N, 1, H, W) target logits.
        mask: (N, 1, H, W), 0..1.
        target_weight: weight of a target pixel against a background pixel.

    Returns:
        Scalar, mean over all pixels.
    """
    weight = logits.new_tensor(target_weight)
    return F.binary_cross_entropy_with_logits(logits, mask, pos_weight=weight)


def reconstruction_error(reconstruction: Tensor, frame: Tensor) -> Tensor:
    """Mean squared error of the reconstructed frame, targets included (LRRNet, loss term 3)."""
    return F.mse_loss(reconstruction, frame)


def mean_probability(logits: Tensor) -> Tensor:
    """Mean probability of a target: LRRNet's sparsity term, in a form that has a gradient.

    The published term counts the pixels above the threshold, which no gradient passes.
    """
    return logits.sigmoid().mean()
