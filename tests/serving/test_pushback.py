from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.pushback import LONGEST_S, MEMORY_RETRY_S, SHORTEST_S, Pushback, free_memory_mib
from serving.ticket import PRIORITIES, Priority, Ticket


def rank(priority: Priority, order: int = 0) -> int:
    return Ticket(priority=priority, order=order).rank


def pushback(*, max_pending: int = 3, min_free: int = 0, free: int = 1000) -> Pushback:
    return Pushback("alpha", max_pending, min_free, lambda: free)


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    limits = pushback()
    assert limits.refuse(rank("batch"), Counter({rank("batch"): 2})) is None
    refusal = limits.refuse(rank("batch", 7), Counter({rank("batch", 1): 1, rank("batch", 9): 2}))
    assert refusal is not None
    assert "3 requests are pending" in str(refusal)
    assert SHORTEST_S <= refusal.retry_after_s <= LONGEST_S


def test_a_queue_full_of_evolution_has_room_for_people_and_one_full_of_people_has_none_for_evolution() -> None:
    limits = pushback()
    evolving = Counter({rank("evolve", 5): 3})
    assert limits.refuse(rank("evolve"), evolving) is not None
    assert limits.refuse(rank("batch"), evolving) is None
    assert limits.refuse(rank("interactive"), evolving) is None
    assert limits.refuse(rank("evolve"), Counter({rank("interactive"): 3})) is not None


@given(st.lists(st.sampled_from(PRIORITIES), max_size=60))
def test_no_priority_holds_more_than_its_queue(wishes: list[Priority]) -> None:
    limits, pending = pushback(), Counter[int]()
    for order, priority in enumerate(wishes):
        if limits.refuse(rank(priority, order), pending) is None:
            pending[rank(priority, order)] += 1
    for priority in PRIORITIES:
        assert (
            sum(number for other, number in pending.items() if rank(priority) <= other < rank(priority, 2**32 - 1)) <= 3
        )


def test_too_little_memory_refuses_everybody_and_is_not_looked_at_when_nothing_is_asked_for() -> None:
    refusal = pushback(min_free=512, free=100).refuse(rank("interactive"), Counter())
    assert refusal is not None
    assert "100 MiB of memory are free" in str(refusal)
    assert refusal.retry_after_s == MEMORY_RETRY_S
    assert pushback(min_free=512, free=600).refuse(rank("interactive"), Counter()) is None
    assert pushback(min_free=0, free=0).refuse(rank("interactive"), Counter()) is None


def test_the_pause_follows_the_pace() -> None:
    slow = pushback(max_pending=100_000)
    for _ in range(3):
        slow.ended()
    refusal = slow.refuse(rank("batch"), Counter({rank("batch"): 100_000}))
    assert refusal is not None
    assert refusal.retry_after_s == pytest.approx(SHORTEST_S, abs=5.0)


def test_free_memory_of_this_machine_is_a_number() -> None:
    assert 0 < free_memory_mib() < 2**30
