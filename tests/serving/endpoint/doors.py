"""Doors for tests: a scripted mesh of two families behind a real server on a free port of the loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from mesh.config import EscalateConfig, ProtocolConfig, SingleConfig, VoteConfig
from mesh.engine import Engine, EngineError
from mesh.types import Completion, Member, Message, Profile, Sampling, Score
from serving.config import ScriptedSpec
from serving.endpoint.app import create_app
from serving.endpoint.config import EndpointConfig
from serving.endpoint.deliberations import DeliberationStore
from serving.endpoint.door import Door
from serving.endpoint.keys import KeyRing
from serving.endpoint.outcomes import OutcomeBook
from serving.endpoint.quota import QuotaBook
from serving.endpoint.requestlog import RequestLog
from serving.endpoint.seats import FixedSeats
from serving.endpoint.server import Closing, bound, serve
from serving.fleet import Fleet
from serving.roster import Roster
from serving.scripted_engine import ScriptedEngine

ADA = Member(name="ada", engine="ada", family="alpha")
BEN = Member(name="ben", engine="ben", family="beta")
PROTOCOLS: dict[str, ProtocolConfig] = {
    "mesh": EscalateConfig(),
    "mesh:vote": VoteConfig(),
    "mesh:single": SingleConfig(),
}
QUESTION = "What is 12 + 30?"


def scripted(**spec: Any) -> Fleet:
    """Two scripted engines that are always right, unless told otherwise."""
    return Fleet(
        {
            member.name: ScriptedEngine(
                ScriptedSpec(**{"name": member.name, "family": member.family, "skill": 1.0, **spec})
            )
            for member in (ADA, BEN)
        }
    )


@dataclass
class Held:
    """An engine whose completions wait until they are let go; it counts them, and those that were cancelled."""

    inner: Engine = field(default_factory=scripted)
    free: asyncio.Event = field(default_factory=asyncio.Event)
    num_asked: int = 0
    num_cancelled: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[tuple[Completion, ...], int]:
        self.num_asked += 1
        self.asked.set()
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        return await self.inner.complete(member, messages, sampling)

    async def choose(self, member: Member, messages: Sequence[Message], labels: Sequence[str]) -> tuple[float, ...]:
        return await self.inner.choose(member, messages, labels)

    async def score(self, member: Member, messages: Sequence[Message], text: str) -> Score:
        return await self.inner.score(member, messages, text)

    async def count_tokens(self, member: Member, messages: Sequence[Message]) -> int:
        return await self.inner.count_tokens(member, messages)

    async def profile(self, member: Member) -> Profile:
        return await self.inner.profile(member)


@dataclass
class Says(Held):
    """An engine that says one thing, and records what it was asked."""

    text: str = "Answer: 42"
    finish_reason: Any = "stop"
    prompts: list[tuple[str, str]] = field(default_factory=list)
    """(member, whole prompt) of each completion."""
    samplings: list[Sampling] = field(default_factory=list)
    fails: frozenset[str] = frozenset()
    """Members whose engine is dead."""

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[tuple[Completion, ...], int]:
        self.prompts.append((member.name, "\n".join(f"{m.role}: {m.text}" for m in messages)))
        self.samplings.append(sampling)
        if member.name in self.fails:
            raise EngineError(f"engine {member.engine!r} is dead")
        said = Completion(text=self.text, output_tokens=len(self.text.split()), finish_reason=self.finish_reason)
        return (said,) * sampling.num_samples, 7


@dataclass
class Opened:
    """A door that is open."""

    door: Door
    url: str
    closing: Closing
    serving: asyncio.Task[None]

    def client(self, **options: Any) -> httpx.AsyncClient:
        """A client of the door."""
        return httpx.AsyncClient(base_url=self.url, timeout=10.0, **options)


def make_door(
    state: Path,
    *,
    engine: Engine | None = None,
    protocols: Mapping[str, ProtocolConfig] = PROTOCOLS,
    seats: Any = None,
    settings: Mapping[str, Any] | None = None,
    **more: Any,
) -> Door:
    """A door over `engine`; `settings` are those of its configuration."""
    config = EndpointConfig(**{"state": state, "port": 0, "keep_alive_s": 0.05, **(settings or {})})
    roster = Roster(channel="local", seats=(ADA, BEN), safe="ada", source="test")
    return Door(
        config=config,
        engine=engine or scripted(),
        seats=seats or FixedSeats(roster),
        protocols=protocols,
        keys=KeyRing(state / "keys.json"),
        quota=QuotaBook(state / "quotas.json"),
        store=DeliberationStore(state / "deliberations", config.keep_traces),
        log=RequestLog(state),
        outcomes=OutcomeBook(state),
        **more,
    )


@asynccontextmanager
async def opened(state: Path, **more: Any) -> AsyncIterator[Opened]:
    """A served door, closed at the end."""
    door = make_door(state, **more)
    listener, closing, up = bound("127.0.0.1", 0), Closing(), asyncio.Event()
    serving = asyncio.create_task(serve(create_app(door), door, listener, closing, up.set))
    await up.wait()
    try:
        yield Opened(door, f"http://127.0.0.1:{listener.getsockname()[1]}", closing, serving)
    finally:
        closing.asked.set()
        closing.hurried.set()
        await asyncio.wait_for(serving, 10.0)


def ask(content: Any = QUESTION, **more: Any) -> dict[str, Any]:
    """A request to the mesh."""
    return {"model": "mesh", "messages": [{"role": "user", "content": content}], "mesh": {"answer": "number"}, **more}
