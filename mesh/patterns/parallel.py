"""Parallel: parts side by side on one task, joined by a vote of the parts or by one member's synthesis."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from mesh.oversight import Waiting
from mesh.patterns.sequential import unique
from mesh.patterns.step import Pattern, Step, argument
from mesh.protocols.single import chosen_member
from mesh.synthesise import synthesise
from mesh.table import Table
from mesh.tally import plurality
from mesh.types import Deliberation, Proposal, Verdict


class ParallelConfig(Pattern):
    """All branches see the task and none sees another."""

    kind: Literal["parallel"] = "parallel"
    branches: tuple[Step, ...] = Field(min_length=1, description="parts held at the same time")
    join: Literal["vote", "synthesise"] = Field(
        default="vote", description="vote: one ballot a branch; synthesise: one member reads what the branches argue"
    )
    synthesiser: str | None = Field(
        default=None, description="who synthesises; null: the measured best at the task type"
    )

    @field_validator("branches")
    @classmethod
    def _names_are_unique(cls, branches: tuple[Step, ...]) -> tuple[Step, ...]:
        return unique(branches)


async def parallel(table: Table, config: ParallelConfig) -> Verdict:
    """Hold the branches, then join them. All branches end, or wait for a person, before the join or the pause."""
    holding = (table.hold(step.name, step.protocol, step.task(table.task, ())) for step in config.branches)
    held = await asyncio.gather(*holding, return_exceptions=True)
    table.children.sort(key=lambda child: [step.name for step in config.branches].index(child.step))
    for result in held:
        if isinstance(result, BaseException) and not isinstance(result, Waiting):
            raise result
    parts = [result for result in held if isinstance(result, Deliberation)]
    if len(parts) < len(held):
        raise Waiting
    if config.join == "synthesise":
        return await _synthesis(table, config, parts)
    return _joined(table, config.branches, parts)


def _joined(table: Table, branches: Sequence[Step], parts: Sequence[Deliberation]) -> Verdict:
    """One ballot a branch; the earliest branch wins a tie. Dissent names branches."""
    ballots = [
        Proposal(member=step.name, family=step.name, text=argument(part), answer=part.verdict.answer)
        for step, part in zip(branches, parts, strict=True)
    ]
    joined = plurality(ballots, table.equality)
    return joined.model_copy(update={"method": f"one ballot from each of {len(parts)} branches"})


async def _synthesis(table: Table, config: ParallelConfig, parts: Sequence[Deliberation]) -> Verdict:
    member, _ = chosen_member(table, config.synthesiser)
    texts = [argument(part) for part in parts]
    sampling = config.sampling
    said = await table.hear(
        "synthesise", 1, [member], sampling.max_tokens, lambda m: synthesise(table.caller, m, 1, texts, sampling)
    )
    await table.add(list(said.values()))
    if table.proposals and table.proposals[-1].answer is not None:
        return table.decide(table.proposals).model_copy(update={"method": f"synthesis by {member.name}"})
    joined = _joined(table, config.branches, parts)
    return joined.model_copy(update={"method": f"{joined.method} (no readable synthesis)"})
