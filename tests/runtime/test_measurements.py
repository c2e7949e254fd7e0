import numpy as np
import pytest

from irstd.runtime.frame import Geometry
from irstd.runtime.measurements import MEASUREMENT, UNIT, smallest_area, to_targets
from irstd.runtime.targets import Extraction, extract

PLAIN = Geometry(1.0, 1.0, 16, 24)


def record(places, stride=24):
    """What the kernels measure of pixels {(row, column): confidence}."""
    rows, columns = (np.array(axis, np.uint64) for axis in zip(*places, strict=True))
    weights = np.rint(np.array(list(places.values())) * UNIT).astype(np.uint64)
    moments = (weights * rows).sum(), (weights * columns).sum()
    return (
        *(weights.sum(), *moments, len(places), max(places.values())),
        *((rows * stride + columns).min(), columns.min(), rows.max(), columns.max()),
    )


def test_one_target_by_hand():
    measured = np.array([record({(3, 5): 1.0, (3, 6): 0.6, (4, 6): 0.8})], MEASUREMENT)
    (target,) = to_targets(measured, stride=24, geometry=PLAIN, extraction=Extraction())
    assert target.row == pytest.approx((3 * 1.6 + 4 * 0.8) / 2.4)
    assert target.column == pytest.approx((5 * 1.0 + 6 * 1.4) / 2.4)
    assert (target.area, target.peak) == (3, 1.0)
    assert target.score == pytest.approx(0.8)
    assert target.box == (2.5, 4.5, 4.5, 6.5)


def test_the_same_as_extract_in_whatever_order_records_come():
    places = [{(1, 1): 0.7}, {(5, 5): 0.9, (5, 6): 0.6}, {(9, 9): 0.7}, {(13, 13): 0.8}]
    values = np.zeros((16, 24), np.float32)
    for place in places:
        values[tuple(zip(*place, strict=True))] = list(place.values())
    geometry, extraction = Geometry(2.5, 1.5, 16, 24), Extraction(max_targets=3)
    expected = extract(values, geometry, extraction)
    single = [{at: float(np.float32(value)) for at, value in p.items()} for p in places]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        measured = np.array([record(single[index]) for index in order], MEASUREMENT)
        targets = to_targets(measured, stride=24, geometry=geometry, extraction=extraction)
        assert (targets.found, len(targets), targets.is_truncated) == (4, 3, True)
        for column in ("row", "column", "area", "peak", "score", "box"):
            np.testing.assert_array_equal(getattr(targets, column), getattr(expected, column))


def test_nothing_gives_nothing():
    nothing = np.zeros(0, MEASUREMENT)
    targets = to_targets(nothing, stride=24, geometry=PLAIN, extraction=Extraction())
    assert (len(targets), targets.found) == (0, 0)
    assert targets.box.shape == (0, 4)


@pytest.mark.parametrize("scale", [1.0, 0.1, 1.25, 1.1, 640 / 512, 2.0, 1 / 3])
@pytest.mark.parametrize("min_area", [0.0, 0.3, 1.0, 3.3, 4.0, 12.0, 1e6])
def test_the_smallest_area_is_where_extract_begins_to_keep(scale, min_area):
    geometry = Geometry(scale, 1.1, 16, 24)
    area = smallest_area(geometry, min_area)
    pixel = geometry.row_scale * geometry.column_scale
    assert area * pixel >= min_area
    assert area == 0 or (area - 1) * pixel < min_area
