import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irstd.export.solvers.fixed import FixedAlgebra
from irstd.export.solvers.thresholding import (
    Steps,
    bound_norm,
    choose_lowest,
    threshold_singular_values,
)
from irstd.train.solvers.algebra import EXACT

pytestmark = pytest.mark.usefixtures("one_thread")


def error(matrix, threshold, steps):
    exact = EXACT.threshold_matrix(matrix.double(), threshold.double(), ratio=0.0)
    found = threshold_singular_values(matrix, threshold, steps)
    assert found.dtype == matrix.dtype and found.shape == matrix.shape
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("ratio", [0.1, 0.03, 0.01])
@pytest.mark.parametrize(
    ("form", "limit"),
    [("gram", 1e-4), ("quick", 2e-3), ("rectangular", 1e-4), ("half", 2e-3)],
)
def test_patch_images_are_thresholded(patch_image, ratio, form, limit):
    matrix, values = patch_image
    threshold = (ratio * values[:, :1, None]).float()
    steps = Steps(0.03 if form == "half" else 0.001, form)
    assert error(matrix, threshold, steps) <= limit
    assert error(matrix.transpose(1, 2), threshold, steps) <= limit


def test_fewer_steps_where_the_threshold_is_large(patch_image):
    matrix, values = patch_image
    few, many = Steps(0.1), Steps(0.001)
    assert len(few.coefficients) == 5 < len(many.coefficients) == 9
    assert len(Steps(0.1, "quick").coefficients) == 3
    assert len(Steps(0.001, "quick").coefficients) == 6
    threshold = (0.3 * values[:, :1, None]).float()
    assert error(matrix, threshold, many) < error(matrix, threshold, few) < 2e-3


def test_values_by_hand():
    matrix = torch.diag_embed(torch.tensor([[4.0, 2.0, 1.0, 0.25]]))
    found = threshold_singular_values(matrix, torch.tensor([[[0.5]]]), Steps(0.01))
    wanted = torch.diag_embed(torch.tensor([[3.5, 1.5, 0.5, 0.0]]))
    assert torch.allclose(found, wanted, atol=2e-4)


@pytest.mark.parametrize("form", ["gram", "quick", "rectangular", "half"])
def test_nothing_stays_nothing_and_large_thresholds_leave_nothing(patch_image, form):
    matrix, values = patch_image
    nothing = torch.zeros(2, 20, 9)
    assert not threshold_singular_values(nothing, torch.ones(2, 1, 1), Steps(0.001, form)).any()
    threshold = (3.0 * values[:, :1, None]).float()
    left = threshold_singular_values(matrix, threshold, Steps(0.001, form))
    share = 1e-2 if form in ("quick", "half") else 1e-4
    assert float(left.norm()) < share * float(matrix.norm())


def test_matrices_of_a_batch_do_not_touch():
    torch.manual_seed(0)
    pair = torch.stack([torch.randn(30, 12), 1e3 * torch.randn(30, 12)])
    threshold = torch.tensor([1.0, 4e3])[:, None, None]
    both = threshold_singular_values(pair, threshold, Steps(0.001))
    for number in range(2):
        alone = threshold_singular_values(pair[number], threshold[number], Steps(0.001))
        assert torch.allclose(both[number], alone, rtol=1e-3, atol=1e-3)


def test_nan_stays_nan():
    matrix = torch.randn(8, 4)
    matrix[3, 2] = torch.nan
    assert threshold_singular_values(matrix, torch.ones(1, 1), Steps(0.01)).isnan().all()


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 20), columns=st.integers(1, 20), seed=st.integers(0, 99),
    scale=st.sampled_from([1e-6, 1.0, 1e6]), decay=st.sampled_from([0.1, 0.5, 1.0]),
)  # fmt: skip
def test_the_bound_is_one_and_near(rows, columns, seed, scale, decay):
    torch.manual_seed(seed)
    matrix = scale * torch.randn(rows, columns) * decay ** torch.arange(columns)
    norm = float(torch.linalg.matrix_norm(matrix.double(), ord=2))
    bound = float(bound_norm(matrix))
    assert norm * (1.0 - 1e-5) <= bound <= norm * min(rows, columns) ** (1 / 16) * (1.0 + 1e-5)


def test_the_steps_that_there_are():
    assert Steps(0.01).name == "minimax-quintic-0.01"
    assert choose_lowest(0.02) == 0.01
    with pytest.raises(ValueError, match=r"lowest is 0.5, expected one of 0.3, 0.1"):
        Steps(0.5)


@pytest.mark.parametrize("lowest", [0.03, 0.01])
def test_the_inverse_root_of_a_regularised_gram_matrix(random, lowest):
    """As learned steps ask for it: eigenvalues from lowest^2 to 1 + lowest^2, most of them small.

    Half of the jitter of 1e-6 over the least of them, 1e-4, is half a percent.
    """
    basis = np.linalg.qr(random.normal(size=(24, 24)))[0]
    roots = np.concatenate([[1.0, 1.0], np.geomspace(lowest, 0.5, 10), np.zeros(12)])
    values = roots**2 + lowest**2
    gram = torch.from_numpy((basis * values) @ basis.T).float()[None]
    found = FixedAlgebra().inverse_root(gram, lowest=lowest)[0].numpy()
    expected = (basis / np.sqrt(values)) @ basis.T
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()
