"""What a deliberation or a job may cost, what it has cost, and how engine time is shared among calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import Field

from memory.types import Record
from mesh.types import Deliberation, Usage

SECONDS_PER_HOUR = 3600.0


class Budget(Record):
    """Limits of one deliberation or one job. None: no limit of that kind."""

    output_tokens: int | None = Field(default=None, ge=1, description="tokens that may be written")
    calls: int | None = Field(default=None, ge=1, description="requests to engines, closed choices included")
    seconds: float | None = Field(default=None, gt=0.0, description="wall seconds; waiting for a person does not count")
    engine_seconds: float | None = Field(
        default=None, gt=0.0, description="busy time of engines, calls under way together sharing each second"
    )
    cost: float | None = Field(
        default=None,
        gt=0.0,
        description="money, by each engine's price per hour; an engine without a price is free",
    )


class EngineClock:
    """Each call's share of its engine's busy time: n calls under way get 1/n of every second.

    The shares add up to the time in which the engine had at least one call, whatever the batching; a call that waits
    in a queue is charged like one that computes. O(1) a call: shares are differences of one running sum.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._shared: dict[str, float] = {}
        self._running: dict[str, int] = {}
        self._last: dict[str, float] = {}

    def start(self, engine: str) -> float:
        """Begin a call; give the returned mark back to `stop`."""
        mark = self._advance(engine)
        self._running[engine] = self._running.get(engine, 0) + 1
        return mark

    def stop(self, engine: str, mark: float) -> float:
        """End a call; its share in seconds."""
        share = self._advance(engine) - mark
        self._running[engine] -= 1
        return share

    def _advance(self, engine: str) -> float:
        now, running = self._now(), self._running.get(engine, 0)
        passed = now - self._last.get(engine, now)
        self._last[engine] = now
        self._shared[engine] = self._shared.get(engine, 0.0) + (passed / running if running else 0.0)
        return self._shared[engine]


@dataclass
class Purse:
    """A budget being spent. What a purse spends, `parent` (the job's) spends too; reservations hold room for calls."""

    budget: Budget
    prices: Mapping[str, float] = field(default_factory=dict)
    """Money per engine-hour, by engine name."""
    parent: Purse | None = None
    now: Callable[[], float] = time.perf_counter
    spent: Usage = field(default_factory=Usage)
    cost: float = 0.0
    reserved_tokens: int = 0
    reserved_calls: int = 0
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.now()

    @property
    def tokens_left(self) -> int | None:
        """Output tokens that may still be asked for, here and in the job; None: no limit."""
        own = _left(self.budget.output_tokens, self.spent.output_tokens + self.reserved_tokens)
        return _least(own, None if self.parent is None else self.parent.tokens_left)

    @property
    def calls_left(self) -> int | None:
        """Calls that may still be made, here and in the job; None: no limit."""
        own = _left(self.budget.calls, self.spent.num_calls + self.reserved_calls)
        return _least(own, None if self.parent is None else self.parent.calls_left)

    @property
    def seconds_left(self) -> float | None:
        """Wall seconds left, here and in the job; None: no limit."""
        own = None if self.budget.seconds is None else self.budget.seconds - (self.now() - self.started)
        above = None if self.parent is None else self.parent.seconds_left
        limits = [limit for limit in (own, above) if limit is not None]
        return max(min(limits), 0.0) if limits else None

    def shortage(self, tokens: int, calls: int) -> str:
        """Why `calls` calls of `tokens` output tokens together cannot be afforded; empty: they can."""
        left, calls_left, seconds = self.tokens_left, self.calls_left, self.seconds_left
        if left is not None and tokens > left:
            return f"needs {tokens} output tokens, {left} left"
        if calls_left is not None and calls > calls_left:
            return f"needs {calls} calls, {calls_left} left"
        if seconds is not None and seconds <= 0.0:
            return "no seconds left"
        return self._money_shortage()

    def reserve(self, tokens: int, calls: int) -> None:
        """Hold room for calls that are about to be made, so that another deliberation cannot take it."""
        self.reserved_tokens += tokens
        self.reserved_calls += calls
        if self.parent is not None:
            self.parent.reserve(tokens, calls)

    def release(self, tokens: int, calls: int) -> None:
        """Give up what `reserve` held."""
        self.reserve(-tokens, -calls)

    def spend(self, engine: str, usage: Usage, *, paid_before: bool = False) -> None:
        """Count what a call took; what was `paid_before`, in an earlier start, is not charged to this start's job."""
        if paid_before and self.parent is None:
            return
        self.spent = self.spent + usage
        self.cost += usage.engine_seconds * self.prices.get(engine, 0.0) / SECONDS_PER_HOUR
        if self.parent is not None:
            self.parent.spend(engine, usage, paid_before=paid_before)

    def _money_shortage(self) -> str:
        if self.budget.engine_seconds is not None and self.spent.engine_seconds >= self.budget.engine_seconds:
            return f"{self.spent.engine_seconds:.1f} of {self.budget.engine_seconds:g} engine seconds spent"
        if self.budget.cost is not None and self.cost >= self.budget.cost:
            return f"{self.cost:.4f} of {self.budget.cost:g} money spent"
        return "" if self.parent is None else self.parent._money_shortage()


def cost_of(deliberation: Deliberation, prices: Mapping[str, float]) -> float:
    """Money that a finished deliberation took, its parts included, by price per engine-hour."""
    total = 0.0
    for _, part in deliberation.walk():
        engine_of = {member.name: member.engine for member in part.members}
        for exchange in part.exchanges:
            total += exchange.usage.engine_seconds * prices.get(engine_of.get(exchange.member, ""), 0.0)
    return total / SECONDS_PER_HOUR


def _left(limit: int | None, spent: int) -> int | None:
    return None if limit is None else max(limit - spent, 0)


def _least(own: int | None, above: int | None) -> int | None:
    limits = [limit for limit in (own, above) if limit is not None]
    return min(limits) if limits else None
