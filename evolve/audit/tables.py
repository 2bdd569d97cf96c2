"""Accuracy before and after as one table by task type. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evolve.audit.audited import METHODS, AuditedRoster, AuditItems, Scores, compare_scores
from evolve.gates.gains import accuracy_of
from evolve.report.data import AccuracyRow, AccuracyTable, ConstantAnswer
from evolve.report.measure import Accuracy, Comparison, Difference

VOTE = METHODS["vote"]
FIRST = METHODS["council vote"]
MESH = METHODS["council"]

Pair = tuple[Scores | None, Scores | None]
"""Before and after, task id to the share that was right; None: not measured, or the same seats."""


def before_and_after(
    first: AuditedRoster,
    last: AuditedRoster,
    items: AuditItems,
    constants: Mapping[str, ConstantAnswer],
    constant: Scores,
    *,
    seed: int,
) -> AccuracyTable:
    """Generation 0 and the last generation; councils on the problems that they were held on.

    A seat of generation 0 stands beside the last generation's seat of the same engine, by place.

    Args:
        constants: best constant answers by task type; only their wording is told, which was found on TRAIN and DEV.
        constant: what each type's best constant answer scores on these problems.
        seed: of the cross-checks behind the intervals; the intervals are those of the run's gains.
    """
    same = first.members == last.members
    methods: dict[str, Pair] = {
        f"{old} alone": (first.alone[old], None if new is None or new == old else last.alone[new])
        for old, new in _successors(first, last)
    }
    methods[VOTE] = (first.vote, None if same else last.vote)
    if first.council:
        methods[FIRST] = (first.council_vote, None if same else last.council_vote)
        methods[MESH] = (first.council, None if same else last.council)
    return AccuracyTable(
        split="AUDIT",
        rows=tuple(_row(task_type, items, methods, constants, constant, seed) for task_type in (*items.task_types, "")),
        note=f"Alone and {VOTE}: {first.samples_each} independent first proposals of each member for each problem; "
        f"alone: the share of right proposals, the vote is the plurality over {first.ballots} of them. {FIRST} and "
        f"{MESH}: full councils on a sample of the problems, one first proposal of each member, before and after they "
        "read each other.",
    )


def _row(
    task_type: str,
    items: AuditItems,
    methods: Mapping[str, Pair],
    constants: Mapping[str, ConstantAnswer],
    constant: Scores,
    seed: int,
) -> AccuracyRow:
    """One task type; empty: all of them."""
    ids, best = items.of(task_type), constants.get(task_type)
    if best is not None:
        scored = {task_id: constant[task_id] for task_id in ids if task_id in constant}
        best = ConstantAnswer(answer=best.answer, accuracy=_accuracy(scored, items))
    compared = (
        _comparison(method, _on(before, ids), _on(after, ids), items, seed)
        for method, (before, after) in methods.items()
    )
    return AccuracyRow(task_type=task_type, constant=best, comparisons=tuple(compared))


def _comparison(method: str, before: Scores | None, after: Scores | None, items: AuditItems, seed: int) -> Comparison:
    found = None if before is None or after is None else compare_scores(before, after, items.clusters, seed=seed)
    return Comparison(
        method=method,
        before=None if before is None else _accuracy(before, items),
        after=None if after is None else _accuracy(after, items),
        difference=None
        if found is None
        else Difference(mean=found.difference, low=found.absolute.low, high=found.absolute.high, n=found.n, p=found.p),
    )


def _accuracy(scores: Scores, items: AuditItems) -> Accuracy:
    return accuracy_of(list(scores.values()), [items.clusters.get(task_id, task_id) for task_id in scores])


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


def _on(scores: Scores | None, ids: Sequence[str]) -> Scores | None:
    return None if scores is None else {task_id: scores[task_id] for task_id in ids if task_id in scores}
