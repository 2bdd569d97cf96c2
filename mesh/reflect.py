"""Reflection: after the judgement a member says what to do differently; kept only if the trace bears it out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from memory.types import Experience, Kind, Namespace, Observation, Record
from mesh.budget import Budget, Purse
from mesh.calls import Caller
from mesh.engine import Engine, EngineError
from mesh.equivalence import canonical
from mesh.fence import fence_mark, fenced
from mesh.job import Job
from mesh.parse import own_words
from mesh.peers import shown_texts, steps_of
from mesh.propose import question
from mesh.replay import Replay
from mesh.types import Completion, Deliberation, Exchange, Member, Message, Outcome, Part, Sampling

MAX_LESSON_CHARS = 240
MIN_CONTENT_WORDS = 3
"""Fewer content words say nothing that a reader could do."""
MIN_BORNE_OUT = 0.7
"""Share of a lesson's content words that must stand in the evidence."""
MAX_SHOWN_CHARS = 1500
"""A longer text is shown to the writer by its crux."""

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_NUMBER = re.compile(r"(?<![\w.])[-+−]?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?(?:/[0-9]+)?|[0-9]+(?:\.[0-9]+)?")
_QUOTED = (
    re.compile(r'"([^"]+)"'),
    re.compile(r"“([^”]+)”"),
    re.compile(r"`([^`]+)`"),
    re.compile(r"«([^»]+)»"),
    re.compile(r"(?<!\w)['‘]([^'’]+)['’](?!\w)"),
)
_CONTROL = re.compile(r"<[^<>\s]{1,60}>|<\||\|>|\[/?[A-Z_]{2,}\]|<<|>>|^\s*(?:system|user|assistant)\s*:", re.I | re.M)
_NUMBER_WORDS = {
    "zero": "0", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12",
}  # fmt: skip
"""Without "one", which mostly is no number."""
_EMPTY_WORDS = frozenset(
    _WORD.findall(
        "a about after again all also always an and any are as at be because been before being but by can could did do "
        "does doing done for from get had has have how i if in instead into is it its just me more most must my never "
        "next no not now of on once one only or other our out own please same shall she he should so some such than "
        "that the their them then there these they this those time to too up us use very was we were what when where "
        "which while who why will with without would you your "
        "answer answers careful carefully check correct make mistake question read right step steps sure wrong"
    )
)
"""Words that say nothing of the problem: those of the language, and those of any lesson."""


class Dropped(Record):
    """A lesson that was not kept, and why."""

    text: str
    reason: str


class Reflection(NamedTuple):
    """What a member's reflection came to: exactly one of `lesson` and `dropped` is set."""

    lesson: Observation | None
    dropped: Dropped | None
    exchanges: tuple[Exchange, ...]
    """The call that was made, with its usage."""


async def reflect(
    engine: Engine,
    member: Member,
    deliberation: Deliberation,
    outcome: Outcome,
    *,
    namespace: Namespace,
    split: str,
    sampling: Sampling,
    timeout_s: float = 60.0,
    job: Job | None = None,
) -> Reflection:
    """One call: what `member` would do differently next time, or the same again if the outcome was right.

    A lesson that `why_dropped` lets pass is a pattern whose source is the member, in the episode of the deliberation,
    without evidence: nobody checked it, so memory trusts it no further than observed. A call that fails (EngineError,
    timeout) is a lesson dropped. The seed is the deliberation's own, so that the same trace reflects alike.

    Raises:
        ValueError: the outcome belongs to another task.
    """
    task = deliberation.task
    if outcome.task_id != task.id:
        raise ValueError(f"expected an outcome of task {task.id!r}, got one of {outcome.task_id!r}: pair them by id")
    shared = job or Job()
    purse = Purse(Budget(), shared.purse.prices, parent=shared.purse)
    caller = Caller(engine, task, deliberation.seed, timeout_s, purse, shared.clock, Replay(None))
    messages = reflection_messages(deliberation, outcome, caller.seed_for(member.name, "reflect", 0))
    try:
        (said,) = (await caller.complete(member, "reflect", 0, messages, sampling))[:1]
    except (EngineError, TimeoutError) as failure:
        dropped = Dropped(text="", reason=f"{type(failure).__name__}: {failure}")
        return Reflection(None, dropped, tuple(caller.exchanges))
    text = lesson_in(said)
    reason = why_dropped(text, evidence_texts(deliberation, outcome))
    if reason:
        return Reflection(None, Dropped(text=said.text.strip(), reason=reason), tuple(caller.exchanges))
    lesson = Experience(kind=Kind.PATTERN, text=text, namespace=namespace, task_type=task.type, split=split)
    observed = Observation(experience=lesson, source=member.name, episode=deliberation.id)
    return Reflection(observed, None, tuple(caller.exchanges))


def lesson_in(said: Completion) -> str:
    """The first sentence of what a member wrote, on one line; empty if it wrote none to its end."""
    sentences = steps_of(own_words(said.text))
    is_whole = said.finish_reason == "stop" or (said.finish_reason == "length" and len(sentences) > 1)
    return " ".join(sentences[0].split()) if sentences and is_whole else ""


def evidence_texts(deliberation: Deliberation, outcome: Outcome) -> tuple[str, ...]:
    """What a lesson may rest on: the question, what the members wrote and objected, and the judged answer.

    What memory recalled is not among it: it is not to be learnt again.
    """
    written = [text for _, part in deliberation.walk() for text in _written(part)]
    return (deliberation.task.question, *written, outcome.answer or "")


