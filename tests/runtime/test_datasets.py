from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from irstd.runtime.datasets import check_mask, find_kind, open_dataset, open_train
from irstd.tests.runtime.dataset_trees import make_sirst, names, pairs, touch, write


@pytest.fixture
def sirst(tmp_path: Path) -> Path:
    return make_sirst(tmp_path)


# --- the public layouts ---------------------------------------------------------------------------


def test_sirst_v1(sirst: Path) -> None:
    dataset = open_dataset(sirst)
    assert (dataset.kind, dataset.split, len(dataset)) == ("masks", "all", 3)
    assert names(dataset) == ["Misc_1", "Misc_2", "Misc_10"]  # numbers count as numbers
    assert pairs(dataset)[0] == ("images/Misc_1.png", "masks/Misc_1_pixels0.png")
    assert names(open_dataset(sirst, split="trainval")) == ["Misc_10", "Misc_1"]
    assert names(open_dataset(sirst, split="test")) == ["Misc_2"]
    assert names(open_dataset(sirst, split="idx_320/test")) == ["Misc_1"]


def test_sirst_v2(tmp_path: Path) -> None:
    touch(tmp_path, "mixed/S1_1.png", "mixed/Misc_2.png", "images/backgrounds/S1_1.png")
    touch(tmp_path, "annotations/masks/S1_1_pixels0.png", "annotations/masks/Misc_2_pixels0.png")
    write(tmp_path / "splits/test_full.txt", "S1_1\n")
    write(tmp_path / "splits/val_full.txt", "Misc_2\n")
    write(tmp_path / "splits/val_v1fullv2target.txt", "Misc_2\n")
    assert pairs(open_dataset(tmp_path, split="test")) == [
        ("mixed/S1_1.png", "annotations/masks/S1_1_pixels0.png")
    ]
    assert open_dataset(tmp_path, split="test").split == "test_full"
    with pytest.raises(ValueError, match="could be val_full or val_v1fullv2target"):
        open_dataset(tmp_path, split="val")


def test_sirst_v2_sorted_into_folders(tmp_path: Path) -> None:
    touch(tmp_path, "images/backgrounds/S1_1.png", "images/targets/S2_1.png")
    touch(tmp_path, "annotations/masks/S1_1_pixels0.png", "annotations/masks/S2_1_pixels0.png")
    assert pairs(open_dataset(tmp_path)) == [
        ("images/backgrounds/S1_1.png", "annotations/masks/S1_1_pixels0.png"),
        ("images/targets/S2_1.png", "annotations/masks/S2_1_pixels0.png"),
    ]


def test_nudt_sirst(tmp_path: Path) -> None:
    for name in ("000001", "000002", "000003"):
        touch(tmp_path, f"images/{name}.png", f"masks/{name}.png")
    write(tmp_path / "img_idx/train_NUDT-SIRST.txt", "000001\n000003")
    write(tmp_path / "img_idx/test_NUDT-SIRST.txt", "000002\n")
    train = open_dataset(tmp_path, split="train")
    assert (names(train), train.split) == (["000001", "000003"], "train_NUDT-SIRST")
    assert names(open_dataset(tmp_path, split="test_NUDT-SIRST")) == ["000002"]


@pytest.mark.parametrize("folders", [("IRSTD1k_Img", "IRSTD1k_Label"), ("images", "masks")])
def test_irstd_1k(tmp_path: Path, folders: tuple[str, str]) -> None:
    for name in ("XDU0", "XDU1"):
        touch(tmp_path, *(f"{folder}/{name}.png" for folder in folders))
    write(tmp_path / "trainval.txt", "XDU1\n")
    write(tmp_path / "test.txt", "XDU0\n")
    assert pairs(open_dataset(tmp_path, split="test")) == [
        (f"{folders[0]}/XDU0.png", f"{folders[1]}/XDU0.png")
    ]
    assert len(open_dataset(tmp_path)) == 2


def test_parts_of_sirst_aug(tmp_path: Path) -> None:
    for part in ("trainval", "test"):
        touch(tmp_path, f"{part}/images/000000.png", f"{part}/masks/000000.png")
    assert names(open_dataset(tmp_path)) == ["trainval/000000", "test/000000"]
    test = open_dataset(tmp_path, split="test")
    assert (names(test), test.split) == (["test/000000"], "test")
    assert pairs(test) == [("test/images/000000.png", "test/masks/000000.png")]
    with pytest.raises(ValueError, match=r"no split 'val', there are test, trainval; pass"):
        open_dataset(tmp_path, split="val")
    write(tmp_path / "some.txt", "000000\n")
    with pytest.raises(FileNotFoundError, match="no such image"):  # which of the two?
        open_dataset(tmp_path, split="some")
    write(tmp_path / "some.txt", "trainval/000000\n")
    assert names(open_dataset(tmp_path, split="some")) == ["trainval/000000"]


def test_list_over_parts(tmp_path: Path) -> None:
    for part, name in (("train", "a"), ("test", "b")):
        touch(tmp_path, f"{part}/images/{name}.png", f"{part}/masks/{name}.png")
    write(tmp_path / "few.txt", "b\na\n")
    assert names(open_dataset(tmp_path, split="few")) == ["test/b", "train/a"]


