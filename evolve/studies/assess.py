"""What is measured on tasks before a night is spent on them: ways of answering, side by side, and their room. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from pydantic import Field

from evolve.evaluate import Pool, member_scores
from evolve.gates.gains import accuracy_of, gain
from evolve.gates.gate_wear import Level
from evolve.judging.judge import Judge, Probe
from evolve.judging.verifiers import read_number
from evolve.planning.gates_ahead import GateAhead
from evolve.problems.splits import normalised_text
from evolve.problems.types import Problem
from evolve.report.measure import Accuracy, Difference
from evolve.ties import cross_fitted, units
from memory.types import Record, content_hash
from mesh.tally import plurality
from mesh.types import Member, Proposal

Right = Mapping[tuple[str, str], bool]
"""(task id, answer as spelled) to correct."""


class Arm(Record):
    """One way of answering, item by item on the same items."""

    name: str
    scores: tuple[float, ...] = Field(repr=False, description="share right, in the order of the items")
    num_samples: int = Field(default=0, description="proposals it takes for one item")

    def accuracy(self, clusters: Sequence[str] = ()) -> Accuracy:
        """Over all items, errors within a cluster of items taken as one draw.

        `clusters`: one for each item; empty: every item stands alone.
        """
        return accuracy_of(self.scores, clusters)

    @property
    def mean(self) -> float:
        """Share right; 0 without items."""
        return math.fsum(self.scores) / len(self.scores) if self.scores else 0.0

    def against(self, other: Arm, clusters: Sequence[str] = ()) -> Difference | None:
        """This arm minus `other`, paired, errors within a cluster of items taken as one draw; None without items.

        `clusters`: one for each item; empty: every item stands alone.
        """
        found = gain(other.scores, self.scores, clusters, seed=0)
        if found is None:
            return None
        bounds = found.absolute
        return Difference(mean=found.difference, low=bounds.low, high=bounds.high, n=found.n, p=found.p)


class Night(Record):
    """What one run of the configuration takes, as planned from what was measured here."""

    hours: float
    output_tokens: int
    money: float | None = Field(default=None, description="None: an engine has no price_per_hour")


class Findings(Record):
    """Everything that the advice rests on."""

    probes: tuple[Probe, ...] = Field(
        description="what the verifier accepts: references, constants, empty, shuffled..."
    )
    num_items: int
    clusters: tuple[str, ...] = Field(
        default=(), repr=False, description="of near duplicates, for each item; empty: every item stands alone"
    )
    constant: Arm = Field(description="each task type's best constant answer, chosen on these very items")
    copied: Arm | None = Field(
        default=None, description="the answer that is parsed out of the question itself; None: not tried"
    )
    alone: tuple[Arm, ...] = Field(description="every member, mean over its samples")
    single: Arm = Field(description="the best member: chosen on one half of the items, measured on the other, and back")
    consistency: Arm = Field(description="that member's vote over as many samples as the mesh takes")
    mesh: Arm = Field(description="vote over first proposals of all members, mean over disjoint samples")
    council: Arm | None = Field(default=None, description="full councils on some of the items; None: none were held")
    council_vote: Arm | None = Field(default=None, description="those councils' own first votes")
    council_clusters: tuple[str, ...] = Field(default=(), repr=False, description="of the councils' items, as clusters")
    ceiling: Arm = Field(description="any member right, at the mesh's number of samples: a perfect chooser")
    reach: Arm = Field(description="any sample of all that were drawn is right: what own answers can teach")
    n_eff: float = Field(description="how many independent votes the members are worth")
    same_wrong: float | None = Field(default=None, description="both wrong: how often the same answer; None: never so")
    discordance: float = Field(description="share of items that may differ at the gate")
    num_gate: int = Field(description="GATE items these tasks and shares give")
    gate_level: Level | None = Field(
        default=None, description="of a run's first gate, where wear leaves it less than gate.alpha; None: it has that"
    )
    later_gates: tuple[GateAhead, ...] = Field(default=(), description="some of the gates that work at another level")
    near_duplicates: str = Field(default="", description="how many tasks say nearly the same, as a sentence")
    detectable: float | None = Field(
        description="smallest gain that passes a run's first whole gate (every rival, every guard) with 80% power; "
        "None: none does, or it may not be held"
    )
    num_gate_needed: int | None = Field(
        default=None, description="GATE items that would show all the room there is; None: no number does, or enough do"
    )
    expected_examples: float = Field(description="verified examples one generation would give the best-fed member")
    min_examples: int = Field(description="examples below which nothing is trained")
    night: Night | None = None
    night_hours: float = Field(default=10.0, description="how long a night is")
    output_tokens: int = Field(default=0, description="spent on this assessment")
    seconds: float = 0.0


def probe_shuffled(problems: Sequence[Problem], judge: Judge) -> list[Probe]:
    """Each item answered with another item's reference, where that is another text; one probe a task type.

    Types whose references are all the same give a probe of no items.
    """
    by_type: dict[str, list[Problem]] = {}
    for problem in problems:
        by_type.setdefault(problem.task.type, []).append(problem)
    probes = []
    for task_type, items in by_type.items():
        pairs = list(_with_foreign_reference(items))
        accepted = sum(judge.judge(problem, answer).correct for problem, answer in pairs)
        probes.append(Probe(task_type=task_type, probe="shuffled", accepted=accepted, n=len(pairs)))
    return probes


def vote_replicates(
    pool: Pool,
    seats: Sequence[Member],
    problems: Sequence[Problem],
    right: Right,
    votes_each: int,
    clusters: Sequence[str],
) -> list[list[float]]:
    """Votes over `votes_each` proposals of every seat, from disjoint samples: one list of scores for each replicate.

    Ties fall to the seat that is better on the items of the other folds, as they fall in a run by what DEV measured;
    `clusters` as `evolve.ties.units` takes them.

    As many replicates as every seat has samples for, at least one; a seat without samples casts fewer ballots.
    """
    drawn = [len(pool.of(seat, problem.task)) for seat in seats for problem in problems]
    count = max(1, max(drawn, default=0) // votes_each)
    ties = cross_fitted(pool, seats, problems, right, clusters)
    return [
        [
            _vote(
                [
                    p
                    for seat in ties(seats, problem.task)
                    for p in pool.of(seat, problem.task)[n * votes_each : (n + 1) * votes_each]
                ],
                problem,
                right,
            )
            for problem in problems
        ]
        for n in range(count)
    ]


class BestSingle(NamedTuple):
    """The best member, chosen on the half of the items that it is not measured on."""

    alone: Arm
    consistency: Arm
    """its vote over as many samples as it was given"""
    members: tuple[str, ...]
    """who it is on the two halves: one name, or two"""


def best_single(
    pool: Pool,
    seats: Sequence[Member],
    problems: Sequence[Problem],
    right: Right,
    votes: int,
    clusters: Sequence[str],
) -> BestSingle:
    """The best member alone, mean over all its samples, and by its own vote over the first `votes` of them.

    Chosen on the very items it is measured on, or on near duplicates of them, the best of several would look better
    than it is. `clusters` as `evolve.ties.units` takes them.
    """
    alone = {seat.name: member_scores(pool, seat, problems, dict(right)) for seat in seats}
    voted = {seat.name: [_vote(pool.of(seat, p.task)[:votes], p, right) for p in problems] for seat in seats}
    half = [int(content_hash(unit)[:2], 16) % 2 for unit in units(problems, clusters)]
    best = {}
    for side in (0, 1):
        others = [index for index, of in enumerate(half) if of != side] or list(range(len(problems)))
        best[side] = max(seats, key=lambda seat: math.fsum(alone[seat.name][index] for index in others)).name
    members = tuple(dict.fromkeys(best.values()))
    name = " or ".join(members)
    drawn = max((len(pool.of(seat, p.task)) for seat in seats for p in problems), default=0)
    single = tuple(alone[best[side]][index] for index, side in enumerate(half))
    consistent = tuple(voted[best[side]][index] for index, side in enumerate(half))
    return BestSingle(
        alone=Arm(name=f"best single ({name})", scores=single, num_samples=1),
        consistency=Arm(name=f"self-consistency ({name})", scores=consistent, num_samples=min(votes, drawn)),
        members=members,
    )


def any_right(
    pool: Pool, seats: Sequence[Member], problems: Sequence[Problem], right: Right, votes_each: int | None = None
) -> list[float]:
    """1 where any proposal is right: of `votes_each` of every seat (mean over disjoint samples), or of all (None)."""
    scores = []
    for problem in problems:
        rows = [[_is_right(problem, p.answer, right) for p in pool.of(seat, problem.task)] for seat in seats]
        if votes_each is None:
            scores.append(float(any(any(row) for row in rows)))
            continue
        count = max(1, max(map(len, rows), default=0) // votes_each)
        groups = [any(any(row[n * votes_each : (n + 1) * votes_each]) for row in rows) for n in range(count)]
        scores.append(sum(groups) / count)
    return scores


def flips(replicates: Sequence[Sequence[float]]) -> float:
    """Share of items on which two votes of the same mesh over fresh samples differ; 0 with fewer than two."""
    if len(replicates) < 2 or not replicates[0]:
        return 0.0
    pairs = list(pairwise(replicates))
    differing = sum(a != b for first, second in pairs for a, b in zip(first, second, strict=True))
    return differing / (len(pairs) * len(replicates[0]))


def expected_examples(
    pool: Pool,
    seats: Sequence[Member],
    problems: Sequence[Problem],
    right: Right,
    num_train: int,
    per_problem: int,
    num_samples: int,
) -> float:
    """Verified examples the best-fed member would have after harvesting `num_train` problems, capped per problem.

    `num_samples`: what a harvest draws of each member for each problem; what was drawn beyond that is not counted.
    """
    best = 0.0
    for seat in seats:
        counts = []
        for problem in problems:
            drawn = pool.of(seat, problem.task)[:num_samples]
            texts = {p.text for p in drawn if _is_right(problem, p.answer, right)}
            counts.append(min(per_problem, len(texts)))
        best = max(best, sum(counts) / len(counts) * num_train if counts else 0.0)
    return best


def _with_foreign_reference(items: Sequence[Problem]) -> list[tuple[Problem, str]]:
    pairs = []
    for index, problem in enumerate(items):
        for step in range(1, len(items)):
            other = items[(index + step) % len(items)].reference
            if _differ(other, problem.reference):
                pairs.append((problem, other))
                break
    return pairs


def _differ(first: str, second: str) -> bool:
    """Whether two references say something else: 42 and 42.0 do not."""
    numbers = read_number(first), read_number(second)
    if None not in numbers:
        return numbers[0] != numbers[1]
    return normalised_text(first) != normalised_text(second)


def _vote(proposals: Sequence[Proposal], problem: Problem, right: Right) -> float:
    verdict = plurality(proposals, problem.task.answer_kind)
    return float(_is_right(problem, verdict.answer, right))


def _is_right(problem: Problem, answer: str | None, right: Right) -> bool:
    return answer is not None and right.get((problem.task.id, answer), False)
