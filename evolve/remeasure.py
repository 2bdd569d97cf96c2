"""What a winner is worth once it is measured again: the best of many looks better than it is. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import Field
from scipy.special import ndtr

from evolve.intervals import Interval
from evolve.paired import PairedTest
from memory.types import Record


class Remeasured(Record):
    """A winner's gain where it was chosen, and on items that nobody had chosen anything by."""

    name: str
    num_compared: int = Field(ge=1, description="arrangements among which it was the best")
    chosen_gain: float = Field(description="over the incumbents on the items it was chosen by; flattering")
    expected_luck: float = Field(description="what the best of as many equal ones would show there by chance")
    fresh: PairedTest = Field(description="the same comparison on fresh items; its gain is the one to store")

    @property
    def shrinkage(self) -> float:
        """How much of the gain was not there any more, in shares."""
        return self.chosen_gain - self.fresh.gain

    @property
    def interval(self) -> Interval:
        """95% interval of the gain on fresh items."""
        return self.fresh.difference

    @property
    def sentence(self) -> str:
        """For people."""
        return (
            f"{self.name}: {self.chosen_gain * 100:+.1f} points where it was chosen among {self.num_compared} "
            f"(the best of as many equal ones shows {self.expected_luck * 100:+.1f} by luck), "
            f"{self.fresh.gain * 100:+.1f} [{self.interval.low * 100:+.1f}, {self.interval.high * 100:+.1f}] on "
            f"{self.fresh.n} fresh problems"
        )


def remeasured(name: str, chosen: PairedTest, num_compared: int, fresh: PairedTest) -> Remeasured:
    """The winner's gain on the items it was `chosen` by beside that on `fresh` ones."""
    luck = expected_luck(num_compared, chosen.n, chosen.discordance)
    return Remeasured(name=name, num_compared=num_compared, chosen_gain=chosen.gain, expected_luck=luck, fresh=fresh)


def expected_luck(num_compared: int, num_problems: int, discordance: float) -> float:
    """Gain that the best of `num_compared` candidates without any gain shows on average, in shares.

    The mean of the largest of so many independent normal draws, times the error of one paired difference. Candidates
    that share seats are correlated and have less luck.
    """
    if num_compared < 1 or num_problems < 1:
        raise ValueError(f"expected at least one candidate and one problem, got {num_compared} and {num_problems}")
    x = np.linspace(-10.0, 10.0, 4001)
    density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    largest = float(np.trapezoid(x * num_compared * density * ndtr(x) ** (num_compared - 1), x))
    return largest * math.sqrt(discordance / num_problems)


def shrunk(gains: Sequence[float], errors: Sequence[float]) -> tuple[float, ...]:
    """Each gain drawn towards the mean of all by as much as noise explains their spread (empirical Bayes).

    The spread of true gains is DerSimonian and Laird's (1986) moment estimate. One gain alone, or gains that differ no
    more than noise does, all come out at the (precision-weighted) mean.

    Raises:
        ValueError: lists of different lengths, or an error that is not positive.
    """
    if len(gains) != len(errors) or any(error <= 0.0 for error in errors):
        raise ValueError(f"expected a positive standard error for each gain, got {list(gains)} and {list(errors)}")
    if not gains:
        return ()
    weights = [1.0 / error**2 for error in errors]
    total = math.fsum(weights)
    mean = math.fsum(w * g for w, g in zip(weights, gains, strict=True)) / total
    spread = math.fsum(w * (g - mean) ** 2 for w, g in zip(weights, gains, strict=True))
    scale = total - math.fsum(w * w for w in weights) / total
    true_variance = max(0.0, (spread - (len(gains) - 1)) / scale) if scale > 1e-12 * total else 0.0
    kept = [true_variance / (true_variance + error**2) for error in errors]
    return tuple(mean + share * (gain - mean) for gain, share in zip(gains, kept, strict=True))
