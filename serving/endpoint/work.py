"""Something under way that several clients may wait for; it is cancelled when the last of them leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

Event = TypeVar("Event")
Result = TypeVar("Result")


class Work(Generic[Event, Result]):
    """One task, what it has told so far, and how many wait for it.

    Whoever waits for it joins first, and leaves when it waits no longer. Events are kept so that whoever joins late is
    told everything from the start; `forgets` keeps none that was followed, and is for work that one client waits for.
    """

    def __init__(self, make: Callable[[Callable[[Event], None]], Awaitable[Result]], *, forgets: bool = False) -> None:
        """`make` is given the function to tell events with."""
        self._forgets = forgets
        self._events: list[Event] = []
        self._num_joined = 0
        self._news = asyncio.Event()
        self._task: asyncio.Task[Result] = asyncio.ensure_future(_run(make, self._tell))
        self._task.add_done_callback(self._ended)

    @property
    def is_abandoned(self) -> bool:
        """Whether it was cancelled, or is about to be."""
        return self._task.cancelled() or self._task.cancelling() > 0

    @property
    def ended_well(self) -> Result | None:
        """What came of it; None: it is under way, or nothing did."""
        if not self._task.done() or self._task.cancelled() or self._task.exception() is not None:
            return None
        return self._task.result()

    def cancel(self) -> None:
        """End it now; whoever waits gets CancelledError."""
        self._task.cancel()

    def when_done(self, call: Callable[[], None]) -> None:
        """Have `call` called when it has ended, however it did."""
        self._task.add_done_callback(lambda _: call())

    def join(self) -> None:
        """One more waits for it."""
        self._num_joined += 1

    def leave(self) -> None:
        """One less waits for it; when nobody does any more it is cancelled, unless it has ended."""
        self._num_joined -= 1
        if self._num_joined == 0 and not self._task.done():
            self._task.cancel()

    async def result(self) -> Result:
        """What came of it. Raises what it raised."""
        return await asyncio.shield(self._task)

    async def follow(self, silence_s: float) -> AsyncIterator[Event | None]:
        """Every event from the first, and None whenever nothing was told for `silence_s`; ends when the work has."""
        told = 0
        while True:
            while told < len(self._events):
                event = self._events[told]
                if self._forgets:
                    del self._events[told]
                else:
                    told += 1
                yield event
            if self._task.done():
                return
            self._news.clear()
            try:
                async with asyncio.timeout(silence_s):
                    await self._news.wait()
            except TimeoutError:
                yield None

    def _ended(self, task: asyncio.Task[Result]) -> None:
        self._news.set()
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not complain where every client had left

    def _tell(self, event: Event) -> None:
        self._events.append(event)
        self._news.set()


async def _run(make: Callable[[Callable[[Event], None]], Awaitable[Result]], tell: Callable[[Event], None]) -> Result:
    return await make(tell)
