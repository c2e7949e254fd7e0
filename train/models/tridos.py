"""Tridos (IEEE TGRS 2024, doi 10.1109/TGRS.2024.3452175, arXiv 2406.06949): boxes out of clips.

Features of five frames are looked at in space, time and frequency; what the three lose is made up
for by one another, and an anchor-free head finds boxes in the newest frame.

What differs from the released code, and why:

- one grey channel in 0..1 comes in; there, three equal ones less ImageNet's mean, which a first
  convolution undoes;
- nothing is complex: Fourier transforms are products with constant matrices, orthonormal, so that
  FP16 holds them; the phase is a cosine and a sine, not an angle (see `spectral_filter`);
- the head's cells are 4 pixels, finer by the newest frame's own features at 1/4 of its size. There,
  cells are 8 pixels of frames that were enlarged to 512x512, 3 or 4 of the sensor's own; frames
  here keep their size. `Design.published` has cells of 8;
- `channels` is 32, there 128: a sixteenth of the arithmetic, which trains on a CPU;
- a score is the square root of the published product (see `box_head.rate`);
- 0.9 M parameters that are declared there and never used are left out;
- weights start from random ones, there from YOLOX's trained on photographs;
- where the release is silent to us (side of a convolution, place of an activation), 3x3 and what
  neighbouring layers have were taken.

Frames are not registered: the release does not, differences in time see the camera move, and the
windows over all frames hold what moves by up to 4 cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .box_head import BoxHead, Predictions, decode
from .box_network import BoxNetwork
from .csp_darknet import STRIDE as STRIDE
from .csp_darknet import CspDarknet, activate
from .memory import SpatialMemory, TemporalDifference, join_frames, part_frames
from .sides import check_sides
from .spectral_filter import SpectralFilter
from .swin import WindowAttention

FRAMES = 5
COARSE, FINE = 8, 4  # pixels a cell
FEWEST = 4  # channels that attention is squeezed through; of one alone a ReLU may let nothing pass


@dataclass(frozen=True, slots=True)
class Design:
    """What may vary.

    Attributes:
        channels: of the features at 1/8; a multiple of 16.
        cell: pixels a cell of the head, 4 or 8.
    """

    channels: int = 32
    cell: int = FINE

    def __post_init__(self) -> None:
        if self.cell not in (FINE, COARSE):
            raise ValueError(f"cell is {self.cell}, expected {FINE} or {COARSE} pixels")

    @classmethod
    def published(cls) -> Design:
        """The paper's size."""
        return cls(channels=128, cell=COARSE)


class FrequencyBranch(nn.Module):
    """Local and global features of a clip whose frames were filtered by frequency (LGFM).

    Shape:
        (N, T, C, H, W) -> local and global, (N, C, H, W) each.
    """

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        self.filter = SpectralFilter(channels)
        whole = frames * channels
        self.near = nn.Sequential(activate(whole, whole), activate(whole, channels))
        self.attend = WindowAttention(channels, frames)
        self.far = nn.Sequential(activate(whole, 2 * channels), activate(2 * channels, channels))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Filter each frame, then look near and far."""
        batch, frames, *rest = (int(side) for side in features.shape)
        filtered = self.filter(features.reshape(batch * frames, *rest))
        filtered = part_frames(filtered, frames=frames)
        near = self.near(join_frames(filtered))
        return near, self.far(join_frames(self.attend(filtered)))


class Compensation(nn.Module):
    """A residual block with attention to channels and places (Res-CBAM) that merges two features.

    Shape:
        twice (N, C, H, W) to the same shape.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(FEWEST, channels // 16)
        self.body = nn.Sequential(
            activate(2 * channels, channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.channels = nn.Sequential(
            nn.Conv2d(channels, narrow, 1), nn.ReLU(inplace=True), nn.Conv2d(narrow, channels, 1)
        )
        self.places = nn.Conv2d(2, 1, 7, padding=3)
        self.past = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Merge both, and weigh channels and places of what they have together."""
        both = torch.cat([first, second], dim=1)
        found = self.body(both)
        means, peaks = found.mean(dim=(2, 3), keepdim=True), found.amax(dim=(2, 3), keepdim=True)
        found = found * (self.channels(means) + self.channels(peaks)).sigmoid()
        seen = torch.cat([found.mean(dim=1, keepdim=True), found.amax(dim=1, keepdim=True)], dim=1)
        return F.relu(found * self.places(seen).sigmoid() + self.past(both))


class Tridos(BoxNetwork):
    """Boxes of the targets in the newest frame of a clip.

    At the published width and 512x512 it has 20.67 M parameters (the release 21.49 M, 0.89 M of
    them idle) and 202.5 GFLOP (200.5). By default 1.32 M, and 4.4 GFLOP at 256x256.

    Shape:
        (N, 5, H, W) float32 in 0..1, newest last, H and W multiples of 32 ->
        (N, 6, H / cell, W / cell), see `BoxHead`.
    """

    def __init__(self, design: Design | None = None) -> None:
        super().__init__()
        self.design = design or Design()
        channels = self.design.channels
        self.backbone = CspDarknet(channels)
        self.space = SpatialMemory(channels, FRAMES)
        self.time = TemporalDifference(channels, FRAMES)
        self.both = nn.Sequential(
            activate(2 * channels, 2 * channels), activate(2 * channels, channels)
        )
        self.frequency = FrequencyBranch(channels, FRAMES)
        self.near = Compensation(channels)
        self.far = Compensation(channels)
        self.whole = Compensation(channels)
        if self.design.cell == FINE:
            self.fine = activate(channels + channels // 2, channels)
        self.head = BoxHead(channels, 2 * channels)

    def forward(self, clip: Tensor) -> Tensor:
        """What the head says about the newest frame."""
        check_sides(clip, stride=STRIDE)
        batch, frames, height, width = (int(side) for side in clip.shape)
        found = self.backbone(clip.reshape(batch * frames, 1, height, width))
        fourth, eighth = (part_frames(features, frames=FRAMES) for features in found)
        moving = self.both(torch.cat([self.space(eighth), self.time(eighth)], dim=1))
        near, far = self.frequency(eighth)
        seen = self.whole(self.near(near, moving), self.far(far, moving))
        if self.design.cell == FINE:
            seen = F.interpolate(seen, scale_factor=2.0, mode="nearest")
            seen = self.fine(torch.cat([seen, fourth[:, -1]], dim=1))
        raw: Tensor = self.head(seen)
        return raw

    def decode(self, raw: Tensor) -> Predictions:
        """What the head says in pixels."""
        return decode(raw, stride=self.design.cell)
