from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from irstd.train.recipe import Augmentation, Recipe
from irstd.train.state import State, describe_origin, read_state, save_state, state_path

ORIGIN = {"model": "tiny", "epochs": "3", "initial": "fresh"}
FULL = Path("/dev/full")


def state(step: int = 1) -> State:
    """What a small network leaves behind after a step."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = AdamW(network.parameters(), lr=0.1)
    schedule = OneCycleLR(optimiser, 0.1, total_steps=5)
    network(torch.rand(2, 1, 4, 4)).square().sum().backward()
    optimiser.step()
    schedule.step()
    return State(
        step=step,
        best=0.1 + 0.2,
        losses=(1 / 3, 2.0),
        network=network.state_dict(),
        averaged={key: value.clone() for key, value in network.state_dict().items()},
        optimiser=optimiser.state_dict(),
        schedule=schedule.state_dict(),
        origin=ORIGIN,
    )


def test_where_it_lies() -> None:
    assert state_path(Path("runs/a.safetensors")) == Path("runs/a.safetensors.unfinished")


def test_round_trip(tmp_path: Path) -> None:
    written, path = state(), tmp_path / "a.unfinished"
    save_state(path, written)
    read = read_state(path, ORIGIN)
    assert (read.step, read.best, read.losses) == (1, 0.1 + 0.2, (1 / 3, 2.0))
    assert read.origin == ORIGIN
    assert read.schedule == written.schedule
    for name in ("network", "averaged"):
        tensors, expected = getattr(read, name), getattr(written, name)
        assert list(tensors) == list(expected)
        assert all(torch.equal(tensors[key], expected[key]) for key in expected)
        assert all(tensors[key].dtype == expected[key].dtype for key in expected)
    torch.testing.assert_close(dict(read.optimiser), dict(written.optimiser), rtol=0, atol=0)
    assert [file.name for file in tmp_path.iterdir()] == ["a.unfinished"]


def test_a_state_can_be_taken_up_by_an_optimiser(tmp_path: Path) -> None:
    save_state(tmp_path / "a", state())
    read = read_state(tmp_path / "a", ORIGIN)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimiser = AdamW(network.parameters(), lr=0.7)
    schedule = OneCycleLR(optimiser, 0.1, total_steps=5)
    optimiser.load_state_dict(read.optimiser)
    schedule.load_state_dict(read.schedule)
    assert schedule.last_epoch == 1
    assert optimiser.param_groups[0]["lr"] == schedule.get_last_lr()[0] != 0.7


def test_a_newer_state_takes_the_place_of_an_older(tmp_path: Path) -> None:
    for step in (1, 2):
        save_state(tmp_path / "a", state(step))
    assert read_state(tmp_path / "a", ORIGIN).step == 2


@pytest.mark.skipif(not FULL.is_char_device(), reason="this system has no /dev/full")
def test_a_full_disk_leaves_the_older_state(tmp_path: Path) -> None:
    path = tmp_path / "a.unfinished"
    save_state(path, state(1))
    (tmp_path / ".a.partial.unfinished").symlink_to(FULL)
    with pytest.raises(OSError, match="No space left on device: '.*/a.unfinished'"):
        save_state(path, state(2))
    assert read_state(path, ORIGIN).step == 1
    assert list(tmp_path.iterdir()) == [path]


# --- what is no state of this training ------------------------------------------------------------


def test_a_missing_state(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no unfinished training .*/a; leave --resume out$"):
        read_state(tmp_path / "a", ORIGIN)


def test_the_text_names_all_that_differs(tmp_path: Path) -> None:
    save_state(tmp_path / "a", replace(state(), origin={**ORIGIN, "dropped": "yes"}))
    with pytest.raises(ValueError, match="/a was started with something else: ") as caught:
        read_state(tmp_path / "a", {**ORIGIN, "epochs": "4", "seed": "1"})
    text = str(caught.value)
    assert "epochs 3 then, 4 now" in text
    assert "dropped yes then, not set now" in text
    assert "seed not set then, 1 now" in text
    assert "model" not in text and "initial" not in text
    assert "resume with what it was started with, or delete it" in text


def test_an_origin_holds_all_of_the_recipe() -> None:
    recipe = Recipe(batch=8, augmentation=Augmentation(noise=5.0))
    origin = describe_origin(recipe, model="tiny")
    assert (origin["model"], origin["batch"], origin["augmentation.noise"]) == ("tiny", "8", "5.0")
    assert origin != describe_origin(Recipe(batch=8), model="tiny")


def refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match="^unfinished training .* is damaged; delete it and start"):
        read_state(path, ORIGIN)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"hello", b"hello world", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\x80\x02h\x05."],
    ids=repr,
)
def test_what_is_no_state_at_all(tmp_path: Path, content: bytes) -> None:
    refused(tmp_path / "a", content)


def test_a_state_that_was_cut_off(tmp_path: Path) -> None:
    save_state(tmp_path / "whole", state())
    whole = (tmp_path / "whole").read_bytes()
    for kept in range(0, len(whole), 97):
        refused(tmp_path / "a", whole[:kept])


@pytest.mark.parametrize("content", [[1, 2], {"step": 1}, {"a": torch.zeros(1)}, 7], ids=repr)
def test_other_content(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "whole")
    refused(tmp_path / "a", (tmp_path / "whole").read_bytes())


class Touches:
    """A pickle of this creates a file when it is loaded the careless way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, writer: str) -> None:
    proof, path = tmp_path / "it_ran", tmp_path / "a"
    content = {"step": Touches(proof)}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    refused(path, path.read_bytes())
    assert not proof.exists()
