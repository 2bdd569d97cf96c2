"""Vote: everybody answers alone, nobody reads anybody, and the ballots are counted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mesh.limits import Limits
from mesh.table import Table
from mesh.types import Verdict


class VoteConfig(Limits):
    """Every member answers `samples_per_member` times, nobody reads anybody, the answer with most weight wins."""

    kind: Literal["vote"] = "vote"
    samples_per_member: int = Field(default=1, ge=1, le=1024, description="answers drawn from each member")


async def vote(table: Table, config: VoteConfig) -> Verdict:
    """Independent proposals, counted."""
    await table.propose(config.samples_per_member)
    return table.decide(table.proposals)
