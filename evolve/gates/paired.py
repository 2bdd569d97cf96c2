"""Two arrangements on the same problems: is the one better? Exact, by whole clusters, with two cross-checks. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import Field
from scipy.special import stdtr, stdtrit

from evolve.gates.gate import mcnemar_p
from evolve.gates.intervals import Interval, paired_difference
from memory.types import Record

NUM_FLIPS = 2000
"""Random relabellings of the cross-check."""
TOLERANCE = 5.0
"""Standard errors of the cross-check's own noise beyond which the two calculations contradict each other."""


class PairedTest(Record):
    """What a comparison on the same problems found; one-sided, a small p speaks for the new arrangement."""

    n: int = Field(description="problems")
    num_clusters: int = Field(description="groups of near duplicates; n where every problem stands alone")
    both: int
    wins: int = Field(description="problems only the new arrangement got right")
    losses: int = Field(description="problems only the old one got right")
    p: float = Field(description="exact: whole clusters change sides by a fair coin; McNemar's where all stand alone")
    p_two_sided: float
    p_flips: float = Field(description="cross-check: the same null by random relabelling")
    p_clustered: float | None = Field(description="cross-check: t test with clustered errors; None: no variation")
    standard_error: float = Field(description="of the gain, clustered, in shares")
    design_effect: float = Field(description="clustered variance over that of as many independent problems; 1 if none")
    difference: Interval = Field(description="95% interval of the gain; the wider of Newcombe's and the clustered one")

    @property
    def gain(self) -> float:
        """Difference in accuracy, in shares."""
        return (self.wins - self.losses) / self.n

    @property
    def discordance(self) -> float:
        """Share of problems on which the two differ."""
        return (self.wins + self.losses) / self.n

    @property
    def is_consistent(self) -> bool:
        """The random relabelling found the exact p, up to its own noise; False points at a defect, not at bad luck."""
        noise = math.sqrt(max(self.p * (1.0 - self.p), 1.0 / NUM_FLIPS) / NUM_FLIPS)
        return abs(self.p - self.p_flips) <= TOLERANCE * noise + 1.0 / NUM_FLIPS


def paired_test(
    before: Sequence[bool], after: Sequence[bool], clusters: Sequence[str] = (), *, seed: int
) -> PairedTest:
    """Compare `after` with `before` on the same problems in the same order.

    Args:
        before: was the old arrangement right, problem by problem.
        after: was the new one.
        clusters: near-duplicate cluster of each problem; empty: every problem stands alone.
        seed: of the cross-check's relabelling; nothing that decides depends on it.

    Raises:
        ValueError: no problems, or lists of different lengths.
    """
    if not before or len(before) != len(after) or len(clusters) not in (0, len(before)):
        raise ValueError(
            f"expected results of the same problems, at least one, got {len(before)} before, {len(after)} after "
            f"and {len(clusters)} clusters"
        )
    n = len(before)
    steps = np.asarray(after, dtype=int) - np.asarray(before, dtype=int)
    groups = cluster_numbers(clusters, n)
    sums = np.bincount(groups, weights=steps).astype(int)
    wins, losses = int(np.sum(steps > 0)), int(np.sum(steps < 0))
    both = int(np.sum(np.asarray(before, dtype=bool) & np.asarray(after, dtype=bool)))
    error = clustered_error(steps, groups)
    return PairedTest(
        n=n,
        num_clusters=int(sums.size),
        both=both,
        wins=wins,
        losses=losses,
        p=flip_p(sums.tolist()),
        p_two_sided=min(1.0, 2.0 * min(flip_p(sums.tolist()), flip_p((-sums).tolist()))),
        p_flips=_random_flip_p(sums, seed),
        p_clustered=float(1.0 - stdtr(sums.size - 1, float(steps.mean()) / error)) if error > 0.0 else None,
        standard_error=error,
        design_effect=_design_effect(steps, sums.size, error),
        difference=_wider(paired_difference(both, wins, losses, n - both - wins - losses), steps, sums.size, error),
    )


def flip_p(sums: Sequence[int]) -> float:
    """Chance of a total of at least `sum(sums)` when every cluster's sign is a fair coin, by enumeration; 1 if all 0.

    `sums` are wins less losses of each cluster. Clusters of one problem give the exact McNemar test. It is exact where
    old and new are exchangeable cluster by cluster; for "no gain on average" over unequal clusters, asymptotically.
    """
    sizes = [abs(total) for total in sums if total != 0]
    if max(sizes, default=1) == 1:
        wins = sum(total > 0 for total in sums)
        return mcnemar_p(wins, len(sizes) - wins)
    # Chance of each sum of the sizes whose sign falls positive; sum(sums) = 2 * positive - all.
    chances = np.zeros(sum(sizes) + 1)
    chances[0] = 1.0
    reach = 0
    for size in sizes:
        chances[size : reach + size + 1] += chances[: reach + 1].copy()
        chances[: reach + size + 1] *= 0.5
        reach += size
    positive = (sum(sums) + reach) // 2
    return float(min(1.0, chances[positive:].sum()))


def clustered_error(steps: np.ndarray, groups: np.ndarray) -> float:
    """Standard error of the mean of `steps` with clustered (sandwich) variance; 0 with fewer than two clusters.

    Args:
        steps: (n,) differences.
        groups: (n,) cluster numbers from 0.
    """
    residuals = np.bincount(groups, weights=steps - steps.mean())
    count = residuals.size
    if count < 2:
        return 0.0
    error = math.sqrt(float(np.sum(residuals**2)) * count / (count - 1)) / steps.size
    return float(error) if error > 1e-12 else 0.0  # equal steps leave rounding behind, which is no variation


def cluster_numbers(clusters: Sequence[str], n: int) -> np.ndarray:
    """(n,) cluster numbers from 0, in order of appearance; without `clusters` each of the n problems has its own."""
    if not clusters:
        return np.arange(n)
    numbers = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    return np.asarray([numbers[name] for name in clusters])


def _random_flip_p(sums: np.ndarray, seed: int) -> float:
    moving = np.abs(sums[sums != 0]).astype(np.float32)
    if moving.size == 0:
        return 1.0
    positive = np.random.default_rng(seed).random((NUM_FLIPS, moving.size), dtype=np.float32) < 0.5
    totals = 2.0 * (positive.astype(np.float32) @ moving) - moving.sum()
    reached = int(np.sum(totals >= sums.sum()))  # whole numbers below 2**24: no rounding
    return (1 + reached) / (1 + NUM_FLIPS)


def _design_effect(steps: np.ndarray, num_clusters: int, error: float) -> float:
    if num_clusters < 2:  # whose error cannot be measured: all of it is one draw
        return float(steps.size)
    independent = float(np.var(steps, ddof=1)) / steps.size if steps.size > 1 else 0.0
    return error**2 / independent if independent > 0.0 else 1.0


def _wider(closed: Interval, steps: np.ndarray, num_clusters: int, error: float) -> Interval:
    """Newcombe's interval, stretched to hold the clustered one where there are clusters of several problems."""
    if num_clusters == steps.size:
        return closed
    if num_clusters < 2:  # which shows no spread: everything is possible
        return Interval(low=-1.0, high=1.0)
    reach = float(stdtrit(num_clusters - 1, 0.975)) * error
    gain = float(steps.mean())
    return Interval(low=max(-1.0, min(closed.low, gain - reach)), high=min(1.0, max(closed.high, gain + reach)))
