import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from irstd.runtime.defects import repair_defects
from irstd.runtime.frame import (
    FrameContract,
    check_frame,
    fit_geometry,
    prepare,
    resize_bilinear,
    resize_nearest,
    stretch_limits,
)
from irstd.runtime.scene import Scene, SceneOptions

SIDES = st.integers(8, 40)
CONTRACTS = st.builds(
    FrameContract,
    height=SIDES,
    width=SIDES,
    bit_depth=st.sampled_from([8, 10, 12, 14, 16]),
    normalisation=st.sampled_from(["stretch", "full-scale"]),
    fit=st.just("resize"),
)


@st.composite
def contracts_with_frames(draw):
    contract = draw(CONTRACTS)
    values = st.integers(0, 2**contract.bit_depth - 1)
    return contract, draw(arrays(contract.dtype, st.tuples(SIDES, SIDES), elements=values))


@settings(max_examples=60, deadline=None)
@given(contracts_with_frames())
def test_any_frame_becomes_finite_input_of_the_networks_shape_and_is_left_alone(pair):
    contract, frame = pair
    before = frame.copy()
    prepared = prepare(frame, contract)
    assert prepared.shape == (1, 1, contract.height, contract.width)
    assert prepared.dtype == np.float32
    assert prepared.flags.c_contiguous
    assert ((prepared >= 0) & (prepared <= 1)).all()
    np.testing.assert_array_equal(frame, before)


def test_full_scale_divides_by_the_largest_value_of_the_depth():
    frame = np.array([[0, 1023]] * 8, np.uint16).repeat(4, axis=1)
    contract = FrameContract(8, 8, bit_depth=10, normalisation="full-scale")
    np.testing.assert_allclose(prepare(frame, contract)[0, 0, 0], [0] * 4 + [1] * 4)


def test_stretch_maps_the_frames_own_range_by_hand():
    frame = np.full((8, 8), 1000, np.uint16)
    frame[2:4, 2:4] = 3000
    frame[5:7, 5:7] = 2000
    prepared = prepare(frame, FrameContract(8, 8, bit_depth=14))[0, 0]
    assert prepared[2, 2] == 1.0
    assert prepared[5, 5] == 0.5
    assert prepared[0, 0] == 0.0


def base():
    frame = np.full((12, 12), 100, np.uint16)
    frame[4:6, 4:6] = 180
    return frame


@pytest.mark.parametrize("places", [[(0, 0)], [(8, 8), (8, 9)], [(8, 8), (9, 9)], [(2, 8), (3, 8)]])
@pytest.mark.parametrize("value", [0, 16383])
def test_defects_that_fill_no_2x2_block_do_not_move_the_limits(places, value):
    frame = base()
    for place in places:
        frame[place] = value
    assert stretch_limits(frame) == (100, 180)


def test_a_dead_column_does_not_move_the_limits():
    frame = base()
    frame[:, 9] = 0
    assert stretch_limits(frame) == (100, 180)


def test_limits_of_frames_without_range():
    assert stretch_limits(np.full((8, 8), 7, np.uint8)) == (7, 7)
    checkerboard = (np.indices((8, 8)).sum(axis=0) % 2 * 50).astype(np.uint8)
    assert stretch_limits(checkerboard) == (0, 50)
    constant = prepare(np.full((8, 8), 7, np.uint8), FrameContract(8, 8))
    assert (constant == 0).all()


@pytest.mark.parametrize("place", [(0, 0), (0, 5), (11, 11), (6, 0), (8, 8)])
@pytest.mark.parametrize("value", [0, 16383])
def test_isolated_defects_are_replaced_wherever_they_lie(place, value):
    frame = base()
    whole = frame.copy()
    frame[place] = value
    np.testing.assert_array_equal(repair_defects(frame, span=80), whole)


def test_a_frame_without_defects_comes_back_itself():
    frame = base()
    assert repair_defects(frame, span=80) is frame


def pixel_share(centre, sigma, count):
    """The part of a Gaussian of unit sum that falls on each of `count` pixels."""
    edges = [(index - 0.5 - centre) / (sigma * math.sqrt(2)) for index in range(count + 1)]
    return np.diff([0.5 * (1 + math.erf(edge)) for edge in edges])


@settings(max_examples=80, deadline=None)
@given(
    row=st.floats(7.5, 8.5),
    column=st.floats(7.5, 8.5),
    sigma=st.floats(0.5, 2.0),
    seed=st.integers(0, 99),
    height=st.floats(100, 3000),
)
def test_what_optics_can_draw_is_no_defect(row, column, sigma, seed, height):
    noise = np.random.default_rng(seed).normal(2000, 2, (17, 17))
    spot = np.outer(pixel_share(row, sigma, 17), pixel_share(column, sigma, 17))
    frame = np.rint(noise + height * spot / spot.max()).astype(np.uint16)
    low, high = stretch_limits(frame)
    repaired = repair_defects(frame, span=high - low)
    np.testing.assert_array_equal(repaired[5:12, 5:12], frame[5:12, 5:12])


