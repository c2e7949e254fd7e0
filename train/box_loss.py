"""The loss of networks that answer with boxes: who learns which target, and how much is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..runtime.components import connect
from .models.box_head import Predictions

BOX_WEIGHT = 5.0  # of the edges against the logits, as in YOLOX
RADIUS = 2.5  # cells; places so near a target's centre may learn it, however small it is
CANDIDATES = 10  # whose overlaps say how many places learn a target
OVERLAP_COST = 3.0
FAR = 1e5  # cost of a place that is in the box or near the centre, and not both
FOCUS, BALANCE = 2.0, 0.5  # of the focal loss; as many pull up as down, for scores around 0.5
SIDE = 12.8  # pixels; what the Wasserstein distance is measured in (arXiv 2110.13389)
TINY = 1e-7


@dataclass(frozen=True, slots=True)
class Assigned:
    """Which places of one frame learn which target.

    Attributes:
        places: (k,) numbers of the places.
        boxes: (k, 4) what each shall say.
        overlaps: (k,) IoU of what it says now.
    """

    places: Tensor
    boxes: Tensor
    overlaps: Tensor


def box_loss(predictions: Predictions, masks: Tensor) -> Tensor:
    """Edges (half CIoU, half normalised Wasserstein distance), targets and quality (focal).

    Places are assigned by SimOTA (YOLOX, arXiv 2107.08430). A frame without target teaches that
    there is none.

    Args:
        predictions: of N frames.
        masks: (N, 1, H, W), 0..1; each 8-connected component is a target, its bounding box the
            truth.

    Returns:
        Scalar.
    """
    is_target, quality, said, true = [], [], [], []
    for number, mask in enumerate(masks[:, 0]):
        assigned = _assign_frame(predictions, number, _boxes_of(mask).to(predictions.boxes))
        wanted = torch.zeros_like(predictions.objects[number])
        wanted[assigned.places] = 1.0
        is_target.append(wanted)
        learns = predictions.quality[number, assigned.places]
        quality.append(focal(learns, assigned.overlaps))
        said.append(predictions.boxes[number, assigned.places])
        true.append(assigned.boxes)
    wanted = torch.stack(is_target)
    count = wanted.sum().clamp(min=1.0)
    edges = box_distance(torch.cat(said), torch.cat(true)).sum()
    found = focal(predictions.objects, wanted).sum()
    return (BOX_WEIGHT * edges + found + torch.cat(quality).sum()) / count


def _boxes_of(mask: Tensor) -> Tensor:
    """(m, 4) bounding boxes of a mask's components, edges in pixels from the frame's corner."""
    components = connect(np.asarray(mask.detach().cpu().numpy() > 0.5))
    return torch.from_numpy(components.boxes())


def _assign_frame(predictions: Predictions, number: int, truth: Tensor) -> Assigned:
    return assign(
        Predictions(
            predictions.boxes[number].detach(),
            predictions.objects[number].detach(),
            predictions.quality[number].detach(),
            predictions.centres,
            predictions.stride,
        ),
        truth,
    )


def assign(predictions: Predictions, truth: Tensor) -> Assigned:
    """SimOTA: each target gets the places that cost least, as many as their overlaps add up to.

    Args:
        predictions: of one frame, without its dimension N and without gradients.
        truth: (m, 4).
    """
    if not len(truth):
        nothing = predictions.boxes[:0]
        return Assigned(
            torch.zeros(0, dtype=torch.long, device=truth.device), nothing, nothing[:, 0]
        )
    overlaps = pair_overlaps(truth, predictions.boxes)
    probability = predictions.objects.sigmoid() * predictions.quality.sigmoid()
    doubt = -(probability.sqrt().clamp(min=TINY)).log()
    cost = doubt[None] - OVERLAP_COST * (overlaps + TINY).log()
    inside, near = _surroundings(predictions, truth)
    cost = (cost + FAR * ~(inside & near)).masked_fill(~(inside | near), math.inf)
    chosen = torch.zeros_like(cost, dtype=torch.bool)
    most = min(CANDIDATES, cost.shape[1])
    for number, counted in enumerate(overlaps.topk(most, dim=1).values.sum(dim=1).tolist()):
        taken = cost[number].topk(max(1, int(counted)), largest=False).indices
        chosen[number, taken] = True
    chosen &= cost.isfinite()
    # A place that several targets want learns the one it costs least for.
    cheapest = torch.zeros_like(chosen)
    cheapest.scatter_(0, cost.masked_fill(~chosen, math.inf).argmin(dim=0, keepdim=True), True)
    target, places = (chosen & cheapest).nonzero(as_tuple=True)
    return Assigned(places, truth[target], overlaps[target, places])


def _surroundings(predictions: Predictions, truth: Tensor) -> tuple[Tensor, Tensor]:
    """(m, A) each: whether a place's centre lies in the target's box, and near its centre."""
    centres = predictions.centres[None]
    inside = ((centres > truth[:, None, :2]) & (centres < truth[:, None, 2:])).all(dim=2)
    middle = 0.5 * (truth[:, None, :2] + truth[:, None, 2:])
    near = ((centres - middle).abs() < RADIUS * predictions.stride).all(dim=2)
    return inside, near


def focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy in which what is nearly right counts little (Lin et al., ICCV 2017).

    Args:
        logits: of any shape.
        wanted: likewise, 0..1; values between them are soft labels (Li et al., NeurIPS 2020).
    """
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return 2.0 * BALANCE * (logits.sigmoid() - wanted).abs() ** FOCUS * entropy


