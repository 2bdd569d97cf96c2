"""Vote: every member chooses among the distinct answers by a letter, so that a vote cannot fail to parse."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase

from mesh.calls import Caller
from mesh.propose import question
from mesh.seeds import derive_random
from mesh.types import Member, Message, Part, Task, Vote

MAX_OPTIONS = len(ascii_uppercase)


async def vote(caller: Caller, member: Member, number: int, options: Sequence[str]) -> Vote:
    """One member's choice among `options`, its probability for each; the letters are dealt anew to every member.

    `options` are distinct, at least two, at most `MAX_OPTIONS`. Equal probabilities: the option listed first wins.
    """
    dealt = list(options)
    derive_random(caller.seed, caller.task.id, member.name, "vote", number).shuffle(dealt)
    labels = ascii_uppercase[: len(dealt)]
    weights = await caller.choose(member, "vote", number, vote_messages(caller.task, dealt), tuple(labels))
    weighed = dict(zip(dealt, weights, strict=True))
    ranked = sorted(((option, weighed[option]) for option in options), key=lambda pair: -pair[1])
    return Vote(member=member.name, family=member.family, answer=ranked[0][0], weights=tuple(ranked))


def vote_messages(task: Task, dealt: Sequence[str]) -> tuple[Message, ...]:
    """The prompt of a vote: one line per option, then the question.

    The options need no fence: an answer is one line (`parse_answer`), and no text can add a letter to the choice.
    """
    parts: list[Part] = [Part(text=OPTIONS)]
    for label, option in zip(ascii_uppercase, dealt, strict=False):
        parts += [Part(text=f"{label}. "), Part(text=option, trusted=False), Part(text="\n")]
    parts += [Part(text=QUESTION), question(task), Part(text=REQUEST)]
    return (Message(role="user", parts=tuple(parts)),)


OPTIONS = "Possible answers:\n"
QUESTION = "The question:\n"
REQUEST = "\nWhich of the possible answers is right? Reply with its letter alone."
