"""Council: propose, read anonymous peers, criticise, revise, vote; talk only while the members differ."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mesh.ballot import ballot
from mesh.limits import Talk
from mesh.table import Table
from mesh.talk import Round, answer_again, criticise, read
from mesh.types import Verdict


class CouncilOptions(Talk):
    """How a council talks."""

    samples_per_member: int = Field(
        default=1, ge=1, le=1024, description="first answers from each member; its most frequent one is its position"
    )
    rounds: int = Field(default=1, ge=1, le=8, description="most times the members read each other and revise")
    critique: bool = Field(
        default=True, description="each member first objects to the strongest answer against its own"
    )
    account: bool = Field(
        default=True,
        description="a member that changes its mind must name the step of its own that was wrong, or keep its answer",
    )


class CouncilConfig(CouncilOptions):
    """Propose, read anonymous peers, criticise, revise, vote. Talk stops where all hold one answer."""

    kind: Literal["council"] = "council"


async def council(table: Table, config: CouncilConfig) -> Verdict:
    """Independent first answers, then talk."""
    await table.propose(config.samples_per_member)
    return await discuss(table, config)


async def discuss(table: Table, config: CouncilOptions) -> Verdict:
    """Only while the members differ: rounds of reading, critique and revision. What is left open goes to a vote."""
    for number in range(1, config.rounds + 1):
        if not table.members_differ():
            break
        talk = Round(number, table.held(), config)
        readings = await read(table, talk)
        objections = await criticise(table, talk, readings) if config.critique else {}
        await answer_again(table, talk, readings, objections, account_for_changes=config.account)
    if not table.members_differ():
        agreed = table.decide(table.standing())
        return agreed.model_copy(update={"method": f"{agreed.method} (no member differs: no vote)"})
    return await ballot(table)
