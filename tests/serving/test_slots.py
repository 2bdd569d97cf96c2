from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.slots import RankedSlots


@given(ranks=st.lists(st.integers(0, 5), max_size=12), num_slots=st.integers(1, 4), data=st.data())
def test_places_go_by_rank_then_by_time_and_cancelled_waiters_cost_none(
    ranks: list[int], num_slots: int, data: st.DataObject
) -> None:
    cancelled = data.draw(st.sets(st.integers(0, max(0, len(ranks) - 1))))

    async def scenario() -> list[int]:
        slots, served, open_door = RankedSlots(num_slots), list[int](), asyncio.Event()

        async def fill() -> None:
            async with slots.held(0):
                await open_door.wait()

        async def one(place: int) -> None:
            async with slots.held(ranks[place]):
                served.append(place)

        fillers = [asyncio.ensure_future(fill()) for _ in range(num_slots)]
        await asyncio.sleep(0)
        waiting = [asyncio.ensure_future(one(place)) for place in range(len(ranks))]
        await asyncio.sleep(0)
        for place in cancelled & set(range(len(ranks))):
            waiting[place].cancel()
        open_door.set()
        await asyncio.gather(*fillers, *waiting, return_exceptions=True)
        # Every place came back.
        async with asyncio.timeout(1):
            for _ in range(num_slots):
                await slots._take(9)
        return served

    expected = [place for place in range(len(ranks)) if place not in cancelled]
    assert asyncio.run(scenario()) == sorted(expected, key=lambda place: (ranks[place], place))


def test_place_given_in_the_moment_of_a_cancel_goes_to_the_next() -> None:
    async def scenario() -> bool:
        slots = RankedSlots(1)
        await slots._take(0)
        first = asyncio.ensure_future(slots._take(1))
        second = asyncio.ensure_future(slots._take(2))
        await asyncio.sleep(0)
        slots._give()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await asyncio.wait_for(second, 1)
        return first.cancelled()

    assert asyncio.run(scenario())


def test_no_slots_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one slot, got 0"):
        RankedSlots(0)
