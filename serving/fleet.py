"""All engines behind one `Engine`: every request goes to a replica of the engine its member names; usage adds up."""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import NoReturn, TypeVar, cast

from mesh.engine import Engine, EngineError
from mesh.types import Completion, Member, Message, Profile, Sampling, Score, Usage
from serving.adapters import Adapter, AdapterHost
from serving.hosting import EngineDied
from serving.pool import Pool
from serving.replica import AsksLoad, LocalReplica, Replica, ReplicaLoad, Sleeper
from serving.requests import Answer, Request, Requests
from serving.routing import prefix_affinity
from serving.ticket import Ticket

_Result = TypeVar("_Result")


class Fleet:
    """Implements `Engine` over named engines, each one or several replicas. Holds no process of its own.

    A request whose replica dies, goes out of reach or is busy is asked of another one, or again when it is back, under
    one id, until its time is up; see `Pool.ask`. `usage` counts what went through this object and succeeded; a choice
    or a score counts as one call, without tokens.
    """

    def __init__(self, engines: Mapping[str, Engine | Sequence[Engine]]) -> None:
        if not engines:
            raise ValueError("a fleet needs at least one engine, got none; name one in serving.engines")
        self._replicas = {name: _as_tuple(given) for name, given in engines.items()}
        without = [name for name, replicas in self._replicas.items() if not replicas]
        if without:
            raise ValueError(f"expected at least one replica of every engine, got none of {', '.join(without)}")
        self._pools = {
            name: Pool(name, [_as_replica(name, engine) for engine in replicas])
            for name, replicas in self._replicas.items()
        }
        self._usage = dict.fromkeys(self._pools, Usage())
        self._requests = Requests()

    @property
    def engines(self) -> Mapping[str, Engine]:
        """The first replica of every engine, by the engine's name."""
        return {name: replicas[0] for name, replicas in self._replicas.items()}

    @property
    def replicas(self) -> Mapping[str, tuple[Engine, ...]]:
        """Every replica of every engine, by the engine's name."""
        return dict(self._replicas)

    @property
    def usage(self) -> Mapping[str, Usage]:
        """Tokens, calls and seconds by engine name, since this object was made."""
        return dict(self._usage)

    @property
    def total_usage(self) -> Usage:
        """Sum over all engines."""
        return Usage.total(self._usage.values())

    def load(self) -> Mapping[str, tuple[ReplicaLoad, ...]]:
        """What is known of every replica, by engine name; nobody is asked."""
        return {name: pool.load() for name, pool in self._pools.items()}

    async def ask_load(self) -> Mapping[str, tuple[ReplicaLoad, ...]]:
        """As `load`, with every replica asked; one that does not answer within seconds says so in `trouble`."""
        engines = [engine for replicas in self._replicas.values() for engine in replicas]
        await asyncio.gather(*(engine.ask_load() for engine in engines if isinstance(engine, AsksLoad)))
        return self.load()

    def for_ticket(self, ticket: Ticket) -> TicketedFleet:
        """The same fleet, with `ticket` on every request."""
        return TicketedFleet(self, ticket)

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling, *, ticket: Ticket | None = None
    ) -> tuple[tuple[Completion, ...], int]:
        """As `Engine.complete`. Raises EngineError, naming the nearest engine, if there is none of that name."""
        started = time.perf_counter()
        request = self._requests.new("complete", member, messages, sampling, _rank(ticket))
        completions, prompt_tokens = cast(tuple[tuple[Completion, ...], int], await self._ask(request, ticket))
        output_tokens = sum(completion.output_tokens for completion in completions)
        self._count(member.engine, started, prompt_tokens, output_tokens)
        return completions, prompt_tokens

    async def choose(
        self, member: Member, messages: Sequence[Message], labels: Sequence[str], *, ticket: Ticket | None = None
    ) -> tuple[float, ...]:
        """As `Engine.choose`."""
        started = time.perf_counter()
        request = self._requests.new("choose", member, messages, tuple(labels), _rank(ticket))
        weights = cast(tuple[float, ...], await self._ask(request, ticket))
        self._count(member.engine, started)
        return weights

    async def score(
        self, member: Member, messages: Sequence[Message], text: str, *, ticket: Ticket | None = None
    ) -> Score:
        """As `Engine.score`."""
        started = time.perf_counter()
        score = await self._ask(self._requests.new("score", member, messages, text, _rank(ticket)), ticket)
        self._count(member.engine, started)
        return cast(Score, score)

    async def count_tokens(self, member: Member, messages: Sequence[Message], *, ticket: Ticket | None = None) -> int:
        """As `Engine.count_tokens`."""
        request = self._requests.new("count_tokens", member, messages, rank=_rank(ticket))
        return cast(int, await self._ask(request, ticket))

    async def profile(self, member: Member, *, ticket: Ticket | None = None) -> Profile:
        """As `Engine.profile`."""
        return cast(Profile, await self._ask(self._requests.new("profile", member, rank=_rank(ticket)), ticket))

    async def load_adapter(self, engine_name: str, adapter: Adapter) -> float:
        """Makes `adapter` usable by members of one engine, on all of its replicas; returns the seconds of the slowest.

        A replica that restarts is waited for; one that has died for good does not keep the others from it. Raises
        EngineError if one of them fails; what the others have loaded stays, and a second call is not in vain.
        """
        return max(_of_all(await _tried(host.load_adapter(adapter) for host in self._hosts(engine_name))))

    async def retire_adapter(self, engine_name: str, adapter_hash: str) -> None:
        """Takes an adapter out of all replicas of one engine. Raises EngineError if none of them held it."""
        tried = await _tried(host.retire_adapter(adapter_hash) for host in self._hosts(engine_name))
        if all(isinstance(result, BaseException) for result in tried):
            _of_all(tried)

    async def sleep(self, engine_name: str) -> None:
        """Has all replicas of one engine give their GPU memory back; requests wait. Raises EngineError."""
        _of_all(await _tried(sleeper.sleep() for sleeper in self._sleepers(engine_name)))

    async def wake(self, engine_name: str) -> None:
        """Undoes `sleep`."""
        _of_all(await _tried(sleeper.wake() for sleeper in self._sleepers(engine_name)))

    def _hosts(self, name: str) -> list[AdapterHost]:
        """Replicas that adapters go to; one that does not come back must not keep new ones from the others."""
        states = [load.state for load in self._pool(name).load()]
        everyone = self._replicas[name]
        living = [engine for engine, state in zip(everyone, states, strict=True) if state != "dead"]
        engines = living or everyone
        hosts: list[AdapterHost] = [engine for engine in engines if isinstance(engine, AdapterHost)]
        if len(hosts) < len(engines):
            raise EngineError(f"engine {name!r} ({type(engines[0]).__name__}) takes no adapters; use a vllm engine")
        return hosts

    def _sleepers(self, name: str) -> list[Sleeper]:
        self._pool(name)
        engines = self._replicas[name]
        sleepers: list[Sleeper] = [engine for engine in engines if isinstance(engine, Sleeper)]
        if len(sleepers) < len(engines):
            raise EngineError(f"engine {name!r} ({type(engines[0]).__name__}) cannot sleep; train on separate GPUs")
        return sleepers

    async def _ask(self, request: Request, ticket: Ticket | None) -> Answer:
        affinity = ticket.affinity if ticket is not None else ""
        # A person is told at once that there is no room, and may come back; a job has all night.
        may_wait = ticket is None or ticket.priority != "interactive"
        pool = self._pool(request.member.engine)
        return await pool.ask(request, affinity or prefix_affinity(request.messages), may_wait=may_wait)

    def _pool(self, name: str) -> Pool:
        pool = self._pools.get(name)
        return pool if pool is not None else self._unknown(name)

    def _unknown(self, name: str) -> NoReturn:
        nearest = difflib.get_close_matches(name, self._pools, n=1, cutoff=0.0)[0]
        raise EngineError(f"no engine is named {name!r}; did you mean {nearest!r}? Running: {', '.join(self._pools)}")

    def _count(self, name: str, started: float, prompt_tokens: int = 0, output_tokens: int = 0) -> None:
        seconds = time.perf_counter() - started
        self._usage[name] += Usage(
            prompt_tokens=prompt_tokens, output_tokens=output_tokens, num_calls=1, seconds=seconds
        )


