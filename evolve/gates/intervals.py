"""How sure a share or a paired difference is: closed-form intervals. Pure."""

from __future__ import annotations

import math
from statistics import NormalDist

from memory.types import Record

LEVEL = 0.05
"""Of two-sided tests that go with 95% intervals."""


class Interval(Record):
    """From `low` to `high`, both included."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """`high` minus `low`."""
        return self.high - self.low


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's (1927) score interval for a share; 0 to 1 without observations.

    `successes` may be fractional (a sum of per-problem shares); the interval is then too wide, never too narrow.

    Raises:
        ValueError: successes outside 0..n, or a confidence outside (0, 1).
    """
    if not 0 <= successes <= n:
        raise ValueError(f"expected successes between 0 and n={n}, got {successes}")
    if n == 0:
        return Interval(low=0.0, high=1.0)
    z, share = _z(confidence), successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(
        low=0.0 if successes == 0 else max(0.0, centre - spread),
        high=1.0 if successes == n else min(1.0, centre + spread),
    )


def paired_difference(both: int, only_after: int, only_before: int, neither: int, confidence: float = 0.95) -> Interval:
    """Interval for (share right after) - (share right before) over the same problems; -1 to 1 without problems.

    Newcombe's (1998, Statistics in Medicine 17, 2635) method 10 for paired shares: Wilson limits of the two shares,
    joined with their correlation. Counts are problems by who got them right.

    Raises:
        ValueError: a negative count.
    """
    cells = (both, only_after, only_before, neither)
    if min(cells) < 0:
        raise ValueError(f"expected counts of at least 0, got {cells}")
    n = sum(cells)
    if n == 0:
        return Interval(low=-1.0, high=1.0)
    right_after, right_before = both + only_after, both + only_before
    after, before = wilson(right_after, n, confidence), wilson(right_before, n, confidence)
    a, b = right_after / n, right_before / n
    phi = _correlation(both, only_after, only_before, neither)
    below = _joined(a - after.low, before.high - b, phi)
    above = _joined(after.high - a, b - before.low, phi)
    return Interval(low=max(-1.0, a - b - below), high=min(1.0, a - b + above))


def _joined(first: float, second: float, phi: float) -> float:
    return math.sqrt(max(0.0, first * first - 2 * phi * first * second + second * second))


def _correlation(both: int, only_after: int, only_before: int, neither: int) -> float:
    """Newcombe's phi, corrected towards 0 when positive; 0 where a margin is empty."""
    margins = (both + only_after) * (only_before + neither) * (both + only_before) * (only_after + neither)
    if margins == 0:
        return 0.0
    n = both + only_after + only_before + neither
    product = both * neither - only_after * only_before
    corrected = product if product <= 0 else max(0.0, product - n / 2)
    return corrected / math.sqrt(margins)


def _z(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"expected a confidence between 0 and 1, got {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)
