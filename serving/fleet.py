"""All engines behind one `Engine`: every request goes to the engine its member names, and usage adds up."""

from __future__ import annotations

import difflib
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

from mesh.engine import Engine, EngineError
from mesh.types import Completion, Member, Message, Profile, Sampling, Score, Usage
from serving.adapters import Adapter, AdapterHost


class Fleet:
    """Implements `Engine` over named engines. Holds no connection and no process of its own.

    `usage` counts what went through this object and succeeded; a choice or a score counts as one call, without
    tokens.
    """

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        if not engines:
            raise ValueError("a fleet needs at least one engine, got none; name one in serving.engines")
        self._engines = dict(engines)
        self._usage = dict.fromkeys(self._engines, Usage())

    @property
    def engines(self) -> Mapping[str, Engine]:
        """The engines by name."""
        return self._engines

    @property
    def usage(self) -> Mapping[str, Usage]:
        """Tokens, calls and seconds by engine name, since this object was made."""
        return dict(self._usage)

    @property
    def total_usage(self) -> Usage:
        """Sum over all engines."""
        return Usage.total(self._usage.values())

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[tuple[Completion, ...], int]:
        """As `Engine.complete`. Raises EngineError, naming the nearest engine, if there is none of that name."""
        engine, started = self._engine(member.engine), time.perf_counter()
        completions, prompt_tokens = await engine.complete(member, messages, sampling)
        output_tokens = sum(completion.output_tokens for completion in completions)
        self._count(member.engine, started, prompt_tokens, output_tokens)
        return completions, prompt_tokens

    async def choose(self, member: Member, messages: Sequence[Message], labels: Sequence[str]) -> tuple[float, ...]:
        """As `Engine.choose`."""
        engine, started = self._engine(member.engine), time.perf_counter()
        weights = await engine.choose(member, messages, labels)
        self._count(member.engine, started)
        return weights

    async def score(self, member: Member, messages: Sequence[Message], text: str) -> Score:
        """As `Engine.score`."""
        engine, started = self._engine(member.engine), time.perf_counter()
        score = await engine.score(member, messages, text)
        self._count(member.engine, started)
        return score

    async def count_tokens(self, member: Member, messages: Sequence[Message]) -> int:
        """As `Engine.count_tokens`."""
        return await self._engine(member.engine).count_tokens(member, messages)

    async def profile(self, member: Member) -> Profile:
        """As `Engine.profile`."""
        return await self._engine(member.engine).profile(member)

    async def load_adapter(self, engine_name: str, adapter: Adapter) -> float:
        """Make `adapter` usable by members of one engine; returns seconds. Raises EngineError if that fails."""
        return await self._host(engine_name).load_adapter(adapter)

    async def retire_adapter(self, engine_name: str, adapter_hash: str) -> None:
        """Take an adapter out of one engine. Raises EngineError if the engine does not hold it."""
        await self._host(engine_name).retire_adapter(adapter_hash)

    def _engine(self, name: str) -> Engine:
        engine = self._engines.get(name)
        return engine if engine is not None else self._unknown(name)

    def _host(self, name: str) -> AdapterHost:
        engine = self._engine(name)
        if not isinstance(engine, AdapterHost):
            raise EngineError(f"engine {name!r} ({type(engine).__name__}) takes no adapters; use a vllm engine")
        return engine

    def _unknown(self, name: str) -> NoReturn:
        nearest = difflib.get_close_matches(name, self._engines, n=1, cutoff=0.0)[0]
        raise EngineError(f"no engine is named {name!r}; did you mean {nearest!r}? Running: {', '.join(self._engines)}")

    def _count(self, name: str, started: float, prompt_tokens: int = 0, output_tokens: int = 0) -> None:
        seconds = time.perf_counter() - started
        self._usage[name] += Usage(
            prompt_tokens=prompt_tokens, output_tokens=output_tokens, num_calls=1, seconds=seconds
        )