class TicketedFleet:
    """The `Engine` of one task: a fleet with the task's ticket on every request."""

    def __init__(self, fleet: Fleet, ticket: Ticket) -> None:
        self._fleet = fleet
        self._ticket = ticket

    def for_ticket(self, ticket: Ticket) -> TicketedFleet:
        """The same fleet with another ticket instead."""
        return TicketedFleet(self._fleet, ticket)

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[tuple[Completion, ...], int]:
        """As `Engine.complete`."""
        return await self._fleet.complete(member, messages, sampling, ticket=self._ticket)

    async def choose(self, member: Member, messages: Sequence[Message], labels: Sequence[str]) -> tuple[float, ...]:
        """As `Engine.choose`."""
        return await self._fleet.choose(member, messages, labels, ticket=self._ticket)

    async def score(self, member: Member, messages: Sequence[Message], text: str) -> Score:
        """As `Engine.score`."""
        return await self._fleet.score(member, messages, text, ticket=self._ticket)

    async def count_tokens(self, member: Member, messages: Sequence[Message]) -> int:
        """As `Engine.count_tokens`."""
        return await self._fleet.count_tokens(member, messages, ticket=self._ticket)

    async def profile(self, member: Member) -> Profile:
        """As `Engine.profile`."""
        return await self._fleet.profile(member, ticket=self._ticket)


async def _tried(acts: Iterable[Awaitable[_Result]]) -> list[_Result | BaseException]:
    """What each of them gives or raises, once all have ended."""
    return await asyncio.gather(*acts, return_exceptions=True)


def _of_all(results: Sequence[_Result | BaseException]) -> list[_Result]:
    """What those gave that live; the first one's error if one of them failed, or all have died."""
    failed = [result for result in results if isinstance(result, BaseException)]
    for error in sorted(failed, key=lambda error: isinstance(error, EngineDied)):
        if not isinstance(error, EngineDied) or len(failed) == len(results):
            raise error
    return [result for result in results if not isinstance(result, BaseException)]


def _rank(ticket: Ticket | None) -> int:
    return ticket.rank if ticket is not None else 0


def _as_tuple(given: Engine | Sequence[Engine]) -> tuple[Engine, ...]:
    return tuple(given) if isinstance(given, Sequence) else (given,)


def _as_replica(name: str, engine: Engine) -> Replica:
    return engine if isinstance(engine, Replica) else LocalReplica(name, engine)
