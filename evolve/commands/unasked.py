"""What stands in for engines and people while a deliberation is held again from its trace: nobody is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from memory.types import content_hash
from mesh.engine import EngineError
from mesh.types import (
    Completion,
    Deliberation,
    Exchange,
    Member,
    Message,
    PersonAnswer,
    Profile,
    Question,
    Sampling,
    Score,
)

Counter = Callable[[Member, Sequence[Message]], Awaitable[int | None]]
"""Counts a prompt in a member's tokens without its model; None: it does not know this member."""


class Unasked:
    """Implements `Engine` for a replay: it knows how long prompts were, and whoever asks it for more has gone astray.

    Lengths come from the trace where the prompt was sent, else from `count`, else they are estimated from the bytes a
    token of that member has in the trace.
    """

    def __init__(self, trace: Deliberation, count: Counter | None = None) -> None:
        self._count = count
        self._known: dict[tuple[str, str], int] = {}
        self._bytes: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        self.num_estimated = 0
        for exchange in exchanges_of(trace):
            self._learn(exchange)

    async def count_tokens(self, member: Member, messages: Sequence[Message]) -> int:
        """As `Engine.count_tokens`."""
        known = self._known.get((member.name, key_of(messages)))
        if known is None and self._count is not None:
            known = await self._count(member, messages)
        if known is not None:
            return known
        self.num_estimated += 1
        size = sum(len(message.text.encode()) for message in messages)
        heard = self._bytes.get(member.name, 0)
        return size if not heard else round(size * self._tokens[member.name] / heard)

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[tuple[Completion, ...], int]:
        """Raises EngineError: nobody is asked."""
        raise self._refused(member)

    async def choose(self, member: Member, messages: Sequence[Message], labels: Sequence[str]) -> tuple[float, ...]:
        """Raises EngineError: nobody is asked."""
        raise self._refused(member)

    async def score(self, member: Member, messages: Sequence[Message], text: str) -> Score:
        """Raises EngineError: nobody is asked."""
        raise self._refused(member)

    async def profile(self, member: Member) -> Profile:
        """Raises EngineError: nobody is asked."""
        raise self._refused(member)

    def _learn(self, exchange: Exchange) -> None:
        if exchange.usage.prompt_tokens:
            self._known[exchange.member, key_of(exchange.messages)] = exchange.usage.prompt_tokens
            size = sum(len(message.text.encode()) for message in exchange.messages)
            self._bytes[exchange.member] = self._bytes.get(exchange.member, 0) + size
            tokens = self._tokens.get(exchange.member, 0)
            self._tokens[exchange.member] = tokens + exchange.usage.prompt_tokens
        elif exchange.error or exchange.phase == "score":
            # It was sent, so it had fitted; how long it was nobody wrote down.
            self._known.setdefault((exchange.member, key_of(exchange.messages)), 0)

    def _refused(self, member: Member) -> EngineError:
        return EngineError(f"expected only calls that the trace holds, got another one to {member.name}")


class Repliers:
    """A desk at which the people of the trace give the answers that they gave."""

    def __init__(self, trace: Deliberation) -> None:
        pairs = [pair for _, part in trace.walk() for pair in zip(part.questions, part.replies, strict=False)]
        self._answers = {asked.step + asked.question: reply for asked, reply in pairs}

    def put(self, question: Question) -> PersonAnswer | None:
        """As `Desk.put`."""
        return self._answers.get(question.step + question.question)


def exchanges_of(trace: Deliberation) -> list[Exchange]:
    """Every call, those of the parts too."""
    return [exchange for _, part in trace.walk() for exchange in part.exchanges]


def key_of(messages: Sequence[Message]) -> str:
    """The same for the same prompt."""
    return content_hash([message.model_dump(mode="json") for message in messages])
