"""A hand-written engine whose members say what a test tells them to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from mesh.types import Completion, Member, Message, Profile, Sampling, Task


def _phase(messages: Sequence[Message]) -> str:
    asked = "".join(part.text for part in messages[-1].parts if part.trusted)
    if "first mistake" in asked:
        return "critique"
    return "revise" if "answer the question again" in asked else "propose"


@dataclass
class Double:
    """`say[member][phase]` is what a member says: texts for its samples, or an exception to raise."""

    say: dict[str, dict[str, Any]]
    choice: Callable[[Member, Sequence[Message], Sequence[str]], Sequence[float]] | None = None
    before: Callable[[Member], Awaitable[None]] | None = None
    calls: list[tuple[str, str, tuple[Message, ...], Sampling | None]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[tuple[Completion, ...], int]:
        phase = _phase(messages)
        self.calls.append((member.name, phase, tuple(messages), sampling))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await (self.before(member) if self.before else asyncio.sleep(0))
        finally:
            self.running -= 1
        said = self.say[member.name][phase]
        if isinstance(said, Exception):
            raise said
        texts = [said] * sampling.num_samples if isinstance(said, str) else list(said)[: sampling.num_samples]
        completions = tuple(Completion(text=t, output_tokens=min(5, sampling.max_tokens)) for t in texts)
        return completions, sum(len(m.text.split()) for m in messages)

    async def choose(self, member: Member, messages: Sequence[Message], labels: Sequence[str]) -> tuple[float, ...]:
        self.calls.append((member.name, "vote", tuple(messages), None))
        failure = self.say[member.name].get("vote")
        if isinstance(failure, Exception):
            raise failure
        if self.choice is not None:
            return tuple(self.choice(member, messages, labels))
        lines = messages[-1].text.splitlines()
        wanted = next((line[0] for line in lines if line[1:] == f". {failure}"), labels[0])
        return tuple(0.9 if label == wanted else 0.1 / (len(labels) - 1) for label in labels)

    async def count_tokens(self, member: Member, messages: Sequence[Message]) -> int:
        return sum(len(message.text.split()) for message in messages)

    async def profile(self, member: Member) -> Profile:
        return Profile(
            engine=member.engine,
            model="double",
            max_model_len=512,
            has_chat_template=False,
            accepts_system_role=False,
            adds_bos=False,
            token_exact=True,
        )


@pytest.fixture
def double() -> type[Double]:
    return Double


@pytest.fixture
def task() -> Task:
    return Task(id="t1", question="What is 3 + 4?", type="sums", answer_kind="number", instruction="Give the number.")


@pytest.fixture
def three() -> tuple[Member, ...]:
    return (
        Member(name="ZOE-SEAT", engine="e1", family="fox"),
        Member(name="YAN-SEAT", engine="e2", family="owl"),
        Member(name="XIA-SEAT", engine="e1", family="fox"),
    )
