from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mesh.types import Message, Part
from serving.routing import SLACK, SPREAD, Candidate, choose_replica, prefix_affinity

LOADS = st.lists(st.tuples(st.integers(0, 200), st.booleans()), min_size=1, max_size=16)


def replicas(*loads: int, closed: tuple[int, ...] = ()) -> list[Candidate]:
    return [Candidate(f"alpha/{index}", load, index not in closed) for index, load in enumerate(loads)]


def favourite(affinity: str, number: int) -> int:
    chosen = choose_replica(replicas(*[0] * number), affinity)
    assert chosen is not None
    return chosen


def test_without_an_affinity_the_least_loaded_takes_it() -> None:
    assert choose_replica(replicas(3, 1, 2), "") == 1
    assert choose_replica(replicas(3, 1, 2, closed=(1,)), "") == 2


def test_one_prefix_goes_to_one_replica_while_it_has_no_more_than_its_share() -> None:
    first = favourite("task", 4)
    loads = [0, 0, 0, 0]
    for _ in range(SLACK):
        assert choose_replica(replicas(*loads), "task") == first
        loads[first] += 1
    assert choose_replica(replicas(*loads), "task") != first


def test_prefixes_spread_over_the_replicas() -> None:
    counts = Counter(favourite(f"task {number}", 4) for number in range(400))
    assert min(counts.values()) > 60


def test_prefixes_of_other_replicas_stay_where_they_are_when_one_goes() -> None:
    for number in range(50):
        affinity = f"task {number}"
        before = favourite(affinity, 4)
        after = choose_replica(replicas(0, 0, 0, 0, closed=(2,)), affinity)
        assert after == before if before != 2 else after != 2


def test_what_a_full_favourite_gives_away_goes_to_one_second_choice() -> None:
    first = favourite("task", 5)
    full = [SLACK if index == first else 0 for index in range(5)]
    second = choose_replica(replicas(*full), "task")
    assert second is not None
    assert second != first
    full[second] = SLACK - 1
    assert choose_replica(replicas(*full), "task") == second


@given(LOADS, st.text(max_size=5))
def test_an_open_replica_is_found_if_there_is_one_and_none_is_given_far_more_than_its_share(
    loads: list[tuple[int, bool]], affinity: str
) -> None:
    candidates = [Candidate(f"a/{index}", load, is_open) for index, (load, is_open) in enumerate(loads)]
    chosen = choose_replica(candidates, affinity)
    open_ones = [candidate for candidate in candidates if candidate.is_open]
    if chosen is None:
        assert not open_ones
        return
    assert candidates[chosen].is_open
    mean = sum(candidate.load for candidate in open_ones) / len(open_ones)
    assert len(open_ones) == 1 or candidates[chosen].load <= max(SLACK, SPREAD * (mean + 1) + 1)


def test_the_same_first_turn_is_the_same_affinity() -> None:
    turn = Message(role="user", parts=(Part(text="What is "), Part(text="1 + 1?", trusted=False)))
    other = Message(role="user", parts=(Part(text="What is 2 + 2?"),))
    assert prefix_affinity([turn]) == prefix_affinity([turn, other]) != prefix_affinity([other])
    assert prefix_affinity([]) == ""
