"""Judging peers: a member compares two answers, orders several, or says how likely one is right; by closed choice."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase

from mesh.calls import Caller
from mesh.fence import fence_mark, fenced
from mesh.propose import question
from mesh.seeds import derive_random
from mesh.types import Member, Message, Part, Phase, Task


async def order(caller: Caller, judge: Member, number: int, texts: Sequence[str]) -> tuple[float, ...]:
    """How much `judge` favours each of at least two texts, summing to 1; the letters are dealt anew to every judge."""
    places = list(range(len(texts)))
    derive_random(caller.seed, caller.task.id, judge.name, "rank", number).shuffle(places)
    return await _choose(caller, judge, number, [texts[place] for place in places], places)


async def compare(caller: Caller, judge: Member, number: int, first: str, second: str) -> float:
    """Probability that `judge` favours `first`, over both orders: what stands first is favoured for standing there."""
    there = await _choose(caller, judge, number, [first, second], [0, 1])
    back = await _choose(caller, judge, number, [second, first], [1, 0])
    return (there[0] + back[0]) / 2


async def approve(caller: Caller, judge: Member, phase: Phase, number: int, text: str) -> float:
    """Probability that `judge` calls one text right rather than wrong, over both orders of the two words."""
    seed = caller.seed_for(judge.name, phase, number)
    there = await caller.choose(judge, phase, number, verdict_messages(caller.task, text, (RIGHT, WRONG), seed), "AB")
    back = await caller.choose(judge, phase, number, verdict_messages(caller.task, text, (WRONG, RIGHT), seed), "AB")
    return (there[0] + back[1]) / 2


async def _choose(
    caller: Caller, judge: Member, number: int, dealt: Sequence[str], places: Sequence[int]
) -> tuple[float, ...]:
    messages = ranking_messages(caller.task, dealt, caller.seed_for(judge.name, "rank", number))
    weights = await caller.choose(judge, "rank", number, messages, ascii_uppercase[: len(dealt)])
    by_place = dict(zip(places, weights, strict=True))
    return tuple(by_place[place] for place in sorted(by_place))


def ranking_messages(task: Task, dealt: Sequence[str], seed: int) -> tuple[Message, ...]:
    """The prompt of a comparison: every text fenced under its letter, the question, the request."""
    mark = fence_mark(seed, dealt)
    parts: list[Part] = [Part(text=ANSWERS)]
    for label, text in zip(ascii_uppercase, dealt, strict=False):
        parts += [Part(text=f"Answer {label}:\n"), *fenced(text, mark)]
    parts += [Part(text=QUESTION), question(task), Part(text=WHICH)]
    return (Message(role="user", parts=tuple(parts)),)


def verdict_messages(task: Task, text: str, words: tuple[str, str], seed: int) -> tuple[Message, ...]:
    """The prompt of an approval: one text, the question, and the two words under A and B."""
    mark = fence_mark(seed, [text])
    choices = "".join(f"{label}. {word}\n" for label, word in zip("AB", words, strict=True))
    parts = (Part(text=ONE), *fenced(text, mark), Part(text=QUESTION), question(task), Part(text=JUDGE + choices))
    return (Message(role="user", parts=(*parts, Part(text=REPLY))),)


RIGHT, WRONG = "It is right.", "It is wrong."
ANSWERS = "Answers to the question below, of which some may be wrong:\n"
ONE = "Somebody answered the question below:\n"
QUESTION = "The question:\n"
WHICH = "\nWhich of the answers is right? Reply with its letter alone."
JUDGE = "\nCheck each step of the answer.\n"
REPLY = "Reply with the letter alone."
