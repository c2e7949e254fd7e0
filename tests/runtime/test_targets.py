import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irstd.runtime.frame import FrameContract, Geometry, fit_geometry
from irstd.runtime.targets import Extraction, Target, extract

PLAIN = Geometry(1.0, 1.0, 16, 24)


def empty():
    return np.zeros((16, 24), np.float32)


def test_one_target_by_hand():
    values = empty()
    values[3, 5], values[3, 6], values[4, 6] = 1.0, 0.6, 0.8
    (target,) = extract(values, PLAIN, Extraction())
    assert target.row == pytest.approx((3 * 1.6 + 4 * 0.8) / 2.4, abs=1e-5)
    assert target.column == pytest.approx((5 * 1.0 + 6 * 1.4) / 2.4, abs=1e-5)
    assert target.area == 3
    assert target.peak == 1.0
    assert target.score == pytest.approx(0.8)
    assert target.box == (2.5, 4.5, 4.5, 6.5)
    assert isinstance(target, Target)
    assert isinstance(target.row, float)


def test_a_resized_frame_gets_its_own_pixels_back():
    values = empty()
    values[7, 11] = 0.9
    geometry = fit_geometry((64, 48), FrameContract(16, 24))
    (target,) = extract(values, geometry, Extraction())
    # Network pixel 7 of 16 covers sensor rows 28..31, column 11 of 24 covers 22..23.
    assert (target.row, target.column) == (29.5, 22.5)
    assert target.area == 8
    assert target.box == (27.5, 21.5, 31.5, 23.5)


@settings(max_examples=60, deadline=None)
@given(
    row=st.floats(20, 180),
    column=st.floats(20, 280),
    size=st.sampled_from([(64, 64), (96, 128), (200, 300), (256, 256)]),
)
def test_a_spot_comes_back_where_it_was_whatever_the_fit(row, column, size):
    geometry = fit_geometry((200, 300), FrameContract(*size))
    rows = (np.arange(size[0]) + 0.5) * geometry.row_scale - 0.5
    columns = (np.arange(size[1]) + 0.5) * geometry.column_scale - 0.5
    spot = np.exp(-((rows[:, None] - row) ** 2 + (columns - column) ** 2) / (2 * 6.0**2))
    (target,) = extract(spot.astype(np.float32), geometry, Extraction(threshold=0.05))
    assert abs(target.row - row) < 0.25
    assert abs(target.column - column) < 0.25


def test_padding_is_not_searched():
    values = empty()
    values[12:, :] = values[:, 20:] = 1.0
    assert len(extract(values, Geometry(1.0, 1.0, 12, 20), Extraction())) == 0


def test_borders_and_full_maps():
    values = empty()
    values[0, 0] = values[15, 23] = 1.0
    assert len(extract(values, PLAIN, Extraction())) == 2
    (target,) = extract(np.ones((16, 24), np.float32), PLAIN, Extraction())
    assert (target.row, target.column, target.area) == (7.5, 11.5, 384)
    nothing = extract(empty(), PLAIN, Extraction())
    assert len(nothing) == 0
    assert list(nothing) == []
    assert not nothing.is_truncated


def test_the_threshold_itself_is_background():
    values = empty()
    values[5, 5] = 0.5
    assert len(extract(values, PLAIN, Extraction(threshold=0.5))) == 0
    assert len(extract(values, PLAIN, Extraction(threshold=0.499))) == 1


def test_best_score_first_ties_in_scan_order_and_the_bound_is_told():
    values = empty()
    values[1, 1], values[5, 5], values[9, 9], values[13, 13] = 0.7, 0.9, 0.7, 0.8
    everything = extract(values, PLAIN, Extraction())
    assert everything.row.tolist() == [5, 13, 1, 9]
    assert not everything.is_truncated
    best = extract(values, PLAIN, Extraction(max_targets=2))
    assert best.row.tolist() == [5, 13]
    assert (best.found, best.is_truncated) == (4, True)


def test_small_targets_are_dropped_in_sensor_pixels():
    values = empty()
    values[2, 2] = values[8, 8] = values[8, 9] = 0.9
    geometry = Geometry(2.0, 2.0, 16, 24)  # a network pixel is four sensor pixels
    kept = extract(values, geometry, Extraction(min_area=5.0))
    assert kept.area.tolist() == [8.0]
    assert kept.found == 1
    assert len(extract(values, geometry, Extraction(min_area=4.0))) == 2


def test_columns_have_one_type_and_length():
    values = empty()
    values[1, 1] = values[5, 5] = 1.0
    targets = extract(values, PLAIN, Extraction())
    for column in (targets.row, targets.column, targets.area, targets.peak, targets.score):
        assert column.dtype == np.float32
        assert column.shape == (2,)
    assert targets.box.shape == (2, 4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 0.0}, "threshold is 0.0"),
        ({"threshold": 1.0}, "threshold is 1.0"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"min_area": -1.0}, "minimum area is -1.0"),
        ({"max_targets": 0}, "maximum of targets is 0"),
    ],
)
def test_options_are_checked(options, said):
    with pytest.raises(ValueError, match=said):
        Extraction(**options)
