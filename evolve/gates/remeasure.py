"""What a winner is worth once it is measured again: the best of many looks better than it is. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from pydantic import Field
from scipy.special import ndtr

from evolve.gates.intervals import Interval
from evolve.gates.paired import PairedTest
from memory.types import Record


class Remeasured(Record):
    """A winner's gain where it was chosen, and on items that nobody had chosen anything by."""

    name: str
    num_compared: int = Field(ge=1, description="arrangements among which it was the best")
    chosen_gain: float = Field(description="over the incumbents on the items it was chosen by; flattering")
    expected_luck: float = Field(description="what the best of as many equal ones would show there by chance")
    fresh: PairedTest = Field(description="the same comparison on fresh items")
    alone: dict[str, float] = Field(
        default_factory=dict, description="member to the share of the fresh items that it solves alone, seats included"
    )

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


def remeasured(
    name: str, chosen: PairedTest, num_compared: int, fresh: PairedTest, alone: Mapping[str, float] | None = None
) -> Remeasured:
    """The winner's gain on the items it was `chosen` by beside that on `fresh` ones, where members solve `alone`."""
    return Remeasured(
        name=name,
        num_compared=num_compared,
        chosen_gain=chosen.gain,
        expected_luck=expected_luck(num_compared, chosen.n, chosen.discordance),
        fresh=fresh,
        alone=dict(alone or {}),
    )


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