def box_distance(said: Tensor, true: Tensor) -> Tensor:
    """(k,): half of 1 - CIoU and half of 1 - normalised Wasserstein distance, of pairs of boxes."""
    return 0.5 * (1.0 - complete_overlap(said, true)) + 0.5 * (1.0 - wasserstein(said, true))


def pair_overlaps(first: Tensor, second: Tensor) -> Tensor:
    """(m, n): IoU of every box of (m, 4) with every one of (n, 4)."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    both = (high - low).clamp(min=0.0).prod(dim=2)
    return both / (_areas(first)[:, None] + _areas(second)[None] - both + TINY)


def complete_overlap(said: Tensor, true: Tensor) -> Tensor:
    """(k,): IoU less the distance of the centres and the difference in shape (CIoU, AAAI 2020)."""
    low, high = torch.maximum(said[:, :2], true[:, :2]), torch.minimum(said[:, 2:], true[:, 2:])
    both = (high - low).clamp(min=0.0).prod(dim=1)
    overlap = both / (_areas(said) + _areas(true) - both + TINY)
    hull = torch.maximum(said[:, 2:], true[:, 2:]) - torch.minimum(said[:, :2], true[:, :2])
    apart = 0.5 * (said[:, :2] + said[:, 2:] - true[:, :2] - true[:, 2:])
    distance = apart.square().sum(dim=1) / (hull.square().sum(dim=1) + TINY)
    turn = (_slope(true) - _slope(said)).square() * (4.0 / math.pi**2)
    weight = (turn / (1.0 - overlap + turn + TINY)).detach()
    return overlap - distance - weight * turn


def wasserstein(said: Tensor, true: Tensor) -> Tensor:
    """(k,): exp(-distance / 12.8 px) of the Gaussians that fill two boxes, 0..1."""
    apart = 0.5 * (said[:, :2] + said[:, 2:] - true[:, :2] - true[:, 2:])
    grown = 0.5 * ((said[:, 2:] - said[:, :2]) - (true[:, 2:] - true[:, :2]))
    squared = apart.square().sum(dim=1) + grown.square().sum(dim=1)
    return (-(squared + TINY).sqrt() / SIDE).exp()


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)


def _slope(boxes: Tensor) -> Tensor:
    sides = boxes[:, 2:] - boxes[:, :2]
    return torch.atan(sides[:, 1] / (sides[:, 0] + TINY))
