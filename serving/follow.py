"""Follows a channel: fetch, load on every replica, canary, switch; the old seats answer until the new ones do."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

from memory.ledger import AlreadyLocked
from mesh.engine import Engine, EngineError
from mesh.types import Member
from serving.adapter_share import ShareError, shared_adapters
from serving.adapters import Adapter, AdapterCorrupt, AdapterMissing, AdapterStore
from serving.canary import CanaryError, check_seat
from serving.channels import Channel, ChannelError, Current, check_channel_name
from serving.config import ServingConfig
from serving.follow_state import LEASES, Followed, FollowState
from serving.leases import AdapterKey, Lease
from serving.replica import ReplicaLoad
from serving.roster import Roster

_Result = TypeVar("_Result")

MAX_FALLBACKS = 3
"""Earlier rosters that are tried at the start when the newest cannot be used."""

LAST_RETRY_S = 120.0
MAX_RETIRE_TRIES = 3

CANNOT_USE = (
    *(ChannelError, AdapterMissing, AdapterCorrupt, ShareError, CanaryError, EngineError),
    *(OSError, TimeoutError),
)
"""Why a roster cannot be used; anything else is a defect."""


class ServedFleet(Protocol):
    """What a follower asks of a fleet."""

    @property
    def replicas(self) -> Mapping[str, tuple[Engine, ...]]:
        """Every replica of every engine, by the engine's name."""
        ...

    def load(self) -> Mapping[str, tuple[ReplicaLoad, ...]]:
        """What is known of every replica, by engine name; nobody is asked."""
        ...

    async def load_adapter(self, engine_name: str, adapter: Adapter) -> float:
        """Makes `adapter` usable on every replica of one engine. Raises EngineError."""
        ...

    async def retire_adapter(self, engine_name: str, adapter_hash: str) -> None:
        """Takes it out of every replica. Raises EngineError."""
        ...


@dataclass(eq=False)
class _InUse:
    roster: Roster
    num_holders: int = 0


