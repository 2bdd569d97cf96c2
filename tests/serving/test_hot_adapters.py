from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.engine import EngineError
from serving.hot_adapters import HotAdapters
from serving.hot_set import MIN_TURN


class Engine:
    """Holds adapters like an engine does, and complains when it is misused."""

    def __init__(self, capacity: int, *, fails: frozenset[str] = frozenset()) -> None:
        self.held: set[str] = set()
        self.in_use: dict[str, int] = {}
        self.fails = fails
        self.most = 0
        self.moves = 0
        self.hot = HotAdapters(capacity, self.bring, self.send)

    async def bring(self, adapter: str) -> None:
        await self._move()
        if adapter in self.fails:
            raise EngineError(f"no file of {adapter}")
        assert adapter not in self.held
        self.held.add(adapter)
        self.most = max(self.most, len(self.held))

    async def send(self, adapter: str) -> None:
        await self._move()
        assert not self.in_use.get(adapter)
        self.held.remove(adapter)

    async def use(self, adapter: str, rank: int = 0, steps: int = 1) -> None:
        async with self.hot.held(adapter, rank):
            self.in_use[adapter] = self.in_use.get(adapter, 0) + 1
            try:
                for _ in range(steps):
                    assert adapter in self.held
                    await asyncio.sleep(0)
            finally:
                self.in_use[adapter] -= 1

    async def _move(self) -> None:
        self.moves += 1
        assert self.moves == 1
        await asyncio.sleep(0)
        self.moves -= 1


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(5):
            await scenario()

    asyncio.run(limited())


@settings(max_examples=60, deadline=None)
@given(capacity=st.integers(1, 4), num_adapters=st.integers(1, 8), seed=st.integers(0, 10_000))
def test_everybody_is_served_within_capacity_whoever_gives_up_or_is_retired(
    capacity: int, num_adapters: int, seed: int
) -> None:
    dice = random.Random(seed)
    engine = Engine(capacity, fails=frozenset({"0"}) if seed % 3 == 0 else frozenset())

    async def one(kind: str) -> str:
        adapter = str(dice.randrange(num_adapters))
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
        if kind == "retire":
            await engine.hot.retire(adapter)
            return kind
        with contextlib.suppress(EngineError):
            await engine.use(adapter, dice.randrange(3), dice.randrange(1, 5))
        return kind

    async def scenario() -> None:
        kinds = dice.choices(["use", "cancel", "retire"], weights=[8, 2, 1], k=60)
        tasks = [asyncio.ensure_future(one(kind)) for kind in kinds]
        for task, kind in zip(tasks, kinds, strict=True):
            if kind == "cancel":
                for _ in range(dice.randrange(3)):
                    await asyncio.sleep(0)
                task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, str | asyncio.CancelledError) for end in ended), ended
        for _ in range(8):
            await asyncio.sleep(0)
        assert set(engine.hot.warm) == engine.held
        assert all(state.num_users == 0 for state in engine.hot.warm.values())
        assert engine.most <= capacity

    run(scenario)


def test_one_more_adapter_than_fits_does_not_thrash() -> None:
    """Three adapters in turn over two places: LRU alone would load at every request."""
    engine = Engine(2)

    async def client(adapter: str) -> None:
        await asyncio.gather(*(engine.use(adapter, steps=3) for _ in range(8 * MIN_TURN)))

    async def scenario() -> None:
        await asyncio.gather(*(client(adapter) for adapter in "abc"))
        assert engine.hot.num_brought <= 3 + 8 * 3

    run(scenario)


def test_steady_traffic_on_what_is_in_does_not_keep_others_out_for_ever() -> None:
    engine, late = Engine(1), asyncio.Event()

    async def steady(stop: asyncio.Event) -> int:
        served = 0
        while not stop.is_set():
            await engine.use("a", steps=3)
            served += 1
        return served

    async def newcomer() -> None:
        await asyncio.sleep(0.005)
        await engine.use("b")
        late.set()

    async def scenario() -> None:
        await asyncio.gather(steady(late), steady(late), newcomer())

    run(scenario)


def test_smallest_rank_gets_the_next_place() -> None:
    engine, order = Engine(1), list[str]()

    async def one(adapter: str, rank: int) -> None:
        await engine.use(adapter, rank)
        order.append(adapter)

    async def scenario() -> None:
        await asyncio.gather(one("a", 0), one("batch", 2**33), one("person", 1))

    run(scenario)
    assert order == ["a", "person", "batch"]


def test_adapter_that_cannot_be_brought_in_is_an_error_for_its_own_requests_only() -> None:
    engine = Engine(1, fails=frozenset({"bad"}))

    async def scenario() -> None:
        bad, good = await asyncio.gather(engine.use("bad"), engine.use("good"), return_exceptions=True)
        assert isinstance(bad, EngineError)
        assert good is None

    run(scenario)


def test_retired_adapter_goes_out_after_its_last_request() -> None:
    engine = Engine(2)

    async def scenario() -> None:
        using = asyncio.ensure_future(engine.use("a", steps=20))
        for _ in range(5):
            await asyncio.sleep(0)
        assert "a" in engine.held
        await engine.hot.retire("a")
        assert using.done()
        assert not engine.held
        await engine.hot.retire("never loaded")

    run(scenario)


def test_requests_that_wait_when_the_engine_ends_are_told() -> None:
    engine = Engine(1)

    async def scenario() -> None:
        using = asyncio.ensure_future(engine.use("a", steps=50))
        await asyncio.sleep(0.001)
        waiting = asyncio.ensure_future(engine.use("b"))
        await asyncio.sleep(0)
        engine.hot.clear()
        with pytest.raises(EngineError, match="shut down while a request waited"):
            await waiting
        await asyncio.gather(using, return_exceptions=True)

    run(scenario)
