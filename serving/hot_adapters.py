"""Keeps the adapters that are used in an engine's memory: brings in on demand, puts out what is idle, or waits."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mesh.engine import EngineError
from serving.hot_set import Warm, place_for


@dataclass(order=True)
class _Waiter:
    rank: int
    order: int
    turn: asyncio.Future[None] = field(compare=False)


class HotAdapters:
    """At most `capacity` adapters are in memory; requests for others wait their turn, the smallest rank first.

    `bring` and `send` put one adapter into the engine and take it out; of all of them one runs at a time, and requests
    for adapters that are in go on meanwhile. Belongs to one event loop.
    """

    def __init__(
        self, capacity: int, bring: Callable[[str], Awaitable[None]], send: Callable[[str], Awaitable[None]]
    ) -> None:
        self._capacity = capacity
        self._bring = bring
        self._send = send
        self._warm: dict[str, Warm] = {}
        self._retiring: dict[str, asyncio.Future[None]] = {}
        self._waiting: dict[str, list[_Waiter]] = {}
        self._move: asyncio.Future[None] | None = None
        self._moved = ""
        self._ticks = itertools.count(1)
        self.num_brought = 0
        self.num_evicted = 0

    @property
    def warm(self) -> Mapping[str, Warm]:
        """What is in memory."""
        return self._warm

    @asynccontextmanager
    async def held(self, adapter: str, rank: int = 0) -> AsyncIterator[None]:
        """The adapter is in memory while the context lasts. Raises what `bring` raised if it cannot be."""
        await self._enter(adapter, rank)
        try:
            yield
        finally:
            self._leave(adapter)

    async def retire(self, adapter: str) -> None:
        """Refuses requests that wait for it, and takes it out once none uses it; returns when it is out."""
        for waiter in self._waiting.pop(adapter, []):
            _refuse(waiter, EngineError(f"adapter {adapter[:12]} was retired while a request waited for it"))
        out = self._retiring.setdefault(adapter, asyncio.get_running_loop().create_future())
        self._pump()
        await asyncio.shield(out)

    def clear(self) -> None:
        """Forgets everything, as the end of the engine does."""
        self._warm.clear()
        for waiter in itertools.chain.from_iterable(self._waiting.values()):
            _refuse(waiter, EngineError("the engine was shut down while a request waited for an adapter"))
        self._waiting.clear()

    async def _enter(self, adapter: str, rank: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting.setdefault(adapter, []), _Waiter(rank, next(self._ticks), turn))
        self._pump()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                # It was let on in the same moment.
                self._leave(adapter)
            raise

    def _leave(self, adapter: str) -> None:
        state = self._warm.get(adapter)
        if state is not None:
            self._warm[adapter] = Warm(max(0, state.num_users - 1), state.num_served, next(self._ticks))
            self._pump()

    def _pump(self) -> None:
        """Lets on whoever can go on, in order of rank and time, and begins a move if one is due."""
        for adapter in [*self._waiting]:
            self._live_waiters(adapter)
        # First: who waits for a retired adapter can have it brought in anew only after it is out.
        for adapter in [*self._retiring]:
            self._send_out(adapter)
        for adapter in sorted(self._waiting, key=lambda adapter: self._waiting[adapter][0]):
            self._serve(adapter)

    def _send_out(self, adapter: str) -> None:
        """Retires one: now, once it is idle, or once the move it is in has ended."""
        state = self._warm.get(adapter)
        if state is None and self._moved != adapter:
            self._retiring.pop(adapter).set_result(None)
        elif state is not None and state.num_users == 0 and self._move is None:
            del self._warm[adapter]
            self._begin(adapter, self._send(adapter), comes_in=False)

    def _serve(self, adapter: str) -> None:
        while waiters := self._live_waiters(adapter):
            # Whoever comes later has no say in who makes room.
            ahead = [other for other, theirs in self._waiting.items() if theirs[0] <= waiters[0]]
            place = place_for(adapter, self._warm, ahead, self._capacity)
            if place.act == "bring" and self._move is None:
                if place.evict is not None:
                    del self._warm[place.evict]
                    self.num_evicted += 1
                self._begin(adapter, self._exchange(adapter, place.evict), comes_in=True)
            if place.act != "go" or adapter in self._retiring:
                return
            state = self._warm[adapter]
            self._warm[adapter] = Warm(state.num_users + 1, state.num_served + 1, next(self._ticks))
            heapq.heappop(waiters).turn.set_result(None)

    def _live_waiters(self, adapter: str) -> list[_Waiter]:
        """Those that wait for it, the next one first, without those that gave up."""
        waiters = self._waiting.get(adapter, [])
        while waiters and waiters[0].turn.done():
            heapq.heappop(waiters)
        if not waiters:
            self._waiting.pop(adapter, None)
        return waiters

    async def _exchange(self, adapter: str, evict: str | None) -> None:
        if evict is not None:
            await self._send(evict)
        await self._bring(adapter)
        self.num_brought += 1

    def _begin(self, adapter: str, move: Awaitable[None], *, comes_in: bool) -> None:
        self._move, self._moved = asyncio.ensure_future(move), adapter
        self._move.add_done_callback(lambda task: self._ended(task, comes_in=comes_in))

    def _ended(self, move: asyncio.Future[None], *, comes_in: bool) -> None:
        adapter, self._move, self._moved = self._moved, None, ""
        error = EngineError("the engine was shut down") if move.cancelled() else move.exception()
        if error is None and comes_in:
            self._warm[adapter] = Warm(last_used=next(self._ticks))
            # Before anybody else: put out again unused, it would have been brought in for nothing.
            self._serve(adapter)
        elif error is not None and comes_in:
            for waiter in self._waiting.pop(adapter, []):
                _refuse(waiter, error)
        elif error is not None:
            self._retiring.pop(adapter).set_exception(error)
        self._pump()


def _refuse(waiter: _Waiter, error: BaseException) -> None:
    if not waiter.turn.done():
        waiter.turn.set_exception(error)
