"""Self-consistency: one member answers many times, and its most frequent answer wins (Wang et al. 2023, 2203.11171)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mesh.limits import Limits
from mesh.protocols.single import chosen_member
from mesh.table import Table
from mesh.tally import plurality
from mesh.types import Verdict


class SelfConsistencyConfig(Limits):
    """One member answers `samples` times; no other member takes part."""

    kind: Literal["self_consistency"] = "self_consistency"
    member: str | None = Field(default=None, description="who answers; null: the measured best at this task type")
    samples: int = Field(default=8, ge=1, le=1024, description="answers drawn")


async def self_consistency(table: Table, config: SelfConsistencyConfig) -> Verdict:
    """The most frequent answer of one member."""
    member, why = chosen_member(table, config.member)
    drawn = await table.propose(config.samples, [member])
    verdict = plurality(drawn, table.equality)
    return verdict.model_copy(update={"method": f"{verdict.method} of {member.name} ({why})"})
