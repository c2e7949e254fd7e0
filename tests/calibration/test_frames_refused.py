from dataclasses import replace

import numpy as np
import pytest

from irstd.calibration.frames import read_calibration, synthetic_calibration
from irstd.runtime.frame import FrameContract
from irstd.runtime.media_cv2 import write_image
from irstd.tests.calibration.frames_on_disk import CONTRACT, noise, plain, write


def refused(folder, contract=CONTRACT, error=ValueError, **options):
    with pytest.raises(error) as caught:
        read_calibration(folder, contract, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_folder(tmp_path):
    said = refused(tmp_path / "nowhere", error=FileNotFoundError)
    assert said.endswith("nowhere is no folder; pass a folder of frames, or a dataset")


def test_no_images(tmp_path):
    assert "holds no image, expected files ending .png" in refused(tmp_path)


def test_too_few_frames(tmp_path):
    said = refused(plain(tmp_path, 7))
    assert "offers 7 frames; 8 are the least, 32 or more of different scenes" in said
    write(tmp_path, [("more.png", noise(99))])
    assert len(read_calibration(tmp_path, CONTRACT).frames) == 8


def test_too_few_asked_for(tmp_path):
    assert "7 calibration frames were asked for, expected 8 or more" in refused(tmp_path, most=7)
    with pytest.raises(ValueError, match="asked for, expected 8 or more"):
        synthetic_calibration(CONTRACT, most=0)


def test_a_damaged_file_is_named_and_not_skipped(tmp_path):
    plain(tmp_path, 20)
    content = (tmp_path / "f13.png").read_bytes()
    (tmp_path / "f13.png").write_bytes(content[: len(content) // 2])
    assert "f13.png of" in (said := refused(tmp_path)) and "cut off or damaged" in said
    (tmp_path / "f13.png").write_bytes(b"")
    assert "f13.png" in refused(tmp_path)


def test_a_missing_or_foreign_mask_is_named(dataset):
    write_image(dataset / "masks/m4.png", np.zeros((32, 30), np.uint8))
    assert "mask of m4 is 32x30, expected 32x32 as the frame" in refused(dataset)
    (dataset / "masks/m4.png").unlink()
    assert "m4.png has no mask" in refused(dataset, error=FileNotFoundError)


def test_a_mask_that_leaves_no_background_is_named(dataset):
    write_image(dataset / "masks/m3.png", np.full((32, 32), 255, np.uint8))
    said = refused(dataset)
    assert "m3.png: the mask labels 1024 of 1024 pixels" in said and "leaves no background" in said


@pytest.mark.parametrize("value", [0, 70, 255])
def test_constant_frames(tmp_path, value):
    blank = np.full((32, 32), value, np.uint8)
    plain(tmp_path, 12)
    write(tmp_path, [(f"f{i}.png", blank) for i in (2, 10)])
    said = refused(tmp_path)
    assert f"2 of 12 frames in {tmp_path} show nothing" in said
    assert f"f2.png (every pixel is {value}), f10.png (every pixel is {value}); was" in said


def test_many_blank_frames_name_the_first_three(tmp_path):
    plain(tmp_path, 12)
    write(tmp_path, [(f"f{i}.png", np.zeros((32, 32), np.uint8)) for i in range(5)])
    said = refused(tmp_path)
    assert "5 of 12" in said and "f2.png" in said and "f3.png" not in said
    assert "(every pixel is 0) and 2 more" in said


@pytest.mark.parametrize(("end", "bit_depth"), [(0, 8), (255, 8), (4095, 12)])
def test_saturated_frames(tmp_path, end, bit_depth):
    plain(tmp_path, 12, bit_depth=bit_depth)
    contract = FrameContract(32, 32, bit_depth=bit_depth)
    frame = np.full((32, 32), end, contract.dtype)
    frame.flat[:103] = 90  # a tenth and a little
    write(tmp_path, [("f3.png", frame)])
    read_calibration(tmp_path, contract)
    frame.flat[:103] = end
    frame.flat[:64] = 90
    write(tmp_path, [("f3.png", frame)])
    full_scale = 2**bit_depth - 1
    assert f"f3.png (94% of the pixels are 0 or {full_scale})" in refused(tmp_path, contract)


@pytest.mark.parametrize(
    ("recorded", "declared", "said", "hint"),
    [
        (8, 14, "frame is uint8, expected uint16 for the declared 14 bits", "--bit-depth 8"),
        (
            14,
            8,
            "frame is uint16, expected uint8 for the declared 8 bits",
            "--bit-depth 14 or more",
        ),
        (14, 12, "above the 4095 of the declared 12 bits", "--bit-depth 14 or more"),
    ],
)
def test_frames_of_another_depth(tmp_path, recorded, declared, said, hint):
    top = np.uint8 if recorded == 8 else np.uint16
    frame = np.full((32, 32), 2**recorded - 1, top)
    plain(tmp_path, bit_depth=declared)
    write(tmp_path, [("f5.png", frame)])
    found = refused(tmp_path, FrameContract(32, 32, bit_depth=declared))
    assert "f5.png: " in found and said in found and found.endswith(hint)


def test_frames_that_do_not_fit_the_network(tmp_path):
    plain(tmp_path)
    write(tmp_path, [("f6.png", noise(0, shape=(33, 32)))])
    said = refused(tmp_path, replace(CONTRACT, fit="pad"))
    assert "f6.png: frame is 33x32, larger than the network's 32x32" in said
    assert "--bit-depth" not in said


@pytest.mark.parametrize("masks", ["masks", "IRSTD1k_Label", "gt", "Annotations", "frame_masks"])
def test_masks_are_never_taken_for_frames(tmp_path, masks):
    mask = np.zeros((32, 32), np.uint8)
    write(tmp_path, [(f"pictures/f{i}.png", noise(i)) for i in range(10)])
    write(tmp_path, [(f"{masks}/f{i}.png", mask) for i in range(10)])
    said = refused(tmp_path)
    assert f"{masks} looks like masks" in said and "arrange it as images/ and masks/" in said
    assert len(read_calibration(tmp_path / "pictures", CONTRACT).frames) == 10


def test_a_folder_of_masks_or_masks_beside_frames(dataset, tmp_path):
    assert "are these masks?" in refused(dataset / "masks")
    beside = plain(tmp_path / "beside")
    write(beside, [("f1_pixels0.png", np.eye(32, dtype=np.uint8) * np.uint8(255))])
    assert "f1_pixels0.png (100% of the pixels are 0 or 255)" in refused(beside)
