"""Attention inside windows of a clip's features, shifted in every second layer (Video Swin)."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

WINDOW = 4  # rows and columns; a window holds every frame of the clip
SHIFT = 2  # rows and columns, of every second layer
HEADS = 4
GROWTH = 4  # of the channels inside the feed-forward part
SMALLEST = 1e-5  # variance
FORBIDDEN = -100.0  # what attention is lowered by between places that no window should hold both of


class ChannelNorm(nn.Module):
    """Layer normalisation over the last axis in operators that every TensorRT and FP16 have."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to the same shape."""
        centred = x - x.mean(dim=-1, keepdim=True)
        variance = (centred * centred).mean(dim=-1, keepdim=True)
        return centred * (self.weight / (variance + SMALLEST).sqrt()) + self.bias


class WindowLayer(nn.Module):
    """Attention in windows, then a feed-forward part, both with a skip.

    Windows and masks depend on the size alone and are constants of the graph. H and W must be
    multiples of 4.
    """

    def __init__(self, channels: int, frames: int, *, shift: int) -> None:
        super().__init__()
        self.frames, self.shift = frames, shift
        self.norm = ChannelNorm(channels)
        self.mixed = nn.Linear(channels, 3 * channels)
        self.merge = nn.Linear(channels, channels)
        self.bias = nn.Parameter(torch.zeros(HEADS, _offsets(frames)))
        self.register_buffer("places", torch.from_numpy(relative_places(frames)), persistent=False)
        self.feed = nn.Sequential(
            ChannelNorm(channels),
            nn.Linear(channels, GROWTH * channels),
            nn.GELU(),
            nn.Linear(GROWTH * channels, channels),
        )
        nn.init.trunc_normal_(self.bias, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, H, W, C) to the same shape."""
        _, frames, height, width, _ = (int(side) for side in x.shape)
        moved = _move(self.norm(x), -self.shift)
        seen = self._attend(to_windows(moved), _mask(height, width, frames, self.shift))
        x = x + _move(from_windows(seen, frames, height, width), self.shift)
        fed: Tensor = x + self.feed(x)
        return fed

    def _attend(self, x: Tensor, mask: np.ndarray | None) -> Tensor:
        """(N, windows, places, C) to the same shape."""
        batch, windows, places, channels = (int(side) for side in x.shape)
        mixed = self.mixed(x).reshape(batch, windows, places, 3, HEADS, channels // HEADS)
        query, key, value = (mixed[:, :, :, part].transpose(2, 3) for part in range(3))
        scale = (channels // HEADS) ** -0.5
        bias = self.bias[:, cast(Tensor, self.places).flatten()].reshape(HEADS, places, places)
        weight = (query * scale) @ key.transpose(-2, -1) + bias
        if mask is not None:
            weight = weight + torch.from_numpy(mask).to(weight)
        seen = weight.softmax(dim=-1) @ value
        merged: Tensor = self.merge(seen.transpose(2, 3).reshape(batch, windows, places, channels))
        return merged


class WindowAttention(nn.Module):
    """Two layers: windows, then windows shifted by half of one.

    Video Swin (CVPR 2022) with windows of 4x4 places over all frames.

    Shape:
        (N, T, C, H, W) to the same shape; C a multiple of 4.
    """

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        self.plain = WindowLayer(channels, frames, shift=0)
        self.shifted = WindowLayer(channels, frames, shift=SHIFT)

    def forward(self, x: Tensor) -> Tensor:
        """Features of a clip that have seen their neighbours in space and time."""
        last = x.permute(0, 1, 3, 4, 2)
        seen: Tensor = self.shifted(self.plain(last)).permute(0, 1, 4, 2, 3)
        return seen


def to_windows(x: Tensor) -> Tensor:
    """(N, T, H, W, C) to (N, windows, T * 16, C), windows in scan order."""
    batch, frames, height, width, channels = (int(side) for side in x.shape)
    rows, columns = height // WINDOW, width // WINDOW
    cut = x.reshape(batch, frames, rows, WINDOW, columns, WINDOW, channels)
    return cut.permute(0, 2, 4, 1, 3, 5, 6).reshape(
        batch, rows * columns, frames * WINDOW * WINDOW, channels
    )


def from_windows(x: Tensor, frames: int, height: int, width: int) -> Tensor:
    """What `to_windows` makes this of."""
    batch, _, _, channels = (int(side) for side in x.shape)
    rows, columns = height // WINDOW, width // WINDOW
    cut = x.reshape(batch, rows, columns, frames, WINDOW, WINDOW, channels)
    return cut.permute(0, 3, 1, 4, 2, 5, 6).reshape(batch, frames, height, width, channels)


def _move(x: Tensor, by: int) -> Tensor:
    """(N, T, H, W, C) rows and columns further, what leaves a frame comes in opposite."""
    return torch.roll(x, (by, by), (2, 3)) if by else x


def _offsets(frames: int) -> int:
    return (2 * frames - 1) * (2 * WINDOW - 1) ** 2


def relative_places(frames: int) -> np.ndarray:
    """(places, places) int64: which of the biases stands for the way from one place to another."""
    grid = np.stack(np.meshgrid(range(frames), range(WINDOW), range(WINDOW), indexing="ij"))
    places = grid.reshape(3, -1)
    way = (
        places[:, :, None] - places[:, None] + np.array([frames, WINDOW, WINDOW])[:, None, None] - 1
    )
    side = 2 * WINDOW - 1
    return np.asarray((way[0] * side + way[1]) * side + way[2], np.int64)


def _mask(height: int, width: int, frames: int, shift: int) -> np.ndarray | None:
    """(windows, 1, places, places) float32: keeps apart what lay at opposite borders."""
    if not shift:
        return None
    rows, columns = (
        np.digitize(np.arange(side), [side - WINDOW, side - shift]) for side in (height, width)
    )
    regions = np.broadcast_to(rows[:, None] * 3 + columns, (frames, height, width))
    cut = regions.reshape(frames, height // WINDOW, WINDOW, width // WINDOW, WINDOW)
    places = cut.transpose(1, 3, 0, 2, 4).reshape(-1, 1, frames * WINDOW * WINDOW)
    apart = places[..., :, None] != places[..., None, :]
    return np.where(apart, FORBIDDEN, 0.0).astype(np.float32)
