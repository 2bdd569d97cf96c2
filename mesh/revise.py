"""Revision: a member reads its anonymous peers, and answers again."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.calls import Caller
from mesh.fence import fence_mark, fenced
from mesh.peers import supporters_line
from mesh.propose import context, earlier_turns, opening, question, to_proposal
from mesh.types import Member, Message, Part, Proposal, Reading, Sampling, Shown, Task


async def revise(
    caller: Caller, member: Member, reading: Reading, own_text: str, objections: Sequence[str], sampling: Sampling
) -> Proposal:
    """The member's answer after reading; unreadable, it is an abstention: the earlier one does not stand in."""
    seed = caller.seed_for(member.name, "revise", reading.round)
    messages = revision_messages(caller.task, reading, own_text, objections, seed)
    (said,) = (await caller.complete(member, "revise", reading.round, messages, sampling))[:1]
    return to_proposal(caller.task, member, said, reading.round)


def revision_messages(
    task: Task, reading: Reading, own_text: str, objections: Sequence[str], seed: int
) -> tuple[Message, ...]:
    """The prompt of a revision: demonstrations as in the proposal, then one user turn that ends with the question.

    It ends as the demonstrations do, so that a member without a chat template goes on with an answer. An empty
    `own_text` means that the member has no readable answer yet.
    """
    mark = fence_mark(seed, (own_text, *objections, *task.context, *(shown.text for shown in reading.shown)))
    parts: list[Part] = [*opening(task), *context(task, mark), Part(text=PEERS)]
    for shown in reading.shown:
        parts += peer_parts(shown, mark)
    if own_text:
        parts += [Part(text=YOURS), *fenced(own_text, mark)]
    for objection in objections:
        parts += [Part(text=OBJECTION), *fenced(objection, mark)]
    parts += [Part(text=REQUEST), question(task)]
    return (*earlier_turns(task), Message(role="user", parts=tuple(parts)))


def peer_parts(shown: Shown, mark: str) -> tuple[Part, ...]:
    """One answer of others as it stands in the prompt: who counts how many, then their text as data."""
    return (supporters_line(shown), *(fenced(shown.text, mark) if shown.text else ()))


PEERS = "Others answered the question below. They may be wrong.\n"
YOURS = "You answered:\n"
OBJECTION = "Somebody objects to your answer:\n"
REQUEST = "Check each step, then answer the question again:\n"
