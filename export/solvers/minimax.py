"""Coefficients of the odd quintic steps that drive singular values to 1, by Remez exchange.

A step maps every singular value x to a x + b x^3 + c x^5. Of all quintics the first step's is the
one whose largest |1 - p(x)| over [lowest, 1] is least; the next is that one for the interval which
the first leaves, and so on. Taking the best quintic of each step is best for the composition
(Amsel et al., The Polar Express, 2025). The interval shrinks to 1, where the best quintic is the
Newton-Schulz one, 15/8 x - 10/8 x^3 + 3/8 x^5; it ends every sequence.

python -m irstd.export.solvers.minimax     writes coefficients.py beside this file
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...runtime.files import write_whole

# Smallest singular value, over the largest, that a sequence brings to 1.
LOWEST = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
CONVERGED = 1e-7  # of |1 - x|: what float32 tells apart
TOLERANCE = 1e-12  # of the error levelled out by the exchange, relative
NEWTON_SCHULZ = (1.875, -1.25, 0.375)
EXCHANGES = 100
TARGET = Path(__file__).with_name("coefficients.py")

Points = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Quintic:
    """The best odd quintic on an interval.

    Attributes:
        a, b, c: of a x + b x^3 + c x^5.
        error: largest |1 - p(x)| on the interval.
    """

    a: float
    b: float
    c: float
    error: float


def find_quintic(low: float, high: float) -> Quintic:
    """Find the odd quintic nearest to 1 on [low, high] in the largest error.

    Its error takes its largest size with alternating signs at low, at two extrema q < r between,
    and at high; the exchange solves for the coefficients at four such points and moves q and r to
    the extrema of what it got, until that changes nothing.

    Raises:
        ValueError: not 0 < low < high.
    """
    if not 0.0 < low < high:
        raise ValueError(f"interval is [{low}, {high}], expected 0 < low < high")
    q, r = low + (high - low) * 0.25, low + (high - low) * 0.75
    a, b, c, error = 0.0, 0.0, 0.0, 0.0
    for _ in range(EXCHANGES):
        points = np.array([low, q, r, high])
        signs = np.array([1.0, -1.0, 1.0, -1.0])
        system = np.stack([points, points**3, points**5, signs], axis=1)
        a, b, c, error = np.linalg.solve(system, np.ones(4)).tolist()
        q, r = _extrema(a, b, c)
        largest = float(np.abs(1.0 - evaluate((a, b, c), np.array([low, q, r, high]))).max())
        if largest <= abs(error) * (1.0 + TOLERANCE):
            break
    return Quintic(a, b, c, abs(error))


def _extrema(a: float, b: float, c: float) -> tuple[float, float]:
    """Where a + 3 b x^2 + 5 c x^4 is 0, x > 0."""
    root = np.sqrt(9.0 * b * b - 20.0 * a * c)
    squares = sorted(((-3.0 * b - root) / (10.0 * c), (-3.0 * b + root) / (10.0 * c)))
    return float(np.sqrt(squares[0])), float(np.sqrt(squares[1]))


def evaluate(step: tuple[float, float, float], x: Points) -> Points:
    """The odd quintic a x + b x^3 + c x^5."""
    a, b, c = step
    return x * (a + x * x * (b + c * x * x))


def find_steps(lowest: float) -> tuple[tuple[float, float, float], ...]:
    """The steps that bring every singular value of [lowest, 1] to 1, to float32's precision.

    Example:
        >>> [round(value, 4) for value in find_steps(0.001)[0]]
        [8.4703, -25.1081, 18.6293]
    """
    steps = []
    low, high = lowest, 1.0
    while 1.0 - low > CONVERGED:
        # Near 1 the four equations cannot be told apart; there the best quintic is known.
        if high - low < 1e-3:
            steps.append(NEWTON_SCHULZ)
            low = float(evaluate(NEWTON_SCHULZ, np.array(low)))
            continue
        quintic = find_quintic(low, high)
        steps.append((quintic.a, quintic.b, quintic.c))
        low, high = 1.0 - quintic.error, 1.0 + quintic.error
    if steps[-1] != NEWTON_SCHULZ:
        steps.append(NEWTON_SCHULZ)
    return tuple(steps)


def keep_until(
    steps: tuple[tuple[float, float, float], ...], *, lowest: float, error: float
) -> tuple[tuple[float, float, float], ...]:
    """The first steps of a sequence, up to that which leaves no more than an error.

    Args:
        steps: of `find_steps(lowest)`.
        lowest: smallest singular value that is brought to 1.
        error: largest |1 - x| allowed from there up.

    Example:
        >>> steps = find_steps(0.1)
        >>> len(steps), len(keep_until(steps, lowest=0.1, error=1e-3))
        (4, 3)
    """
    low = np.array(lowest)
    for number, step in enumerate(steps, start=1):
        # The worst of an interval is its lower end: there the error of every best quintic is met.
        low = evaluate(step, low)
        if 1.0 - low <= error:
            return steps[:number]
    return steps


def write_module() -> str:
    """The text of coefficients.py."""
    lines = [
        '"""Minimax steps by the smallest singular value they reach; written by `minimax`."""',
        "",
        "from __future__ import annotations",
        "",
        "STEPS: dict[float, tuple[tuple[float, float, float], ...]] = {",
    ]
    for lowest in LOWEST:
        lines.append(f"    {lowest}: (")
        lines += [f"        ({a:.13g}, {b:.13g}, {c:.13g})," for a, b, c in find_steps(lowest)]
        lines.append("    ),")
    return "\n".join([*lines, "}", ""])


if __name__ == "__main__":
    write_whole(TARGET, write_module().encode())