def test_any_image_type(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.BMP", "images/b.tiff", "images/c.v2.jpg", "images/.DS_Store")
    touch(tmp_path, "masks/a.png", "masks/b_pixels0.tif", "masks/c.v2.png", "images/._a.bmp")
    assert pairs(open_dataset(tmp_path)) == [
        ("images/a.BMP", "masks/a.png"),
        ("images/b.tiff", "masks/b_pixels0.tif"),
        ("images/c.v2.jpg", "masks/c.v2.png"),
    ]


def test_plain_mask_name_goes_first(sirst: Path) -> None:
    touch(sirst, "masks/Misc_2.png")
    assert pairs(open_dataset(sirst, split="test")) == [("images/Misc_2.png", "masks/Misc_2.png")]


def test_written_images_pair_up(tmp_path: Path) -> None:
    frame, mask = np.full((9, 12), 70, np.uint8), np.zeros((9, 12), np.uint8)
    mask[3:5, 4:6] = 255
    for folder, image in (("images", frame), ("masks", mask)):
        (tmp_path / folder).mkdir()
        assert cv2.imwrite(str(tmp_path / folder / "one.png"), image)
    (sample,) = open_dataset(tmp_path)
    read = cv2.imread(str(sample.mask), cv2.IMREAD_GRAYSCALE)
    assert read is not None
    assert np.array_equal(check_mask(read, (9, 12), name=sample.name), mask > 0)


# --- what nothing is measured on ------------------------------------------------------------------


def test_kind_of_a_folder(sirst: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert find_kind(sirst) == "masks"
    other = tmp_path_factory.mktemp("other")
    touch(other, "frames/1.png")
    assert find_kind(other) is None  # frames alone are no dataset
    touch(other, "test/images/1.png", "test/masks/1.png")
    assert find_kind(other) == "masks"
    touch(other, "centroids.csv")
    assert find_kind(other) == "centroids"


def test_train_list_goes_first(sirst: Path) -> None:
    write(sirst / "train_own.txt", "Misc_2\nMisc_1\n")
    dataset = open_train(sirst)
    assert (names(dataset), dataset.split) == (["Misc_2", "Misc_1"], "train_own")


def test_without_train_list_what_is_held_out_stays_out(sirst: Path) -> None:
    dataset = open_train(sirst)  # idx_427/test names Misc_2, idx_320/test Misc_1
    assert (names(dataset), dataset.split) == (["Misc_10"], "all but val and test")
    write(sirst / "validated.txt", "Misc_10\n")  # is no val list
    assert names(open_train(sirst)) == ["Misc_10"]
    write(sirst / "val_v2.txt", "Misc_10\n")
    with pytest.raises(ValueError, match="held out by val or test, none is left .* a train.txt"):
        open_train(sirst)


def test_train_of_parts_and_of_what_has_no_lists(tmp_path: Path) -> None:
    touch(tmp_path, "trainval/images/a.png", "trainval/masks/a.png")
    assert open_train(tmp_path).split == "all"
    touch(tmp_path, "test/images/a.png", "test/masks/a.png")
    assert names(open_train(tmp_path)) == ["trainval/a"]
    touch(tmp_path, "train/images/b.png", "train/masks/b.png")
    assert names(open_train(tmp_path)) == ["train/b"]


# --- what is missing ------------------------------------------------------------------------------


def test_missing_mask(sirst: Path) -> None:
    (sirst / "masks/Misc_2_pixels0.png").unlink()
    expected = r"Misc_2.png has no mask; expected .*Misc_2.png or Misc_2_pixels0.png beside it"
    with pytest.raises(FileNotFoundError, match=expected):
        open_dataset(sirst)
    with pytest.raises(FileNotFoundError, match=expected):
        open_dataset(sirst, split="test")
    assert len(open_dataset(sirst, split="trainval")) == 2  # leaves the frame out


def test_no_such_folder(tmp_path: Path) -> None:
    touch(tmp_path, "file.png")
    for path in (tmp_path / "nowhere", tmp_path / "file.png"):
        with pytest.raises(FileNotFoundError, match="is no folder; pass the folder of a dataset"):
            open_dataset(path)


def test_unknown_layout(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png")  # and no masks
    with pytest.raises(FileNotFoundError) as error:
        open_dataset(tmp_path)
    for known in ("images + masks", "IRSTD1k_Img + IRSTD1k_Label", "frames + centroids.csv"):
        assert known in str(error.value)
    assert "\n" not in str(error.value)


def test_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "images/readme.md", "masks/a.png")
    with pytest.raises(ValueError, match=r"images holds no image, expected files ending .png"):
        open_dataset(tmp_path)


def test_two_images_of_one_name(sirst: Path) -> None:
    touch(sirst, "images/Misc_2.bmp")
    with pytest.raises(ValueError, match="two images named 'Misc_2': .*; rename or remove one"):
        open_dataset(sirst)
