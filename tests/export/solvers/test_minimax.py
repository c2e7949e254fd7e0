import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irstd.export.solvers.coefficients import STEPS
from irstd.export.solvers.minimax import (
    LOWEST,
    NEWTON_SCHULZ,
    evaluate,
    find_quintic,
    find_steps,
    write_module,
)


def largest_error(step, low, high):
    return np.abs(1.0 - evaluate(step, np.linspace(low, high, 20001))).max()


def test_the_script_writes_the_shipped_coefficients():
    assert tuple(STEPS) == LOWEST
    made = {}
    exec(write_module(), made)
    for lowest, steps in STEPS.items():
        assert np.allclose(made["STEPS"][lowest], steps, rtol=1e-9, atol=0.0)


def test_the_published_first_step():
    # Amsel et al., The Polar Express, 2025, and our own linear programme give these digits.
    assert find_steps(1e-3)[0] == pytest.approx((8.4703, -25.1081, 18.6293), abs=1e-4)
    assert find_steps(1e-2)[1] == pytest.approx((3.63659, -2.72193, 0.53655), abs=1e-5)


@given(
    low=st.floats(1e-3, 0.9),
    move=st.tuples(*[st.floats(-1.0, 1.0)] * 3).filter(lambda one: max(map(abs, one)) > 0.1),
)
def test_no_other_quintic_is_better(low, move):
    best = find_quintic(low, 1.0)
    step = (best.a, best.b, best.c)
    assert largest_error(step, low, 1.0) == pytest.approx(best.error, rel=1e-5, abs=1e-9)
    moved = tuple(value + 0.05 * by for value, by in zip(step, move, strict=True))
    assert largest_error(moved, low, 1.0) > best.error * (1.0 - 1e-9)


@pytest.mark.parametrize("lowest", LOWEST)
def test_a_sequence_brings_everything_to_one_and_overshoots_nowhere(lowest):
    inside, below = np.linspace(lowest, 1.0, 5001), np.linspace(0.0, lowest, 5001)
    ceiling = np.concatenate([below, inside])
    for step in STEPS[lowest]:
        inside, below = evaluate(step, inside), evaluate(step, below)
        ceiling = evaluate(step, ceiling)
        assert (ceiling >= 0.0).all() and (ceiling < 2.0).all()
    assert np.abs(1.0 - inside).max() < 1e-6
    assert (below <= 1.0 + 1e-6).all()
    assert STEPS[lowest][-1] == NEWTON_SCHULZ


@pytest.mark.parametrize("interval", [(0.0, 1.0), (-1.0, 1.0), (1.0, 1.0), (float("nan"), 1.0)])
def test_what_is_no_interval(interval):
    with pytest.raises(ValueError, match="expected 0 < low < high"):
        find_quintic(*interval)
