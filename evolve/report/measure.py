"""The numbers a report shows beside an accuracy: intervals, and paired differences of before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from evolve.gates.intervals import LEVEL
from memory.types import Record

Z95 = 1.959963984540054


class Accuracy(Record):
    """A share of right answers. `correct` may be fractional: the sum over problems of the share of right samples."""

    correct: float = Field(ge=0.0)
    n: int = Field(ge=0, description="problems, not samples")
    clustered: tuple[float, float] | None = Field(
        default=None, description="95% interval by clusters of near duplicates; None: every problem stands alone"
    )

    @property
    def mean(self) -> float | None:
        """Share in 0..1; None without problems."""
        return self.correct / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95% score interval, or the clustered one where there are clusters; None without problems.

        With several samples a problem it treats each problem as one draw, so it is wider than need be, never
        narrower.
        """
        if self.n == 0:
            return None
        if self.clustered is not None:
            return self.clustered
        share, square = self.correct / self.n, Z95 * Z95
        centre = (share + square / (2 * self.n)) / (1 + square / self.n)
        spread = Z95 * math.sqrt(share * (1 - share) / self.n + square / (4 * self.n * self.n)) / (1 + square / self.n)
        return max(0.0, centre - spread), min(1.0, centre + spread)


class Difference(Record):
    """Mean of (after - before) over the same problems, with a 95% interval; in shares, -1..1."""

    mean: float
    low: float
    high: float
    n: int
    p: float | None = Field(default=None, description="two-sided, of the paired test; None: the interval alone")

    @property
    def is_clear(self) -> bool:
        """The interval does not contain zero, and the test, where there is one, agrees."""
        return (self.low > 0.0 or self.high < 0.0) and (self.p is None or self.p <= LEVEL)


class Comparison(Record):
    """One way of answering, before and after a generation, on the same problems."""

    method: str = Field(description="e.g. 'smollm2 alone', 'first-round vote', 'mesh council'")
    before: Accuracy | None = Field(default=None, description="None: it did not exist before")
    after: Accuracy | None = Field(default=None, description="None: it does not exist any more, or was not run")
    difference: Difference | None = Field(default=None, description="None: not measured on the same problems")


def accuracy(scores: Sequence[float]) -> Accuracy:
    """Accuracy of per-problem scores in 0..1 (1 right, 0 wrong, in between: share of right samples)."""
    return Accuracy(correct=math.fsum(scores), n=len(scores))


def paired_difference(before: Sequence[float], after: Sequence[float]) -> Difference | None:
    """Difference of two runs over the same problems in the same order; None without problems.

    The interval is Agresti and Min's (2005) adjusted Wald interval for matched pairs: half an observation is
    added to each of the four cells, so that a sample without any disagreement still gets a width.

    Raises:
        ValueError: the two have different lengths.
    """
    if len(before) != len(after):
        raise ValueError(
            f"expected scores of the same problems, got {len(before)} before and {len(after)} after; "
            "leave out the problems that only one of them has"
        )
    n = len(before)
    if n == 0:
        return None
    deltas = [late - early for early, late in zip(before, after, strict=True)]
    total, squares = math.fsum(deltas), math.fsum(delta * delta for delta in deltas)
    centre = total / (n + 2)
    spread = Z95 * math.sqrt(max(0.0, (squares + 1) / (n + 2) - centre * centre) / (n + 2))
    return Difference(mean=total / n, low=max(-1.0, centre - spread), high=min(1.0, centre + spread), n=n)


def compare(method: str, before: Sequence[float] | None, after: Sequence[float] | None) -> Comparison:
    """A `Comparison` from per-problem scores. The difference is paired, so both must be in the same problem order."""
    return Comparison(
        method=method,
        before=None if before is None else accuracy(before),
        after=None if after is None else accuracy(after),
        difference=None if before is None or after is None else paired_difference(before, after),
    )
