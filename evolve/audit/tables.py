"""Accuracy before and after as one table by task type. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evolve.audit.audited import METHODS, AuditedRoster
from evolve.problems.sealed import Asked
from evolve.report.data import AccuracyRow, AccuracyTable, ConstantAnswer
from evolve.report.measure import Comparison, compare

VOTE = METHODS["vote"]
FIRST = METHODS["council vote"]
MESH = METHODS["council"]

Pair = tuple[Mapping[str, float] | None, Mapping[str, float] | None]
"""Before and after, task id to the share that was right; None: not measured, or the same seats."""


def before_and_after(
    first: AuditedRoster,
    last: AuditedRoster,
    items: Sequence[Asked],
    some: Sequence[Asked],
    constants: Mapping[str, ConstantAnswer],
) -> AccuracyTable:
    """Generation 0 and the last generation; `some` are the problems that councils were held on.

    A seat of generation 0 stands beside the last generation's seat of the same engine, by place.
    """
    same = first.members == last.members
    methods: dict[str, Pair] = {
        f"{old} alone": (first.alone[old], None if new is None or new == old else last.alone[new])
        for old, new in _successors(first, last)
    }
    methods[VOTE] = (first.vote, None if same else last.vote)
    rows = table_rows(items, methods, constants)
    if some:
        talks: dict[str, Pair] = {
            FIRST: (first.council_vote, None if same else last.council_vote),
            MESH: (first.council, None if same else last.council),
        }
        rows = merge_rows(rows, table_rows(some, talks, constants))
    return AccuracyTable(
        split="AUDIT",
        rows=rows,
        note=f"Alone and {VOTE}: {first.samples_each} independent first proposals of each member for each problem; "
        f"alone: the share of right proposals, the vote is the plurality over {first.ballots} of them. {FIRST} and "
        f"{MESH}: full councils on a sample of the problems, one first proposal of each member, before and after they "
        "read each other.",
    )


def merge_rows(left: Sequence[AccuracyRow], right: Sequence[AccuracyRow]) -> tuple[AccuracyRow, ...]:
    """The rows of two tables over the same task types side by side."""
    more = {row.task_type: row.comparisons for row in right}
    return tuple(
        row.model_copy(update={"comparisons": (*row.comparisons, *more.get(row.task_type, ()))}) for row in left
    )


def table_rows(
    problems: Sequence[Asked],
    methods: Mapping[str, Pair],
    constants: Mapping[str, ConstantAnswer],
) -> tuple[AccuracyRow, ...]:
    """One row for every task type, then one over all of them."""
    types = list(dict.fromkeys(problem.task.type for problem in problems))
    rows = []
    for task_type in [*types, ""]:
        ids = [p.task.id for p in problems if task_type in ("", p.task.type)]
        comparisons: list[Comparison] = [
            compare(method, _of(ids, before), _of(ids, after)) for method, (before, after) in methods.items()
        ]
        rows.append(AccuracyRow(task_type=task_type, constant=constants.get(task_type), comparisons=tuple(comparisons)))
    return tuple(rows)


def _successors(first: AuditedRoster, last: AuditedRoster) -> list[tuple[str, str | None]]:
    """Each old seat with the new seat of its engine: the first with the first, the second with the second."""
    left: dict[str, list[str]] = {}
    for member in last.members:
        left.setdefault(member.engine, []).append(member.name)
    pairs: list[tuple[str, str | None]] = []
    for member in first.members:
        waiting = left.get(member.engine, [])
        pairs.append((member.name, waiting.pop(0) if waiting else None))
    return pairs


def _of(ids: Sequence[str], scores: Mapping[str, float] | None) -> list[float] | None:
    return None if scores is None else [scores[task_id] for task_id in ids]
