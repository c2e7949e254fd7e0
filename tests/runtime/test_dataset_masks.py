from __future__ import annotations

from pathlib import Path

import pytest

from irstd.runtime.datasets import find_kind, open_dataset, open_train
from irstd.tests.runtime.dataset_trees import names, pairs, touch, write


@pytest.fixture
def mirsdt(tmp_path: Path) -> Path:
    """NUDT-MIRSDT: Sequence47/Mix/00001.mat, .../images, .../masks, .../masks_centroid."""
    for sequence in ("Sequence1", "Sequence47"):
        for number in ("00001", "00002"):
            touch(
                tmp_path,
                f"{sequence}/Mix/{number}.mat",
                f"{sequence}/images/{number}.png",
                f"{sequence}/masks/{number}.png",
                f"{sequence}/masks_centroid/{number}.png",
            )
    write(tmp_path / "train.txt", "Sequence1/Mix/00001.mat\nSequence1/Mix/00002.mat\n")
    write(tmp_path / "test.txt", "Sequence47/Mix/00001.mat\nSequence47/Mix/00002.mat\n")
    return tmp_path


@pytest.fixture
def irdst(tmp_path: Path) -> Path:
    """IRDST-simulation: images/252/1.bmp with masks/252/1.bmp."""
    for name in ("3/1", "3/2", "3/10", "252/1", "252/2"):
        touch(tmp_path, f"images/{name}.bmp", f"masks/{name}.bmp")
    write(tmp_path / "img_idx/train_IRDST-simulation.txt", "3/1\n3/2\n3/10\n")
    write(tmp_path / "img_idx/test_IRDST-simulation.txt", "252/1\n252/2\n")
    return tmp_path


def test_nudt_mirsdt(mirsdt: Path) -> None:
    assert find_kind(mirsdt) == "masks"
    dataset = open_dataset(mirsdt)
    assert (dataset.kind, dataset.has_sequences) == ("masks", True)
    assert names(dataset) == [
        f"{sequence}/0000{number}" for sequence in ("Sequence1", "Sequence47") for number in (1, 2)
    ]
    assert [sample.sequence for sample in dataset] == ["Sequence1"] * 2 + ["Sequence47"] * 2
    assert [sample.number for sample in dataset] == [1, 2, 1, 2]
    test = open_dataset(mirsdt, split="test")
    assert pairs(test)[0] == ("Sequence47/images/00001.png", "Sequence47/masks/00001.png")
    assert names(open_train(mirsdt)) == ["Sequence1/00001", "Sequence1/00002"]


def test_nudt_mirsdt_with_matlab_files_alone(mirsdt: Path) -> None:
    for sequence in ("Sequence1", "Sequence47"):
        for path in (mirsdt / sequence / "images").iterdir():
            path.unlink()
        (mirsdt / sequence / "images").rmdir()
    test = open_dataset(mirsdt, split="test")
    assert pairs(test) == [
        (f"Sequence47/Mix/0000{number}.mat", f"Sequence47/masks/0000{number}.png")
        for number in (1, 2)
    ]


def test_nudt_mirsdt_sorted_into_parts(tmp_path: Path) -> None:
    for part, sequence in (("train", "Sequence1"), ("val", "Sequence47")):
        touch(tmp_path, f"{part}/{sequence}/images/1.png", f"{part}/{sequence}/masks/1.png")
    dataset = open_dataset(tmp_path)
    assert names(dataset) == ["train/Sequence1/1", "val/Sequence47/1"]
    assert [sample.sequence for sample in dataset] == ["train/Sequence1", "val/Sequence47"]
    assert names(open_dataset(tmp_path, split="val")) == ["val/Sequence47/1"]
    assert names(open_train(tmp_path)) == ["train/Sequence1/1"]
    write(tmp_path / "few.txt", "Sequence47/Mix/1.mat\nSequence1\n")  # lists know no parts
    with pytest.raises(FileNotFoundError, match="names 'Sequence1'"):
        open_dataset(tmp_path, split="few")
    write(tmp_path / "few.txt", "Sequence47/Mix/1.mat\ntrain/Sequence1\n")
    assert names(open_dataset(tmp_path, split="few")) == ["val/Sequence47/1", "train/Sequence1/1"]


def test_irdst_simulation(irdst: Path) -> None:
    dataset = open_dataset(irdst)
    assert names(dataset) == ["3/1", "3/2", "3/10", "252/1", "252/2"]
    assert [sample.sequence for sample in dataset] == ["3"] * 3 + ["252"] * 2
    assert [sample.number for sample in dataset] == [1, 2, 10, 1, 2]
    test = open_dataset(irdst, split="test")
    assert (names(test), test.split) == (["252/1", "252/2"], "test_IRDST-simulation")
    assert pairs(test)[0] == ("images/252/1.bmp", "masks/252/1.bmp")
    assert names(open_train(irdst)) == ["3/1", "3/2", "3/10"]


def test_irdst_real_tells_no_sequences(tmp_path: Path) -> None:
    for name in ("train/00000000", "train/00000001", "test/00000002"):
        touch(tmp_path, f"images/{name}.png", f"masks/{name}.png")
        write(tmp_path / f"boxes/{name}.txt", "[3, 4, 5, 6]\n")
    dataset = open_dataset(tmp_path)
    assert (dataset.kind, dataset.has_sequences) == ("masks", False)
    assert {(sample.sequence, sample.number) for sample in dataset} == {(None, None)}
    assert names(open_dataset(tmp_path, split="test")) == ["test/00000002"]
    assert names(open_train(tmp_path)) == ["train/00000000", "train/00000001"]


def test_a_dataset_in_a_folder_is_no_sequence(mirsdt: Path) -> None:
    touch(mirsdt, "SIRST/images/Misc_1.png", "SIRST/masks/Misc_1.png")
    write(mirsdt / "SIRST/train.txt", "Misc_1\n")
    assert {sample.sequence for sample in open_dataset(mirsdt)} == {"Sequence1", "Sequence47"}


def test_a_frame_of_a_sequence_without_its_mask(irdst: Path) -> None:
    (irdst / "masks/252/2.bmp").unlink()
    with pytest.raises(FileNotFoundError, match=r"252/2.bmp has no mask; expected .*masks/252/2"):
        open_dataset(irdst)
    assert len(open_dataset(irdst, split="train")) == 3  # leaves the frame out


def test_a_mask_of_a_sequence_without_its_frame(irdst: Path) -> None:
    (irdst / "images/252/2.bmp").unlink()
    said = r"mask .*masks/252/2.bmp has no frame, expected .*images/252/2 .*; a lost frame is a gap"
    with pytest.raises(FileNotFoundError, match=said):
        open_dataset(irdst, split="train")


def test_frames_of_one_stem_need_masks_in_the_same_folders(tmp_path: Path) -> None:
    touch(tmp_path, "images/a/1.png", "images/b/1.png", "masks/1.png")
    with pytest.raises(ValueError, match=r"two images named '1': .* or sort the masks"):
        open_dataset(tmp_path)


def test_an_empty_sequence(mirsdt: Path) -> None:
    (mirsdt / "Sequence5/images").mkdir(parents=True)
    (mirsdt / "Sequence5/masks").mkdir()
    with pytest.raises(ValueError, match=r"Sequence5/images holds no image"):
        open_dataset(mirsdt)
