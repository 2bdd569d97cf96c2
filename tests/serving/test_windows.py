"""When batch and evolve may run, by any clock and over midnight."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.config import TimeWindow
from serving.windows import closes_at, may_run, next_opening, wait_open

MONDAY = datetime(2026, 3, 2)  # a Monday
NIGHT = TimeWindow(who="batch", start="22:00", end="06:00")
WEEKEND = TimeWindow(who="batch", start="00:00", end="00:00", days=("sat", "sun"))
FRIDAY_NIGHT = TimeWindow(who="batch", start="22:00", end="06:00", days=("fri",))

clock_times = st.times().map(lambda time: f"{time.hour:02}:{time.minute:02}")
windows = st.lists(
    st.builds(
        TimeWindow,
        who=st.sampled_from(["batch", "evolve"]),
        start=clock_times,
        end=clock_times,
        days=st.lists(st.sampled_from(["mon", "tue", "wed", "thu", "fri", "sat", "sun"]), unique=True).map(tuple),
    ),
    max_size=4,
)
moments = st.datetimes(min_value=datetime(2026, 1, 1), max_value=datetime(2027, 1, 1))


def at(day: int, hour: int, minute: int = 0) -> datetime:
    """A time in the week of MONDAY; day 0 is that Monday."""
    return MONDAY + timedelta(days=day, hours=hour, minutes=minute)


@pytest.mark.parametrize(
    ("moment", "may"),
    [
        (at(0, 21, 59), False),
        (at(0, 22), True),
        (at(1, 0), True),
        (at(1, 5, 59), True),
        (at(1, 6), False),
        (at(1, 12), False),
    ],
)
def test_a_window_may_last_over_midnight_and_ends_before_its_end(moment: datetime, may: bool) -> None:
    assert may_run([NIGHT], "batch", moment) is may


def test_a_kind_without_a_window_may_always_run() -> None:
    assert may_run([NIGHT], "evolve", at(0, 12))
    assert next_opening([NIGHT], "evolve", at(0, 12)) == at(0, 12)
    assert closes_at([NIGHT], "evolve", at(0, 12)) is None


def test_days_are_those_on_which_a_window_starts() -> None:
    assert may_run([FRIDAY_NIGHT], "batch", at(5, 3))
    assert not may_run([FRIDAY_NIGHT], "batch", at(4, 3))
    assert next_opening([FRIDAY_NIGHT], "batch", at(5, 12)) == at(11, 22)


def test_equal_start_and_end_are_a_whole_day() -> None:
    assert may_run([WEEKEND], "batch", at(5, 0))
    assert may_run([WEEKEND], "batch", at(6, 23, 59))
    assert not may_run([WEEKEND], "batch", at(7, 0))


def test_windows_that_touch_close_together() -> None:
    assert closes_at([NIGHT], "batch", at(0, 23)) == at(1, 6)
    assert closes_at([WEEKEND, FRIDAY_NIGHT], "batch", at(4, 23)) == at(7, 0)
    assert closes_at([NIGHT], "batch", at(0, 12)) is None


def test_a_window_without_end_never_closes() -> None:
    always = [TimeWindow(who="batch", start="00:00", end="00:00")]
    assert closes_at(always, "batch", at(0, 12)) is None


@given(windows, moments)
def test_the_next_opening_is_the_first_moment_at_which_work_may_run(
    given_ones: list[TimeWindow], now: datetime
) -> None:
    opening = next_opening(given_ones, "batch", now)
    assert opening >= now
    assert may_run(given_ones, "batch", opening)
    between = (now + (opening - now) * share / 20 for share in range(20))
    assert opening == now or not any(may_run(given_ones, "batch", moment) for moment in between)


@given(windows, moments)
def test_what_may_run_may_until_it_closes_and_not_then(given_ones: list[TimeWindow], now: datetime) -> None:
    if not may_run(given_ones, "batch", now):
        return
    closing = closes_at(given_ones, "batch", now)
    if closing is not None:
        assert not may_run(given_ones, "batch", closing)
        assert may_run(given_ones, "batch", closing - timedelta(seconds=1)) or closing - now <= timedelta(seconds=1)


def test_who_waits_is_told_when_it_opens_and_goes_on_then() -> None:
    clock, naps, told = (
        [
            at(
                0,
                21,
                58,
            )
        ],
        [],
        [],
    )

    async def sleep(seconds: float) -> None:
        naps.append(seconds)
        clock[0] += timedelta(seconds=seconds)

    asyncio.run(wait_open([NIGHT], "batch", told=told.append, now=lambda: clock[0], sleep=sleep))
    assert clock[0] == at(0, 22)
    assert told == [at(0, 22)]
    assert naps == [60.0, 60.0]


def test_nobody_waits_for_an_open_window() -> None:
    async def never(seconds: float) -> None:
        raise AssertionError("no wait was due")

    asyncio.run(wait_open([NIGHT], "batch", now=lambda: at(0, 23), sleep=never))
    asyncio.run(wait_open([], "evolve", sleep=never))


def test_a_clock_that_is_set_forward_ends_the_wait() -> None:
    clock = [at(0, 12)]

    async def sleep(seconds: float) -> None:
        clock[0] = at(0, 22, 30)

    asyncio.run(wait_open([NIGHT], "batch", now=lambda: clock[0], sleep=sleep))
    assert clock[0] == at(0, 22, 30)
