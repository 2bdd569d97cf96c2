"""What each seat adds to the vote: exact Shapley values by replaying cached ballots of every coalition. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field
from scipy.special import stdtr, stdtrit

from evolve.config import MAX_SEATS
from evolve.evaluate import Pool, Precedence, as_seated
from evolve.gates.intervals import Interval
from evolve.gates.paired import clustered_error
from evolve.problems.sealed import Asked
from memory.types import Record
from mesh.equivalence import canonical
from mesh.types import Member


@dataclass(frozen=True)
class Ballot:
    """One first proposal: whose, what it said, and whether that spelling was judged right."""

    member: int
    pile: str
    spelling: str
    correct: bool


@dataclass(frozen=True)
class BallotBox:
    """The cached ballots of all members, problem by problem, in the order that decides ties."""

    names: tuple[str, ...]
    families: tuple[str, ...]
    problems: tuple[tuple[Ballot, ...], ...]


class Contribution(Record):
    """What one member adds to the accuracy of the vote, in shares."""

    member: str
    value: float = Field(description="Shapley value; over all members they add up to the whole mesh's accuracy")
    interval: Interval = Field(description="95%, over problems")
    p_harms: float = Field(description="one-sided: chance of so low a value if the member added nothing")
    alone: float = Field(description="accuracy of its own vote")
    left_out: float = Field(description="accuracy of the vote without it")
    num_pivotal: int = Field(description="problems that the whole mesh gets right and not without it")


class Contributions(Record):
    """Every seat's share in the vote."""

    accuracy: float = Field(description="of the vote of all members")
    coverage: float = Field(description="share of problems on which at least one member alone votes right")
    num_problems: int
    members: tuple[Contribution, ...] = Field(description="in seat order")


def ballot_box(
    pool: Pool,
    seats: Sequence[Member],
    problems: Sequence[Asked],
    judged: Mapping[tuple[str, str], bool],
    ties: Precedence = as_seated,
) -> BallotBox:
    """The first proposals of these seats for these problems; abstentions are no ballots."""
    rows = []
    for problem in problems:
        ballots = []
        for member in ties(seats, problem.task):
            index = seats.index(member)
            for proposal in pool.of(member, problem.task):
                if proposal.answer is not None:
                    pile = canonical(proposal.answer, problem.task.answer_kind)
                    correct = judged.get((problem.task.id, proposal.answer), False)
                    ballots.append(Ballot(member=index, pile=pile, spelling=proposal.answer, correct=correct))
        rows.append(tuple(ballots))
    return BallotBox(
        names=tuple(member.name for member in seats),
        families=tuple(member.family for member in seats),
        problems=tuple(rows),
    )


def coalition_votes(box: BallotBox) -> np.ndarray:
    """(2**n, problems) bool: is the plurality of a coalition right? Bit i of the row number: member i takes part.

    The tie rule is that of `mesh.tally.plurality`. The empty coalition is always wrong.

    Raises:
        ValueError: more than `MAX_SEATS` members, or none.
    """
    count = len(box.names)
    if not 1 <= count <= MAX_SEATS:
        raise ValueError(f"expected 1 to {MAX_SEATS} members, got {count}; leave out the ones that change nothing")
    seated = (np.arange(2**count)[:, None] >> np.arange(count)[None, :] & 1).astype(bool)
    votes = np.zeros((2**count, len(box.problems)), dtype=bool)
    replayed: dict[tuple[Ballot, ...], np.ndarray] = {}
    for column, ballots in enumerate(box.problems):
        if ballots not in replayed:
            replayed[ballots] = _replay(ballots, box.families, seated)
        votes[:, column] = replayed[ballots]
    return votes


def shapley_by_problem(votes: np.ndarray) -> np.ndarray:
    """(members, problems) exact Shapley values of (2**n, problems) coalition results."""
    count = votes.shape[0].bit_length() - 1
    sizes = np.asarray([number.bit_count() for number in range(2**count)])
    share = np.asarray(
        [math.factorial(s) * math.factorial(count - s - 1) / math.factorial(count) for s in range(count)]
    )
    values = np.zeros((count, votes.shape[1]))
    numbers = np.arange(2**count)
    for member in range(count):
        without = numbers[numbers >> member & 1 == 0]
        gains = votes[without | 1 << member].astype(float) - votes[without]
        values[member] = share[sizes[without]] @ gains
    return values


