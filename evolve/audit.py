"""The sealed report: accuracy on AUDIT problems before and after, from proposals nobody has chosen anything by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from evolve.asks import council_asks, first_of_each_type, proposal_asks
from evolve.evaluate import Judgements, Pool, member_scores, verdict_scores, vote_scores
from evolve.lab import Lab
from evolve.lineage import Generation, seat
from evolve.problem_types import Problem, ProblemSet
from evolve.remembering import RecalledByTask, recall_all
from evolve.report.data import AccuracyRow, AccuracyTable, ConstantAnswer
from evolve.report.measure import Comparison, compare
from evolve.splits import Split
from memory.store import Memory
from memory.types import Record
from memory.upkeep import freeze
from mesh.types import Deliberation, Member

VOTE = "first-round vote"
FIRST = "council's first vote"
MESH = "mesh council"

Scores = Mapping[str, float]
"""Task id to the share that was right."""
Pair = tuple[Scores | None, Scores | None]
"""Before and after; None: not measured, or the same seats."""


class Audit(Record):
    """AUDIT accuracy, and the councils it was measured with."""

    table: AccuracyTable
    before: tuple[Deliberation, ...]
    after: tuple[Deliberation, ...] = Field(description="empty when the seats did not change")
    judged: Judgements


async def audit(
    lab: Lab, first: Generation, last: Generation, problems: ProblemSet, constants: Mapping[str, ConstantAnswer]
) -> Audit:
    """Measure generation 0 and the last generation on the same AUDIT problems."""
    items, settings = problems.of(Split.AUDIT), lab.config.evaluation
    before, after = seat(first), seat(last)
    members = list(dict.fromkeys([*before, *after]))
    drawn = await lab.hold(
        "audit proposals",
        lab.directory / "audit" / "proposals.parquet",
        proposal_asks(lab.config, "audit", items, members, settings.audit_samples_per_member),
    )
    some = first_of_each_type(items, settings.audit_councils_per_type)
    councils = await _hold_councils(lab, some, before, after)
    held = [council for group in councils.values() for council in group]
    judged = await lab.judge_all("audit", [*drawn, *held], items)
    right = judged.lookup()
    ids = [problem.task.id for problem in items]
    pool = Pool(drawn)

    def by_task(scores: Sequence[float]) -> dict[str, float]:
        return dict(zip(ids, scores, strict=True))

    methods: dict[str, Pair] = {}
    for old, new in zip(before, after, strict=True):
        scores = by_task(member_scores(pool, old, items, right))
        methods[f"{old.name} alone"] = (
            scores,
            None if old == new else by_task(member_scores(pool, new, items, right)),
        )
    methods[VOTE] = (
        by_task(vote_scores(pool, before, items, right)),
        by_task(vote_scores(pool, after, items, right)) if after != before else None,
    )
    rows = merge_rows(
        table_rows(items, methods, constants),
        table_rows(
            some,
            {FIRST: _pair(councils, right, first=True), MESH: _pair(councils, right, first=False)},
            constants,
        ),
    )
    k = settings.audit_samples_per_member
    return Audit(
        table=AccuracyTable(
            split="AUDIT",
            rows=rows,
            note=f"Alone and {VOTE}: {k} independent first proposals of each member for each problem; alone: the share "
            f"of right proposals, the vote is the plurality over all of them. {FIRST} and {MESH}: full councils on a "
            "sample of the problems, one first proposal of each member, before and after they read each other.",
        ),
        before=tuple(councils["before"]),
        after=tuple(councils.get("after", ())),
        judged=judged,
    )


async def _hold_councils(
    lab: Lab, problems: Sequence[Problem], before: Sequence[Member], after: Sequence[Member]
) -> dict[str, list[Deliberation]]:
    """Councils of the old seats ("before") and, where they changed, of the new ones ("after"), on the same problems.

    Both recall the same, if the configuration lets them: from a copy of memory that was frozen before either.
    """
    arms = {"before": before} if after == before else {"before": before, "after": after}
    recalled = await _recall_frozen(lab, problems)
    return {
        label: await lab.hold(
            f"audit councils {label}",
            lab.directory / "audit" / f"councils-{label}.parquet",
            council_asks(lab.config, "audit councils", problems, seats, recalled.of),
        )
        for label, seats in arms.items()
    }


async def _recall_frozen(lab: Lab, problems: Sequence[Problem]) -> RecalledByTask:
    if lab.memory is None or "audit" not in lab.config.memory.recall_for:
        return RecalledByTask(by_task={})
    directory = lab.directory / "audit" / "memory"
    if not directory.is_dir():
        freeze(lab.memory, directory)
    with Memory.open(directory, lab.memory.embedder, readonly=True, config=lab.config.memory) as frozen:
        return await recall_all(lab, "audit councils", problems, frozen)


def merge_rows(left: Sequence[AccuracyRow], right: Sequence[AccuracyRow]) -> tuple[AccuracyRow, ...]:
    """The rows of two tables over the same task types side by side."""
    more = {row.task_type: row.comparisons for row in right}
    return tuple(
        row.model_copy(update={"comparisons": (*row.comparisons, *more.get(row.task_type, ()))}) for row in left
    )


def table_rows(
    problems: Sequence[Problem],
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


def _of(ids: Sequence[str], scores: Scores | None) -> list[float] | None:
    return None if scores is None else [scores[task_id] for task_id in ids]


def _pair(councils: Mapping[str, Sequence[Deliberation]], judged: dict[tuple[str, str], bool], *, first: bool) -> Pair:
    after = councils.get("after")
    return (
        verdict_scores(councils["before"], judged, first=first),
        None if after is None else verdict_scores(after, judged, first=first),
    )
