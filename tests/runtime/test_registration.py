import builtins
import functools
import math
import sys

import numpy as np
import pytest

import irstd.runtime
from irstd.runtime.backdrop import paint
from irstd.runtime.errors import EngineError
from irstd.runtime.frame import FrameContract, prepare
from irstd.runtime.interpolation import cut
from irstd.runtime.registration import Shift, check_shift, correlate, load_registration
from irstd.runtime.registration_cv2 import estimate_shift, extract_texture
from irstd.runtime.scene import SWAY, Scene, SceneOptions


@functools.cache
def painted(kind, seed, size):
    return paint(np.random.default_rng(seed), kind, size)


def seen(kind="terrain", *, at=(40.0, 40.0), noise=0.0, bits=14, seed=0, shape=(96, 128)):
    """The texture of a prepared frame of a painted scene, its first pixel at a place of it."""
    background = painted(kind, seed, (shape[0] + 90, shape[1] + 90))
    counts = (0.4 + 0.2 * cut(background, at, shape)) * (2**bits - 1)
    noise = (
        noise * 0.2 * (2**bits - 1) * np.random.default_rng(int(97 * sum(at))).normal(size=shape)
    )
    frame = np.rint(counts + noise).clip(0, 2**bits - 1)
    frame = frame.astype(np.uint8 if bits == 8 else np.uint16)
    return extract_texture(prepare(frame, FrameContract(*shape, bit_depth=bits, fit="pad"))[0, 0])


@pytest.mark.parametrize("kind", ["sky", "terrain", "sea"])
@pytest.mark.parametrize("noise", [0.0, 0.03])
@pytest.mark.parametrize("moved", [(0.0, 0.0), (0.3, -0.5), (-1.25, 2.6), (4.4, 0.1)])
def test_sub_pixel_shifts_are_found_to_a_tenth(kind, noise, moved):
    newer = seen(kind, at=(40.0 - moved[0], 40.0 - moved[1]), noise=noise)
    shift = estimate_shift(seen(kind, noise=noise), newer)
    assert shift.is_trusted, shift.reason
    assert abs(shift.row - moved[0]) < 0.1
    assert abs(shift.column - moved[1]) < 0.1


@pytest.mark.parametrize("bits", [8, 12, 14, 16])
def test_any_bit_depth(bits):
    shift = estimate_shift(seen(bits=bits), seen(bits=bits, at=(40.7, 38.9)))
    assert (shift.row, shift.column) == pytest.approx((-0.7, 1.1), abs=0.05)


def test_a_large_shift_is_found_and_a_larger_one_is_not_believed():
    shift = estimate_shift(seen(), seen(at=(25.0, 60.0)))
    assert (shift.row, shift.column) == pytest.approx((15.0, -20.0), abs=0.1)
    shift = check_shift(seen(), seen(), (0.0, 29.0))
    assert (shift.row, shift.column) == (0.0, 0.0)
    assert "more than a quarter" in shift.reason


@pytest.mark.parametrize("seed", [0, 1, 2, 5])
def test_a_scene_whose_sensor_has_noise_columns_defects_and_targets(seed):
    """What stands still on the sensor must not hold the scene back."""
    options = SceneOptions(height=128, width=160, drift=0.8, noise=0.02, defects=20)
    scene = Scene(options, seed=seed)
    contract = FrameContract(128, 160, bit_depth=14, fit="pad")
    first, second = (
        extract_texture(prepare(scene.frame(index).frame, contract)[0, 0]) for index in (3, 4)
    )
    angles = [options.drift / (SWAY * math.sqrt(2)) * index + scene._phases for index in (3, 4)]
    moved = SWAY * (np.sin(angles[0]) - np.sin(angles[1]))
    shift = estimate_shift(first, second)
    assert shift.is_trusted
    assert (shift.row, shift.column) == pytest.approx(tuple(moved), abs=0.15)


def test_another_scene_is_not_believed():
    shift = estimate_shift(seen(), seen("sea", seed=9))
    assert (shift.row, shift.column, shift.is_trusted) == (0.0, 0.0, False)
    assert shift.reason
    shift = check_shift(seen(), seen("sea", seed=9), (0.5, 0.5))
    assert (shift.row, shift.column) == (0.0, 0.0)
    assert "correlate by" in shift.reason


def test_noise_alone_is_not_believed():
    rng = np.random.default_rng(0)
    first, second = (extract_texture(rng.random((96, 128), np.float32)) for _ in range(2))
    assert not estimate_shift(first, second).is_trusted


def test_a_constant_frame_is_not_believed():
    flat = extract_texture(np.full((96, 128), 0.5, np.float32))
    for first, second in ((flat, flat), (flat, seen()), (seen(), flat)):
        shift = estimate_shift(first, second)
        assert (shift.row, shift.column) == (0.0, 0.0)
        assert not shift.is_trusted


def test_a_shift_that_fits_worse_than_none_is_not_believed():
    shift = check_shift(seen(), seen(), (1.0, 0.0))
    assert (shift.row, shift.column) == (0.0, 0.0)
    assert "lowers the frames' correlation from 1.00" in shift.reason
    assert not check_shift(seen(), seen(), (math.nan, 0.0)).is_trusted


def test_correlation_by_hand():
    frame = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [1, 0, 1, 0], [3, 3, 9, 3]], np.float32)
    assert correlate(frame, frame, (0.0, 0.0)) == pytest.approx(1.0)
    assert correlate(frame, -2 * frame + 1, (0.0, 0.0)) == pytest.approx(-1.0)
    moved = np.roll(frame, 1, axis=1)  # its first column is not compared
    assert correlate(frame, moved, (0.0, 1.0)) == pytest.approx(1.0)
    assert correlate(frame, moved, (0.0, 4.0)) == 0.0
    assert correlate(np.ones_like(frame), frame, (0.0, 0.0)) == 0.0


def test_a_shift_says_whether_it_is_trusted():
    assert Shift(0.5, 1.0).is_trusted
    assert not Shift(0.0, 0.0, "fog").is_trusted


def test_without_opencv_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments):
        if name == "cv2":
            raise ImportError("No module named 'cv2'")
        return real(name, *arguments)

    monkeypatch.delitem(sys.modules, "irstd.runtime.registration_cv2")
    monkeypatch.delattr(irstd.runtime, "registration_cv2")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EngineError, match=r"pip install 'irstd\[cpu\]'"):
        load_registration()


def test_textures_stay_as_they_are():
    """A texture serves twice, first as the newer one; sides of 36 need no padding for a DFT."""
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 36, 36)).astype(np.float32)
    before = first.copy(), second.copy()
    estimate_shift(first, second)
    np.testing.assert_array_equal(first, before[0])
    np.testing.assert_array_equal(second, before[1])
