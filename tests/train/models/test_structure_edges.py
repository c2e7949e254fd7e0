"""Edges by the structure tensor and their pyramid: against float64 references and OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from irstd.export.bundling import make_graph
from irstd.export.precision import emulate_fp16, to_fp16
from irstd.runtime.engine import load_engine
from irstd.train.models.structure_edges import TensorWeighting, edge_pyramid, map_edges

pytestmark = pytest.mark.usefixtures("one_thread")
Array = npt.NDArray[np.float64]
TAPS = np.exp(-0.5 * np.arange(-3.0, 4.0) ** 2)  # a Gaussian of one pixel, cut at three


def blurred(image: Array) -> Array:
    """By the definition: every tap of both directions, the edge repeated."""
    wide = np.pad(image, 3, mode="edge")
    weights = np.outer(TAPS, TAPS) / TAPS.sum() ** 2
    windows = np.lib.stride_tricks.sliding_window_view(wide, (7, 7))
    summed: Array = (windows * weights).sum(axis=(2, 3))
    return summed


def reference(frame: Array) -> Array:
    """The edge map of (H, W), eigenvalues by LAPACK."""
    wide = np.pad(blurred(frame), 1, mode="edge")
    rows = (wide[2:, 1:-1] - wide[:-2, 1:-1]) / 2
    columns = (wide[1:-1, 2:] - wide[1:-1, :-2]) / 2
    tensor = np.empty((*frame.shape, 2, 2))
    tensor[..., 0, 0], tensor[..., 1, 1] = blurred(rows**2), blurred(columns**2)
    tensor[..., 0, 1] = tensor[..., 1, 0] = blurred(rows * columns)
    strength = np.sqrt(np.linalg.eigvalsh(tensor)[..., 1].clip(min=0))
    stretched: Array = (strength - strength.min()) / (strength.max() - strength.min())
    return stretched


@pytest.mark.parametrize("size", [(16, 16), (32, 48)])
def test_edges_against_eigenvalues_in_float64(size: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).random((2, 1, *size))
    found = map_edges(torch.from_numpy(frames).float())
    for one, frame in zip(found, frames, strict=True):
        np.testing.assert_allclose(one[0].numpy(), reference(frame[0]), atol=2e-6)
    assert found.amin(dim=(1, 2, 3)).tolist() == [0.0, 0.0]
    torch.testing.assert_close(found.amax(dim=(1, 2, 3)), torch.ones(2))


def test_a_constant_frame_has_no_edge() -> None:
    for level in (0.0, 0.3, 1.0):
        assert not map_edges(torch.full((1, 1, 16, 32), level)).any()


def test_an_edge_is_where_the_step_is() -> None:
    frame = torch.zeros(1, 1, 16, 32)
    frame[..., 12:] = 0.5  # between columns 11 and 12
    rows = map_edges(frame)[0, 0]
    assert torch.equal(rows, rows[:1].expand(16, -1))
    torch.testing.assert_close(rows[0, :24], rows[0, :24].flip(0))
    assert int(rows[0].argmax()) in (11, 12)
    assert not rows[0, :3].any() and not rows[0, 21:].any()  # 3 + 1 + 3 pixels are all that it sees


def test_a_point_target_is_an_edge_at_its_centre_too() -> None:
    frame = torch.zeros(1, 1, 32, 32)
    frame[0, 0, 15, 16] = 0.1
    assert map_edges(frame)[0, 0, 15, 16] > 0.5


def test_gain_and_offset_do_not_matter() -> None:
    frame = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(map_edges(0.25 * frame + 0.5), map_edges(frame), atol=1e-5, rtol=0)


def test_what_is_fainter_than_a_grey_level_is_not_blown_up() -> None:
    noise = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert map_edges(noise).max() == 1.0
    assert 0.0 < map_edges(1e-4 * noise).max() < 0.1


def test_edges_are_fp32_and_constant_to_a_training_in_bfloat16() -> None:
    frame = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = edge_pyramid(map_edges(frame))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = edge_pyramid(map_edges(frame.requires_grad_()))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad


class Shown(nn.Module):
    """Shows the edges as logits."""

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        return frame, map_edges(frame)


# Of four grey levels FP16 itself, around 0.5, rounds away an eighth of one.
@pytest.mark.parametrize(("contrast", "tolerance"), [(1.0, 0.02), (4 / 255, 0.1)])
def test_edges_in_fp16(contrast: float, tolerance: float) -> None:
    # Squares of squares of a faint frame's derivatives would be 0 in FP16 without the gain.
    graph = make_graph(Shown().eval(), (32, 32))
    frame = 0.5 + contrast * (np.random.default_rng(0).random((1, 1, 32, 32), np.float32) - 0.5)
    frame = (frame * 255).round() / np.float32(255)
    full, half = (
        load_engine(one.SerializeToString(), threads=1).run(frame.astype(np.float32))
        for one in (graph, emulate_fp16(to_fp16(graph)))
    )
    np.testing.assert_allclose(half, full, atol=tolerance, rtol=0)
    assert full.std() > 0.01


# --- the pyramid ----------------------------------------------------------------------------------


def corners_on_corners(length: int) -> Array:
    """The matrix that interpolates `length` values at half as many places, ends on ends."""
    matrix = np.zeros((length // 2, length))
    for row, place in enumerate(np.linspace(0, length - 1, length // 2)):
        first = min(int(place), length - 2)
        matrix[row, first], matrix[row, first + 1] = 1 - (place - first), place - first
    return matrix


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (80, 16)])
def test_the_pyramid_is_that_of_the_released_code(size: tuple[int, int]) -> None:
    edges = np.random.default_rng(1).random((2, 1, *size), dtype=np.float32)
    whole, *smaller = edge_pyramid(torch.from_numpy(edges))
    assert torch.equal(whole, torch.from_numpy(edges))
    for place, map_ in enumerate(edges[:, 0]):
        halved = map_ * np.float32(255)  # as it goes to OpenCV and back
        for level in smaller:
            halved = cv2.pyrDown(halved)
            rows, columns = (corners_on_corners(side) for side in halved.shape)
            expected = rows @ (halved / 255.0) @ columns.T
            np.testing.assert_allclose(level[place, 0].numpy(), expected, atol=5e-7)


# --- the weighting --------------------------------------------------------------------------------


@torch.no_grad()
def test_no_edge_no_change() -> None:
    features = torch.rand(2, 4, 8, 8)
    weighed = TensorWeighting(4).eval()(features, torch.zeros(2, 1, 8, 8))
    assert torch.equal(weighed, features)


@torch.no_grad()
def test_weighting_by_hand() -> None:
    layer = TensorWeighting(2).eval()
    layer.spread.weight.copy_(torch.tensor([2.0, -2.0]).reshape(2, 1, 1, 1))
    layer.refine.second[1].weight.zero_()  # what is left of it: a ReLU
    found = layer(torch.ones(1, 2, 4, 4), torch.full((1, 1, 4, 4), 0.25))
    # G = 0.5 and -0.5; F = 1.5 * 0.5 and 0.5 * -0.5; E + F + R(F).
    expected = torch.tensor([1 + 0.75 + 0.75, 1 - 0.25]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4)
    torch.testing.assert_close(found, expected)
