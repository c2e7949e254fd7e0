import numpy as np
import pytest

from irstd.runtime.errors import OutputError
from irstd.runtime.outputs import check_confidence


def test_batch_and_channel_go():
    values = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)
    np.testing.assert_array_equal(check_confidence(values, (2, 3)), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_value_is_enough(bad):
    values = np.zeros((1, 1, 64, 64), np.float32)
    values[0, 0, 63, 63] = bad
    with pytest.raises(OutputError, match="NaN or infinity"):
        check_confidence(values, (64, 64))


@pytest.mark.parametrize("shape", [(1, 2, 2, 3), (1, 1, 1, 3), (1, 1, 2, 2), (0,)])
def test_one_confidence_a_pixel(shape):
    with pytest.raises(OutputError, match=r"has shape \(.*expected one confidence.* of 2x3 pixels"):
        check_confidence(np.zeros(shape, np.float32), (2, 3))
