from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from irstd.runtime.datasets import Dataset, check_mask, find_kind, open_dataset, open_train


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def names(dataset: Dataset) -> list[str]:
    return [sample.name for sample in dataset]


def pairs(dataset: Dataset) -> list[tuple[str, str]]:
    found = []
    for sample in dataset:
        assert sample.mask is not None and sample.points is None
        found.append(
            (
                sample.image.relative_to(dataset.root).as_posix(),
                sample.mask.relative_to(dataset.root).as_posix(),
            )
        )
    return found


@pytest.fixture
def sirst(tmp_path: Path) -> Path:
    for number in (1, 2, 10):
        touch(tmp_path, f"images/Misc_{number}.png", f"masks/Misc_{number}_pixels0.png")
        touch(tmp_path, f"masks/Misc_{number}.xml")
    write(tmp_path / "idx_427/trainval.txt", "Misc_10\nMisc_1\n")
    write(tmp_path / "idx_427/test.txt", "Misc_2\n")
    write(tmp_path / "idx_320/test.txt", "Misc_1\n")
    return tmp_path


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    touch(tmp_path, "frames/1.png", "frames/2.png", "frames/10.png")
    write(tmp_path / "centroids.csv", "frame,x,y\n10,91,37\n1,5.5,6\n1,7,8\n\n")
    return tmp_path


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


# --- lists ----------------------------------------------------------------------------------------


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


def test_train_of_a_sequence(sequence: Path) -> None:
    assert names(open_train(sequence)) == ["1", "2", "10"]
    write(sequence / "val.txt", "2\n")
    assert names(open_train(sequence)) == ["1", "10"]


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


# --- sequences ------------------------------------------------------------------------------------


def test_sequence(sequence: Path) -> None:
    dataset = open_dataset(sequence)
    assert (dataset.kind, dataset.split) == ("centroids", "all")
    assert names(dataset) == ["1", "2", "10"]  # in order of time
    assert [sample.mask for sample in dataset] == [None] * 3
    assert {sample.sequence for sample in dataset} == {sequence.name}
    assert [sample.number for sample in dataset] == [1, 2, 10]
    # x is the column, y the row; a frame without a line has no target.
    assert [sample.points for sample in dataset] == [((6.0, 5.5), (8.0, 7.0)), (), ((37.0, 91.0),)]


def test_sequence_with_a_list(sequence: Path) -> None:
    write(sequence / "calibration.txt", "10\n2\n")
    assert names(open_dataset(sequence, split="calibration")) == ["10", "2"]
    with pytest.raises(ValueError, match="no split 'test', there are calibration"):
        open_dataset(sequence, split="test")


def test_centroids_as_spreadsheets_write_them(sequence: Path) -> None:
    write(sequence / "centroids.csv", "\ufeffframe, x, y\r\n2.png, 1e1, 2\r\n,,\r\n")
    assert open_dataset(sequence).samples[1].points == ((2.0, 10.0),)


def test_sequence_without_targets(sequence: Path) -> None:
    write(sequence / "centroids.csv", "frame,x,y\n")
    assert [sample.points for sample in open_dataset(sequence)] == [(), (), ()]


def test_sequence_without_frames(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    write(tmp_path / "centroids.csv", "frame,x,y\n")
    with pytest.raises(ValueError, match="frames holds no image"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("text", ["", "frame,y,x\n1,2,3\n", "1,91,37\n", "frame;x;y\n"])
def test_wrong_header(sequence: Path, text: str) -> None:
    write(sequence / "centroids.csv", text)
    with pytest.raises(ValueError, match="expected the header 'frame,x,y'"):
        open_dataset(sequence)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,abc,3", "line 3: '1,abc,3', expected numbers for x and y"),
        ("1,,3", "line 3: '1,,3', expected numbers for x and y"),
        ("1,nan,3", "line 3: '1,nan,3', expected finite numbers"),
        ("1,2", "line 3: 2 fields, expected 3: frame, x, y"),
        ("1,2,3,4", "line 3: 4 fields, expected 3"),
    ],
)
def test_bad_line(sequence: Path, line: str, message: str) -> None:
    write(sequence / "centroids.csv", f"frame,x,y\n1,5,6\n{line}\n")
    with pytest.raises(ValueError, match=message):
        open_dataset(sequence)


