"""When a replica takes in nothing new: its queue is full, or its machine is short of memory."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

import psutil

from serving.hosting import EngineBusy
from serving.ticket import PRIORITIES, Ticket

_RANKS = Ticket(priority=PRIORITIES[1]).rank
"""Ranks of one priority."""
_CGROUP = Path("/sys/fs/cgroup")
_LOOK_AGAIN_S = 0.25
_SHARE_TO_WAIT_FOR = 0.05
"""Share of the queue that ought to be served before somebody who was refused asks again."""
SHORTEST_S, LONGEST_S = 0.1, 10.0
MEMORY_RETRY_S = 2.0
"""Memory comes back when requests end, and nobody knows when that is."""


class Pushback:
    """Refuses what would be too much. A queue that is full of evolution still has room for a batch, and for people.

    What counts for a request are those of its own priority and of higher ones, so that a queue holds at most
    `max_pending` of each.
    """

    def __init__(
        self, name: str, max_pending: int, min_free_memory_mib: int, free_memory: Callable[[], int] | None = None
    ) -> None:
        """`free_memory`: MiB that can still be taken; None: of this machine, looked up a few times a second."""
        self._name = name
        self._max_pending = max_pending
        self._min_free_memory_mib = min_free_memory_mib
        self.free_memory = free_memory if free_memory is not None else _Remembered(free_memory_mib)
        """MiB that can still be taken."""
        self._ended: deque[float] = deque(maxlen=64)

    def ended(self) -> None:
        """To be told of every request that ends: how long the refused wait depends on the pace."""
        self._ended.append(time.monotonic())

    def refuse(self, rank: int, pending: Counter[int]) -> EngineBusy | None:
        """Why a request of this rank is not taken in beside those that are `pending` by rank; None: it is."""
        ahead = pending.total() if rank >= _RANKS * (len(PRIORITIES) - 1) else _num_ahead(rank, pending)
        if ahead >= self._max_pending:
            return EngineBusy(
                f"engine {self._name!r} is busy: {ahead} requests are pending, serving.fleet.max_pending allows "
                f"{self._max_pending}; try again later, or add replicas",
                retry_after_s=self._pause(),
            )
        if self._min_free_memory_mib > 0 and (free := self.free_memory()) < self._min_free_memory_mib:
            return EngineBusy(
                f"engine {self._name!r} takes in nothing new: {free} MiB of memory are free, and "
                f"serving.fleet.min_free_memory_mib asks for {self._min_free_memory_mib}; free some, or lower it",
                retry_after_s=MEMORY_RETRY_S,
            )
        return None

    def _pause(self) -> float:
        if len(self._ended) < 2:
            return SHORTEST_S
        seconds_each = (time.monotonic() - self._ended[0]) / len(self._ended)
        return min(max(SHORTEST_S, _SHARE_TO_WAIT_FOR * self._max_pending * seconds_each), LONGEST_S)


def free_memory_mib() -> int:
    """MiB that can be taken without swapping: of the machine, or of the container (cgroup 2) if that has less."""
    free = psutil.virtual_memory().available
    limit, used = _read_number(_CGROUP / "memory.max"), _read_number(_CGROUP / "memory.current")
    if limit is not None and used is not None:
        # Pages of files that nobody needs are counted as used, and given back when somebody does.
        free = min(free, limit - used + _inactive_file())
    return max(0, free) // 2**20


class _Remembered:
    """A number that is dear to look up, at most some hundred milliseconds old."""

    def __init__(self, look_up: Callable[[], int]) -> None:
        self._look_up = look_up
        self._value, self._until = 0, 0.0

    def __call__(self) -> int:
        if time.monotonic() >= self._until:
            self._value, self._until = self._look_up(), time.monotonic() + _LOOK_AGAIN_S
        return self._value


def _num_ahead(rank: int, pending: Counter[int]) -> int:
    last = (rank // _RANKS + 1) * _RANKS
    return sum(number for other, number in pending.items() if other < last)


def _read_number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _inactive_file() -> int:
    try:
        lines = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
