"""Digest: the author of a long text says in short what it comes to, for readers without room for all of it."""

from __future__ import annotations

from mesh.calls import Caller
from mesh.fence import fence_mark, fenced
from mesh.propose import question
from mesh.types import Member, Message, Part, Proposal, Sampling, Task


async def digest(caller: Caller, author: Member, proposal: Proposal, number: int, sampling: Sampling) -> str:
    """The author's own short version, or "" if what it wrote was cut off: half a digest may say the opposite."""
    messages = digest_messages(caller.task, proposal.text, caller.seed_for(author.name, "digest", number))
    (said,) = (await caller.complete(author, "digest", number, messages, sampling))[:1]
    return said.text.strip() if said.finish_reason == "stop" else ""


def digest_messages(task: Task, text: str, seed: int) -> tuple[Message, ...]:
    """The prompt: the author's own text as data, and the request for its steps in short."""
    mark = fence_mark(seed, [text])
    parts = (Part(text=YOURS), *fenced(text, mark), Part(text=QUESTION), question(task), Part(text=REQUEST))
    return (Message(role="user", parts=parts),)


YOURS = "You answered the question below:\n"
QUESTION = "The question:\n"
REQUEST = "\nSay in one or two short sentences which steps lead to your answer."
