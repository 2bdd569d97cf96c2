"""A line of waiting requests: who was started first is woken first."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count


class Line:
    """Requests that wait until something changes. Waking is a hint: the woken one looks again whether it can go."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = count()

    def __len__(self) -> int:
        return sum(1 for _, _, place in self._waiting if not place.done())

    async def wait(self, rank: int) -> None:
        """Returns when this place is woken; smaller ranks first, equal ones in the order they came."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._arrivals), place))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                # It was woken and leaves: the chance it was given is the next one's.
                self.wake(1)
            raise

    def wake(self, num_places: int) -> None:
        """Wakes up to `num_places` of those who wait."""
        while num_places > 0 and self._waiting:
            place = heapq.heappop(self._waiting)[2]
            # A place of an event loop that has ended is nobody's any more.
            if not place.done() and not place.get_loop().is_closed():
                place.set_result(None)
                num_places -= 1
