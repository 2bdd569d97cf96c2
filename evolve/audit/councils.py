"""Full councils of the first and the last generation on the same AUDIT problems, recalling from one frozen memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evolve.asks import council_asks
from evolve.audit.audited import AuditedRoster
from evolve.audit.tuning import Tuned, shared_way
from evolve.evaluate import verdict_scores
from evolve.lab import Lab
from evolve.problems.sealed import Asked
from evolve.remembering import RecalledByTask, recall_all
from memory.store import Memory
from memory.upkeep import freeze
from mesh.types import Deliberation, Member


async def hold_audit_councils(
    lab: Lab,
    problems: Sequence[Asked],
    before: Sequence[Member],
    after: Sequence[Member],
    tuned: Mapping[str, Tuned],
) -> dict[str, list[Deliberation]]:
    """Councils of the old seats ("before") and, where they changed, of the new ones ("after"), on the same problems.

    Both recall the same, if the configuration lets them: from a copy of memory that was frozen before either. Each
    is asked in the way that is best for its seats' samples on DEV.
    """
    arms = {"before": before} if list(after) == list(before) else {"before": before, "after": after}
    recalled = await _recall_frozen(lab, problems)
    held = {}
    for label, seats in arms.items():
        way = shared_way(seats, tuned)
        asks = [way.of(ask) for ask in council_asks(lab.config, "audit councils", problems, seats, recalled.of)]
        path = lab.directory / "audit" / f"councils-{label}.parquet"
        held[label] = await lab.hold(f"audit councils {label}", path, asks)
    return held


def with_councils(
    rosters: Sequence[AuditedRoster],
    councils: Mapping[str, Sequence[Deliberation]],
    right: dict[tuple[str, str], bool],
) -> tuple[AuditedRoster, ...]:
    """The same rosters, with the councils' scores where the first's or the last's seats sat in them."""
    by_seats = {rosters[0].members: councils["before"]}
    if "after" in councils:
        by_seats[rosters[-1].members] = councils["after"]
    return tuple(
        roster.model_copy(
            update={
                "council_vote": verdict_scores(by_seats[roster.members], right, first=True),
                "council": verdict_scores(by_seats[roster.members], right),
            }
        )
        if roster.members in by_seats
        else roster
        for roster in rosters
    )


async def _recall_frozen(lab: Lab, problems: Sequence[Asked]) -> RecalledByTask:
    if lab.memory is None or "audit" not in lab.config.memory.recall_for:
        return RecalledByTask(by_task={})
    directory = lab.directory / "audit" / "memory"
    if not directory.is_dir():
        freeze(lab.memory, directory)
    with Memory.open(directory, lab.memory.embedder, readonly=True, config=lab.config.memory) as frozen:
        return await recall_all(lab, "audit councils", problems, frozen)
