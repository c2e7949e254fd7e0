from __future__ import annotations

import os
import pickle
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from irstd.train.checkpoint import Weights, load_into, read_weights, save_weights


def tensors(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "conv.weight": torch.randn(4, 1, 3, 3, generator=generator),
        "conv.bias": torch.randn(4, generator=generator),
    }


def assert_equal(ours: Weights, expected: dict[str, Tensor]) -> None:
    assert ours.tensors.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(ours.tensors[key], expected[key], rtol=0, atol=0)


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Conv2d(4, 1, 1)


# --- our own files --------------------------------------------------------------------------------


def test_round_trip_with_notes(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    notes = {"model": "lrrnet", "trained_on": "NUDT-SIRST train.txt, ein Wörtchen"}
    save_weights(path, Weights(tensors(), notes))
    read = read_weights(path)
    assert_equal(read, tensors())
    assert dict(read.notes) == notes
    assert [entry.name for entry in tmp_path.iterdir()] == ["best.safetensors"]


def test_round_trip_without_notes(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.safetensors", Weights(tensors()))
    assert dict(read_weights(tmp_path / "a.safetensors").notes) == {}


def test_saving_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    save_weights(path, Weights(tensors(0)))
    with path.open(
        "rb", buffering=0
    ) as reader:  # who still reads the old file goes on reading it whole
        first = reader.read(64)
        save_weights(path, Weights(tensors(1)))
        save_weights(tmp_path / "old.safetensors", Weights(tensors(0)))
        assert first + reader.read() == (tmp_path / "old.safetensors").read_bytes()
    assert_equal(read_weights(path), tensors(1))


def test_parameters_and_views_are_saved(tmp_path: Path) -> None:
    path = tmp_path / "views.safetensors"
    weight = nn.Parameter(torch.arange(6.0).reshape(2, 3))
    save_weights(path, Weights({"turned": weight.t(), "whole": weight}))
    assert_equal(read_weights(path), {"turned": weight.detach().t(), "whole": weight.detach()})


# --- writing that fails ---------------------------------------------------------------------------


@contextmanager
def full_disk(after: int) -> Iterator[None]:
    """No file may grow beyond `after` bytes: a write fails as on a full disk."""
    resource = pytest.importorskip("resource", reason="this system cannot limit file sizes")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_no_partial_file(tmp_path: Path) -> None:
    with full_disk(100), pytest.raises(OSError, match="File too large"):
        save_weights(tmp_path / "best.safetensors", Weights(tensors()))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_last_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    save_weights(path, Weights(tensors()))
    with full_disk(100), pytest.raises(OSError, match="File too large"):
        save_weights(path, Weights(tensors(1)))
    assert_equal(read_weights(path), tensors())
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file or directory"):
        save_weights(tmp_path / "nowhere" / "best.safetensors", Weights(tensors()))


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        save_weights(path, Weights(tensors()))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_weights_may_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        save_weights(tmp_path / "best.safetensors", Weights(tensors()))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "best.safetensors").stat().st_mode) == 0o644


# --- foreign files --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".pt"])
def test_a_plain_state_dict(tmp_path: Path, suffix: str) -> None:
    torch.save(tensors(), tmp_path / f"net{suffix}")
    read = read_weights(tmp_path / f"net{suffix}")
    assert_equal(read, tensors())
    assert dict(read.notes) == {}


def test_the_old_file_format_of_torch(tmp_path: Path) -> None:
    torch.save(tensors(), tmp_path / "net.pkl", _use_new_zipfile_serialization=False)
    assert_equal(read_weights(tmp_path / "net.pkl"), tensors())


def test_a_network_s_own_state_dict(tmp_path: Path) -> None:
    network = TwoLayers()
    torch.save(network.state_dict(), tmp_path / "net.pth")
    assert_equal(read_weights(tmp_path / "net.pth"), dict(network.state_dict()))


def test_a_nested_state_dict(tmp_path: Path) -> None:
    content = {"epoch": 3, "state_dict": tensors(), "optimizer": {"lr": 1e-3}}
    torch.save(content, tmp_path / "net.pth")
    assert_equal(read_weights(tmp_path / "net.pth"), tensors())


def test_the_prefix_of_data_parallel(tmp_path: Path) -> None:
    content = {f"module.{key}": tensor for key, tensor in tensors().items()}
    torch.save({"state_dict": content}, tmp_path / "net.pth")
    assert_equal(read_weights(tmp_path / "net.pth"), tensors())


