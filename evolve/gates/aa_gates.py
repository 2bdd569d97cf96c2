"""Many gates held on one pool of real proposals, with incumbents as their own candidates: how often do they pass? Pure.

Every gate deals each member's samples of each problem anew to the incumbents and to the arrangements that are the same
members under fresh seeds. Whatever passes is a false promotion. Gates that share no sample are independent, given the
problems; those that deal the same samples again are not, and only narrow the estimate.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import Field

from evolve.evaluate import Pool, Precedence
from evolve.gates.conjunction import Contest, Rival, hold
from evolve.gates.intervals import Interval, wilson
from evolve.problems.sealed import Asked
from evolve.ties import cross_fitted
from memory.types import Record
from mesh.seeds import derive_random, derive_seed
from mesh.tally import plurality
from mesh.types import Deliberation, Member, Proposal

_A = TypeVar("_A", bound=Asked)
MOST_REASONS = 3
"""For which calls failed that are told."""

Right = Mapping[tuple[str, str], bool]


class AAGates(Record):
    """What came of many gates without anything to find."""

    alpha: float
    num_finalists: int = Field(description="arrangements at each gate, all of them the incumbents anew")
    num_problems: int
    num_gates: int = Field(description="gates that share no sample")
    num_passed: int = Field(description="of these, gates at which anything passed")
    num_dealt_again: int = Field(default=0, description="gates on samples that were dealt before")
    num_passed_again: int = Field(default=0, description="of these, gates at which anything passed")
    discordance: float = Field(description="share of problems on which two votes of the same members differ")
    num_left_out: int = Field(default=0, description="problems without all their samples, since calls failed")

    @property
    def interval(self) -> Interval:
        """95% interval of the rate of false promotions, from the gates that share no sample."""
        return wilson(self.num_passed, self.num_gates)

    @property
    def sentence(self) -> str:
        """For people."""
        text = (
            f"{self.num_passed} of {self.num_gates} gates promoted the incumbents anew ({self.rate:.1%}, 95% interval "
            f"{self.interval.low:.1%} to {self.interval.high:.1%}; the gate promises at most {self.alpha:.0%}), on "
            f"{self.num_problems} problems of which {self.discordance:.0%} change by chance alone"
        )
        if self.num_dealt_again:
            again = self.num_passed_again / self.num_dealt_again
            text += f"; dealt again {self.num_dealt_again} times, {again:.1%} of gates did"
        if self.num_left_out:
            text += f"; {self.num_left_out} problems were left out, since calls about them failed"
        return text + "."

    @property
    def rate(self) -> float:
        """Share of gates that promoted anything; 0 without a gate."""
        return self.num_passed / self.num_gates if self.num_gates else 0.0


def samples_needed(samples_per_member: int, num_finalists: int, num_gates: int) -> int:
    """First proposals of each member for each problem, so that no gate shares a sample with another."""
    return samples_per_member * (1 + num_finalists) * num_gates


def fully_drawn(pool: Pool, seats: Sequence[Member], problems: Iterable[_A], num_samples: int) -> list[_A]:
    """The problems for which every member has as many samples: no call about them failed."""
    return [p for p in problems if all(len(pool.of(member, p.task)) >= num_samples for member in seats)]


def failed_calls(drawn: Sequence[Deliberation]) -> str:
    """How many of these calls failed and why, the most frequent reasons first; empty where none did."""
    failed = [one for one in drawn if one.failures]
    if not failed:
        return ""
    reasons = Counter(f"{one.failures[0].kind}: {one.failures[0].message}" for one in failed).most_common(MOST_REASONS)
    told = "; ".join(f"{number} times {reason}" for reason, number in reasons)
    return f"{len(failed)} of {len(drawn)} calls failed ({told})"


def hold_aa_gates(
    pool: Pool,
    seats: Sequence[Member],
    problems: Sequence[Asked],
    right: Right,
    *,
    samples_per_member: int,
    num_finalists: int = 1,
    num_dealt_again: int = 0,
    alpha: float,
    clusters: Sequence[str] = (),
    seed: int,
) -> AAGates:
    """As many gates as the pool has samples for, then `num_dealt_again` on the same samples dealt anew.

    Raises:
        ValueError: the pool has too few samples of some member and problem for a single gate.
    """
    fewest = min(len(pool.of(member, problem.task)) for problem in problems for member in seats)
    count = fewest // samples_needed(samples_per_member, num_finalists, 1)
    if count < 1:
        needed = samples_needed(samples_per_member, num_finalists, 1)
        raise ValueError(
            f"expected at least {needed} samples of every member and problem for one gate, got {fewest}; draw more"
        )
    ties = cross_fitted(pool, seats, problems, right, clusters)
    table = _Table(pool, seats, problems, right, ties, samples_per_member, num_finalists, seed)
    held = [_Gate(table, deal=0, place=number) for number in range(count)]
    again = [_Gate(table, deal=1 + number, place=0) for number in range(num_dealt_again)]
    return AAGates(
        alpha=alpha,
        num_finalists=num_finalists,
        num_problems=len(problems),
        num_gates=count,
        num_passed=sum(gate.passes(alpha, clusters, seed) for gate in held),
        num_dealt_again=num_dealt_again,
        num_passed_again=sum(gate.passes(alpha, clusters, seed) for gate in again),
        discordance=sum(gate.discordance for gate in held) / count,
    )


@dataclass(frozen=True)
class _Table:
    """What all gates are dealt from."""

    pool: Pool
    seats: Sequence[Member]
    problems: Sequence[Asked]
    right: Right
    ties: Precedence
    samples: int
    num_finalists: int
    seed: int


class _Gate:
    """One deal of the samples: slices of each member's samples for the incumbents, then for each arrangement."""

    def __init__(self, table: _Table, *, deal: int, place: int) -> None:
        start = place * table.samples * (1 + table.num_finalists)
        self._types = tuple(problem.task.type for problem in table.problems)
        self.label = f"deal {deal} gate {place}"
        votes: list[list[bool]] = [[] for _ in range(1 + table.num_finalists)]
        for problem in table.problems:
            dealt = []
            for member in table.ties(table.seats, problem.task):
                rng = derive_random(table.seed, "deal", deal, problem.task.id, member.name)
                dealt.append(_shuffled(table.pool.of(member, problem.task), rng))
            for side, found in enumerate(votes):
                first = start + side * table.samples
                ballots = [one for own in dealt for one in own[first : first + table.samples]]
                answer = plurality(ballots, problem.task.answer_kind).answer
                found.append(answer is not None and table.right.get((problem.task.id, answer), False))
        self._incumbents, self._anew = tuple(votes[0]), [tuple(one) for one in votes[1:]]

    @property
    def discordance(self) -> float:
        """Share of problems on which the first arrangement's vote differs from the incumbents'."""
        differ = sum(old != new for old, new in zip(self._incumbents, self._anew[0], strict=True))
        return differ / len(self._incumbents)

    def passes(self, alpha: float, clusters: Sequence[str], seed: int) -> bool:
        """Whether the rule that decides in a run says yes to any of them, guards included."""
        contests = [
            Contest(
                name=f"A/A {number}",
                right=right,
                rivals=(Rival(kind="incumbent", name="incumbents", right=self._incumbents),),
                task_types=self._types,
                clusters=tuple(clusters),
            )
            for number, right in enumerate(self._anew)
        ]
        return bool(hold(contests, alpha, seed=derive_seed(seed, self.label)).promoted)


def _shuffled(proposals: Sequence[Proposal], rng: random.Random) -> list[Proposal]:
    dealt = list(proposals)
    rng.shuffle(dealt)
    return dealt
