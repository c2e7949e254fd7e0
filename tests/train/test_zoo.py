from __future__ import annotations

import re

import pytest
import torch

from irstd.train.models.box_network import BoxNetwork, answer
from irstd.train.models.lrrnet import LRRNet
from irstd.train.zoo import MODELS, find_model, read_size


def test_find_model() -> None:
    model = find_model("lrrnet")
    assert model.name == "lrrnet"
    assert isinstance(model.build(), LRRNet)
    assert (model.stride, model.size) == (8, (256, 256))
    assert "10.1109/TGRS.2025.3608239" in model.source


def test_each_build_is_a_fresh_network() -> None:
    first, second = (find_model("lrrnet").build().state_dict() for _ in range(2))
    assert not torch.equal(first["init_conv.weight"], second["init_conv.weight"])


@pytest.mark.parametrize("name", MODELS)
def test_entries_agree_with_themselves(name: str) -> None:
    model = MODELS[name]
    assert model.name == name == name.lower()
    assert all(side % model.stride == 0 for side in model.size)
    assert model.weights.name == f"{name}.safetensors"
    assert model.weights.parent.name == "weights"


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_networks_keep_the_promise_of_the_zoo(name: str) -> None:
    model = MODELS[name]
    side = model.stride if model.is_trained else 50  # a solver needs room for its patches
    frames = torch.rand(2, model.clip.length if model.clip else 1, side, 2 * side)
    network = model.build().eval()
    assert (model.answer == "boxes") == isinstance(network, BoxNetwork)
    if isinstance(network, BoxNetwork):
        found = answer(network, frames)
        assert (len(found), found.shape[2]) == (2, 5)
        return
    reconstruction, logits = network(frames)
    assert logits.shape == (2, 1, side, 2 * side)
    assert reconstruction.shape in (logits.shape, frames.shape)


@pytest.mark.parametrize("name", ["lrrnt", "LRRNet", "lrr-net"])
def test_a_misspelt_name(name: str) -> None:
    expected = f"unknown model {name!r}; did you mean 'lrrnet'? known: {', '.join(sorted(MODELS))}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        find_model(name)


@pytest.mark.parametrize("name", ["yolo", ""])
def test_an_unknown_name(name: str) -> None:
    expected = f"unknown model {name!r}; known: {', '.join(sorted(MODELS))}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        find_model(name)


def test_sizes_are_height_then_width() -> None:
    assert read_size("512x640") == (512, 640) == read_size("512X640")


@pytest.mark.parametrize("text", ["", "512", "512x", "512x640x1", "-8x8", "a x b", "５x8"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="expected HEIGHTxWIDTH"):
        read_size(text)
