"""How alive each seat's samples are on AUDIT, beside generation 0's seat of the same engine: is a line narrowing?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from evolve.audit.collapse import Health, Vitals, examine, vitals_of
from evolve.evaluate import Pool
from evolve.problems.sealed import Asked
from memory.types import Record
from mesh.equivalence import canonical
from mesh.types import Member, Proposal

FEWEST = 2
"""Problems and samples below which there is no variety to speak of."""


class SeatHealth(Record):
    """One seat of one generation beside the seat of its engine that the run began with."""

    generation: int
    engine: str
    health: Health = Field(description="its name is the seat's")


def seat_health(
    generations: Sequence[tuple[int, Sequence[Member]]],
    pool: Pool,
    problems: Sequence[Asked],
    judged: Mapping[tuple[str, str], bool],
    num_samples: int,
    clusters: Mapping[str, str],
) -> tuple[SeatHealth, ...]:
    """Every later seat that is not its engine's first one. Seats with too few samples are left out.

    Args:
        generations: (number, seats), generation 0 first.
        num_samples: of each member for each problem; problems on which one of the two has fewer do not count.
        clusters: task id to near-duplicate cluster; a task without one stands alone.
    """
    first = {member.engine: member for member in reversed(generations[0][1])} if generations else {}
    found = []
    for number, seats in generations[1:]:
        for seat in seats:
            before = first.get(seat.engine)
            if before is None or before == seat:
                continue
            pair = _both(before, seat, number, pool, problems, judged, num_samples, clusters)
            if pair is not None:
                health = examine(*pair, k=num_samples)
                found.append(SeatHealth(generation=number, engine=seat.engine, health=health))
    return tuple(found)


def _both(
    before: Member,
    after: Member,
    number: int,
    pool: Pool,
    problems: Sequence[Asked],
    judged: Mapping[tuple[str, str], bool],
    num_samples: int,
    clusters: Mapping[str, str],
) -> tuple[Vitals, Vitals] | None:
    whole = [
        problem
        for problem in problems
        if min(len(pool.of(before, problem.task)), len(pool.of(after, problem.task))) >= num_samples
    ]
    if len(whole) < FEWEST or num_samples < FEWEST:
        return None
    return (
        _vitals(before, 0, pool, whole, judged, num_samples, clusters),
        _vitals(after, number, pool, whole, judged, num_samples, clusters),
    )


def _vitals(
    member: Member,
    number: int,
    pool: Pool,
    problems: Sequence[Asked],
    judged: Mapping[tuple[str, str], bool],
    num_samples: int,
    clusters: Mapping[str, str],
) -> Vitals:
    samples: list[tuple[Asked, tuple[Proposal, ...]]] = [
        (problem, pool.of(member, problem.task)[:num_samples]) for problem in problems
    ]
    return vitals_of(
        member.name,
        number,
        [problem.task.id for problem in problems],
        [[p.text for p in mine] for _, mine in samples],
        [
            [None if p.answer is None else canonical(p.answer, problem.task.answer_kind) for p in mine]
            for problem, mine in samples
        ],
        [
            [p.answer is not None and judged.get((problem.task.id, p.answer), False) for p in mine]
            for problem, mine in samples
        ],
        [clusters.get(problem.task.id, problem.task.id) for problem in problems],
    )
