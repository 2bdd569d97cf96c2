"""The replicas of one engine: a request is asked of one after the other until it is answered or its time is up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from mesh.engine import EngineError
from serving.hosting import EngineBusy, EngineLost
from serving.line import Line
from serving.replica import Replica, ReplicaLoad
from serving.requests import Answer, Request
from serving.routing import Candidate, choose_replica

MAX_DEATHS = 4
"""Processes that may die over one request before it is held to be what kills them."""
WOKEN_AT_ONCE = 16
"""Waiting requests that try again when a busy replica may have room."""
REACH_AGAIN_S = 0.2
"""Pause before a replica that was out of reach is looked for again."""


class Pool:
    """Routes and repeats. Nothing is lost while one replica lives, or comes back within the time of a request."""

    def __init__(self, name: str, replicas: Sequence[Replica]) -> None:
        self.name = name
        self.replicas = tuple(replicas)
        self.timeout_s = max(replica.timeout_s for replica in self.replicas)
        self._busy_until = [0.0] * len(self.replicas)
        self._busy_because = ""
        self._keys = [f"{name}/{index}" for index in range(len(self.replicas))]
        self._line = Line()
        self._alarm: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None
        self._watching: dict[int, asyncio.Task[None]] = {}

    def load(self) -> tuple[ReplicaLoad, ...]:
        """What is known of every replica without asking, numbered."""
        return tuple(
            replica.load().model_copy(update={"engine": self.name, "replica": index})
            for index, replica in enumerate(self.replicas)
        )

    async def ask(self, request: Request, affinity: str, *, may_wait: bool) -> Answer:
        """The answer of the first replica that gives one. `may_wait` False: a busy engine is an error at once.

        Raises:
            EngineBusy: every replica that lives is busy, and the request may not wait.
            EngineError: the engine refused, no replica comes back, or the time is up.
        """
        reason: EngineError | None = None
        num_deaths = 0
        try:
            async with asyncio.timeout(self.timeout_s):
                while num_deaths < MAX_DEATHS:
                    index = self._choose(affinity)
                    if index is None:
                        self._refuse_hopeless(reason, may_wait)
                        self._set_alarm()
                        await self._line.wait(request.rank)
                        continue
                    try:
                        answer = await self.replicas[index].ask(request)
                        # Whoever answers has room again.
                        self._busy_until[index] = 0.0
                        return answer
                    except EngineBusy as busy:
                        reason = busy
                        self._mark_busy(index, busy)
                    except EngineLost as lost:
                        reason = lost
                        num_deaths += lost.died
                    finally:
                        self._line.wake(1)
        except TimeoutError:
            last = f"; last: {reason}" if reason is not None else ""
            raise EngineError(
                f"engine {self.name!r}: expected an answer to {request.verb} within {self.timeout_s:g} s, got none; it "
                f"may be restarting, overloaded or hung: try again, or raise serving.call_timeout_s{last}"
            ) from reason
        raise EngineError(
            f"engine {self.name!r}: {num_deaths} processes died while they worked on one {request.verb}; it is not "
            f"tried again, as it may be what kills them. Last: {reason}"
        ) from reason

    def _choose(self, affinity: str) -> int | None:
        now = asyncio.get_running_loop().time()
        candidates = []
        for index, replica in enumerate(self.replicas):
            if replica.state == "away":
                self._watch(index)
            is_open = replica.state == "up" and self._busy_until[index] <= now
            candidates.append(Candidate(self._keys[index], replica.pending, is_open))
        return choose_replica(candidates, affinity)

    def _refuse_hopeless(self, reason: EngineError | None, may_wait: bool) -> None:
        states = {replica.state for replica in self.replicas}
        if states == {"dead"}:
            raise EngineError(
                f"engine {self.name!r} is gone and does not come back ({len(self.replicas)} replica(s)); look at its "
                f"log, and start the fleet again. Last: {reason}"
            ) from reason
        if "up" in states and not may_wait:
            now = asyncio.get_running_loop().time()
            seconds = min((until - now for until in self._busy_until if until > now), default=0.0)
            raise EngineBusy(
                f"engine {self.name!r}: every replica is busy; try again in {seconds:.1f} s. {self._busy_because}",
                retry_after_s=seconds,
            ) from reason

    def _mark_busy(self, index: int, busy: EngineBusy) -> None:
        self._busy_because = str(busy)
        # Drivers that were refused together do not come back together.
        self._busy_until[index] = asyncio.get_running_loop().time() + busy.retry_after_s * random.uniform(0.75, 1.25)

    def _set_alarm(self) -> None:
        """Wakes some of those who wait when the first busy replica may have room."""
        loop = asyncio.get_running_loop()
        if self._alarm is not None and self._alarm[0] is loop:
            return
        ends = [until for until in self._busy_until if until > loop.time()]
        if ends:
            self._alarm = loop, loop.call_at(min(ends), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._line.wake(WOKEN_AT_ONCE)

    def _watch(self, index: int) -> None:
        """Wakes everybody once a replica that was out of reach has come back or is known to be dead."""
        loop, task = asyncio.get_running_loop(), self._watching.get(index)
        if task is None or task.done() or task.get_loop() is not loop:
            self._watching[index] = loop.create_task(self._await_up(index))

    async def _await_up(self, index: int) -> None:
        replica = self.replicas[index]
        await replica.wait_up()
        while replica.state == "away":
            await asyncio.sleep(REACH_AGAIN_S)
            await replica.wait_up()
        self._line.wake(len(self._line))
