"""Debate as published: all read all whole texts and answer again, then a plurality (Du et al. 2305.14325)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mesh.limits import Limits
from mesh.peers import excerpt
from mesh.synthesise import synthesise
from mesh.table import Table
from mesh.tally import plurality
from mesh.types import Member, Proposal, Verdict


class DebateConfig(Limits):
    """All members, all rounds, all texts: no grouping by answer, no critique, no early stop.

    Two departures from the authors' code: an unreadable answer is an abstention, and a tie is broken by our rule.
    """

    kind: Literal["debate"] = "debate"
    rounds: int = Field(default=2, ge=1, le=8, description="rounds in which all answer again")
    peer_max_chars: int = Field(default=400, ge=1, description="a longer text is shown by its answer and crux")


async def debate(table: Table, config: DebateConfig) -> Verdict:
    """The plurality of the last answers."""
    await table.propose(1)
    for number in range(1, config.rounds + 1):
        held = table.held()
        texts = {name: excerpt(own, config.peer_max_chars) for name, own in held.items()}

        async def ask(member: Member, number: int = number, texts: dict[str, str] = texts) -> Proposal:
            others = [text for name, text in texts.items() if name != member.name and text]
            return await synthesise(table.caller, member, number, others, table.config.sampling, "revise")

        said = await table.hear("revise", number, table.seats("deep"), config.sampling.max_tokens, ask)
        await table.add(list(said.values()))
    return plurality(table.standing(), table.equality)
