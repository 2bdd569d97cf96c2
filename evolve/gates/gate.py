"""The statistics of the gate: an exact paired test, its power, the correction for every try. Pure.

`evolve.gates.conjunction.hold` decides with them; a `GateRecord` is its decision in short.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from pydantic import Field
from scipy.special import bdtr, bdtrc, bdtrik, gammaln, xlogy

from evolve.gates.intervals import Interval
from memory.types import Record

ArmKind = Literal["candidate", "aa", "placebo", "budget"]

HARM_ALPHA = 0.05
"""Level of each guard: one task type shown to be worse is enough to refuse. Not corrected, which is the safe side."""
POWER = 0.8


class Guard(Record):
    """One task type of one arm: was it harmed?"""

    task_type: str
    n: int
    wins: int
    losses: int
    p_harm: float = Field(description="one-sided, exact: chance of so many losses if nothing had changed")

    @property
    def harmed(self) -> bool:
        """The harm is shown."""
        return self.p_harm <= HARM_ALPHA


class GateResult(Record):
    """What the gate found about one arm."""

    name: str
    kind: ArmKind
    n: int
    wins: int = Field(description="problems only the arm got right")
    losses: int = Field(description="problems only the incumbents got right")
    p: float = Field(description="exact McNemar, one-sided: chance of so many wins if nothing had changed")
    p_two_sided: float
    p_adjusted: float = Field(description="Holm over the candidates; for a control the same as p")
    threshold: float = Field(description="level that p had to reach in its place of the Holm order")
    difference: Interval = Field(description="95% interval of the gain in accuracy, in shares")
    guards: tuple[Guard, ...]
    detectable_effect: float | None = Field(
        description="gain found with 80% power at the observed discordance; what is larger than that differs on more"
    )
    significant: bool = Field(description="the gain is shown, whatever the guards say")
    passed: bool = Field(description="a candidate whose gain is shown and that harms no task type")
    reason: str = Field(description="the decision in plain words")

    @property
    def gain(self) -> float:
        """Difference in accuracy, in shares."""
        return (self.wins - self.losses) / self.n


class GateRecord(Record):
    """One holding of the gate."""

    alpha: float = Field(description="chance of promoting anything when no candidate is better")
    num_candidates: int
    results: tuple[GateResult, ...] = Field(description="in the order of the arms")

    @property
    def promoted(self) -> tuple[GateResult, ...]:
        """Those that passed, largest gain first."""
        return tuple(sorted((r for r in self.results if r.passed), key=lambda r: -r.gain))


def mcnemar_p(wins: int, losses: int, *, two_sided: bool = False) -> float:
    """Exact McNemar test: chance of at least `wins` of `wins + losses` flips of a fair coin; 1 without any flip.

    Two-sided: twice the smaller tail, at most 1.
    """
    if wins < 0 or losses < 0:
        raise ValueError(f"expected counts of at least 0, got {wins} wins and {losses} losses")
    flips = wins + losses
    if not two_sided:
        return float(bdtrc(wins - 1, flips, 0.5)) if flips else 1.0
    return min(1.0, 2.0 * float(bdtr(min(wins, losses), flips, 0.5))) if flips else 1.0


def holm(p_values: Sequence[float], alpha: float) -> list[tuple[float, float, bool]]:
    """Holm's (1979) procedure: (adjusted p, threshold, rejected) for each p, in the order given.

    The k-th smallest of m is compared with alpha / (m - k + 1); the first that misses ends it.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    results: dict[int, tuple[float, float, bool]] = {}
    adjusted, open_so_far = 0.0, True
    for place, index in enumerate(order):
        left = len(p_values) - place
        adjusted = max(adjusted, min(1.0, left * p_values[index]))
        open_so_far = open_so_far and p_values[index] <= alpha / left
        results[index] = (adjusted, alpha / left, open_so_far)
    return [results[index] for index in range(len(p_values))]


def power_of(n: int, discordance: float, difference: float, alpha: float) -> float:
    """Chance that the one-sided exact test at `alpha` finds a true gain, by enumerating every outcome.

    Args:
        n: problems.
        discordance: share of problems on which the two differ, 0..1.
        difference: true gain in accuracy, -discordance..discordance.
        alpha: level of this one test, after any correction.

    Raises:
        ValueError: a difference larger than the discordance allows.
    """
    if not 0.0 <= discordance <= 1.0 or abs(difference) > discordance + 1e-12:
        raise ValueError(f"expected |difference| <= discordance <= 1, got {difference} and {discordance}")
    if n == 0 or discordance == 0.0:
        return 0.0
    flips, needed = _critical_wins(n, alpha)
    share_of_wins = min(1.0, (discordance + difference) / (2 * discordance))
    found = bdtrc(needed - 1, flips, share_of_wins)
    return float(np.sum(_chances(flips, n, discordance) * found))


@lru_cache(maxsize=4096)
def detectable_effect(n: int, discordance: float, alpha: float, power: float = POWER) -> float | None:
    """Smallest true gain in accuracy that is found with the given power.

    A gain larger than the discordance takes the discordance with it: on such a candidate's problems all flips are wins.
    None: nothing differs at all, or not even a candidate that wins every problem is found so often.

    `alpha` is the level of one test: with m finalists give alpha / m, the strictest step of Holm's procedure.
    """

    def at(gain: float) -> float:
        return power_of(n, max(gain, discordance), gain, alpha)

    if n == 0 or discordance <= 0.0:
        return None
    for low, high in ((0.0, discordance), (discordance, 1.0)):
        if at(high) >= power:
            while high - low > 1e-5:
                middle = (low + high) / 2
                low, high = (low, middle) if at(middle) >= power else (middle, high)
            return high
    return None


def mcnemar_table(n: int, alpha: float) -> np.ndarray:
    """(n + 1,) fewest wins that the one-sided exact test at `alpha` rejects at, by number of flips."""
    return _critical_wins(n, alpha)[1]


@lru_cache(maxsize=256)
def _critical_wins(n: int, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """(0..n flips, fewest wins that the test rejects at; flips + 1 where none is enough)."""
    flips = np.arange(n + 1)
    # The smallest w with P(W > w) <= alpha, so w + 1 wins are enough; rounding may put it one off.
    wins = np.clip(np.ceil(np.nan_to_num(bdtrik(1.0 - alpha, flips, 0.5))) + 1, 0, flips + 1)
    lower = np.clip(wins - 1, 0, None)
    wins = np.where(bdtrc(lower - 1, flips, 0.5) <= alpha, lower, wins)
    wins = np.where(bdtrc(wins - 1, flips, 0.5) <= alpha, wins, wins + 1)
    return flips, np.where(flips == 0, 1, np.minimum(wins, flips + 1))


def _chances(successes: np.ndarray, n: int, share: float) -> np.ndarray:
    """Chance of each number of successes in n tries (`scipy.stats.binom.pmf`, whose import takes seconds)."""
    ways = gammaln(n + 1) - gammaln(successes + 1) - gammaln(n - successes + 1)
    return np.asarray(np.exp(ways + xlogy(successes, share) + xlogy(n - successes, 1.0 - share)))
