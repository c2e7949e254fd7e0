"""Losses of target segmentation and background reconstruction."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .processes import total

BESIDE = 6  # pixels from a target within which a false pixel is a matter of outline
SMOOTH = 1.0  # pixels; keeps SoftIoU defined on a frame without target


def soft_iou(logits: Tensor, mask: Tensor) -> Tensor:
    """1 - IoU of the sigmoid map and the mask, per image, averaged (Rahman and Wang, 2016).

    Every image counts alike, as in nIoU, however few pixels its target has. On an empty mask it is
    1 - 1 / (sum of p + 1), which hardly grows any more once a few pixels are wrong.

    Args:
        logits: (N, 1, H, W) target logits.
        mask: (N, 1, H, W), 0..1; soft edges count in part.

    Returns:
        Scalar, 0..1.
    """
    both, either = _overlap(logits, mask, over=(1, 2, 3))
    return (1 - (both + SMOOTH) / (either + SMOOTH)).mean()


def batch_soft_iou(logits: Tensor, mask: Tensor, *, clutter_weight: float = 1.0) -> Tensor:
    """1 - IoU of the sigmoid maps and the masks, both summed over the batch (BasicIRSTD).

    That is the accumulated IoU which the field reports: a false alarm costs the same wherever it
    lies, also on a frame without target. Target-aware crops hold far more target pixels than
    frames do, so false alarms would come too cheap; a weight above 1 on what lies apart from
    targets makes up for it (importance weighting, as Tversky losses do for all false pixels:
    Salehi et al., MLMI 2017). Pixels beside a target keep weight 1, or masks would shrink.

    Args:
        logits: (N, 1, H, W) target logits.
        mask: (N, 1, H, W), 0..1.
        clutter_weight: what a false pixel counts that is more than 6 pixels from any target.

    Returns:
        Scalar, 0..1, over the batches of all processes.
    """
    both, either = _overlap(logits, mask, over=(0, 1, 2, 3))
    if clutter_weight != 1.0:
        near = F.max_pool2d((mask > 0.5).float(), 2 * BESIDE + 1, stride=1, padding=BESIDE)
        either = either + (clutter_weight - 1.0) * (logits.sigmoid() * (1.0 - near)).sum()
    both, either = total(both), total(either)
    return 1 - (both + SMOOTH) / (either + SMOOTH)


def _overlap(logits: Tensor, mask: Tensor, *, over: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Soft intersection and union, summed over some dimensions."""
    probability = logits.sigmoid()
    both = (probability * mask).sum(dim=over)
    return both, probability.sum(dim=over) + mask.sum(dim=over) - both


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
