"""Single: one member answers alone, the one that was measured best at this kind of task."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mesh.limits import Limits
from mesh.table import Table
from mesh.types import Member, Verdict


class SingleConfig(Limits):
    """One member answers once."""

    kind: Literal["single"] = "single"
    member: str | None = Field(
        default=None, description="name of the member that answers; null: the measured best at this task type"
    )


async def single(table: Table, config: SingleConfig) -> Verdict:
    """The answer of one member."""
    member, why = chosen_member(table, config.member)
    await table.propose(1, [member])
    verdict = table.decide(table.proposals)
    return verdict.model_copy(update={"method": f"{member.name} alone ({why})"})


def chosen_member(table: Table, name: str | None) -> tuple[Member, str]:
    """The member of that name; without a name the measured best for the task's type, else the first seat. And why.

    Whoever failed before is passed over, unless it is named or nobody else is left.
    """
    if name is not None:
        return next(member for member in table.members if member.name == name), "as configured"
    reliability, seats = table.job.reliability, table.present or list(table.members)
    best = None if reliability is None else reliability.best_member(seats, table.task.type)
    if best is None:
        return seats[0], "the first seat: nothing is measured"
    return best, f"measured best at {table.task.type}"