def test_centroid_of_no_frame(sequence: Path) -> None:
    write(sequence / "centroids.csv", "frame,x,y\n0001,5,6\n")
    with pytest.raises(FileNotFoundError, match="line 2: frame '0001' has no file in .*frames"):
        open_dataset(sequence)


# --- masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", [1, 127, 255])
def test_mask_of_any_scale(top: int) -> None:
    mask = np.zeros((4, 5), np.uint8)
    mask[1, 2] = top
    assert check_mask(mask, (4, 5), name="a").nonzero() == (1, 2)


@pytest.mark.parametrize("factor", [1, 257])
def test_soft_border_of_a_mask(factor: int) -> None:
    mask = np.zeros((20, 30), np.uint8 if factor == 1 else np.uint16)
    mask[4, 7:12] = np.array([20, 100, 255, 180, 127]) * factor
    assert np.argwhere(check_mask(mask, (20, 30), name="a")).tolist() == [[4, 9], [4, 10]]


def test_mask_of_zeros_and_full_mask() -> None:
    empty = check_mask(np.zeros((3, 3), np.uint8), (3, 3), name="a")
    assert empty.dtype == np.bool_ and not empty.any()
    assert check_mask(np.full((3, 3), 255, np.uint8), (3, 3), name="a").all()


def test_mask_of_another_size() -> None:
    with pytest.raises(ValueError, match="mask of Misc_3 is 4x5, expected 5x4 as the frame"):
        check_mask(np.zeros((4, 5), np.uint8), (5, 4), name="Misc_3")


@st.composite
def levels(draw: st.DrawFn) -> np.unsignedinteger:
    """What may stand for a target: 1, or half of the type's range and more."""
    dtype = draw(st.sampled_from([np.uint8, np.uint16]))
    limit = int(np.iinfo(dtype).max)
    return dtype(draw(st.just(1) | st.integers(limit // 2, limit)))


@given(hnp.arrays(bool, (6, 7)), levels())
def test_mask_comes_back(truth: np.ndarray, level: np.unsignedinteger) -> None:
    assert np.array_equal(check_mask(truth * level, (6, 7), name="a"), truth)


@pytest.mark.parametrize(
    ("dtype", "highest"),
    [(np.uint8, 2), (np.uint8, 3), (np.uint8, 126), (np.uint16, 3), (np.uint16, 126)],
)
def test_numbered_labels_are_no_mask(dtype: type[np.unsignedinteger], highest: int) -> None:
    mask = np.zeros((20, 30), dtype)
    mask[3, 3], mask[8:10, 8:10] = 1, highest
    with pytest.raises(ValueError, match=rf"holds values up to {highest}, .*, or 0 and 255;"):
        check_mask(mask, (20, 30), name="a")
    mask[8:10, 8:10] = 127  # from here on it is a level
    assert check_mask(mask, (20, 30), name="a").sum() == 4


def test_a_picture_is_no_mask() -> None:
    picture = np.linspace(0, 255, 600).reshape(20, 30).astype(np.uint8)
    # Four fifths of all levels lie between a tenth and nine tenths.
    with pytest.raises(ValueError, match=r"mask of a has 4[78]\d pixels that are neither target"):
        check_mask(picture, (20, 30), name="a")


def test_one_percent_may_be_soft() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[0, :4] = 255
    mask[10, :6] = 120  # 6 of 600
    assert check_mask(mask, (20, 30), name="a").sum() == 4
    mask[11, 0] = 26  # above a tenth of 255
    with pytest.raises(ValueError, match="mask of a has 7 pixels that are neither"):
        check_mask(mask, (20, 30), name="a")
    mask[11, 0] = 25
    mask[12, :9] = 230  # above nine tenths
    assert check_mask(mask, (20, 30), name="a").sum() == 4 + 9
