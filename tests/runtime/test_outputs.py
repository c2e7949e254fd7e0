import numpy as np
import pytest

from irstd.runtime.errors import OutputError
from irstd.runtime.outputs import check_output, scores_of


def test_the_output_is_read_as_a_map_of_the_input_size():
    values = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)
    np.testing.assert_array_equal(
        check_output(values, "confidence", (2, 3)), [[0, 1, 2], [3, 4, 5]]
    )


def test_boxes_are_read_one_a_row():
    values = np.arange(10, dtype=np.float32).reshape(1, 2, 5)
    found = check_output(values, "boxes", (2, 3))
    np.testing.assert_array_equal(found, [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
    np.testing.assert_array_equal(scores_of(found), [4, 9])
    assert scores_of(np.ones((4, 6), np.float32)).shape == (4, 6)


@pytest.mark.parametrize("name", ["confidence", "boxes"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_nan_and_no_infinity(name, bad):
    values = np.zeros((1, 1, 8, 10) if name == "confidence" else (1, 16, 5), np.float32)
    values.flat[7] = bad
    with pytest.raises(OutputError, match="NaN or infinity"):
        check_output(values, name, (8, 10))


@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (1, 6, 2, 3), (0,)])
def test_another_size_is_refused(shape):
    with pytest.raises(OutputError, match="one confidence for each of 2x3 pixels; export"):
        check_output(np.zeros(shape, np.float32), "confidence", (2, 3))


@pytest.mark.parametrize("shape", [(1, 2, 6), (2, 2, 5), (1, 0, 5), (10, 5), (1, 1, 2, 5)])
def test_other_boxes_are_refused(shape):
    with pytest.raises(OutputError, match=r"expected boxes \(1, A, 5\); export"):
        check_output(np.zeros(shape, np.float32), "boxes", (2, 3))
