import numpy as np
import pytest
import torch

from irstd.runtime.frame import FrameContract, prepare
from irstd.runtime.scene import Scene, SceneOptions


@pytest.fixture(scope="session")
def scene():
    """A prepared frame (1, 1, 64, 64) of a terrain with targets."""
    options = SceneOptions(height=64, width=64, bit_depth=8, targets=2, scr=(20.0, 20.0), defects=0)
    return prepare(Scene(options, seed=1).frame(0).frame, FrameContract(64, 64))


@pytest.fixture(scope="session")
def patch_image(scene):
    """Its patch image less the mean, (1, 256, 169) float32, and its singular values."""
    frame = torch.from_numpy(scene - scene.mean())
    matrix = torch.nn.functional.unfold(frame, 16, stride=4)
    return matrix, torch.linalg.svdvals(matrix.double())


@pytest.fixture(scope="session")
def random():
    return np.random.default_rng(0)
