"""Account: whoever changes its mind says which of its own steps was wrong, by a closed choice among them."""

from __future__ import annotations

from string import ascii_uppercase

from mesh.calls import Caller
from mesh.fence import fence_mark, fenced
from mesh.parse import own_words
from mesh.peers import steps_of
from mesh.propose import question
from mesh.seeds import derive_random
from mesh.types import Member, Message, Part, Proposal, Task

MAX_STEPS = 8
"""Of a longer text the last steps are offered: the answer follows from them."""
MAX_STEP_CHARS = 500
"""A longer step is not offered: a step is never cut, and eight of these fit into most windows."""


async def account(caller: Caller, member: Member, before: Proposal, after: Proposal) -> Proposal:
    """`after` with the step that the member found wrong in its earlier text as `quote`, or its earlier position again.

    The quote is chosen among the member's own steps and "none of them", so that it is always verbatim. A member that
    finds none wrong keeps text and answer of `before`; the answer it gave up is kept as `withdrew`. Where no step can
    be offered, there is nothing to ask.
    """
    offered = [step for step in steps_of(own_words(before.text)) if len(step) <= MAX_STEP_CHARS][-MAX_STEPS:]
    if not offered:
        return unchanged(before, after)
    dealt: list[str | None] = [*offered, None]
    derive_random(caller.seed, caller.task.id, member.name, "account", after.round).shuffle(dealt)
    seed = caller.seed_for(member.name, "account", after.round)
    messages = account_messages(caller.task, dealt, after.answer or "", seed)
    weights = await caller.choose(member, "account", after.round, messages, tuple(ascii_uppercase[: len(dealt)]))
    wrong = dealt[max(range(len(dealt)), key=lambda place: weights[place])]
    return unchanged(before, after) if wrong is None else after.model_copy(update={"quote": wrong})


def unchanged(before: Proposal, after: Proposal) -> Proposal:
    """`after` with text and answer of `before`; what it gave up is kept as `withdrew`."""
    kept = {"text": before.text, "answer": before.answer, "adapter": before.adapter, "withdrew": after.answer}
    return after.model_copy(update=kept)


def account_messages(task: Task, dealt: list[str | None], new_answer: str, seed: int) -> tuple[Message, ...]:
    """The prompt: the member's own steps and "none of them" (None) under letters, and the answer it gives now."""
    mark = fence_mark(seed, [new_answer])
    parts = [Part(text=STEPS)]
    for label, step in zip(ascii_uppercase, dealt, strict=False):
        parts += [Part(text=f"{label}. "), Part(text=NONE) if step is None else Part(text=step, trusted=False)]
        parts.append(Part(text="\n"))
    parts += [Part(text=NOW), *fenced(new_answer, mark), Part(text=QUESTION), question(task), Part(text=REQUEST)]
    return (Message(role="user", parts=tuple(parts)),)


STEPS = "You answered the question below in these steps:\n"
NONE = "(none of the others is wrong)"
NOW = "Now you answer:\n"
QUESTION = "The question:\n"
REQUEST = "\nWhich of the steps was wrong? Reply with its letter alone."