class Touches:
    """A pickle of this creates a file when it is loaded the careless way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, writer: str) -> None:
    proof, path = tmp_path / "it_ran", tmp_path / "net.pkl"
    content = {"conv.weight": Touches(proof)}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=r"net\.pkl are no plain state dict.*save them again"):
        read_weights(path)
    assert not proof.exists()
    pickle.loads(pickle.dumps(Touches(proof)))
    assert proof.exists()  # the same content does run where it is let


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Conv2d(1, 1, 1), tmp_path / "net.pth")
    with pytest.raises(ValueError, match="no plain state dict"):
        read_weights(tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("content", "kind"),
    [([torch.zeros(1)], "list"), ({"a": 1}, "dict"), (torch.zeros(1), "Tensor")],
)
def test_other_content_is_refused(tmp_path: Path, content: object, kind: str) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=f"hold {kind}, expected tensors by key"):
        read_weights(tmp_path / "net.pth")


# --- damaged and missing files --------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 4, 20, -1])
def test_truncated_safetensors(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "best.safetensors"
    save_weights(path, Weights(tensors()))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"best\.safetensors are damaged: ."):
        read_weights(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_pickles(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "net.pth"
    torch.save(tensors(), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for kept in (0, 1, 10, 50, len(whole) // 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=r"net\.pth are no plain state dict \(damaged"):
            read_weights(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"<!DOCTYPE html><title>Not found</title>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 13844128\n",
        b"\x80\x02}q\x00.",
        b"PK\x03\x04",
        b"\x89PNG\r\n\x1a\n",
        b"\x80\x02h\x05.",
        b"\x80\x02K\x01e.",
        b"hello",
        bytes(range(256)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_weights_at_all(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights .* (are damaged|are no plain state dict)"):
        read_weights(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"weights .*gone\.safetensors do not exist"):
        read_weights(tmp_path / "gone.safetensors")
    with pytest.raises(FileNotFoundError, match="do not exist"):
        read_weights(tmp_path)


def test_another_suffix(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.touch()
    with pytest.raises(
        ValueError, match=r"weights net\.onnx end in '\.onnx', expected \.safetensors or one of"
    ):
        read_weights(path)


def test_our_files_are_plain_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    save_weights(path, Weights(tensors(), {"model": "lrrnet"}))
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"model": "lrrnet"}
        assert set(file.keys()) == set(tensors())


# --- load_into ------------------------------------------------------------------------------------


def fitting() -> dict[str, Tensor]:
    return {
        **tensors(),
        "head.weight": torch.ones(1, 4, 1, 1),
        "head.bias": torch.full((1,), 2.0),
    }


def test_load_into() -> None:
    network = TwoLayers()
    load_into(network, fitting(), name="best.safetensors")
    assert_equal(Weights(network.state_dict()), fitting())


def complaint(state: dict[str, Tensor]) -> str:
    network = TwoLayers()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_into(network, state, name="best.safetensors")
    assert_equal(Weights(network.state_dict()), before)  # nothing was loaded in part
    return str(caught.value)


def test_missing_keys() -> None:
    state = fitting()
    del state["head.weight"], state["conv.bias"]
    assert complaint(state) == (
        "best.safetensors does not fit TwoLayers: 2 missing (conv.bias, head.weight)"
    )


def test_unexpected_keys() -> None:
    state = {**fitting(), "head.scale": torch.ones(1)}
    assert complaint(state) == (
        "best.safetensors does not fit TwoLayers: 1 unexpected (head.scale)"
    )


def test_reshaped_keys() -> None:
    state = {**fitting(), "head.bias": torch.zeros(3), "head.weight": torch.ones(1, 4)}
    assert complaint(state) == (
        "best.safetensors does not fit TwoLayers: 2 of another shape "
        "(head.weight (1, 4) instead of (1, 4, 1, 1), head.bias (3,) instead of (1,))"
    )


def test_all_problems_at_once_and_long_lists_cut() -> None:
    state = {f"extra.{number}": torch.zeros(1) for number in range(6)}
    text = complaint({**state, "conv.bias": torch.zeros(5)})
    assert re.search(r"3 missing \(conv\.weight, head\.weight, head\.bias\)", text)
    assert re.search(r"6 unexpected \(extra\.0, .*extra\.3, and 2 more\)", text)
    assert re.search(r"1 of another shape \(conv\.bias \(5,\) instead of \(4,\)\)", text)


def test_equal_weights_give_equal_files(tmp_path: Path) -> None:
    notes = {f"note {number}": str(number) for number in range(20)}
    tensors = {f"layer.{number}": torch.full((3,), float(number)) for number in range(20)}
    backwards = Weights(dict(reversed(list(tensors.items()))), dict(reversed(list(notes.items()))))
    for name, weights in (("a", Weights(tensors, notes)), ("b", backwards)):
        save_weights(tmp_path / f"{name}.safetensors", weights)
    first, second = (tmp_path / f"{name}.safetensors" for name in "ab")
    assert dict(read_weights(first).notes) == notes
    assert torch.equal(read_weights(first).tensors["layer.7"], tensors["layer.7"])
    assert first.read_bytes() == second.read_bytes()


# --- ranges ---------------------------------------------------------------------------------------

RANGED = {"body.0": 0.1 + 0.2, "body.1": 3.4e38, "head": 2.0**-100}


def test_ranges_travel_with_the_weights_and_are_no_notes(tmp_path: Path) -> None:
    path = tmp_path / "tuned.safetensors"
    save_weights(path, Weights(tensors(), {"model": "lrrnet"}, RANGED))
    read = read_weights(path)
    assert read.ranges == RANGED
    assert read.notes == {"model": "lrrnet"}
    assert_equal(read, tensors())


def test_weights_without_ranges_are_the_same_bytes_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    save_weights(path, Weights(tensors(), {"model": "lrrnet"}))
    assert read_weights(path).ranges == {}
    assert b"int8_ranges" not in path.read_bytes()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no json", "int8_ranges is 'no json', expected numbers by module"),
        ("[1, 2]", "expected numbers by module"),
        ('{"body": "wide"}', "expected numbers by module"),
        ('{"body": null}', "expected numbers by module"),
        ('{"body": 0.0}', "the range of body is 0.0, expected more than 0"),
        ('{"body": NaN}', "the range of body is nan"),
        ('{"body": Infinity}', "the range of body is inf"),
    ],
)
def test_ranges_that_are_none_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "tuned.safetensors"
    save_weights(path, Weights(tensors(), {"int8_ranges": text}))
    with pytest.raises(ValueError, match=re.escape(said)):
        read_weights(path)