@pytest.mark.parametrize("seed", range(6))
def test_14_bits_with_gain_offset_and_defects_prepare_as_the_8_bit_original(seed):
    scene = Scene(SceneOptions(bit_depth=8, defects=0, height=64, width=96), seed=seed)
    frame = scene.frame(0).frame
    rng = np.random.default_rng(seed)
    deep = frame.astype(np.uint16) * 6 + 9000
    expected = prepare(frame, FrameContract(64, 96))
    contract = FrameContract(64, 96, bit_depth=14)
    np.testing.assert_allclose(prepare(deep, contract), expected, atol=1e-6)
    places = [(row, column) for row in range(4, 60, 8) for column in range(4, 92, 8)]
    free = ~cv2.dilate(scene.frame(0).mask.astype(np.uint8), np.ones((7, 7))).astype(bool)
    changed = np.zeros(frame.shape, bool)
    for row, column in places:
        if free[row, column] and rng.random() < 0.3:
            deep[row, column] = 16383 if rng.random() < 0.5 else 0
            changed[row, column] = True
    prepared = prepare(deep, contract)[0, 0]
    assert changed.sum() > 10
    np.testing.assert_allclose(prepared[~changed], expected[0, 0][~changed], atol=1e-6)
    # A repaired pixel takes the nearest value of its neighbours, so it is no extreme any more.
    lowest = cv2.erode(expected[0, 0], np.ones((3, 3)))[changed]
    highest = cv2.dilate(expected[0, 0], np.ones((3, 3)))[changed]
    assert (prepared[changed] >= lowest - 1e-6).all()
    assert (prepared[changed] <= highest + 1e-6).all()


@settings(max_examples=40, deadline=None)
@given(
    values=arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(1, 30)),
                  elements=st.floats(0, 1, width=32)),
    shape=st.tuples(st.integers(1, 50), st.integers(1, 50)),
)  # fmt: skip
def test_resize_bilinear_is_opencvs(values, shape):
    before = values.copy()
    expected = cv2.resize(values, shape[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(resize_bilinear(values, shape), expected, atol=2e-6)
    np.testing.assert_array_equal(values, before)


def test_resize_nearest_by_hand():
    mask = np.array([[True, False], [False, True]])
    np.testing.assert_array_equal(resize_nearest(mask, (4, 4)), np.kron(mask, np.ones((2, 2))) > 0)
    np.testing.assert_array_equal(resize_nearest(np.eye(4, dtype=bool), (2, 2)), np.eye(2) > 0)


def test_padding_mirrors_below_and_to_the_right():
    frame = np.arange(8 * 9, dtype=np.uint8).reshape(8, 9)
    contract = FrameContract(16, 16, normalisation="full-scale", fit="pad")
    prepared = np.rint(prepare(frame, contract)[0, 0] * 255)
    np.testing.assert_array_equal(prepared[:8, :9], frame)
    np.testing.assert_array_equal(prepared[8:, :9], frame[::-1])
    np.testing.assert_array_equal(prepared[:8, 9:], frame[:, :1:-1])
    geometry = fit_geometry((8, 9), contract)
    assert (geometry.height, geometry.width, geometry.row_scale) == (8, 9, 1.0)


def test_a_frame_too_large_to_pad_is_told_how_to_export():
    contract = FrameContract(16, 16, fit="pad")
    with pytest.raises(ValueError, match="export again with --size 17x16"):
        prepare(np.zeros((17, 16), np.uint8), contract)


@pytest.mark.parametrize(
    ("frame", "depth", "kind", "said"),
    [
        ([[1, 2]], 8, TypeError, "frame is a list"),
        (np.zeros((8, 8, 3), np.uint8), 8, ValueError, r"pass one channel, e.g. frame\[..., 0\]"),
        (np.zeros((7, 8), np.uint8), 8, ValueError, "frame is 7x8, expected at least 8x8"),
        (np.zeros((8, 8), np.uint16), 8, TypeError, "e.g. bit_depth=14"),
        (np.zeros((8, 8), np.uint8), 14, TypeError, "declare bit_depth=8"),
        (np.full((8, 8), np.nan), 8, TypeError, "it also holds NaN"),
        (np.zeros((8, 8), np.float32), 8, TypeError, "raw counts, not scaled values"),
        (np.zeros((8, 8), np.int16), 14, TypeError, "frame is int16"),
        (np.full((8, 8), 16384, np.uint16), 14, ValueError, "16384, above the 16383"),
    ],
)
def test_what_is_no_frame_is_refused(frame, depth, kind, said):
    with pytest.raises(kind, match=said):
        check_frame(frame, depth)


def test_16_bits_take_every_value():
    check_frame(np.full((8, 8), 65535, np.uint16), 16)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"height": 4}, "network size is 4x16"),
        ({"bit_depth": 7}, "bit depth is 7"),
        ({"bit_depth": 17}, "bit depth is 17"),
        ({"normalisation": "zscore"}, "normalisation is 'zscore'"),
        ({"fit": "crop"}, "fit is 'crop'"),
    ],
)
def test_contracts_are_checked(change, said):
    with pytest.raises(ValueError, match=said):
        FrameContract(**{"height": 16, "width": 16, **change})
