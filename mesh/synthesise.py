"""Synthesis: one member writes an answer of its own from what others wrote."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.calls import Caller
from mesh.fence import fence_mark, fenced
from mesh.propose import context, earlier_turns, opening, question, to_proposal
from mesh.types import Member, Message, Part, Phase, Proposal, Sampling, Task


async def synthesise(
    caller: Caller, member: Member, number: int, texts: Sequence[str], sampling: Sampling, phase: Phase = "synthesise"
) -> Proposal:
    """The member's answer after reading `texts`; unreadable, it is an abstention."""
    messages = synthesis_messages(caller.task, texts, caller.seed_for(member.name, phase, number))
    (said,) = (await caller.complete(member, phase, number, messages, sampling))[:1]
    return to_proposal(caller.task, member, said, number)


def synthesis_messages(task: Task, texts: Sequence[str], seed: int) -> tuple[Message, ...]:
    """The prompt: demonstrations as in a proposal, then the texts as data; it ends with the question."""
    mark = fence_mark(seed, (*texts, *task.context))
    parts: list[Part] = [*opening(task), *context(task, mark), Part(text=CANDIDATES)]
    for number, text in enumerate(texts, start=1):
        parts += [Part(text=f"Candidate {number}:\n"), *fenced(text, mark)]
    parts += [Part(text=REQUEST), question(task)]
    return (*earlier_turns(task), Message(role="user", parts=tuple(parts)))


CANDIDATES = "Several answers to the question below. Some may be wrong.\n"
REQUEST = "Weigh them step by step, then answer the question:\n"
