"""A hand-written engine whose members say what a test tells them to, in every phase of a deliberation."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mesh.config import ProtocolConfig
from mesh.deliberate import deliberate
from mesh.engine import Engine, EngineError
from mesh.job import Job
from mesh.types import Completion, Deliberation, Member, Message, PersonAnswer, Profile, Question, Sampling, Score, Task

MARKS = {
    "first mistake": "critique",
    "answer the question again": "revise",
    "Weigh them step by step": "synthesise",
    "one or two short sentences": "digest",
    "final answer in that text": "extract",
    "Split the question below": "plan",
    "Which of the possible answers": "vote",
    "Which of the steps was wrong": "account",
    "Which of the answers is right": "rank",
    "Check each step of the answer": "approve",
    "Do the two answers say the same": "same",
    "speak only of what stands above": "reflect",
}
"""What only the request of one phase says."""

_FENCED = re.compile(r"^Answer ([A-Z]):\n\[([0-9a-f]{6})\]\n(.*?)\n\[/\2\]$", re.DOTALL | re.MULTILINE)
_LINE = re.compile(r"^([A-Z])\. (.*)$", re.MULTILINE)


def phase_of(messages: Sequence[Message]) -> str:
    """Which phase asks, read from the trusted parts alone."""
    asked = "".join(part.text for part in messages[-1].parts if part.trusted)
    return next((phase for mark, phase in MARKS.items() if mark in asked), "propose")


def trusted(messages: Sequence[Message]) -> str:
    return "".join(part.text for message in messages for part in message.parts if part.trusted)


def untrusted(messages: Sequence[Message]) -> list[str]:
    return [part.text for message in messages for part in message.parts if not part.trusted]


@dataclass
class Double:
    """`say[member][phase]` is what a member says, or an exception to raise.

    A text or a list of texts or completions for its samples, or a function of the prompt that gives one. In a vote and
    in a ranking it is the answer it favours, in an account the words of the step it gives up ("none": it gives up none;
    nothing said: the first that is offered), in an approval the answers it calls right, in "same" yes or no. A member's
    "*" is what it writes in all phases that are not named; as an exception it is for the choices too.
    """

    say: Mapping[str, Mapping[str, Any]]
    choice: Callable[[Member, Sequence[Message], Sequence[str]], Sequence[float]] | None = None
    before: Callable[[Member], Awaitable[None]] | None = None
    windows: Mapping[str, int] = field(default_factory=dict)
    length: Callable[[str], int] = lambda text: len(text.split())
    output_tokens: int = 5
    can_score: bool = False
    calls: list[tuple[str, str, tuple[Message, ...], Sampling | None]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[tuple[Completion, ...], int]:
        said = await self._asked(member, phase_of(messages), messages, sampling)
        many = list(said)[: sampling.num_samples] if isinstance(said, list | tuple) else [said] * sampling.num_samples
        tokens = min(self.output_tokens, sampling.max_tokens)
        completions = tuple(
            text if isinstance(text, Completion) else Completion(text=text, output_tokens=tokens) for text in many
        )
        return completions, self._length(messages)

    async def choose(self, member: Member, messages: Sequence[Message], labels: Sequence[str]) -> tuple[float, ...]:
        phase = phase_of(messages)
        wanted = await self._asked(member, phase, messages, None)
        if self.choice is not None:
            return tuple(self.choice(member, messages, labels))
        label = _label(phase, wanted, messages)
        if label not in labels or len(labels) == 1:
            return tuple(1.0 / len(labels) for _ in labels)
        return tuple(0.9 if name == label else 0.1 / (len(labels) - 1) for name in labels)

    async def score(self, member: Member, messages: Sequence[Message], text: str) -> Score:
        said = await self._asked(member, "score", messages, None)
        return Score(
            log_prob=-1.0 if said is None else said, num_tokens=len(text.split()), num_bytes=len(text.encode())
        )

    async def count_tokens(self, member: Member, messages: Sequence[Message]) -> int:
        return self._length(messages)

    async def profile(self, member: Member) -> Profile:
        return Profile(
            engine=member.engine,
            model="double",
            max_model_len=self.windows.get(member.engine, 4096),
            has_chat_template=False,
            accepts_system_role=False,
            adds_bos=False,
            token_exact=True,
            can_score=self.can_score,
        )

    def asked(self, phase: str, member: str | None = None) -> list[tuple[Message, ...]]:
        """Every prompt of a phase, in the order of asking."""
        return [seen for name, kind, seen, _ in self.calls if kind == phase and member in (None, name)]

    def phases(self, member: str | None = None) -> list[str]:
        """Every phase in which something was asked, in the order of asking."""
        return [kind for name, kind, _, _ in self.calls if member in (None, name)]

    async def _asked(self, member: Member, phase: str, messages: Sequence[Message], sampling: Sampling | None) -> Any:
        self.calls.append((member.name, phase, tuple(messages), sampling))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await (self.before(member) if self.before else asyncio.sleep(0))
        finally:
            self.running -= 1
        longest = 0 if sampling is None else sampling.max_tokens
        if self._length(messages) + longest > self.windows.get(member.engine, 10**9):
            raise EngineError(f"the prompt does not fit into the window of {member.engine}")
        own = self.say[member.name]
        said = own.get(phase)
        if said is None and (sampling is not None or isinstance(own.get("*"), Exception)):
            said = own.get("*")
        if said is None and sampling is not None:
            raise KeyError(f"{member.name} was told nothing to say in {phase!r}")
        said = said(messages) if callable(said) else said
        if isinstance(said, Exception):
            raise said
        return said

    def _length(self, messages: Sequence[Message]) -> int:
        return sum(self.length(message.text) for message in messages)


def _label(phase: str, wanted: Any, messages: Sequence[Message]) -> str:
    """The letter of what a member wants; "" if it is not among the options."""
    text = messages[-1].text
    lines = _LINE.findall(text)
    if phase == "vote":
        return next((label for label, option in lines if option == wanted), "A")
    if phase == "account":
        given_up = [label for label, step in lines if ("(none" in step) == (wanted == "none")]
        named = [label for label, step in lines if wanted and wanted in step]
        return (named or given_up)[0]
    if phase == "rank":
        return next((label for label, _, said in _FENCED.findall(text) if wanted and wanted in said), "")
    if phase == "approve":
        is_right = any(answer in untrusted(messages)[0] for answer in wanted or ())
        return next(label for label, word in lines if ("right" in word) == is_right)
    return next((label for label, word in lines if word == (wanted or "no")), "")


class Desk:
    """A person in a test: answers what it was told to, and keeps what it was asked."""

    def __init__(self, answer: Callable[[Question], str | int | None] = lambda question: None) -> None:
        self.answer, self.asked = answer, []
        self.asked: list[Question]

    def put(self, question: Question) -> PersonAnswer | None:
        if question not in self.asked:
            self.asked.append(question)
        said = self.answer(question)
        if said is None:
            return None
        own = {"choice": said} if isinstance(said, int) else {"edit": said}
        return PersonAnswer(question=question.id, content=question.id, by="ann", **own)


def hold(
    task: Task, members: Sequence[Member], engine: Engine, config: ProtocolConfig, seed: int = 1, *,
    earlier: Deliberation | None = None, **of_job: Any,
) -> Deliberation:  # fmt: skip
    """One deliberation, from beginning to end, under a job made of what is left over."""

    async def whole() -> Deliberation:
        job = Job(**of_job)
        try:
            return await deliberate(task, members, engine, config, seed=seed, job=job, earlier=earlier)
        finally:
            await job.close()

    return asyncio.run(whole())


def untimed(deliberation: Deliberation) -> dict[str, Any]:
    """A trace as plain data without the times that the clock put in."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: 0.0 if k in ("seconds", "engine_seconds") else clean(v) for k, v in value.items()}
        return [clean(item) for item in value] if isinstance(value, list) else value

    return clean(deliberation.model_dump(mode="json"))


def close(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-9)
