"""Calls to members: each one seeded, timed, limited and recorded whole."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from mesh.engine import Engine, EngineError
from mesh.seeds import derive_seed
from mesh.types import Completion, Exchange, Member, Message, Phase, Sampling, Task, Usage


@dataclass
class Caller:
    """Everything one deliberation says to its engine goes through here; failed calls are recorded too.

    Raises what the engine raises (EngineError) and TimeoutError; turning that into a record is the caller's business.
    """

    engine: Engine
    task: Task
    seed: int
    timeout_s: float
    max_tokens_total: int | None
    exchanges: list[Exchange] = field(default_factory=list)
    lost_tokens: int = 0

    @property
    def tokens_left(self) -> int | None:
        """Output tokens that may still be asked for; None: no limit. A call that timed out counts in full."""
        if self.max_tokens_total is None:
            return None
        spent = sum(exchange.usage.output_tokens for exchange in self.exchanges)
        return max(self.max_tokens_total - spent - self.lost_tokens, 0)

    def seed_for(self, member: str, phase: str, number: int) -> int:
        """The seed of one member's part in one phase of one round."""
        return derive_seed(self.seed, self.task.id, member, phase, number)

    async def complete(
        self, member: Member, phase: Phase, number: int, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[Completion, ...]:
        """`sampling.num_samples` completions, at least one; the seed of `sampling` is replaced."""
        sampling = sampling.model_copy(update={"seed": self.seed_for(member.name, phase, number)})
        completions: tuple[Completion, ...] = ()
        started, prompt_tokens = time.perf_counter(), 0
        try:
            async with asyncio.timeout(self.timeout_s):
                completions, prompt_tokens = await self.engine.complete(member, messages, sampling)
        except TimeoutError:
            # The engine may have written all of it before the clock ran out; nobody can tell.
            self.lost_tokens += sampling.max_tokens * sampling.num_samples
            raise
        finally:
            self._record(member, phase, number, messages, completions, prompt_tokens, started)
        if not completions:
            raise EngineError(f"expected {sampling.num_samples} completions from {member.engine}, got none")
        return completions

    async def choose(
        self, member: Member, number: int, messages: Sequence[Message], labels: Sequence[str]
    ) -> tuple[float, ...]:
        """Probability of each label, summing to 1. Recorded as one completion of one token: the likeliest label."""
        completions: tuple[Completion, ...] = ()
        started, prompt_tokens = time.perf_counter(), 0
        try:
            async with asyncio.timeout(self.timeout_s):
                weights = await self.engine.choose(member, messages, labels)
                prompt_tokens = await self.engine.count_tokens(member, messages)
            total = sum(weights)
            if len(weights) != len(labels) or min(weights) < 0.0 or not 0.0 < total < math.inf:
                raise EngineError(f"expected {len(labels)} probabilities from {member.engine}, got {weights}")
            likeliest = labels[max(range(len(labels)), key=lambda i: weights[i])]
            completions = (Completion(text=likeliest, output_tokens=1, adapter=member.adapter),)
        except TimeoutError:
            self.lost_tokens += 1
            raise
        finally:
            self._record(member, "vote", number, messages, completions, prompt_tokens, started)
        return tuple(weight / total for weight in weights)

    def _record(
        self,
        member: Member,
        phase: Phase,
        number: int,
        messages: Sequence[Message],
        completions: tuple[Completion, ...],
        prompt_tokens: int,
        started: float,
    ) -> None:
        usage = Usage(
            prompt_tokens=prompt_tokens,
            output_tokens=sum(completion.output_tokens for completion in completions),
            num_calls=1,
            seconds=time.perf_counter() - started,
        )
        self.exchanges.append(
            Exchange(
                member=member.name,
                phase=phase,
                round=number,
                messages=tuple(messages),
                completions=completions,
                usage=usage,
            )
        )
