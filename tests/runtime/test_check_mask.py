from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from irstd.runtime.datasets import check_mask


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
