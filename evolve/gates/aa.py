"""The gate tested on itself: how often incumbents re-entered under fresh seeds would have been promoted. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import Field

from evolve.gates.conjunction import ConjunctionRecord
from evolve.gates.intervals import Interval, wilson
from memory.types import Record

ALARM = 0.05
"""Chance of so many false promotions from which on down the gate itself is suspected."""
UNSOUND = 0.2
"""Rate of false promotions of a gate that is plainly broken, by which it is told how little a few arms say."""


class AARecord(Record):
    """All A/A arms of a run so far."""

    levels: tuple[float, ...] = Field(description="of each arm's gate, the chance that it passes if all is well")
    num_would_pass: int = Field(description="each one a false promotion, had it been a candidate")

    @property
    def num_arms(self) -> int:
        """Of all gates that were held."""
        return len(self.levels)

    @property
    def interval(self) -> Interval:
        """95% interval of the rate of false promotions; wide with few arms."""
        return wilson(self.num_would_pass, self.num_arms)

    @property
    def p_exceeds(self) -> float:
        """Chance of so many or more if every gate kept its level: the binomial tail where all have one level."""
        return sum(_chances(self.levels)[self.num_would_pass :]) if self.num_would_pass else 1.0

    @property
    def is_alarm(self) -> bool:
        """More false promotions than the gates' levels explain: what passes is not seated while it lasts.

        At a level of 5% that is one of one, two of two to seven, three of 8 to 16. A gate whose level were spent to
        the last raises it in 5.0% of runs by their first arm and in 8.3% by their tenth; one that promotes 1.5% of
        its A/A arms, as was measured, in 1.5% and 1.8%.
        """
        return self.p_exceeds <= ALARM

    @property
    def silence(self) -> float:
        """Chance that a plainly broken gate, of rate `UNSOUND`, raises no alarm with so many arms."""
        chances = _chances(self.levels)
        fewest = next((k for k in range(len(chances)) if sum(chances[k:]) <= ALARM), len(chances))
        return sum(_chances([UNSOUND] * self.num_arms)[:fewest])

    @property
    def objection(self) -> str:
        """Why nothing that passed the gate may be seated; empty while there is no alarm."""
        if not self.is_alarm:
            return ""
        return f"{self.sentence}; every gate has an A/A arm until this is over; if it lasts, look for a leak or a cache"

    @property
    def sentence(self) -> str:
        """For people."""
        if self.num_arms == 0:
            return "no A/A arm was held"
        text = (
            f"{self.num_would_pass} of {self.num_arms} A/A arms would have been promoted (95% interval "
            f"{self.interval.low:.1%} to {self.interval.high:.1%}; the gate promises at most {max(self.levels):.0%})"
        )
        if self.silence > 0.5:
            text += (
                f"; so few arms say little: a gate that promotes {UNSOUND:.0%} of what is no better raises no alarm in "
                f"{self.silence:.0%} of such runs"
            )
        if self.is_alarm:
            text += (
                f"; a sound gate promotes so many in {self.p_exceeds:.1%} of runs at most: it is not trusted, and what "
                "passes it is not seated"
            )
        return text


def aa_record(records: Iterable[ConjunctionRecord]) -> AARecord:
    """Count the A/A arms in all gates that were held, and those of whom the rule said yes."""
    arms = [(record.alpha, one.would_pass) for record in records for one in record.results if one.kind == "aa"]
    return AARecord(levels=tuple(alpha for alpha, _ in arms), num_would_pass=sum(passed for _, passed in arms))


def aa_is_due(generation: int, every: int) -> bool:
    """Whether an A/A arm rides along: in generation 0, then in every `every`-th one; 0: in generation 0 alone.

    While the alarm is on, one rides along in every generation.
    """
    return generation == 0 or (every > 0 and generation % every == 0)


def _chances(rates: Sequence[float]) -> list[float]:
    """Chance of each number of passes, 0 to all, of independent arms with these rates."""
    chances = [1.0]
    for rate in rates:
        stays, passes = [*chances, 0.0], [0.0, *chances]
        chances = [(1.0 - rate) * old + rate * new for old, new in zip(stays, passes, strict=True)]
    return chances
