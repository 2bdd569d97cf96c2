"""Calls to members: each one seeded, timed, limited, paid for and recorded whole."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from mesh.budget import EngineClock, Purse
from mesh.engine import Engine, EngineError
from mesh.replay import Replay
from mesh.seeds import derive_seed
from mesh.types import Completion, Exchange, Member, Message, Part, Phase, Sampling, Score, Task, Usage

T = TypeVar("T")

Watch = Callable[[str, Exchange], None]
"""Told of a call that has ended: place in the pattern ('' for the whole) and what was said. It must not raise."""


class FailedBefore(EngineError):
    """What a call raised in an earlier start, under the name it had there."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class Caller:
    """Everything one deliberation says to its engine goes through here; failed calls are recorded too.

    Raises what the engine raises (EngineError) and TimeoutError; turning that into a record is the caller's business.
    """

    engine: Engine
    task: Task
    seed: int
    timeout_s: float
    purse: Purse
    clock: EngineClock
    replay: Replay
    path: str = ""
    """Place in the pattern this deliberation is a part of; '' for the whole."""
    exchanges: list[Exchange] = field(default_factory=list)
    watch: Watch | None = None
    """Told of every call as it ends; None: nobody watches."""

    def seed_for(self, member: str, phase: str, number: int) -> int:
        """The seed of one member's part in one phase of one round."""
        return derive_seed(self.seed, self.task.id, member, phase, number)

    async def complete(
        self, member: Member, phase: Phase, number: int, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[Completion, ...]:
        """`sampling.num_samples` completions, at least one; the seed of `sampling` is replaced."""
        sampling = sampling.model_copy(update={"seed": self.seed_for(member.name, phase, number)})
        asked, speaker = as_asked(member, self.task, messages), member.at(phase)

        async def ask() -> _Said:
            completions, prompt_tokens = await self.engine.complete(speaker, asked, sampling)
            if not completions:
                raise EngineError(f"expected {sampling.num_samples} completions from {member.engine}, got none")
            return _Said(completions, prompt_tokens)

        said = await self._make(member, phase, number, asked, ask, sampling.max_tokens * sampling.num_samples)
        return said.completions

    async def choose(
        self, member: Member, phase: Phase, number: int, messages: Sequence[Message], labels: Sequence[str]
    ) -> tuple[float, ...]:
        """Probability of each label, summing to 1. Recorded as one completion of one token: the likeliest label."""
        asked, speaker = as_asked(member, self.task, messages), member.at(phase)

        async def ask() -> _Said:
            weights = await self.engine.choose(speaker, asked, tuple(labels))
            prompt_tokens = await self.engine.count_tokens(speaker, asked)
            total = sum(weights)
            if len(weights) != len(labels) or min(weights) < 0.0 or not 0.0 < total < math.inf:
                raise EngineError(f"expected {len(labels)} probabilities from {member.engine}, got {weights}")
            likeliest = labels[max(range(len(labels)), key=lambda i: weights[i])]
            choice = Completion(text=likeliest, output_tokens=1, adapter=speaker.adapter)
            return _Said((choice,), prompt_tokens, tuple(weight / total for weight in weights))

        said = await self._make(member, phase, number, asked, ask, 1)
        return said.weights

    async def score(self, member: Member, number: int, messages: Sequence[Message], text: str) -> Score:
        """How likely the member finds `text`. Recorded with (log probability, tokens, bytes) as its weights."""
        asked = as_asked(member, self.task, messages)

        async def ask() -> _Said:
            score = await self.engine.score(member.at("score"), asked, text)
            return _Said((), score.num_tokens, (score.log_prob, float(score.num_tokens), float(score.num_bytes)))

        log_prob, num_tokens, num_bytes = (await self._make(member, "score", number, asked, ask, 0)).weights
        return Score(log_prob=log_prob, num_tokens=int(num_tokens), num_bytes=int(num_bytes))

    async def _make(
        self,
        member: Member,
        phase: Phase,
        number: int,
        asked: tuple[Message, ...],
        ask: Callable[[], Awaitable[_Said]],
        most_tokens: int,
    ) -> _Said:
        """Make one call, or take it from an earlier start; recorded either way."""
        earlier = self.replay.take(self.path, member.name, phase, number, asked)
        if earlier is not None:
            return self._give_back(member, earlier, most_tokens)
        if self.replay.ended(self.path) is not None:
            failure = self.replay.failure(self.path, member.name, phase, number)
            if failure is None:
                raise FailedBefore("EngineError", "expected only calls that were made before, got another one")
            raise FailedBefore(failure.kind, failure.message)
        limits = [limit for limit in (self.timeout_s, self.purse.seconds_left) if limit is not None]
        said, error, lost = _Said(), "", 0
        started, mark = time.perf_counter(), self.clock.start(member.engine)
        try:
            async with asyncio.timeout(min(limits)):
                said = await ask()
        except TimeoutError:
            # The engine may have written all of it before the clock ran out; nobody can tell.
            error, lost = f"TimeoutError: no answer within {min(limits):g} s", most_tokens
            raise TimeoutError(error.partition(": ")[2]) from None
        except EngineError as failure:
            error = f"{type(failure).__name__}: {failure}"
            raise
        finally:
            usage = Usage(
                prompt_tokens=said.prompt_tokens,
                output_tokens=sum(completion.output_tokens for completion in said.completions),
                num_calls=1,
                seconds=time.perf_counter() - started,
                engine_seconds=self.clock.stop(member.engine, mark),
            )
            self._keep(
                Exchange(
                    member=member.name,
                    phase=phase,
                    round=number,
                    messages=asked,
                    completions=said.completions,
                    weights=said.weights,
                    error=error,
                    usage=usage,
                )
            )
            self.purse.spend(member.engine, usage + Usage(output_tokens=lost) if lost else usage)
        return said

    def _keep(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        if self.watch is not None:
            self.watch(self.path, exchange)

    def _give_back(self, member: Member, earlier: Exchange, most_tokens: int) -> _Said:
        self._keep(earlier)
        kind, _, message = earlier.error.partition(": ")
        lost = most_tokens if kind == "TimeoutError" else 0
        self.purse.spend(member.engine, earlier.usage + Usage(output_tokens=lost), paid_before=True)
        if kind == "TimeoutError":
            raise TimeoutError(message)
        if earlier.error:
            raise FailedBefore(kind, message)
        return _Said(earlier.completions, earlier.usage.prompt_tokens, earlier.weights)


@dataclass(frozen=True)
class _Said:
    completions: tuple[Completion, ...] = ()
    prompt_tokens: int = 0
    weights: tuple[float, ...] = ()


def as_asked(member: Member, task: Task, messages: Sequence[Message]) -> tuple[Message, ...]:
    """`messages` after the caller's own conversation, if there was one, with the member's persona first of all."""
    whole = (*task.history, *messages)
    if not member.persona:
        return whole
    persona = Part(text=member.persona)
    if whole[0].role != "system":
        return (Message(role="system", parts=(persona,)), *whole)
    # Two system turns in a row are more than many templates take.
    return (Message(role="system", parts=(persona, Part(text="\n\n"), *whole[0].parts)), *whole[1:])
