"""How much is taken in: so many requests at once, so many that wait, and no more of one key than its share."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType

from serving.endpoint.config import EndpointConfig
from serving.endpoint.errors import busy, unavailable
from serving.endpoint.keys import Caller

_SMOOTHING = 0.1
"""Share of the newest request in the running mean of how long one takes."""


class Gate:
    """Lets `max_concurrent` requests in, first come first served, and keeps `max_queued` waiting."""

    def __init__(
        self,
        config: EndpointConfig,
        *,
        changed: Callable[[int, int], None] = lambda num_queued, num_running: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`changed` is told (queued, running) whenever either changes."""
        self._config = config
        self._changed = changed
        self._clock = clock
        self._waiting: deque[Place] = deque()
        self._by_key: Counter[str] = Counter()
        self._typical_s = 1.0
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self.num_running = 0
        self.is_closed = False

    @property
    def num_queued(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    def place(self, caller: Caller) -> Place:
        """A place, now or in the queue; to be entered as a context, or given up. Without a key there is no share.

        Raises:
            Refused: 429 with Retry-After where the queue or the key's share is full; 503 while the door is closing.
        """
        self._check(caller)
        place = Place(self, caller.key_id)
        if caller.key_id:
            self._by_key[caller.key_id] += 1
        if self.num_running < self._config.max_concurrent:
            self._let_in(place)
        else:
            self._waiting.append(place)
        self._tell()
        return place

    def close(self) -> None:
        """Nobody new is let in; who waits already keeps waiting."""
        self.is_closed = True

    async def empty(self) -> None:
        """Returns once nobody is in and nobody waits."""
        await self._is_empty.wait()

    def retry_after_s(self) -> float:
        """When a place is likely to be free: the queue at the pace of late."""
        return max(1.0, self._typical_s * (self.num_queued + 1) / self._config.max_concurrent)

    def leave(self, place: Place) -> None:
        """Called by a place that is given up; whoever waits longest takes it."""
        if place.key_id:
            self._by_key[place.key_id] -= 1
            if not self._by_key[place.key_id]:
                del self._by_key[place.key_id]
        if place.started is None:
            self._waiting.remove(place)
        else:
            self._typical_s += _SMOOTHING * (self._clock() - place.started - self._typical_s)
            self.num_running -= 1
            if self._waiting:
                self._let_in(self._waiting.popleft())
        self._tell()

    def _let_in(self, place: Place) -> None:
        self.num_running += 1
        place.started = self._clock()
        place.free.set()

    def _check(self, caller: Caller) -> None:
        if self.is_closed:
            raise unavailable("the door is closing; send the request again, to another one", code="shutting_down")
        limit = self._config.max_per_key
        if caller.key_id and self._by_key[caller.key_id] >= limit:
            raise busy(
                f"expected at most {limit} requests of one key at once, got another; wait for one to end",
                self.retry_after_s(),
            )
        if self.num_running >= self._config.max_concurrent and self.num_queued >= self._config.max_queued:
            raise busy(
                f"{self.num_running} requests are under way and {self.num_queued} wait; try again later",
                self.retry_after_s(),
                code="queue_full",
            )

    def _tell(self) -> None:
        if self.num_running or self._waiting:
            self._is_empty.clear()
        else:
            self._is_empty.set()
        self._changed(self.num_queued, self.num_running)


class Place:
    """One request's place at the gate; made by `Gate.place`."""

    def __init__(self, gate: Gate, key_id: str) -> None:
        self._gate = gate
        self._is_given_up = False
        self.key_id = key_id
        self.free = asyncio.Event()
        self.started: float | None = None
        """When it was let in, by the gate's clock; None: it waits."""

    async def __aenter__(self) -> Place:
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.give_up()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_up()

    def give_up(self) -> None:
        """Leave, whether it was entered or not; a second time changes nothing."""
        if not self._is_given_up:
            self._is_given_up = True
            self._gate.leave(self)
