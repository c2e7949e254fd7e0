from __future__ import annotations

import os
from pathlib import Path

import pytest

from irstd.runtime.files import WholeFile, about, user_cache, write_whole

FULL = Path("/dev/full")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_kept(tmp_path: Path) -> None:
    file = WholeFile(tmp_path / "a.txt")
    file.partial.write_text("new")
    assert not file.path.exists()
    file.keep()
    file.drop()
    assert names(tmp_path) == ["a.txt"]
    assert file.path.read_text() == "new"


def test_a_dropped_file_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    file = WholeFile(tmp_path / "a.txt")
    file.partial.write_text("ne")
    file.drop()
    assert names(tmp_path) == ["a.txt"]
    assert file.path.read_text() == "old"


def test_keeping_nothing_makes_nothing(tmp_path: Path) -> None:
    WholeFile(tmp_path / "a.txt").keep()
    assert names(tmp_path) == []


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_whole(tmp_path / "link.txt", b"new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_a_pipe_is_neither_replaced_nor_removed(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    file = WholeFile(pipe)
    assert file.partial == pipe
    file.keep()
    file.drop()
    assert pipe.is_fifo()


def test_errors_name_the_file_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*/none/a.txt'"):
        write_whole(tmp_path / "none" / "a.txt", b"")


@pytest.mark.skipif(not FULL.is_char_device(), reason="this system has no /dev/full")
def test_a_full_disk_is_told_with_the_name() -> None:
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_whole(FULL, b"content")
    assert FULL.is_char_device()


def test_nothing_is_left_of_a_file_that_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left on device: '.*/a.txt'"):
        write_whole(tmp_path / "a.txt", b"content")
    assert names(tmp_path) == []


def test_an_error_without_number_keeps_its_text() -> None:
    assert str(about(OSError("odd"), "a.txt")) == "[Errno None] odd: 'a.txt'"


@pytest.mark.parametrize("value", [None, ""])
def test_the_cache_lies_at_home_unless_a_setting_names_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "named"))
    assert user_cache("engines") == tmp_path / "named" / "irstd" / "engines"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME")
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert user_cache("engines") == tmp_path / ".cache" / "irstd" / "engines"


def test_a_user_without_a_home_folder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(OSError, match="home directory.; set XDG_CACHE_HOME"):
        user_cache("engines")
