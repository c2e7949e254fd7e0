from __future__ import annotations

from pathlib import Path

import pytest

from irstd.runtime.datasets import open_dataset
from irstd.tests.runtime.dataset_trees import make_sirst, names, touch, write


@pytest.fixture
def sirst(tmp_path: Path) -> Path:
    return make_sirst(tmp_path)


def test_lists_as_people_write_them(sirst: Path) -> None:
    write(sirst / "own.txt", "\ufeffMisc_2.png\r\n\r\n  Misc_1 \r\nimages/Misc_2.png\n\n")
    assert names(open_dataset(sirst, split="own")) == ["Misc_2", "Misc_1"]


def test_list_by_path(sirst: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("lists") / "mine.txt"
    write(outside, "Misc_10\n")
    dataset = open_dataset(sirst, split=str(outside))
    assert (names(dataset), dataset.split) == (["Misc_10"], "mine")
    assert names(open_dataset(sirst, split="idx_320/test.txt")) == ["Misc_1"]
    with pytest.raises(FileNotFoundError, match="no list other.txt, neither here nor in"):
        open_dataset(sirst, split="other.txt")


def test_list_in_the_root_goes_first(sirst: Path) -> None:
    write(sirst / "test.txt", "Misc_10\n")
    assert names(open_dataset(sirst, split="test")) == ["Misc_10"]
    assert names(open_dataset(sirst, split="idx_427/test")) == ["Misc_2"]


def test_prefix_ends_at_an_underscore(sirst: Path) -> None:
    with pytest.raises(ValueError, match="no split 'train', there are test, trainval; pass"):
        open_dataset(sirst, split="train")  # not trainval


def test_no_lists_at_all(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "masks/a.png")
    with pytest.raises(ValueError, match="no split 'val', it has none; pass the path"):
        open_dataset(tmp_path, split="val")


def test_empty_list(sirst: Path) -> None:
    write(sirst / "none.txt", "\n \n")
    with pytest.raises(ValueError, match=r"none.txt is empty, expected one name a line"):
        open_dataset(sirst, split="none")


def test_list_names_a_missing_image(sirst: Path) -> None:
    write(sirst / "own.txt", "Misc_1\nMisc_99\n")
    with pytest.raises(FileNotFoundError, match=r"own.txt names 'Misc_99', but .* no such image"):
        open_dataset(sirst, split="own")
