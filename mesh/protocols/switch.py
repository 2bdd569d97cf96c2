"""Switch: ask one member several times; only where it contradicts itself, ask the next (ModelSwitch, 2504.00762)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from mesh.equivalence import Equality, canonical
from mesh.limits import Limits
from mesh.table import Table
from mesh.tally import A_TIE, AS_VOTED
from mesh.types import Member, Proposal, Verdict


class SwitchConfig(Limits):
    """Members are asked one after the other, best first, until one agrees with itself."""

    kind: Literal["switch"] = "switch"
    samples_per_member: int = Field(default=4, ge=1, le=1024, description="answers drawn from each member asked")
    enough_consistency: float = Field(
        default=1.0, ge=0.0, le=1.0, description="a member this consistent ends the search; 1: all its answers are one"
    )


async def switch(table: Table, config: SwitchConfig) -> Verdict:
    """The answer with the most weight, a member's weight being its consistency, over the members that were asked."""
    asked: list[tuple[float, Sequence[Proposal]]] = []
    for member in by_measured_accuracy(table):
        drawn = await table.propose(config.samples_per_member, [member])
        asked.append((consistency(drawn, table.equality), drawn))
        if drawn and asked[-1][0] >= config.enough_consistency:
            break
    return consistency_weighted(asked, table)


def by_measured_accuracy(table: Table) -> list[Member]:
    """Members that do deep work, the measured best first; in seat order where nothing is measured."""
    reliability, kind = table.job.reliability, table.task.type
    seats = table.seats("deep")
    if reliability is None:
        return seats
    return sorted(seats, key=lambda member: -reliability.accuracy(member, kind).mean)


def consistency(drawn: Sequence[Proposal], equality: Equality) -> float:
    """1 minus the entropy of the answers over its largest value, 0 to 1; an unreadable answer is an answer of its own.

    The source weighs members by one minus normalised entropy; one sample is consistent by definition unless unreadable.
    """
    if not drawn or all(p.answer is None for p in drawn):
        return 0.0
    keys = [f"#{i}" if p.answer is None else canonical(p.answer, equality) for i, p in enumerate(drawn)]
    if len(keys) == 1:
        return 1.0
    shares = [count / len(keys) for count in Counter(keys).values()]
    return 1.0 + sum(share * math.log(share) for share in shares) / math.log(len(keys))


def consistency_weighted(asked: Sequence[tuple[float, Sequence[Proposal]]], table: Table) -> Verdict:
    """Every proposal counts by its member's consistency. Ties: as in `plurality`, over all proposals."""
    drawn = [proposal for _, own in asked for proposal in own]
    base = table.decide(drawn)
    if base.answer is None:
        return base
    spelled = {canonical(answer, table.equality): answer for answer, _ in base.support}
    weights = dict.fromkeys(spelled, 0.0)
    for weight, own in asked:
        for proposal in own:
            if proposal.answer is not None:
                weights[canonical(proposal.answer, table.equality)] += weight
    total = math.fsum(weights.values())
    if total == 0.0:
        return base
    # `spelled` is in the order of the plurality, and sorting is stable: that order breaks ties.
    ranked = sorted(spelled, key=lambda key: -round(weights[key], 9))
    best = ranked[0]
    tied = len(ranked) > 1 and math.isclose(weights[ranked[1]], weights[best])
    method = f"consistency-weighted vote of {len(asked)} of {len(table.members)} members"
    return base.model_copy(
        update={
            "answer": spelled[best],
            "method": f"{method}, {A_TIE}{AS_VOTED}" if tied else method,
            "support": tuple((spelled[key], weights[key]) for key in ranked),
            "confidence": min(weights[best] / total, 1.0),
            "calibrated": False,
            "tied": tied,
            "dissent": dissenters(table, best),
        }
    )


def dissenters(table: Table, chosen: str) -> tuple[str, ...]:
    """Members whose position is another answer than the one with key `chosen`."""
    held = table.held().items()
    return tuple(
        name for name, own in held if own.answer is not None and canonical(own.answer, table.equality) != chosen
    )