def contributions(box: BallotBox, clusters: Sequence[str] = ()) -> Contributions:
    """Exact Shapley values of the vote's accuracy, with intervals over problems, or clusters of near duplicates.

    Raises:
        ValueError: no problems, other clusters than problems, or too many members.
    """
    n = len(box.problems)
    if n == 0 or len(clusters) not in (0, n):
        raise ValueError(f"expected at least one problem, and a cluster for each or none, got {n} and {len(clusters)}")
    votes = coalition_votes(box)
    values = shapley_by_problem(votes)
    names = list(dict.fromkeys(clusters)) if clusters else []
    groups = np.asarray([names.index(name) for name in clusters]) if clusters else np.arange(n)
    everyone = votes.shape[0] - 1
    alone = votes[[1 << member for member in range(len(box.names))]]
    return Contributions(
        accuracy=float(votes[everyone].mean()),
        coverage=float(alone.any(axis=0).mean()),
        num_problems=n,
        members=tuple(
            _contribution(name, values[member], groups, votes, member) for member, name in enumerate(box.names)
        ),
    )


def to_retire(found: Contributions, among: Collection[str], *, level: float = 0.05) -> dict[str, str]:
    """Of the members `among` the one that takes most from the vote, if that is shown, with the reason.

    Corrected for all of them (Bonferroni). One at a time: with it gone the shares of the others are different ones. A
    base model's share is no question here, for nothing would take its seat. A member that merely adds nothing may stay:
    it costs tokens, and that is the operator's choice.
    """
    asked = [one for one in found.members if one.member in among]
    worst = min(asked, key=lambda one: (one.p_harms, one.value), default=None)
    if worst is None or worst.p_harms > level / len(asked):
        return {}
    interval = worst.interval
    figures = f"{worst.value * 100:+.1f} points [{interval.low * 100:+.1f}, {interval.high * 100:+.1f}]"
    return {worst.member: f"its share in the vote is {figures} over {found.num_problems} problems"}


def _contribution(name: str, values: np.ndarray, groups: np.ndarray, votes: np.ndarray, member: int) -> Contribution:
    everyone = votes.shape[0] - 1
    value, error = float(values.mean()), clustered_error(values, groups)
    freedom = int(groups.max())
    reach = float(stdtrit(freedom, 0.975)) * error if freedom > 0 else 1.0
    without = votes[everyone & ~(1 << member)]
    return Contribution(
        member=name,
        value=value,
        interval=Interval(low=max(-1.0, value - reach), high=min(1.0, value + reach)),
        p_harms=float(stdtr(freedom, value / error)) if error > 0.0 else _p_alike(value, freedom + 1),
        alone=float(votes[1 << member].mean()),
        left_out=float(without.mean()),
        num_pivotal=int(np.sum(votes[everyone] & ~without)),
    )


def _p_alike(value: float, num_groups: int) -> float:
    """Where every problem says the same a t test has nothing to divide by: the sign test's p."""
    return float(0.5**num_groups) if value < 0.0 else 1.0


def _replay(ballots: Sequence[Ballot], families: Sequence[str], seated: np.ndarray) -> np.ndarray:
    """(2**n,) bool: the plurality over the ballots of each coalition; more ballots, families, members, then earlier."""
    num_masks, count = seated.shape
    kinds = list(dict.fromkeys(families))
    of_kind = np.asarray([[family == kind for kind in kinds] for family in families])
    # One whole number orders the piles: ballots, families, members, then the place of the earliest ballot.
    base = len(ballots) + count + 2
    best = np.zeros(num_masks, dtype=np.int64)
    right = np.zeros(num_masks, dtype=bool)
    for pile in dict.fromkeys(ballot.pile for ballot in ballots):
        mine = [(place, ballot) for place, ballot in enumerate(ballots) if ballot.pile == pile]
        number = np.bincount([ballot.member for _, ballot in mine], minlength=count)
        behind = seated & (number > 0)
        first = np.full(count, len(ballots))
        for place, ballot in reversed(mine):
            first[ballot.member] = place
        earliest = np.where(behind, first, len(ballots)).min(axis=1)
        num_families = (behind.astype(int) @ of_kind > 0).sum(axis=1)
        merit = seated @ number
        for value in (num_families, behind.sum(axis=1), len(ballots) - earliest):
            merit = merit * base + value
        merit = np.where(behind.any(axis=1), merit, -1)
        wins = merit > best
        best = np.where(wins, merit, best)
        right = np.where(wins, _is_right([ballot for _, ballot in mine], behind), right)
    return right


def _is_right(ballots: Sequence[Ballot], behind: np.ndarray) -> np.ndarray:
    """Was the spelling that the verdict shows, the shortest in the coalition, judged right?"""
    spelled = {ballot.spelling: ballot.correct for ballot in ballots}
    ranked = sorted(spelled, key=lambda spelling: (len(spelling), spelling))
    rank = np.full(behind.shape[1], len(ranked))
    for ballot in ballots:
        rank[ballot.member] = min(rank[ballot.member], ranked.index(ballot.spelling))
    shown = np.where(behind, rank, len(ranked)).min(axis=1)
    return np.asarray([*(spelled[spelling] for spelling in ranked), False])[shown]
