"""First proposals drawn once into a frozen pool, and everything that can be replayed from them without new tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from evolve.problems.sealed import Asked
from memory.types import Record
from mesh.reliability import Reliability
from mesh.tally import plurality
from mesh.types import Deliberation, Member, Outcome, Proposal, Task, Verdict
from mesh.weigh import weighted

Precedence = Callable[[Sequence[Member], Task], Sequence[Member]]
"""The members of a vote in the order in which they decide a tie on a task."""


def as_seated(seats: Sequence[Member], task: Task) -> Sequence[Member]:
    """The earlier seat decides."""
    return seats


class Judgements(Record):
    """What the judge said of every distinct answer of a stage; the keys stay behind."""

    outcomes: tuple[Outcome, ...]

    def lookup(self) -> dict[tuple[str, str], bool]:
        """(task id, answer) to correct, for answers that were judged. An abstention is not in it: never correct."""
        return {(o.task_id, o.answer): o.correct for o in self.outcomes if o.answer is not None}


class Pool:
    """Independent first proposals by member and task. A vote replayed from it is exact, since nobody saw anybody."""

    def __init__(self, deliberations: Iterable[Deliberation]) -> None:
        self._proposals: dict[tuple[str, str], list[Proposal]] = defaultdict(list)
        for deliberation in deliberations:
            for proposal in deliberation.round_of(0):
                self._proposals[proposal.member, deliberation.task.id].append(proposal)

    def of(self, member: Member, task: Task) -> tuple[Proposal, ...]:
        """One member's proposals for a task, in sample order; empty when every call failed."""
        return tuple(self._proposals.get((member.name, task.id), ()))

    def vote(self, seats: Sequence[Member], task: Task, ties: Precedence = as_seated) -> Verdict:
        """Plurality over the proposals of these seats, in the order that decides ties."""
        return plurality(self._ballots(ties(seats, task), task), task.answer_kind)

    def weighted_vote(self, seats: Sequence[Member], task: Task, reliability: Reliability) -> Verdict:
        """The same ballots, weighed by what was measured of their members: `mesh.weigh.weighted`."""
        return weighted(self._ballots(seats, task), task.answer_kind, reliability, seats, task.type)

    def _ballots(self, seats: Sequence[Member], task: Task) -> list[Proposal]:
        return [proposal for member in seats for proposal in self.of(member, task)]


def member_scores(
    pool: Pool, member: Member, problems: Sequence[Asked], judged: dict[tuple[str, str], bool]
) -> list[float]:
    """Share of the member's samples that are right, problem by problem; no sample counts as 0."""
    scores = []
    for problem in problems:
        proposals = pool.of(member, problem.task)
        right = [judged.get((problem.task.id, p.answer), False) for p in proposals if p.answer is not None]
        scores.append(sum(right) / len(proposals) if proposals else 0.0)
    return scores


def vote_scores(
    pool: Pool,
    seats: Sequence[Member],
    problems: Sequence[Asked],
    judged: Mapping[tuple[str, str], bool],
    ties: Precedence = as_seated,
) -> list[float]:
    """1 where the vote of these seats is right, else 0, problem by problem."""
    return [float(right) for right in right_votes(pool, seats, problems, judged, ties)]


def weighted_vote_scores(
    pool: Pool,
    seats: Sequence[Member],
    problems: Sequence[Asked],
    judged: Mapping[tuple[str, str], bool],
    reliability: Reliability,
) -> list[float]:
    """As `vote_scores`, of the vote weighed by what was measured of the seats."""
    verdicts = [(p.task.id, pool.weighted_vote(seats, p.task, reliability).answer) for p in problems]
    return [float(answer is not None and judged.get((task_id, answer), False)) for task_id, answer in verdicts]


def right_votes(
    pool: Pool,
    seats: Sequence[Member],
    problems: Sequence[Asked],
    judged: Mapping[tuple[str, str], bool],
    ties: Precedence = as_seated,
) -> tuple[bool, ...]:
    """Was the vote of these seats right, problem by problem; an abstention is wrong."""
    verdicts = [(problem.task.id, pool.vote(seats, problem.task, ties).answer) for problem in problems]
    return tuple(answer is not None and judged.get((task_id, answer), False) for task_id, answer in verdicts)


def success_counts(
    pool: Pool, member: Member, problems: Sequence[Asked], judged: Mapping[tuple[str, str], bool]
) -> list[tuple[int, int]]:
    """(right samples, samples) of a member, problem by problem; abstentions are samples that are not right."""
    counts = []
    for problem in problems:
        proposals = pool.of(member, problem.task)
        right = sum(p.answer is not None and judged.get((problem.task.id, p.answer), False) for p in proposals)
        counts.append((right, len(proposals)))
    return counts


def answers_of(deliberations: Iterable[Deliberation]) -> list[tuple[str, str]]:
    """Every distinct (task id, answer) that a stage produced, proposals and verdicts, in order of appearance."""
    seen: dict[tuple[str, str], None] = {}
    for deliberation in deliberations:
        answers = [p.answer for p in deliberation.proposals]
        answers += [deliberation.first_verdict.answer, deliberation.verdict.answer]
        for answer in answers:
            if answer is not None:
                seen[deliberation.task.id, answer] = None
    return list(seen)


def verdict_scores(
    deliberations: Iterable[Deliberation], judged: dict[tuple[str, str], bool], *, first: bool = False
) -> dict[str, float]:
    """Task id to 1 or 0: was the verdict right? `first` takes the vote before anybody read anybody."""
    scores = {}
    for deliberation in deliberations:
        answer = (deliberation.first_verdict if first else deliberation.verdict).answer
        scores[deliberation.task.id] = float(answer is not None and judged.get((deliberation.task.id, answer), False))
    return scores
