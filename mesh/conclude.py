"""The end of a deliberation: what the disagreement looks like, how surprised the others are, and a person's word."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from memory.types import content_hash
from mesh.ballot import count
from mesh.diagnose import diagnose
from mesh.equivalence import Equality, same_answer
from mesh.oversight import Waiting, question_for, reason_to_ask
from mesh.propose import proposal_messages
from mesh.reliability import seat_key
from mesh.table import Table
from mesh.types import Cluster, Diagnosis, Member, PersonAnswer, Proposal, Verdict, positions


async def conclude(table: Table, verdict: Verdict) -> Verdict:
    """`verdict` with a diagnosis, where no part brought one along, and a person's word where one is to have it.

    Raises:
        Waiting: a person was asked and has not answered.
    """
    if verdict.diagnosis is None:
        verdict = verdict.model_copy(update={"diagnosis": await _diagnosis(table, verdict)})
    return await _with_person(table, verdict)


def last_positions(table: Table) -> list[Proposal]:
    """What each member stands for in the last round it spoke in, in seat order."""
    held: dict[str, Proposal] = {}
    for number in sorted({proposal.round for proposal in table.proposals}):
        held.update(positions([p for p in table.proposals if p.round == number], table.equality))
    return [held[member.name] for member in table.members if member.name in held]


def positions_in_parts(table: Table) -> list[Proposal]:
    """What each member stands for in all parts together, in seat order: what a joined verdict rests on."""
    last = [own for child in table.children for _, part in child.walk() for own in part.last_positions.values()]
    held = positions(last, table.equality)
    return [held[member.name] for member in table.members if member.name in held]


async def _diagnosis(table: Table, verdict: Verdict) -> Diagnosis:
    def decide(proposals: Sequence[Proposal]) -> str | None:
        families = {proposal.family for proposal in proposals}
        votes = [vote for vote in table.votes if vote.family in families]
        return count(table, votes, proposals).answer if votes else table.decide(proposals).answer

    held = last_positions(table)
    if table.children and all(own.answer is None for own in held):
        held = positions_in_parts(table)
    found = diagnose(
        verdict, held, table.equality, table.members, weighting(table), table.job.reliability, decide,
        task_type=table.task.type,
    )  # fmt: skip
    if table.votes:
        found = found.model_copy(update={"num_ballots": len(table.votes)})
    if not table.config.surprise:
        return found
    return found.model_copy(update={"surprise": await _surprise(table, found)})


def weighting(table: Table) -> str:
    """What the weights rest on, in words."""
    if table.config.tally == "plurality":
        return "equal, as configured"
    reliability, kind = table.job.reliability, table.task.type
    if reliability is None or not reliability.knows(table.members):
        return "equal: nothing is measured yet"
    keys = {seat_key(member) for member in table.members}
    rows = [row for row in reliability.answers if row.member in keys]
    judged = sum(row.num_judged for row in rows if row.task_type == kind)
    if judged:
        return f"measured on {judged} judged answers"
    return f"measured on {sum(row.num_judged for row in rows)} judged answers of other task types, none of this one"


async def _surprise(table: Table, found: Diagnosis) -> float | None:
    """Mean bits per byte of the chosen text under one member of every family that does not stand behind it."""
    if not found.clusters or not found.clusters[0].argument:
        return None
    chosen = found.clusters[0]
    others = {m.family: m for m in reversed(table.present) if m.family not in chosen.families and _can_score(table, m)}
    messages = proposal_messages(table.task, table.recalled, seed=table.seed)

    async def ask(member: Member) -> float:
        return (await table.caller.score(member, table.last_round, messages, chosen.argument)).bits_per_byte

    said = await table.hear("score", table.last_round, list(others.values()), 0, ask)
    return math.fsum(said.values()) / len(said) if said else None


def _can_score(table: Table, member: Member) -> bool:
    profile = table.profiles.get(member.engine)
    return profile is not None and profile.can_score


async def _with_person(table: Table, verdict: Verdict) -> Verdict:
    """The person's word where a condition holds. Raises Waiting while there is none."""
    if table.config.oversight is None or table.job.desk is None:
        return verdict
    reason = reason_to_ask(table.config.oversight, table.task, verdict, table.failures, table.equality)
    if reason is None:
        return verdict
    identity = content_hash([table.sitting.seed, table.task.id])[:16]
    asked = question_for(table.task, verdict, reason, table.equality, deliberation=identity, step=table.path)
    table.questions.append(asked)
    # The desk writes to disk before it returns, which would hold up everybody else.
    reply = await asyncio.to_thread(table.job.desk.put, asked)
    if reply is None:
        raise Waiting
    table.replies.append(reply)
    return _decided(verdict, asked.choices, reply, table.equality)


def _decided(verdict: Verdict, choices: Sequence[str], reply: PersonAnswer, equality: Equality) -> Verdict:
    answer = reply.edit if reply.edit is not None else choices[reply.choice or 0]
    word = "written" if reply.edit is not None else "chosen"
    found = verdict.diagnosis
    return verdict.model_copy(
        update={
            "answer": answer,
            "method": f"{word} by a person ({reply.by})",
            "confidence": 1.0,
            "calibrated": False,
            "tied": False,
            "diagnosis": found and found.model_copy(update={"clusters": _first(answer, found.clusters, equality)}),
        }
    )


def _first(answer: str, clusters: Sequence[Cluster], equality: Equality) -> tuple[Cluster, ...]:
    """The clusters with that of `answer` first; it is one of nobody's where no member gave it."""
    own = [cluster for cluster in clusters if same_answer(cluster.answer, answer, equality)]
    others = (cluster for cluster in clusters if cluster not in own)
    return (*(own or [Cluster(answer=answer, weight=0.0, members=(), families=())]), *others)
