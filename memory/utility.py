"""Whether an experience helps: success in the episodes that saw it minus success in those from which it was withheld.

How often episodes succeed that recalled something says little: what is recalled often may be what is easy anyway.
ExpGraph ranks by the difference, with minus without; so does this, from a hold-out that never ends (memory/holdout.py).
One entry's own withheld episodes stay few, so its difference is shrunk towards that of its class (all entries of a
task type, for the same or for similar problems), and that of the class towards none. Pure.
"""

from __future__ import annotations

import math
from typing import NamedTuple

Z = 2.326
"""Half width of an interval in standard deviations: 98% inside, 1% on either side.

Wide on purpose, for an entry is looked at after every use. Simulated over 100 episodes of which a tenth is held out:
of entries that change nothing at most 4% ever seem to do harm, of those that turn 80% success into 20% nine in ten do.
"""

SPREAD = 0.25
"""Standard deviation of the true difference between entries of one class, and between classes; assumed."""


class Tally(NamedTuple):
    """Judged episodes, and how many of them succeeded."""

    num: int = 0
    num_success: int = 0

    @property
    def mean(self) -> float:
        """Mean of the Beta(1 + successes, 1 + failures) posterior; 0.5 without episodes."""
        return (self.num_success + 1.0) / (self.num + 2.0)

    @property
    def variance(self) -> float:
        """Variance of the same posterior; 1/12 without episodes."""
        return self.mean * (1.0 - self.mean) / (self.num + 3.0)


class Prior(NamedTuple):
    """What is expected of a difference before it is measured: a normal distribution."""

    mean: float = 0.0
    variance: float = SPREAD**2


NO_EFFECT = Prior()
"""What is expected where nothing of the class is known: that remembering changes nothing."""


class Utility(NamedTuple):
    """A difference in success, -1 to 1, with the interval it lies in (98%) and the episodes behind it."""

    mean: float
    lower: float
    upper: float
    num_with: int
    num_without: int


def utility(with_: Tally, without: Tally, prior: Prior = NO_EFFECT) -> Utility:
    """The shrunk difference in success, with minus without.

    Two Beta posteriors, their difference taken as normal, weighed against `prior` by inverse variances (the
    normal-normal model; Gelman et al., Bayesian Data Analysis, section 5.4). Where no episode is on one of the two
    sides the difference was not measured, and the prior stands: success alone is no gain.

    Raises:
        ValueError: more successes than episodes, or a negative count.
    """
    for tally in (with_, without):
        if not 0 <= tally.num_success <= tally.num:
            raise ValueError(f"tally: expected 0 <= num_success <= num, got {tally}; count each episode once")
    mean, variance = _posterior(with_, without, prior)
    half = Z * math.sqrt(variance)
    return Utility(mean, max(-1.0, mean - half), min(1.0, mean + half), with_.num, without.num)


def class_prior(with_: Tally, without: Tally) -> Prior:
    """What to expect of one entry, from the tallies of its class: the class's own difference, wider by `SPREAD`.

    The tallies should leave out the entry itself; in a class of many it matters little.
    """
    mean, variance = _posterior(with_, without, NO_EFFECT)
    return Prior(mean, variance + SPREAD**2)


def _posterior(with_: Tally, without: Tally, prior: Prior) -> Prior:
    if not with_.num or not without.num:
        return prior
    noise = with_.variance + without.variance
    share = prior.variance / (prior.variance + noise)
    return Prior(prior.mean + share * (with_.mean - without.mean - prior.mean), share * noise)


def worth(gain: float) -> float:
    """Factor by which a gain (`Utility.mean`, `Standing.gain`) raises or lowers a rank: 1 + gain, within 0 to 2.

    1 where nothing is known. Raises ValueError for a gain outside -1 to 1.
    """
    if not -1.0 <= gain <= 1.0:
        raise ValueError(f"gain: expected -1 to 1, got {gain}")
    return 1.0 + gain


def harms(found: Utility) -> bool:
    """Whether episodes do worse with it, even at the interval's kind end; such a thing is not shown."""
    return found.upper < 0.0
