"""Escalate, the default: two complementary members first, the whole council only where their answers are not enough."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mesh.protocols.council import CouncilOptions, discuss
from mesh.table import Table
from mesh.types import Member, Verdict


class EscalateConfig(CouncilOptions):
    """Stop when two complementary members agree; else the others join them and all talk; else, where `oversight` says
    so, a person decides.
    """

    kind: Literal["escalate"] = "escalate"
    first: tuple[str, str] | None = Field(
        default=None,
        description="names of the two that are asked first; null: the measured pair that covers most, else the first "
        "two of different families",
    )
    min_confidence: float = Field(
        default=0.5,
        ge=0.0,
        le=1.0,
        description="two that agree are believed from this measured confidence on; where nothing is measured, always",
    )
    talk: Literal["measured", "always"] = Field(
        default="measured",
        description="measured: members that differ talk unless talking was measured not to pay at this task type; "
        "always: they talk",
    )


async def escalate(table: Table, config: EscalateConfig) -> Verdict:
    """Two members; if that is not enough the rest; then the council."""
    pair = first_two(table, config.first)
    await table.propose(config.samples_per_member, pair)
    early = table.decide(table.proposals)
    if _enough(table, early, config.min_confidence):
        names = " and ".join(member.name for member in pair)
        return early.model_copy(update={"method": f"{names} agree ({early.method})"})
    named = {member.name for member in pair}
    rest = [member for member in table.seats("deep") if member.name not in named]
    if rest:
        await table.propose(config.samples_per_member, rest)
        early = table.decide(table.proposals)
    reliability = table.job.reliability
    if config.talk == "measured" and reliability is not None and reliability.talk_pays(table.task.type) is False:
        return early.model_copy(update={"method": f"{early.method} (talking was measured not to pay: no council)"})
    return await discuss(table, config)


def _enough(table: Table, early: Verdict, min_confidence: float) -> bool:
    """Whether every member asked holds one readable answer, believed with enough measured confidence."""
    held = list(table.held().values())
    if early.answer is None or table.members_differ() or any(own.answer is None for own in held) or len(held) < 2:
        return False
    return table.job.reliability is None or early.confidence >= min_confidence


def first_two(table: Table, names: tuple[str, str] | None) -> list[Member]:
    """The two that are asked first; one where there is no second seat."""
    seats = table.seats("deep")
    if names is not None:
        return [next(member for member in table.members if member.name == name) for name in names]
    reliability = table.job.reliability
    pair = None if reliability is None else reliability.complementary_pair(seats, table.task.type)
    if pair is not None:
        return list(pair)
    other = next((member for member in seats[1:] if member.family != seats[0].family), None)
    return [seats[0], other] if other is not None else seats[:2]