def why_dropped(lesson: str, evidence: Iterable[str]) -> str:
    """Why a lesson is not kept, in words; empty: it is."""
    texts = tuple(evidence)
    if not lesson:
        return "no whole sentence"
    if len(lesson) > MAX_LESSON_CHARS:
        return f"longer than {MAX_LESSON_CHARS} characters"
    # Full-width letters are read as plain ones by some servers, and invisible signs by some tokenizers.
    if not lesson.isprintable() or _CONTROL.search(unicodedata.normalize("NFKC", lesson)):
        return "holds control marks"
    words = _content_words(lesson)
    if len(set(words)) < MIN_CONTENT_WORDS:
        return f"fewer than {MIN_CONTENT_WORDS} words that say something"
    folded = _fold(lesson)
    if any(folded in _fold(text) for text in texts):
        return "a copy of the trace"
    return "" if is_grounded(lesson, texts) else "claims what is not in the trace"


def is_grounded(lesson: str, evidence_texts: Iterable[str]) -> bool:
    """Whether the evidence bears out a lesson.

    Every number, every quoted string and every name (a capitalised word that does not open a sentence, or several in a
    row that do) must occur in it, and at least `MIN_BORNE_OUT` of the content words, compared without endings. Not
    promised: that the lesson follows from the evidence; only that it speaks of nothing else.
    """
    texts = tuple(evidence_texts)
    whole = "\n".join(texts)
    folded, words = _fold(whole), {_stem(word) for word in _words(whole)}
    known = _numbers(whole)
    if not _numbers(lesson) <= known | {number.lstrip("-") for number in known}:
        return False
    if not all(_fold(quoted) in folded for quoted in _quoted(lesson)):
        return False
    if not all(_stem(name) in words for name in _names(lesson)):
        return False
    content = set(_content_words(lesson))
    return bool(content) and sum(_stem(word) in words for word in content) >= MIN_BORNE_OUT * len(content)


def reflection_messages(deliberation: Deliberation, outcome: Outcome, seed: int) -> tuple[Message, ...]:
    """The prompt: the judged answer and an argument for it as data, what the check said, and the request."""
    task, answer = deliberation.task, outcome.answer or NO_ANSWER
    argument = _argument(deliberation, outcome)
    mark = fence_mark(seed, [answer, argument])
    parts = [Part(text=ANSWER), *fenced(answer, mark)]
    if argument and argument != answer:
        parts += [Part(text=WRITTEN), *fenced(argument, mark)]
    parts += [Part(text=RIGHT if outcome.correct else WRONG), Part(text=QUESTION), question(task)]
    parts.append(Part(text=KEEP if outcome.correct else CHANGE))
    return (Message(role="user", parts=tuple(parts)),)


def _written(part: Deliberation) -> Iterable[str]:
    yield from (own_words(proposal.text) for proposal in part.proposals)
    yield from (proposal.answer for proposal in part.proposals if proposal.answer)
    yield from (critique.text for critique in part.critiques)


def _argument(deliberation: Deliberation, outcome: Outcome) -> str:
    """What was written for the judged answer, by whoever spoke last; empty where nobody did."""
    kind = deliberation.equality
    for proposal in reversed(deliberation.proposals):
        if outcome.answer and proposal.answer and canonical(proposal.answer, kind) == canonical(outcome.answer, kind):
            return next((text for text in shown_texts(proposal, MAX_SHOWN_CHARS, "") if text), "")
    return ""


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _stem(word: str) -> str:
    """A word without its commonest English endings: "adding" and "adds" are borne out by "added"."""
    word = word.casefold()
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


def _content_words(text: str) -> list[str]:
    return [word for word in _words(text) if word not in _EMPTY_WORDS and len(word) > 1 and word not in _NUMBER_WORDS]


def _numbers(text: str) -> set[str]:
    """Every number of a text in one spelling; words for small numbers count."""
    digits = {canonical(found.replace("−", "-").removeprefix("+"), "number") for found in _NUMBER.findall(text)}
    return digits | {_NUMBER_WORDS[word] for word in _words(text) if word in _NUMBER_WORDS}


def _quoted(text: str) -> list[str]:
    return [found for marks in _QUOTED for found in marks.findall(text) if found.strip()]


def _names(text: str) -> list[str]:
    """Capitalised words inside sentences; of those that open one, only where another follows at once."""
    names = []
    for sentence in steps_of(text):
        words = list(_WORD.finditer(sentence))
        capital = [word[0][0].isupper() and word[0] != "I" for word in words]
        for at, word in enumerate(words):
            opens = at == 0 and not (len(words) > 1 and capital[1]) and not (len(word[0]) > 1 and word[0].isupper())
            if capital[at] and not opens and word[0].casefold() not in _EMPTY_WORDS:
                names.append(word[0])
    return names


NO_ANSWER = "(no answer)"
QUESTION = "The question:\n"
ANSWER = "The question below was answered:\n"
WRITTEN = "In these words:\n"
RIGHT = "The answer was checked and is right.\n"
WRONG = "The answer was checked and is wrong.\n"
KEEP = "\nWhat should be done the same way next time? Say it in one sentence, and speak only of what stands above."
CHANGE = "\nWhat should be done differently next time? Say it in one sentence, and speak only of what stands above."
