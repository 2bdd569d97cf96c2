"""When work of a kind may run: windows by the clock of the machine, and a gate that waits for the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from datetime import time as TimeOfDay
from typing import Literal

from serving.config import TimeWindow

Kind = Literal["batch", "evolve"]

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LONGEST_NAP_S = 60.0
"""Looked at again at least this often: the clock may be set, and a machine may sleep."""


def may_run(windows: Sequence[TimeWindow], kind: Kind, now: datetime) -> bool:
    """Whether work of this kind may begin at `now`, the machine's own time; a kind without a window always may.

    A window counts for the day it starts on, also after midnight: fri 22:00 to 06:00 ends on Saturday. One whose start
    and end are the same lasts 24 hours.
    """
    ours = [window for window in windows if window.who == kind]
    return not ours or any(start <= now < end for window in ours for start, end in _spans(window, now))


def next_opening(windows: Sequence[TimeWindow], kind: Kind, now: datetime) -> datetime:
    """The first moment from `now` on at which work of this kind may begin; `now` itself if it may."""
    if may_run(windows, kind, now):
        return now
    ours = [window for window in windows if window.who == kind]
    return min(start for window in ours for start, _ in _spans(window, now) if start > now)


def closes_at(windows: Sequence[TimeWindow], kind: Kind, now: datetime) -> datetime | None:
    """When work of this kind, which may run at `now`, may no longer begin; None: never, or not within a week."""
    ours = [window for window in windows if window.who == kind]
    moment = now
    while ends := [end for window in ours for start, end in _spans(window, moment) if start <= moment < end]:
        # Windows that touch or overlap are one.
        moment = max(ends)
        if moment - now > timedelta(days=7):
            return None
    return None if moment == now else moment


async def wait_open(
    windows: Sequence[TimeWindow],
    kind: Kind,
    *,
    told: Callable[[datetime], None] = lambda opening: None,
    now: Callable[[], datetime] = datetime.now,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Returns once work of this kind may begin. `told`: of the next opening, before there is a wait and if it moves."""
    said: datetime | None = None
    while not may_run(windows, kind, moment := now()):
        opening = next_opening(windows, kind, moment)
        if opening != said:
            told(opening)
            said = opening
        await sleep(min(_LONGEST_NAP_S, (opening - moment).total_seconds()))


def _spans(window: TimeWindow, now: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Start and end of a window on every day from the one before `now` to a week after it."""
    start, end = TimeOfDay.fromisoformat(window.start), TimeOfDay.fromisoformat(window.end)
    lasts_overnight = end <= start
    for offset in range(-1, 9):
        day = now.date() + timedelta(days=offset)
        if window.days and _DAYS[day.weekday()] not in window.days:
            continue
        yield (
            datetime.combine(day, start, now.tzinfo),
            datetime.combine(day + timedelta(days=lasts_overnight), end, now.tzinfo),
        )
