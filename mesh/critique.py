"""Critique: a member objects to the strongest answer that stands against its own."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mesh.calls import Caller
from mesh.fence import fence_mark, fenced
from mesh.propose import question
from mesh.types import Critique, Member, Message, Part, Sampling, Shown, Task

MIN_DISTINCT_WORDS = 3
"""Fewer different words name no mistake: "7", "no no no" and "I disagree" are empty."""
MAX_COPIED_SHARE = 0.8
"""From this share of word triples on that already stood in the prompt, a critique is a copy."""

_WORD = re.compile(r"\w+")


async def critique(
    caller: Caller, member: Member, number: int, opponent: Shown, own_text: str, sampling: Sampling
) -> Critique:
    """One objection of `member` to `opponent`; kept even when it is not valid, so that the share can be counted."""
    seed = caller.seed_for(member.name, "critique", number)
    messages = critique_messages(caller.task, opponent.text, own_text, seed)
    (said,) = (await caller.complete(member, "critique", number, messages, sampling))[:1]
    text = said.text.strip()
    shown = [part.text for message in messages for part in message.parts]
    return Critique(
        member=member.name, round=number, target_answer=opponent.answer, text=text, valid=is_valid(text, shown)
    )


def is_valid(text: str, shown: Iterable[str]) -> bool:
    """Whether a critique says something of its own: not empty, and no copy of what its author was shown."""
    words = _words(text)
    if len({word for word in words if not word.isdigit()}) < MIN_DISTINCT_WORDS:
        return False
    triples = _triples(words)
    seen = {triple for piece in shown for triple in _triples(_words(piece))}
    return sum(triple in seen for triple in triples) < MAX_COPIED_SHARE * len(triples)


def critique_messages(task: Task, opponent_text: str, own_text: str, seed: int) -> tuple[Message, ...]:
    """The prompt of a critique: one user turn, what others wrote fenced and untrusted, the request last."""
    mark = fence_mark(seed, (opponent_text, own_text))
    return (
        Message(
            role="user",
            parts=(
                Part(text=THEIRS),
                *fenced(opponent_text, mark),
                Part(text=YOURS),
                *fenced(own_text, mark),
                Part(text=QUESTION),
                question(task),
                Part(text=REQUEST),
            ),
        ),
    )


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _triples(words: list[str]) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + 3]) for i in range(len(words) - 2)]


THEIRS = "Somebody answered the question below and may be wrong:\n"
YOURS = "You answered:\n"
QUESTION = "The question:\n"
REQUEST = "\nWhat is the first mistake in the other answer? Say which step is wrong and why, in one sentence."
