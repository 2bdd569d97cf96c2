"""How much better, and how sure: shares and paired gains, absolute and relative, errors by whole clusters. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import Field
from scipy.special import stdtr, stdtrit

from evolve.gates.intervals import LEVEL, Interval, wilson
from evolve.gates.paired import clustered_error, paired_test
from evolve.report.measure import Accuracy, accuracy, paired_difference
from memory.types import Record

RESAMPLES = 2000
"""Draws of whole clusters behind a relative gain's interval."""
DETECTABLE = 2.801585218
"""Standard errors of the least gain that a two-sided test at 5% finds four times in five: 1.96 + 0.84."""


class Share(Record):
    """A share of right answers with its 95% interval."""

    mean: float
    low: float
    high: float
    n: int = Field(description="problems")


class Gain(Record):
    """One way of answering beside another on the same problems, in shares."""

    before: float
    after: float
    absolute: Interval = Field(description="95% interval of after - before, by clusters")
    relative: float | None = Field(description="after / before - 1; None: nothing was right before")
    relative_low: float | None = Field(description="95%, by resampling clusters; None: no bound")
    relative_high: float | None = Field(description="None: no bound, since too little was right before")
    standard_error: float = Field(description="of the absolute gain, clustered")
    p: float = Field(description="two-sided; exact where every problem is right or wrong, else a t test")
    n: int
    num_clusters: int

    @property
    def difference(self) -> float:
        """after - before."""
        return self.after - self.before

    @property
    def is_shown(self) -> bool:
        """Better, by the interval and by the test: the one alone claims nothing where the other disagrees."""
        return self.absolute.low > 0.0 and self.p <= LEVEL

    @property
    def is_loss(self) -> bool:
        """Worse, likewise."""
        return self.absolute.high < 0.0 and self.p <= LEVEL

    @property
    def detectable(self) -> float:
        """Least gain that so many problems would have shown in four cases of five."""
        return DETECTABLE * self.standard_error

    @property
    def sentence(self) -> str:
        """The numbers for people."""
        text = (
            f"{self.before:.1%} to {self.after:.1%}, {self.difference * 100:+.1f} points "
            f"[{self.absolute.low * 100:+.1f}, {self.absolute.high * 100:+.1f}]"
        )
        if self.relative is None:
            return f"{text}; nothing was right before, so there is no relative gain"
        bounds = ["?" if bound is None else f"{bound * 100:+.1f}%" for bound in (self.relative_low, self.relative_high)]
        return f"{text}, relative {self.relative * 100:+.1f}% [{bounds[0]}, {bounds[1]}]"


def share(scores: Sequence[float], clusters: Sequence[str] = ()) -> Share | None:
    """Mean of per-problem scores in 0..1; Wilson's interval, or the clustered one where that is wider. None: no scores.

    Raises:
        ValueError: another number of clusters than scores.
    """
    if not scores:
        return None
    groups = _groups(clusters, len(scores))
    closed = wilson(min(math.fsum(scores), float(len(scores))), len(scores))
    mean = math.fsum(scores) / len(scores)
    reach = _reach(np.asarray(scores), groups) if int(groups.max()) + 1 < len(scores) else 0.0
    return Share(
        mean=mean,
        low=max(0.0, min(closed.low, mean - reach)),
        high=min(1.0, max(closed.high, mean + reach)),
        n=len(scores),
    )


def accuracy_of(scores: Sequence[float], clusters: Sequence[str] = ()) -> Accuracy:
    """As `accuracy`, with the interval of `share` where several problems are of one cluster.

    Raises:
        ValueError: another number of clusters than scores.
    """
    plain, found = accuracy(scores), share(scores, clusters)
    if found is None or not clusters or len(set(clusters)) == len(scores):
        return plain
    return plain.model_copy(update={"clustered": (found.low, found.high)})


