"""TenRPCANet's idea re-created: attention models the background and leaves the targets."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..sequences.median import median
from ..sequences.saliency import newest, open_grey
from .lrrnet_edge import PRIOR, ResidualBlock, Widen, activate, convolve
from .sides import check_sides

FRAMES = 8
PATCH = 4  # pixels of a token's side
WINDOW = 4  # tokens of a window's side
MOVED = WINDOW // 2  # tokens between the borders of the two attentions' windows
STRIDE = PATCH * WINDOW
TOKENS = WINDOW * WINDOW  # of a frame in a window
RANK = 8  # directions that a token keeps of the 16 pixels of its patch
CHANNELS = 32  # of a token
HEADS = 2  # of the attention among tokens
BASES = 4  # heads of the attention over pixels: backgrounds that are mixed
NEAR = 6.0  # bias by which the attention over pixels begins with the patches of the same place
HALF, QUARTER = 24, 48  # channels of the refinement at 1/2 and 1/4 of the frame
LEVEL_SIDE = 9  # pixels; window over which the misfit of the background is averaged
LEAST_LEVEL = 0.004  # misfit that counts at least; one grey level of 255
MOST_LEVELS = 12.0  # misfits beyond which a residual says nothing more


class LowRankEmbedding(nn.Module):
    """Patches of every frame as tokens: 16 pixels, kept in RANK directions, then lifted.

    Both maps are linear, so a token knows no more of its patch than the subspace holds, and a weak
    target hardly shows in it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.subspace = nn.Conv2d(1, RANK, PATCH, PATCH, bias=False)
        self.lift = convolve(RANK, CHANNELS, side=1)
        self.time = nn.Parameter(0.02 * torch.randn(FRAMES, CHANNELS, 1, 1))

    def forward(self, clip: Tensor) -> Tensor:
        """(N, T, H, W) to (N, T, C, H / 4, W / 4)."""
        count, frames, height, width = (int(side) for side in clip.shape)
        tokens = self.lift(self.subspace(clip.reshape(count * frames, 1, height, width)))
        shape = (count, frames, CHANNELS, height // PATCH, width // PATCH)
        placed: Tensor = tokens.reshape(shape) + self.time
        return placed


class WindowAttention(nn.Module):
    """Self-attention of all tokens in a window of 4x4 places and all frames, then a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.project = convolve(CHANNELS, 3 * CHANNELS, side=1)
        self.merge = convolve(CHANNELS, CHANNELS, side=1)
        self.perceptron = nn.Sequential(
            activate(CHANNELS, 2 * CHANNELS, side=1), convolve(2 * CHANNELS, CHANNELS, side=1)
        )
        self.bias = nn.Parameter(torch.zeros(1, HEADS, FRAMES * TOKENS, FRAMES * TOKENS))

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T, C, h, w) to the same shape; h and w are multiples of 4."""
        count, frames, channels, rows, columns = (int(side) for side in tokens.shape)
        flat = tokens.reshape(count * frames, channels, rows, columns)
        parts = self.project(flat).reshape(count, frames, 3 * channels, rows, columns)
        query, key, value = (cut_windows(part, HEADS) for part in parts.split(channels, dim=2))
        seen = attend(query, key, self.bias) @ value
        whole = join_windows(seen, (count, frames, rows, columns))
        flat = flat + self.merge(whole.reshape(flat.shape))
        flat = flat + self.perceptron(flat)
        changed: Tensor = flat.reshape(tokens.shape)
        return changed


class PixelAttention(nn.Module):
    """The newest frame's background as a combination of patches of the older frames' pixels.

    Queries are the newest frame's tokens, keys those of the older frames, in windows that are moved
    by half their side against those before; values are pixels, less a first estimate of the
    background. The newest frame's pixels are no values: a target cannot explain itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = convolve(CHANNELS, CHANNELS, side=1)
        self.key = convolve(CHANNELS, CHANNELS, side=1)
        self.mix = nn.Conv2d(BASES * PATCH**2, PATCH**2, 1, bias=False)
        self.bias = nn.Parameter(NEAR * torch.eye(TOKENS).repeat(1, BASES, 1, FRAMES - 1))
        mean = torch.eye(PATCH**2).repeat(1, BASES) / BASES
        self.mix.weight.data.copy_(mean[:, :, None, None])

    def forward(self, tokens: Tensor, pixels: Tensor) -> Tensor:
        """Combine patches.

        Args:
            tokens: (N, T, C, h, w).
            pixels: (N, T - 1, 4 h, 4 w) of the older frames.

        Returns:
            (N, 1, 4 h, 4 w).
        """
        count, older, height, width = (int(side) for side in pixels.shape)
        rows, columns = height // PATCH, width // PATCH
        past = tokens[:, :-1].reshape(count * older, CHANNELS, rows, columns)
        patches = pixels.reshape(count * older, 1, height, width)
        query = widen_border(self.query(tokens[:, -1])).unsqueeze(1)
        key = widen_border(self.key(past))
        value = widen_border(F.pixel_unshuffle(patches, PATCH))
        key, value = (part.reshape(count, older, *part.shape[1:]) for part in (key, value))
        share = attend(cut_windows(query, BASES), cut_windows(key, BASES), self.bias)
        bases = share @ cut_windows(value, 1)
        wide = join_windows(bases, (count, 1, rows + WINDOW, columns + WINDOW))[:, 0]
        seen = wide[:, :, MOVED : MOVED + rows, MOVED : MOVED + columns]
        return F.pixel_shuffle(self.mix(seen), PATCH)


def attend(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    """Weights of the keys for each query, (B, heads, queries, keys); they sum to 1."""
    scale = int(query.shape[-1]) ** -0.5
    share: Tensor = ((query * scale) @ key.transpose(2, 3) + bias).softmax(dim=-1)
    return share


def cut_windows(tokens: Tensor, heads: int) -> Tensor:
    """(N, T, heads d, h, w) to (N windows, heads, T 16, d)."""
    count, frames, channels, rows, columns = (int(side) for side in tokens.shape)
    high, wide, depth = rows // WINDOW, columns // WINDOW, channels // heads
    split = tokens.reshape(count, frames, heads, depth, high, WINDOW, wide, WINDOW)
    return split.permute(0, 4, 6, 2, 1, 5, 7, 3).reshape(
        count * high * wide, heads, frames * TOKENS, depth
    )


def join_windows(cut: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """Undo `cut_windows`; `shape` is (N, T, h, w) of the result, (N, T, heads d, h, w)."""
    count, frames, rows, columns = shape
    heads, depth = int(cut.shape[1]), int(cut.shape[3])
    high, wide = rows // WINDOW, columns // WINDOW
    split = cut.reshape(count, high, wide, heads, frames, WINDOW, WINDOW, depth)
    joined = split.permute(0, 4, 3, 7, 1, 5, 2, 6)
    return joined.reshape(count, frames, heads * depth, rows, columns)


def widen_border(tokens: Tensor) -> Tensor:
    """(N, C, h, w), mirrored by half a window on each side: windows then lie across old borders.

    By slices, as tracing writes a padding's sizes as values that are computed.
    """
    for dim in (2, 3):
        last = int(tokens.shape[dim]) - 1
        before = [tokens.narrow(dim, place, 1) for place in range(MOVED, 0, -1)]
        after = [tokens.narrow(dim, last - place, 1) for place in range(1, MOVED + 1)]
        tokens = torch.cat([*before, tokens, *after], dim=dim)
    return tokens


def local_mean(frame: Tensor) -> Tensor:
    """(N, 1, H, W), averaged over 9x9 pixels, those beyond the border left out."""
    return F.avg_pool2d(
        frame, LEVEL_SIDE, stride=1, padding=LEVEL_SIDE // 2, count_include_pad=False
    )


class ThresholdGate(nn.Module):
    """Soft threshold, the sparse step of robust PCA, whose height follows from the surroundings."""

    def __init__(self, channels: int, context: int) -> None:
        super().__init__()
        self.height = Widen(context, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(N, C, h, w) with context (N, D, h / 2, w / 2) to (N, C, h, w)."""
        height = F.softplus(self.height(context))
        return F.relu(x - height) - F.relu(-x - height)


class TenRPCANet(nn.Module):
    """Low-rank tokens, attention that models the background, sparse refinement of the residual.

    A re-creation of the idea of TenRPCANet (arXiv 2509.07654), for which no code was found; its
    numbers are not claimed. From the paper: a clip of 8 frames; a tokenisation at stride 4 that
    keeps a subspace of each patch; windowed attention over space and time as the model of the
    background; residual, threshold gate and refinement in place of the sparse update of tensor
    robust PCA, with no iterations and no singular values. Ours, for want of more or by intent:

    - all sizes, and convolutions with BatchNorm, which an export folds, in place of LayerNorm;
    - it is causal: targets of the newest frame, whose pixels are no part of its background. The
      paper segments all 8 frames at once;
    - frames come registered, so the background starts from the median of the older frames, and
      attention over pixels corrects it;
    - the residual is measured in units of the background's local misfit in the older frames, which
      is what edges leave after registration;
    - the newest frame's own top-hat goes into the refinement beside the residuals;
    - one window attention and one over pixels, no hierarchy: at 1/4 of the frame a window of 16
      pixels and 15 frames holds what targets of 2 pixels per frame cross.

    Shape:
        (N, 8, H, W) float32 in 0..1, H and W multiples of 16, newest frame last ->
        background of the newest frame (N, 1, H, W), target logits (N, 1, H, W).
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = LowRankEmbedding()
        self.attention = WindowAttention()
        self.background = PixelAttention()
        self.stem = nn.Sequential(
            nn.Conv2d(FRAMES + 1, HALF, 6, 2, padding=2, bias=False),
            nn.BatchNorm2d(HALF),
            nn.ReLU(inplace=True),
            ResidualBlock(HALF),
        )
        self.down = activate(HALF, QUARTER, stride=2)
        self.inform = convolve(CHANNELS, QUARTER, side=1)
        self.deep = nn.Sequential(ResidualBlock(QUARTER), ResidualBlock(QUARTER))
        self.widen = Widen(QUARTER, HALF)
        self.refine = convolve(HALF, HALF)
        self.gate = ThresholdGate(HALF, QUARTER)
        self.target = nn.Conv2d(HALF, 4, 3, padding=1)
        nn.init.constant_(cast(Tensor, self.target.bias), PRIOR)

    def forward(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Model the background of the newest frame and find what it does not explain."""
        check_sides(clip, stride=STRIDE)
        check_frames(clip)
        tokens = self.attention(self.embed(clip - 0.5))
        older = clip[:, :-1]
        first = median([older[:, place : place + 1] for place in range(FRAMES - 1)])
        background = first + self.background(tokens, older - first)
        shallow = self.stem(measure_residuals(clip, background))
        deep = self.deep(F.relu(self.down(shallow) + self.inform(tokens[:, -1])))
        sparse = self.gate(self.refine(shallow + self.widen(deep)), deep)
        return background, F.pixel_shuffle(self.target(sparse), 2)


def measure_residuals(clip: Tensor, background: Tensor) -> Tensor:
    """What the background leaves of every frame, in units of its local misfit.

    Args:
        clip: (N, T, H, W) in 0..1.
        background: (N, 1, H, W) of the newest frame.

    Returns:
        (N, T + 1, H, W): the frames' residuals, then the newest frame's top-hat in units of its own
        local mean; all within -12..12.
    """
    residuals = clip - background
    misfit = local_mean(residuals[:, :-1].abs().mean(dim=1, keepdim=True)) + LEAST_LEVEL
    frame = newest(clip)
    hat = frame - open_grey(frame)
    contrast = hat / (local_mean(hat) + LEAST_LEVEL)
    levels = torch.cat([residuals / misfit, contrast], dim=1)
    return levels.clamp(-MOST_LEVELS, MOST_LEVELS)


def check_frames(clip: Tensor) -> None:
    """Refuse a clip of another length.

    Raises:
        ValueError: there are not 8 frames.
    """
    if int(clip.shape[1]) != FRAMES:
        raise ValueError(f"the clip has {int(clip.shape[1])} frames, tenrpcanet takes {FRAMES}")