class RosterFollower:
    """`SeatSource` of a channel. Nothing in it is shared with the processes that publish, but the directory.

    A roster that cannot be fetched, loaded or does not answer its canaries is tried again from time to time, and the
    one before stays in force meanwhile. An adapter is retired once no task here and no other follower needs it.
    """

    def __init__(
        self,
        channel_dir: Path,
        fleet: ServedFleet,
        store: AdapterStore,
        *,
        alone: bool = False,
        poll_s: float = 0.25,
        canary_timeout_s: float = 60.0,
        first_retry_s: float = 1.0,
        told: Callable[[FollowState], None] = lambda state: None,
    ) -> None:
        """`store`: where adapters are on this node, usually `SharedAdapters`. `told`: of every change of state.
        `first_retry_s`: seconds before a roster that could not be used is tried again; doubled every time.

        alone: the single best base member answers alone, as `serve --safe` has it. Raises ChannelError for an odd name.
        """
        self._channel = Channel(channel_dir.parent, channel_dir.name)
        self._fleet = fleet
        self._store = store
        self._alone = alone
        self._poll_s = poll_s
        self._canary_timeout_s = canary_timeout_s
        self._told = told
        self._state = FollowState(channel=self._channel.name)
        self._now: _InUse | None = None
        self._before: list[_InUse] = []
        self._loaded: dict[AdapterKey, int] = {}
        self._lease: Lease | None = None
        self._task: asyncio.Task[None] | None = None
        self._seen: tuple[int, int, int] | None = None
        self._processes: frozenset[tuple[str, int, int | None, int]] = frozenset()
        self._first_retry_s = first_retry_s
        self._retry_at, self._retry_s = 0.0, first_retry_s

    @property
    def state(self) -> FollowState:
        """How far it is."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            return self._state.model_copy(update={"error": f"following ended: {self._task.exception()!r}"})
        return self._state

    async def start(self) -> Roster:
        """Puts the channel's roster in force, or an earlier one if that cannot be used, and follows from then on.

        Raises:
            ChannelError: there is no such channel, or none of its last rosters can be used.
        """
        self._seen = self._sign()
        current = self._channel.current()
        self._lease = Lease(self._channel.directory.parent / LEASES)
        try:
            self._note(wanted=current.standing.roster, is_frozen=current.standing.is_frozen)
            in_use = await self._first(current)
        except BaseException:
            self._lease.close()
            self._lease = None
            raise
        self._task = asyncio.create_task(self._follow())
        return in_use

    async def stop(self) -> None:
        """Follows no longer. What is loaded stays loaded: the fleet may be somebody else's too."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._lease is not None:
            self._lease.close()
            self._lease = None

    async def __aenter__(self) -> RosterFollower:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Roster]:
        """As `SeatSource.held`. Raises ChannelError before the first roster is in force."""
        in_use = self._now
        if in_use is None:
            raise ChannelError(f"channel {self._channel.name!r}: expected a roster in force, there is none yet")
        in_use.num_holders += 1
        try:
            yield in_use.roster
        finally:
            in_use.num_holders -= 1

    async def _first(self, current: Current) -> Roster:
        errors = []
        for roster_id in current.standing.line[: -MAX_FALLBACKS - 2 : -1]:
            try:
                return await self._use(self._channel.roster(roster_id))
            except CANNOT_USE as error:
                errors.append(f"{roster_id}: {error}")
                self._failed(error)
        listed = "".join(f"\n- {error}" for error in errors) or " nothing was promoted to it"
        raise ChannelError(f"channel {self._channel.name!r}: expected a roster that can be used:{listed}")

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            await self._look()
            await self._load_where_new()
            await self._retire_unneeded()

    async def _look(self) -> None:
        sign = self._sign()
        is_due = self._state.wanted != self._state.roster and time.monotonic() >= self._retry_at
        if sign == self._seen and not is_due:
            return
        if sign != self._seen:
            self._seen, self._retry_s = sign, self._first_retry_s
        try:
            current = self._channel.current()
            standing = current.standing
            if current.roster is None:
                raise ChannelError(f"channel {self._channel.name!r}: nothing is promoted to it")
            self._note(wanted=standing.roster, is_frozen=standing.is_frozen)
            if standing.roster == self._state.roster:
                self._note(error="")
            else:
                await self._use(current.roster)
        except CANNOT_USE as error:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)
        self._note(error=str(error) or type(error).__name__)

    async def _use(self, roster: Roster) -> Roster:
        started = time.perf_counter()
        seats = roster.alone() if self._alone else roster
        await self._prepare(seats)
        if self._now is not None:
            self._before.append(self._now)
        self._now = _InUse(seats)
        self._retry_s = self._first_retry_s
        self._note(
            roster=roster.id,
            source=roster.source,
            error="" if roster.id == self._state.wanted else self._state.error,
            since=time.time(),
            switch_s=time.perf_counter() - started,
            num_switches=self._state.num_switches + (self._state.roster is not None),
        )
        return seats

    async def _prepare(self, roster: Roster) -> None:
        """Everything that can fail, while the roster before is still in force."""
        missing = sorted({member.engine for member in roster.everyone} - self._fleet.replicas.keys())
        if missing:
            running = ", ".join(self._fleet.replicas)
            raise EngineError(f"roster {roster.id}: expected engines {', '.join(missing)}; running: {running}")
        self._processes = self._processes_now()
        await self._load(roster.adapters)
        await _all(
            check_seat(replica, member, timeout_s=self._canary_timeout_s)
            for member in _one_each(roster.everyone)
            for replica in self._living(member.engine)
        )

    def _living(self, engine: str) -> list[Engine]:
        """Its replicas but those that do not come back; all of them if none does."""
        replicas = self._fleet.replicas[engine]
        living = [one for one, known in zip(replicas, self._fleet.load()[engine], strict=True) if known.state != "dead"]
        return living or list(replicas)

    async def _load(self, keys: Sequence[AdapterKey]) -> None:
        adapters = await _all(asyncio.to_thread(self._store.get, adapter) for _, adapter in keys)
        await self._take(keys)
        await _all(
            self._fleet.load_adapter(engine, adapter) for (engine, _), adapter in zip(keys, adapters, strict=True)
        )

    async def _load_where_new(self) -> None:
        """A process that took another's place on another node may have found nothing to load again there."""
        processes = self._processes_now()
        if processes == self._processes or time.monotonic() < self._retry_at:
            return
        try:
            await self._load(sorted(self._needed()))
        except CANNOT_USE as error:
            self._failed(error)
        else:
            self._processes = processes
            if self._state.wanted == self._state.roster:
                self._note(error="")

    def _processes_now(self) -> frozenset[tuple[str, int, int | None, int]]:
        return frozenset(
            (one.engine, one.replica, one.pid, one.restarts) for known in self._fleet.load().values() for one in known
        )

    def _needed(self) -> set[AdapterKey]:
        """Adapters of the roster in force, and of those before it that a task still holds."""
        in_use = [*self._before, *([self._now] if self._now is not None else [])]
        return {key for one in in_use for key in one.roster.adapters}

    async def _take(self, adapters: Iterable[AdapterKey]) -> None:
        """Says that these are needed before they are loaded; waits while somebody unloads."""
        self._loaded |= dict.fromkeys(adapters, 0)
        while self._lease is not None:
            try:
                with self._lease.guard():
                    self._lease.hold(self._loaded)
                return
            except AlreadyLocked:
                await asyncio.sleep(0.02)

    async def _retire_unneeded(self) -> None:
        self._before = [old for old in self._before if old.num_holders]
        needed = self._needed()
        unneeded = [key for key in self._loaded if key not in needed]
        if not unneeded or self._lease is None:
            return
        try:
            with self._lease.guard():
                others = self._lease.others()
                for key in unneeded:
                    if key not in others:
                        await self._retire(key)
                self._lease.hold(key for key in self._loaded if key in needed)
        except AlreadyLocked:
            return

    async def _retire(self, key: AdapterKey) -> None:
        try:
            await self._fleet.retire_adapter(*key)
        except EngineError:
            # A replica that restarts, or lost it: worth another try, but not for ever.
            self._loaded[key] += 1
            if self._loaded[key] < MAX_RETIRE_TRIES:
                return
        del self._loaded[key]

    def _sign(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._channel.current_file)
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _note(self, **changes: object) -> None:
        before, self._state = self._state, self._state.model_copy(update=changes)
        if self._state == before:
            return
        if self._lease is not None:
            self._lease.tell(Followed(host=socket.gethostname(), pid=os.getpid(), state=self._state))
        self._told(self._state)


def follow_channel(config: ServingConfig, channel: str, fleet: ServedFleet, *, alone: bool = False) -> RosterFollower:
    """A follower of `channel` where `config` says that channels and adapters are; enter it, or `start` it."""
    return RosterFollower(config.channels / check_channel_name(channel), fleet, shared_adapters(config), alone=alone)


def _one_each(members: Iterable[Member]) -> Iterable[Member]:
    """One member for every engine and adapter: two seats on one base are one thing to check."""
    return {(guise.engine, guise.adapter): guise for member in members for guise in member.guises}.values()


async def _all(work: Iterable[Awaitable[_Result]]) -> list[_Result]:
    """All results, or the first error once nothing is under way any more."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
