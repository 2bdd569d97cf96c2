"""A frozen pool in front of an engine: what a member was asked once is never drawn again, so protocols pair up."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from memory.ledger import Ledger
from memory.types import content_hash
from mesh.engine import Engine
from mesh.seeds import derive_seed
from mesh.types import Completion, Member, Message, Profile, Sampling, Score


class FrozenEngine:
    """Implements `Engine`: the first k samples of a question are the same for whoever asks for k of them.

    Seeds of requests are ignored: a question (member, messages, sampling but for seed and number) has one sequence of
    samples, of which every request gets the beginning. What a protocol would have cost is in its own trace; what was
    really drawn is counted in `drawn_tokens`. With a `path` the pool survives the process; it is one line a draw.

    Not promised: independence between two protocols on one pool. That is its purpose: they are paired.
    """

    def __init__(self, engine: Engine, *, seed: int, path: Path | None = None) -> None:
        """Raises LedgerError if the file at `path` is damaged."""
        self._engine, self._seed = engine, seed
        self._samples: dict[str, list[Completion]] = defaultdict(list)
        self._values: dict[str, tuple[float, ...]] = {}
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._prompt_tokens: dict[str, int] = {}
        self._ledger = None if path is None else Ledger(path)
        self.drawn_tokens = 0
        for entry in [] if self._ledger is None else self._ledger.entries():
            key, payload = entry.payload["key"], entry.payload
            if entry.kind == "samples":
                self._samples[key] += [Completion.model_validate(one) for one in payload["completions"]]
                self._prompt_tokens[key] = payload["prompt_tokens"]
            else:
                self._values[key] = tuple(payload["values"])

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[tuple[Completion, ...], int]:
        """As `Engine.complete`; only samples beyond those known are drawn."""
        free = sampling.model_copy(update={"seed": 0, "num_samples": 1})
        key = _key("complete", member, messages, free.model_dump(mode="json"))
        async with self._locks[key]:
            known = self._samples[key]
            missing = sampling.num_samples - len(known)
            if missing > 0:
                seed = derive_seed(self._seed, key, len(known))
                wanted = free.model_copy(update={"seed": seed, "num_samples": missing})
                drawn, self._prompt_tokens[key] = await self._engine.complete(member, messages, wanted)
                known += drawn
                self.drawn_tokens += sum(one.output_tokens for one in drawn)
                kept = [one.model_dump(mode="json") for one in drawn]
                self._keep("samples", key, {"completions": kept, "prompt_tokens": self._prompt_tokens[key]})
            return tuple(known[: sampling.num_samples]), self._prompt_tokens[key]

    async def choose(self, member: Member, messages: Sequence[Message], labels: Sequence[str]) -> tuple[float, ...]:
        """As `Engine.choose`, asked once."""
        key = _key("choose", member, messages, list(labels))
        async with self._locks[key]:
            if key not in self._values:
                self._values[key] = await self._engine.choose(member, messages, labels)
                self._keep("values", key, {"values": list(self._values[key])})
            return self._values[key]

    async def score(self, member: Member, messages: Sequence[Message], text: str) -> Score:
        """As `Engine.score`, asked once."""
        key = _key("score", member, messages, text)
        async with self._locks[key]:
            if key not in self._values:
                score = await self._engine.score(member, messages, text)
                self._values[key] = (score.log_prob, float(score.num_tokens), float(score.num_bytes))
                self._keep("values", key, {"values": list(self._values[key])})
            log_prob, num_tokens, num_bytes = self._values[key]
            return Score(log_prob=log_prob, num_tokens=int(num_tokens), num_bytes=int(num_bytes))

    async def count_tokens(self, member: Member, messages: Sequence[Message]) -> int:
        """As `Engine.count_tokens`, asked once."""
        key = _key("count", member, messages, None)
        if key not in self._prompt_tokens:
            self._prompt_tokens[key] = await self._engine.count_tokens(member, messages)
        return self._prompt_tokens[key]

    async def profile(self, member: Member) -> Profile:
        """As `Engine.profile`."""
        return await self._engine.profile(member)

    def _keep(self, kind: str, key: str, payload: dict[str, object]) -> None:
        if self._ledger is not None:
            self._ledger.append(kind, {"key": key, **payload})


def _key(verb: str, member: Member, messages: Sequence[Message], more: object) -> str:
    asked = [message.model_dump(mode="json") for message in messages]
    return content_hash([verb, member.name, member.adapter, asked, more])
