"""Tridos in space and time: what the older frames remember, and how features change."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .csp_darknet import activate


class NonLocal(nn.Module):
    """Every place sees every other one (Wang et al., CVPR 2018); begins as the identity.

    The weights are (H W)^2 numbers: 4 MiB in FP32 for 32x32 places, 64 MiB for 64x64.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        query, key, value = (in_rows(part(x)) for part in (self.query, self.key, self.value))
        weight = (query.transpose(1, 2) @ key).softmax(dim=-1)
        return x + self.gain * in_frames(value @ weight.transpose(1, 2), like=x)


class MemoryRead(nn.Module):
    """Every place of the newest frame asks the memory for what was seen at places like it.

    Space-time memory (Oh et al., ICCV 2019); the weights take as much as `NonLocal`'s.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.keys = channels // 2
        self.remembered = nn.Conv2d(channels, self.keys + channels, 3, padding=1)
        self.asked = nn.Conv2d(channels, self.keys + channels, 3, padding=1)
        merge = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.merge = nn.Sequential(merge, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))

    def forward(self, memory: Tensor, newest: Tensor) -> Tensor:
        """(N, C, H, W) each to the same shape."""
        remembered, asked = self.remembered(memory), self.asked(newest)
        key, value = remembered[:, : self.keys], remembered[:, self.keys :]
        query, own = asked[:, : self.keys], asked[:, self.keys :]
        likeness = in_rows(query).transpose(1, 2) @ in_rows(key)  # (N, asked, remembered)
        weight = (likeness * self.keys**-0.5).softmax(dim=-1)
        read = in_frames(in_rows(value) @ weight.transpose(1, 2), like=own)
        merged: Tensor = self.merge(torch.cat([read, own], dim=1))
        return merged


class SpatialMemory(nn.Module):
    """The spatial branch (MSRM): what older frames say about the newest one.

    Shape:
        (N, T, C, H, W), newest last -> (N, C, H, W).
    """

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        self.gather = activate((frames - 1) * channels, 2 * channels)
        self.gate = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.Sigmoid(),
        )
        self.weighed = activate(channels, channels)
        self.blend = nn.Sequential(
            activate(2 * channels, 2 * channels), activate(2 * channels, channels)
        )
        self.relate = NonLocal(channels)
        self.read = MemoryRead(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Features of a clip to those of its newest frame."""
        older, newest = join_frames(features[:, :-1]), features[:, -1]
        weighed = self.weighed(self.gate(self.gather(older)) * newest)
        memory = self.relate(self.blend(torch.cat([weighed, newest], dim=1)))
        seen: Tensor = self.read(memory, newest)
        return seen


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return F.relu(x + self.body(x))


class TemporalDifference(nn.Module):
    """The temporal branch (TDEM): differences of frames that follow one another, at half size.

    Shape:
        (N, T, C, H, W), newest last -> (N, C, H, W).
    """

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        half = channels // 2
        self.differ = nn.Sequential(nn.Conv2d(channels, half, 3, padding=1), nn.PReLU(half))
        self.gather = nn.Sequential(
            nn.Conv2d((frames - 1) * half, channels, 3, padding=1), nn.PReLU(channels)
        )
        self.coarse = nn.Sequential(
            ResidualBlock(channels), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.fine = nn.Sequential(
            ResidualBlock(channels), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features of a clip to those of what changes in it."""
        batch, frames, channels, height, width = (int(side) for side in features.shape)
        steps = (features[:, :-1] - features[:, 1:]).reshape(
            batch * (frames - 1), channels, height, width
        )
        steps = F.avg_pool2d(self.differ(steps), 2)
        joined = steps.reshape(batch, (frames - 1) * (channels // 2), height // 2, width // 2)
        change = self.gather(joined)
        raised, kept = _double(change + self.coarse(change)), _double(change)
        blended: Tensor = self.fine(0.5 * features[:, -1] + 0.5 * kept)
        return 0.5 * blended + 0.5 * raised


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)


def in_rows(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, H * W); sizes are numbers of the trace, not values of the graph."""
    batch, channels, height, width = (int(side) for side in x.shape)
    return x.reshape(batch, channels, height * width)


def in_frames(x: Tensor, *, like: Tensor) -> Tensor:
    """What `in_rows` makes this of, as high and wide as another tensor."""
    batch, channels, _ = (int(side) for side in x.shape)
    return x.reshape(batch, channels, int(like.shape[-2]), int(like.shape[-1]))


def join_frames(x: Tensor) -> Tensor:
    """(N, T, C, H, W) to (N, T * C, H, W)."""
    batch, frames, channels, height, width = (int(side) for side in x.shape)
    return x.reshape(batch, frames * channels, height, width)


def part_frames(x: Tensor, *, frames: int) -> Tensor:
    """(N * T, C, H, W) to (N, T, C, H, W)."""
    both, channels, height, width = (int(side) for side in x.shape)
    return x.reshape(both // frames, frames, channels, height, width)
