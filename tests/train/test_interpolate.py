"""Weights between two trainings: by hand, at the ends, refused, and as a command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from irstd.train.checkpoint import Weights, read_weights, save_weights
from irstd.train.interpolate import interpolate, interpolate_command
from irstd.train.zoo import find_model

START = {"a.weight": torch.tensor([1.0, -2.0]), "a.count": torch.tensor(3)}
END = {"a.weight": torch.tensor([2.0, 2.0]), "a.count": torch.tensor(8)}


@pytest.mark.parametrize(
    ("share", "weight"), [(0.0, [1, -2]), (0.25, [1.25, -1]), (0.5, [1.5, 0]), (1.0, [2, 2])]
)
def test_between_by_hand(share: float, weight: list[float]) -> None:
    mixed = interpolate(START, END, share)
    assert mixed["a.weight"].tolist() == weight
    assert mixed["a.count"].item() == 8  # of steps; nothing to average


def test_what_came_is_left_as_it_was() -> None:
    interpolate(START, END, 0.5)["a.count"].add_(1)
    assert END["a.count"].item() == 8
    assert START["a.weight"].tolist() == [1, -2]


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share is .*, expected 0 to 1"):
        interpolate(START, END, share)


def test_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"only one of both has 'b'"):
        interpolate({**START, "b": torch.zeros(1)}, END, 0.5)
    with pytest.raises(ValueError, match=r"a.weight is \(3,\) in one and \(2,\) in the other"):
        interpolate({**START, "a.weight": torch.zeros(3)}, END, 0.5)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The shipped weights, and the same with a head that finds a target everywhere."""
    folder = tmp_path_factory.mktemp("ends")
    shipped = read_weights(find_model("lrrnet-edge").weights)
    spoilt = {key: value.clone() for key, value in shipped.tensors.items()}
    spoilt["target.bias"] += 1e4
    first, second = folder / "first.safetensors", folder / "second.safetensors"
    save_weights(first, Weights(shipped.tensors, {"model": "lrrnet-edge", "seed": "1"}))
    save_weights(second, Weights(spoilt, {"model": "lrrnet-edge", "seed": "2"}))
    return first, second


@pytest.fixture
def call(ends: tuple[Path, Path], masks_dataset: Path) -> Callable[..., str]:
    def run(*options: str, fails: bool = False) -> str:
        wanted = [*map(str, ends), "--model", "lrrnet-edge", "--data", str(masks_dataset), *options]
        result = CliRunner().invoke(interpolate_command, [*wanted, "--size", "256x256"])
        assert (result.exit_code != 0) == fails, result.output
        return result.output

    return run


def test_the_best_share_is_kept(call: Callable[..., str], tmp_path: Path) -> None:
    output = tmp_path / "kept.safetensors"
    said = call("--share", "1", "--share", "0", "--share", "0.5", "--output", str(output))
    lines = said.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["1", "0", "0.5"]
    assert all("dataset IoU " in line and " Pd " in line for line in lines)
    kept = read_weights(output)
    assert kept.notes["interpolated"] == "0 of second.safetensors, the rest first.safetensors"
    assert kept.notes["seed"] == "2"
    assert f"IoU {kept.notes['val.dataset.iou']}" in lines[1]
    shipped = read_weights(find_model("lrrnet-edge").weights).tensors
    assert all(torch.equal(kept.tensors[key], value) for key, value in shipped.items())


def test_one_share_is_kept_whatever_it_scores(call: Callable[..., str], tmp_path: Path) -> None:
    output = tmp_path / "kept.safetensors"
    call("--share", "1", "--output", str(output))
    assert read_weights(output).notes["interpolated"].startswith("1 of second")


def test_another_suffix_is_refused(call: Callable[..., str], tmp_path: Path) -> None:
    said = call("--share", "1", "--output", str(tmp_path / "kept.pth"), fails=True)
    assert "expected a name that ends in .safetensors" in said
    assert not list(tmp_path.glob("kept*"))


def test_weights_of_another_network_are_refused(
    ends: tuple[Path, Path], masks_dataset: Path, tmp_path: Path
) -> None:
    output = tmp_path / "kept.safetensors"
    save_weights(tmp_path / "other.safetensors", Weights(nn.Linear(1, 1).state_dict()))
    files = [str(ends[0]), str(tmp_path / "other.safetensors")]
    options = ["--model", "lrrnet-edge", "--data", str(masks_dataset), "--share", "0.5"]
    result = CliRunner().invoke(interpolate_command, [*files, *options, "--output", str(output)])
    assert result.exit_code != 0
    assert "these are two different networks" in result.output
    assert not output.exists()
