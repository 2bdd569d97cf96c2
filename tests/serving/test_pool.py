"""Recovery without processes: replicas that die, go away, come back, are busy or silent, as doubles."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from mesh.engine import EngineError
from mesh.types import Member
from serving.hosting import EngineBusy, EngineDied, EngineLost
from serving.pool import MAX_DEATHS, Pool
from serving.replica import LocalReplica, ReplicaLoad, State
from serving.requests import Answer, Request, Requests
from serving.ticket import Ticket

ADA = Member(name="ada", engine="alpha", family="one")
Behaviour = Callable[[Request], Awaitable[Answer]]


class Double:
    """A replica that does what it is told, one thing a call; afterwards it answers 1."""

    def __init__(self, *behaviours: Behaviour, timeout_s: float = 5.0, state: State = "up") -> None:
        self.timeout_s = timeout_s
        self.state: State = state
        self.pending = 0
        self.asked: list[Request] = []
        self.back = asyncio.Event()
        self._behaviours = list(behaviours)

    def load(self) -> ReplicaLoad:
        return ReplicaLoad(engine="alpha", state=self.state, pending=self.pending)

    async def ask(self, request: Request) -> Answer:
        self.asked.append(request)
        self.pending += 1
        try:
            return await self._behaviours.pop(0)(request) if self._behaviours else 1
        finally:
            self.pending -= 1

    async def wait_up(self) -> None:
        await self.back.wait()
        self.state = "up"

    def dies(self, *, for_good: bool = False, comes_back_after_s: float | None = None) -> Behaviour:
        async def die(request: Request) -> Answer:
            self.state = "dead" if for_good else "away"
            if comes_back_after_s is not None:
                asyncio.get_running_loop().call_later(comes_back_after_s, self.back.set)
            raise EngineLost("its process died", died=True)

        return die


async def crashes(request: Request) -> Answer:
    """Dies and is back at once."""
    raise EngineLost("its process died", died=True)


async def hangs(request: Request) -> Answer:
    await asyncio.sleep(1000)
    return 0


async def refuses(request: Request) -> Answer:
    raise EngineError("too long a prompt")


def is_busy(seconds: float) -> Behaviour:
    async def refuse(request: Request) -> Answer:
        raise EngineBusy("full", retry_after_s=seconds)

    return refuse


def request(rank: int = 0) -> Request:
    return Requests().new("profile", ADA, rank=rank)


def test_a_request_whose_replica_died_is_asked_of_another_under_the_same_id() -> None:
    async def run() -> None:
        first, second = Double(), Double()
        first._behaviours.append(first.dies())
        second._behaviours.append(second.dies(comes_back_after_s=0.01))
        first.back.set()
        assert await Pool("alpha", [first, second]).ask(request(), "", may_wait=True) == 1
        assert len({asked.id for asked in first.asked + second.asked}) == 1
        assert len(first.asked + second.asked) == 3

    asyncio.run(run())


def test_a_lone_replica_that_restarts_is_waited_for() -> None:
    async def run() -> None:
        only = Double()
        only._behaviours.append(only.dies(comes_back_after_s=0.05))
        assert await Pool("alpha", [only]).ask(request(), "", may_wait=False) == 1
        assert len(only.asked) == 2

    asyncio.run(run())


def test_when_all_are_dead_the_error_comes_at_once() -> None:
    async def run() -> None:
        first, second = Double(), Double(state="dead")
        first._behaviours.append(first.dies(for_good=True))
        with pytest.raises(EngineError, match=r"gone and does not come back \(2 replica.*its process died"):
            await Pool("alpha", [first, second]).ask(request(), "", may_wait=True)

    started = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - started < 1.0


def test_one_that_dies_for_good_while_it_is_waited_for_ends_the_wait() -> None:
    async def run() -> None:
        only = Double(state="away")

        async def never_back() -> None:
            await asyncio.sleep(0.01)
            only.state = "dead"

        only.wait_up = never_back  # type: ignore[method-assign]
        with pytest.raises(EngineError, match="does not come back"):
            await Pool("alpha", [only]).ask(request(), "", may_wait=True)

    asyncio.run(run())


def test_a_request_that_seems_to_kill_its_engines_is_given_up() -> None:
    async def run() -> None:
        only = Double(*[crashes] * 10)
        with pytest.raises(EngineError, match=f"{MAX_DEATHS} processes died"):
            await Pool("alpha", [only]).ask(request(), "", may_wait=True)
        assert len(only.asked) == MAX_DEATHS

    asyncio.run(run())


def test_a_refusal_is_final() -> None:
    async def run() -> None:
        first, second = Double(refuses), Double(refuses)
        with pytest.raises(EngineError, match="too long a prompt"):
            await Pool("alpha", [first, second]).ask(request(), "", may_wait=True)
        assert len(first.asked + second.asked) == 1

    asyncio.run(run())


def test_the_time_of_a_request_is_over_all_attempts_together_and_what_runs_is_cancelled() -> None:
    async def run() -> None:
        only = Double(crashes, hangs, timeout_s=0.1)
        with pytest.raises(EngineError, match=r"within 0.1 s, got none.*call_timeout_s; last: its process died"):
            await Pool("alpha", [only]).ask(request(), "", may_wait=True)
        assert only.pending == 0

    asyncio.run(run())


def test_a_busy_replica_is_passed_by_and_asked_again_later() -> None:
    async def run() -> None:
        busy, free = Double(is_busy(30.0)), Double()
        pool = Pool("alpha", [busy, free])
        for _ in range(5):
            assert await pool.ask(request(), "", may_wait=False) == 1
        assert len(busy.asked) == 1
        alone = Double(is_busy(0.02), is_busy(0.02))
        assert await Pool("alpha", [alone]).ask(request(), "", may_wait=True) == 1
        assert len(alone.asked) == 3

    asyncio.run(run())


def test_what_was_busy_in_an_event_loop_that_ended_is_asked_again_in_the_next_one() -> None:
    async def one() -> Answer:
        return await pool.ask(request(), "", may_wait=True)

    async def gives_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(one(), 0.01)

    only = Double(is_busy(0.1))
    pool = Pool("alpha", [only])
    asyncio.run(gives_up())
    assert asyncio.run(one()) == 1


def test_when_every_replica_is_busy_who_may_not_wait_is_told_for_how_long() -> None:
    async def run() -> None:
        pool = Pool("alpha", [Double(is_busy(30.0)), Double(is_busy(8.0)), Double(state="away")])
        with pytest.raises(EngineBusy, match="every replica is busy") as refused:
            await pool.ask(request(), "", may_wait=False)
        assert 5.0 < refused.value.retry_after_s < 11.0

    asyncio.run(run())


def test_who_waits_for_room_is_served_by_rank() -> None:
    async def run() -> None:
        only = Double(is_busy(0.05))
        pool, order = Pool("alpha", [only]), list[int]()

        async def ask(rank: int) -> None:
            await pool.ask(request(rank), "", may_wait=True)
            order.append(rank)

        first = asyncio.create_task(ask(5))
        await asyncio.sleep(0.01)
        ranks = [9, Ticket(priority="evolve").rank, 3, Ticket(priority="batch").rank, 7]
        await asyncio.gather(first, *(asyncio.create_task(ask(rank)) for rank in ranks))
        assert order == sorted(order)

    asyncio.run(run())


def test_a_waiting_request_that_leaves_passes_its_turn_on() -> None:
    async def run() -> None:
        only = Double(is_busy(0.02))
        pool = Pool("alpha", [only])
        waiting = [asyncio.create_task(pool.ask(request(), "", may_wait=True)) for _ in range(20)]
        await asyncio.sleep(0.005)
        for task in waiting[:10]:
            task.cancel()
        assert await asyncio.gather(*waiting[10:]) == [1] * 10

    asyncio.run(run())


def test_a_local_engine_that_died_stays_dead() -> None:
    async def run() -> None:
        replica = LocalReplica("alpha", DyingEngine())
        assert replica.load().state == "up"
        with pytest.raises(EngineError, match="does not come back"):
            await Pool("alpha", [replica]).ask(request(), "", may_wait=True)
        assert replica.load().state == "dead"

    asyncio.run(run())


class DyingEngine:
    """Dies at every question."""

    async def complete(self, *_: object) -> object:
        raise EngineDied("gone")

    choose = score = count_tokens = profile = complete
