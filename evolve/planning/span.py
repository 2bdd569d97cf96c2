"""Between what and what a time is expected to lie: one number where that is known, two where it is guessed."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from memory.types import Record

HOURS_FROM_S = 3 * 3600.0
"""What may take longer is told in hours."""


class Span(Record):
    """Seconds, from the least to the most that is expected."""

    low: float = Field(ge=0)
    high: float = Field(ge=0)

    def __add__(self, other: Span) -> Span:
        return Span(low=self.low + other.low, high=self.high + other.high)

    @property
    def words(self) -> str:
        """For people: "about 22 minutes", "15 to 33 minutes", "1.5 to 3.4 hours", "about a minute"."""
        if self.high < 90.0:
            return "about a minute"
        if self.high >= HOURS_FROM_S:
            return _words(f"{self.low / 3600.0:.1f}", f"{self.high / 3600.0:.1f}", "hours")
        return _words(f"{max(1.0, self.low / 60.0):.0f}", f"{self.high / 60.0:.0f}", "minutes")


NOTHING = Span(low=0.0, high=0.0)


def around(seconds: float, spread: float) -> Span:
    """So many seconds, or `spread` times more or less; 1: exactly so many."""
    return Span(low=seconds / spread, high=seconds * spread)


def together(spans: Iterable[Span]) -> Span:
    """All of them, one after the other; what one of them is off by, all are."""
    return sum(spans, NOTHING)


def _words(low: str, high: str, unit: str) -> str:
    return f"about {high} {unit}" if low == high else f"{low} to {high} {unit}"