def gain(before: Sequence[float], after: Sequence[float], clusters: Sequence[str] = (), *, seed: int) -> Gain | None:
    """`after` beside `before` on the same problems in the same order; None without problems.

    Args:
        before, after: per-problem scores in 0..1.
        clusters: near-duplicate cluster of each problem; empty: every problem stands alone.
        seed: of the resampling behind the relative interval.

    Raises:
        ValueError: lists of different lengths.
    """
    if len(before) != len(after):
        raise ValueError(f"expected scores of the same problems, got {len(before)} before and {len(after)} after")
    if not before:
        return None
    old, new = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    groups = _groups(clusters, len(before))
    error = clustered_error(new - old, groups)
    absolute, p = _absolute(before, after, clusters, groups, error, seed)
    low, high = _relative_interval(old, new, groups, seed)
    total = math.fsum(before)
    return Gain(
        before=total / len(before),
        after=math.fsum(after) / len(after),
        absolute=absolute,
        relative=math.fsum(after) / total - 1.0 if total > 0.0 else None,
        relative_low=low,
        relative_high=high,
        standard_error=error,
        p=p,
        n=len(before),
        num_clusters=int(groups.max()) + 1,
    )


def _absolute(
    before: Sequence[float],
    after: Sequence[float],
    clusters: Sequence[str],
    groups: np.ndarray,
    error: float,
    seed: int,
) -> tuple[Interval, float]:
    """(interval, two-sided p): exact for verdicts, a t test for shares of samples."""
    if set(before) | set(after) <= {0.0, 1.0}:
        test = paired_test([s == 1.0 for s in before], [s == 1.0 for s in after], clusters, seed=seed)
        return test.difference, test.p_two_sided
    steps = np.asarray(after) - np.asarray(before)
    mean, reach = float(steps.mean()), _reach(steps, groups)
    closed = paired_difference(before, after)
    assert closed is not None, "there are problems"
    bounds = Interval(low=max(-1.0, min(closed.low, mean - reach)), high=min(1.0, max(closed.high, mean + reach)))
    return bounds, _two_sided(mean, error, int(groups.max()) + 1)


def _two_sided(mean: float, error: float, num_groups: int) -> float:
    if abs(mean) < 1e-12:
        return 1.0
    if error <= 0.0:
        return float(min(1.0, 2.0 * 0.5**num_groups))  # every cluster says the same: a sign test is all there is
    return float(min(1.0, 2.0 * stdtr(num_groups - 1, -abs(mean) / error)))


def _relative_interval(old: np.ndarray, new: np.ndarray, groups: np.ndarray, seed: int) -> tuple[float | None, ...]:
    """95% percentile interval of sum(new) / sum(old) - 1 over resampled clusters; a bound that is infinite is None."""
    first, second = np.bincount(groups, weights=old), np.bincount(groups, weights=new)
    if first.sum() <= 0.0:
        return None, None
    rng, ratios = np.random.default_rng(seed), np.empty(RESAMPLES)
    for place in range(RESAMPLES):
        drawn = rng.integers(0, first.size, size=first.size)
        was, became = float(first[drawn].sum()), float(second[drawn].sum())
        ratios[place] = became / was - 1.0 if was > 0.0 else (math.inf if became > 0.0 else 0.0)
    low = float(np.quantile(ratios, 0.025, method="lower"))
    high = float(np.quantile(ratios, 0.975, method="higher"))
    return (low if math.isfinite(low) else None), (high if math.isfinite(high) else None)


def _reach(values: np.ndarray, groups: np.ndarray) -> float:
    """Half the width of a clustered 95% t interval of the mean; 1 with one cluster, which shows no spread."""
    num_groups = int(groups.max()) + 1
    if num_groups < 2:
        return 1.0
    return float(stdtrit(num_groups - 1, 0.975)) * clustered_error(values, groups)


def _groups(clusters: Sequence[str], n: int) -> np.ndarray:
    if not clusters:
        return np.arange(n)
    if len(clusters) != n:
        raise ValueError(f"expected a cluster for each of {n} problems or none, got {len(clusters)}")
    numbers = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    return np.asarray([numbers[name] for name in clusters])
