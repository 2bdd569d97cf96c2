from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.hot_set import MIN_TURN, Place, Warm, closing, place_for

NAMES = st.sampled_from("abcdef")
STATES = st.builds(
    Warm, num_users=st.integers(0, 3), num_served=st.integers(0, 2 * MIN_TURN), last_used=st.integers(0, 99)
)
WARM = st.dictionaries(NAMES, STATES, max_size=4)
WAITING = st.lists(NAMES, max_size=6)


@given(wanted=NAMES, warm=WARM, waiting=WAITING)
def test_adapter_in_use_is_never_put_out_and_the_one_put_out_is_the_oldest_idle_one(
    wanted: str, warm: dict[str, Warm], waiting: list[str]
) -> None:
    place = place_for(wanted, warm, waiting, capacity=4)
    assert (place.act == "go") <= (wanted in warm)
    assert (place.act == "bring") <= (wanted not in warm)
    if place.evict is None:
        assert place.act != "bring" or len(warm) < 4
    else:
        idle = [state.last_used for state in warm.values() if state.num_users == 0]
        assert warm[place.evict].num_users == 0
        assert warm[place.evict].last_used == min(idle)


@given(wanted=NAMES, warm=WARM)
def test_nobody_waits_for_an_adapter_in_memory_when_nobody_waits_outside(wanted: str, warm: dict[str, Warm]) -> None:
    if wanted in warm:
        assert place_for(wanted, warm, [wanted], capacity=4) == Place("go")


@given(warm=WARM, waiting=WAITING)
def test_no_more_close_than_are_waited_for_and_only_after_their_turn(warm: dict[str, Warm], waiting: list[str]) -> None:
    closed = closing(warm, waiting)
    assert len(closed) <= len(set(waiting) - warm.keys())
    assert all(warm[adapter].num_served >= MIN_TURN for adapter in closed)


def test_busy_adapters_make_room_after_their_turn() -> None:
    busy = {"a": Warm(num_users=2, num_served=MIN_TURN), "b": Warm(num_users=2, num_served=MIN_TURN - 1)}
    assert place_for("a", busy, [], 2) == Place("go")
    assert place_for("a", busy, ["c"], 2) == Place("wait")
    assert place_for("b", busy, ["c"], 2) == Place("go")
    assert place_for("c", busy, ["c"], 2) == Place("wait")
    idle = busy | {"a": Warm(num_served=MIN_TURN)}
    assert place_for("c", idle, ["c"], 2) == Place("bring", evict="a")
