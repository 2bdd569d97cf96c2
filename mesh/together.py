"""What several supporters whose errors are correlated are worth together."""

from __future__ import annotations

import math
from collections.abc import Sequence

Matrix = Sequence[Sequence[float]]
"""Rows of equal length, symmetric."""

MAX_CORRELATION = 0.95
"""Two members are never taken for one and the same: the worth of each would have no one solution."""

_SMALLEST_PIVOT = 0.01
_NOISE = 1e-10


def worth_together(weights: Sequence[float], correlations: Matrix) -> tuple[float, ...]:
    """What each supporter of one answer adds, 0 to its weight; the sum is what all of them are worth.

    For k members of one weight and one correlation the sum is `weight * k / (1 + (k - 1) * correlation)`: the weight
    times Kish's effective number (1965). With that factor at the *mean* correlation, a new supporter who resembles the
    others would take more away than it brings. So the sum is the maximum over y >= 0 of `2 * u @ y - y @ C @ y`, where
    u holds the square roots of the weights and C the correlations. A further supporter may stay at y = 0, hence never
    lowers the sum. Supporter i adds `u[i] * y[i]`.

    Found by block principal pivoting (Júdice and Pires 1994): solve for those assumed to add something, turn every
    assumption that proves wrong, and only the first of them (Murty 1974) where that does not end.

    `correlations` as `made_to_fit` returns them.
    """
    roots = [math.sqrt(weight) for weight in weights]
    adding, num_rounds = set(range(len(roots))), 0
    while True:
        said = _solve(correlations, roots, sorted(adding))
        unsaid = [root - _dot(row, said) for root, row in zip(roots, correlations, strict=True)]
        wrong = [i for i in range(len(roots)) if (said[i] < -_NOISE if i in adding else unsaid[i] > _NOISE)]
        if not wrong:
            return tuple(max(0.0, root * y) for root, y in zip(roots, said, strict=True))
        num_rounds += 1
        adding ^= set(wrong if num_rounds <= len(roots) else wrong[:1])


def made_to_fit(correlations: Matrix) -> list[list[float]]:
    """`correlations` between 0 and `MAX_CORRELATION`, all lowered alike until they can hold at the same time.

    Each is measured on answers of its own, so that a with b and b with c may rule out what a with c shows.
    """
    fitting = [
        [1.0 if i == j else min(MAX_CORRELATION, max(0.0, value)) for j, value in enumerate(row)]
        for i, row in enumerate(correlations)
    ]
    while _cholesky(fitting) is None:
        fitting = [[1.0 if i == j else 0.9 * value for j, value in enumerate(row)] for i, row in enumerate(fitting)]
    return fitting


def _solve(matrix: Matrix, right: Sequence[float], chosen: Sequence[int]) -> list[float]:
    """The solution of the chosen rows and columns, 0 elsewhere."""
    rows = _cholesky([[matrix[i][j] for j in chosen] for i in chosen])
    if rows is None:
        raise ValueError("expected correlations that can hold at the same time: pass them through made_to_fit")
    forward: list[float] = []
    for row, i in zip(rows, chosen, strict=True):
        forward.append((right[i] - _dot(row, forward)) / row[-1])
    solution = [0.0] * len(right)
    for place in reversed(range(len(chosen))):
        known = math.fsum(rows[later][place] * solution[chosen[later]] for later in range(place + 1, len(chosen)))
        solution[chosen[place]] = (forward[place] - known) / rows[place][place]
    return solution


def _cholesky(matrix: Matrix) -> list[list[float]] | None:
    """Lower triangle L with L @ L.T = matrix, for ones on the diagonal; None: not positive definite, or just so."""
    rows: list[list[float]] = []
    for given in matrix:
        row: list[float] = []
        for earlier in rows:
            row.append((given[len(row)] - _dot(earlier, row)) / earlier[-1])
        pivot = 1.0 - _dot(row, row)
        if pivot < _SMALLEST_PIVOT:
            return None
        rows.append([*row, math.sqrt(pivot)])
    return rows


def _dot(first: Sequence[float], second: Sequence[float]) -> float:
    """Over the places that both have."""
    return math.fsum(a * b for a, b in zip(first, second, strict=False))
