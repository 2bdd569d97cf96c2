"""Mixture of agents: layers of members that read the last layer, then one that synthesises (2406.04692)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mesh.equivalence import same_answer
from mesh.limits import Limits
from mesh.peers import excerpt
from mesh.protocols.single import chosen_member
from mesh.synthesise import synthesise
from mesh.table import Table
from mesh.types import Member, Proposal, Verdict


class MixtureConfig(Limits):
    """Every member proposes; in each further layer all answer again from all texts; the aggregator decides."""

    kind: Literal["mixture"] = "mixture"
    layers: int = Field(default=1, ge=1, le=8, description="layers of proposers before the aggregator")
    aggregator: str | None = Field(default=None, description="who synthesises; null: the measured best")
    peer_max_chars: int = Field(default=400, ge=1, description="a longer text is shown by its answer and crux")


class SelfMixtureConfig(Limits):
    """Self-MoA (2502.00674): one member proposes several times, and synthesises its own proposals."""

    kind: Literal["self_mixture"] = "self_mixture"
    member: str | None = Field(default=None, description="who answers; null: the measured best at this task type")
    samples: int = Field(default=6, ge=1, le=64, description="proposals that are synthesised")
    peer_max_chars: int = Field(default=400, ge=1, description="a longer text is shown by its answer and crux")


async def mixture(table: Table, config: MixtureConfig) -> Verdict:
    """The aggregator's answer to what the last layer wrote."""
    await table.propose(1)
    for layer in range(1, config.layers):
        await _write(table, layer, table.seats("deep"), config.peer_max_chars)
    aggregator, _ = chosen_member(table, config.aggregator)
    return await _last_word(table, config.layers, aggregator, config.peer_max_chars)


async def self_mixture(table: Table, config: SelfMixtureConfig) -> Verdict:
    """One member's answer to its own proposals."""
    member, _ = chosen_member(table, config.member)
    await table.propose(config.samples, [member])
    return await _last_word(table, 1, member, config.peer_max_chars)


async def _last_word(table: Table, number: int, aggregator: Member, max_chars: int) -> Verdict:
    """What the aggregator writes; without a readable synthesis the plurality of what it would have read."""
    before = table.decide(table.standing())
    await _write(table, number, [aggregator], max_chars)
    final = [p for p in table.proposals if p.round == number and p.answer is not None]
    if not final:
        return before.model_copy(update={"method": f"{before.method} (no readable synthesis)"})
    chosen = table.decide(final)
    read = [own for own in table.proposals if own.round == number - 1]
    agreeing = sum(same_answer(own.answer, chosen.answer, table.equality) for own in read)
    return chosen.model_copy(
        update={
            "method": f"synthesis by {aggregator.name} of {len(read)} texts, {agreeing} of which say the same",
            "confidence": agreeing / len(read) if read else 0.0,
            "calibrated": False,
        }
    )


async def _write(table: Table, number: int, seats: list[Member], max_chars: int) -> None:
    texts = [text for own in table.standing() if (text := excerpt(own, max_chars))]

    async def ask(member: Member) -> Proposal:
        return await synthesise(table.caller, member, number, texts, table.config.sampling)

    if texts:
        said = await table.hear("synthesise", number, seats, table.config.sampling.max_tokens, ask)
        await table.add(list(said.values()))
