"""The gate tested on itself: how often incumbents re-entered under fresh seeds would have been promoted. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field
from scipy.special import bdtrc

from evolve.gates.conjunction import ConjunctionRecord
from evolve.gates.intervals import Interval, wilson
from memory.types import Record

ALARM = 0.01
"""Chance of so many false promotions below which the gate itself is suspected."""


class AARecord(Record):
    """All A/A arms of a run so far."""

    alpha: float
    num_arms: int
    num_would_pass: int = Field(description="each one a false promotion, had it been a candidate")

    @property
    def interval(self) -> Interval:
        """95% interval of the rate of false promotions; wide with few arms."""
        return wilson(self.num_would_pass, self.num_arms)

    @property
    def p_exceeds(self) -> float:
        """Chance of so many or more if the true rate were `alpha`; 1 without any."""
        if self.num_would_pass == 0:
            return 1.0
        return float(bdtrc(self.num_would_pass - 1, self.num_arms, self.alpha))

    @property
    def is_alarm(self) -> bool:
        """More false promotions than the gate's level explains, which takes two at least: what passes is not seated.

        A gate that keeps its level raises it in 1.4% of runs by their tenth arm.
        """
        return self.p_exceeds <= ALARM

    @property
    def objection(self) -> str:
        """Why nothing that passed the gate may be seated; empty while there is no alarm."""
        return f"{self.sentence}; look for a leak or a cache, and begin a new run" if self.is_alarm else ""

    @property
    def sentence(self) -> str:
        """For people."""
        if self.num_arms == 0:
            return "no A/A arm was held"
        return (
            f"{self.num_would_pass} of {self.num_arms} A/A arms would have been promoted (95% interval "
            f"{self.interval.low:.1%} to {self.interval.high:.1%}; the gate promises at most {self.alpha:.0%})"
            + (": the gate cannot be trusted, and what passes it is not seated" if self.is_alarm else "")
        )


def aa_record(records: Iterable[ConjunctionRecord], alpha: float) -> AARecord:
    """Count the A/A arms in all gates that were held, and those of whom the rule said yes."""
    arms = [result for record in records for result in record.results if result.kind == "aa"]
    return AARecord(alpha=alpha, num_arms=len(arms), num_would_pass=sum(arm.would_pass for arm in arms))


def aa_is_due(generation: int, every: int) -> bool:
    """Whether an A/A arm rides along: in generation 0, then in every `every`-th one; 0: in generation 0 alone."""
    return generation == 0 or (every > 0 and generation % every == 0)
