"""Whose answer a tied vote takes: at each kind of task, that of the member DEV measured to be right most often.

Two members who each repeat themselves tie on everything they differ in. Were the seat to decide, the second one's
specialist could never change a vote, however good it became.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from evolve.evaluate import Pool, Precedence, success_counts
from evolve.problems.sealed import Asked
from memory.types import content_hash
from mesh.reliability import AnswerCount, Reliability
from mesh.seeds import derive_seed
from mesh.types import Member, Task

FOLDS = 5


def weights_key(member: Member) -> str:
    """Under what a member is measured here, whatever it is called: one more sample of a member is as good as it is."""
    return content_hash(member.at("propose").model_dump(mode="json", exclude={"name"}))


def by_reliability(reliability: Reliability, key: Callable[[Member], str] = weights_key) -> Precedence:
    """Members in the order of their measured accuracy at the task's type, of equals the earlier seat.

    Accuracies are shrunk as in `Reliability.accuracy`; a member without any has that of the others.
    """

    def ordered(seats: Sequence[Member], task: Task) -> Sequence[Member]:
        return sorted(seats, key=lambda member: -reliability.accuracy(key(member), task.type).mean)

    return ordered


def standing(
    pool: Pool, members: Sequence[Member], problems: Sequence[Asked], judged: Mapping[tuple[str, str], bool]
) -> Reliability:
    """How often each member was right at each type, by `weights_key`; for votes on other problems than these."""
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    for key, member in {weights_key(member): member for member in reversed(members)}.items():
        for problem, (right, drawn) in zip(problems, success_counts(pool, member, problems, judged), strict=True):
            before = counts.get((key, problem.task.type), (0, 0))
            counts[key, problem.task.type] = before[0] + right, before[1] + drawn
    return Reliability(
        answers=tuple(
            AnswerCount(member=key, task_type=kind, num_judged=drawn, num_answered=drawn, num_correct=right)
            for (key, kind), (right, drawn) in sorted(counts.items())
            if drawn
        )
    )


def cross_fitted(
    pool: Pool,
    members: Sequence[Member],
    problems: Sequence[Asked],
    judged: Mapping[tuple[str, str], bool],
    clusters: Sequence[str],
) -> Precedence:
    """For votes on the very problems the members are measured on: each is decided by what the other folds say.

    Otherwise whoever is right about a problem, or about a near duplicate of it, would be preferred on it for that.
    `clusters` as `units` takes them.
    """
    folds = {
        problem.task.id: derive_seed(0, unit) % FOLDS
        for problem, unit in zip(problems, units(problems, clusters), strict=True)
    }
    others = [
        by_reliability(standing(pool, members, [p for p in problems if folds[p.task.id] != fold], judged))
        for fold in range(FOLDS)
    ]

    def ordered(seats: Sequence[Member], task: Task) -> Sequence[Member]:
        return others[folds[task.id]](seats, task)

    return ordered


def units(problems: Sequence[Asked], clusters: Sequence[str]) -> list[str]:
    """By what each of these problems is dealt to a side: the cluster it shares with others of them, else its own id.

    `clusters`: of near duplicates, one for each problem; empty: every problem stands alone.
    """
    ids = [problem.task.id for problem in problems]
    sizes = Counter(clusters)
    return [name if sizes[name] > 1 else own for own, name in zip(ids, clusters or ids, strict=True)]
