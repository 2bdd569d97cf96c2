"""How many tokens a key may still spend: counted by calendar period, kept across restarts."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import Field

from memory.ledger import publish_json, read_record
from memory.types import Record
from mesh.types import Usage
from serving.endpoint.keys import Caller, Period


class QuotaExceeded(RuntimeError):
    """A key has spent what it may in this period; `retry_after_s` seconds from now the next one begins."""

    def __init__(self, caller: Caller, spent: int, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        limit = 0 if caller.quota is None else caller.quota.tokens
        period = "period" if caller.quota is None else caller.quota.per
        super().__init__(
            f"key {caller.key_id}: expected at most {limit} tokens per {period}, {spent} are spent; try again in "
            f"{retry_after_s:.0f} s, or have the quota raised"
        )


class Spent(Record):
    """What one key has spent in one period."""

    since: float = Field(description="start of the period, in seconds since 1970")
    tokens: int = Field(ge=0)


class SpentFile(Record):
    """Everything spent in the periods that are not over."""

    by_key: dict[str, Spent] = Field(default={})


class QuotaBook:
    """Counts prompt and output tokens of keys that have a quota; one process writes a book.

    A request is let in while anything of its quota is left, because its tokens are known only when it ends: a key can
    overdraw by what it has under way. The file is published at most once in `every_s` seconds and by `close`, so a
    kill -9 may forget what was spent in that time, and never more.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time, every_s: float = 1.0) -> None:
        """Reads what an earlier process counted. Raises ValueError, naming the file, where that cannot be read."""
        self._path = path
        self._clock = clock
        self._every_s = every_s
        self._published_at = -float("inf")
        self._is_published = True
        try:
            self._spent = dict(read_record(path, SpentFile).by_key)
        except FileNotFoundError:
            self._spent = {}

    def check(self, caller: Caller) -> None:
        """Raises QuotaExceeded if nothing is left of the caller's quota; a caller without one always passes."""
        if caller.quota is None:
            return
        spent = self._current(caller)
        if spent.tokens >= caller.quota.tokens:
            wait_s = period_end(caller.quota.per, self._clock()) - self._clock()
            raise QuotaExceeded(caller, spent.tokens, max(1.0, wait_s))

    def spend(self, caller: Caller, usage: Usage) -> None:
        """Counts the tokens of one request, whether it succeeded or not."""
        if caller.quota is None:
            return
        spent = self._current(caller)
        tokens = spent.tokens + usage.prompt_tokens + usage.output_tokens
        self._spent[caller.key_id] = Spent(since=spent.since, tokens=tokens)
        self._is_published = False
        if self._clock() - self._published_at >= self._every_s:
            self._publish()

    def left(self, caller: Caller) -> int | None:
        """Tokens left in the period, at least 0; None: no limit."""
        return None if caller.quota is None else max(0, caller.quota.tokens - self._current(caller).tokens)

    def close(self) -> None:
        """Publishes what was counted since the last time."""
        if not self._is_published:
            self._publish()

    def _current(self, caller: Caller) -> Spent:
        per: Period = "day" if caller.quota is None else caller.quota.per
        since = period_start(per, self._clock())
        spent = self._spent.get(caller.key_id)
        # A quota that was changed from hours to days goes on from what it had counted.
        return spent if spent is not None and spent.since >= since else Spent(since=since, tokens=0)

    def _publish(self) -> None:
        oldest = period_start("month", self._clock())
        self._spent = {key: spent for key, spent in self._spent.items() if spent.since >= oldest}
        publish_json(self._path, SpentFile(by_key=self._spent))
        self._published_at = self._clock()
        self._is_published = True


def period_start(per: Period, now: float) -> float:
    """Start of the calendar hour, day or month (UTC) that `now` lies in; both in seconds since 1970."""
    moment = datetime.fromtimestamp(now, UTC).replace(minute=0, second=0, microsecond=0)
    if per != "hour":
        moment = moment.replace(hour=0)
    if per == "month":
        moment = moment.replace(day=1)
    return moment.timestamp()


def period_end(per: Period, now: float) -> float:
    """Start of the next period after `now`, in seconds since 1970."""
    start = datetime.fromtimestamp(period_start(per, now), UTC)
    if per == "hour":
        return (start + timedelta(hours=1)).timestamp()
    if per == "day":
        return (start + timedelta(days=1)).timestamp()
    # 32 days after the first of a month is always in the next one.
    return (start + timedelta(days=32)).replace(day=1).timestamp()
