"""Whose request it is: what an engine and a fleet need to know to serve the right one first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from pydantic import Field

from memory.types import Record
from mesh.engine import Engine
from mesh.types import Completion, Member, Message, Sampling, Score

Priority = Literal["interactive", "batch", "evolve"]
PRIORITIES: tuple[Priority, ...] = ("interactive", "batch", "evolve")
_ORDERS = 2**32


class Ticket(Record):
    """Goes with every request of one task."""

    priority: Priority = Field(default="interactive", description="who waits for it: a person, a job, an evolution")
    order: int = Field(default=0, ge=0, lt=_ORDERS, description="tasks started earlier come first, so they end first")
    affinity: str = Field(
        default="", description="requests of one affinity share a prefix and go to one replica; empty: no preference"
    )

    @property
    def rank(self) -> int:
        """What an engine sorts by: smaller first; any interactive request before any of a batch."""
        return PRIORITIES.index(self.priority) * _ORDERS + self.order


@runtime_checkable
class Ticketing(Protocol):
    """An engine that serves several users at once."""

    def for_ticket(self, ticket: Ticket) -> Engine:
        """The same engine, with `ticket` on every request."""
        ...


def with_ticket(engine: Engine, ticket: Ticket) -> Engine:
    """`engine` with `ticket` on every request, where it makes a difference between requests at all."""
    return engine.for_ticket(ticket) if isinstance(engine, Ticketing) else engine


class RankedEngine(Protocol):
    """The verbs of `Engine` with the rank of a ticket; smaller ranks are served first, equal ones in order."""

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling, *, rank: int = 0
    ) -> tuple[tuple[Completion, ...], int]:
        """As `Engine.complete`."""
        ...

    async def choose(
        self, member: Member, messages: Sequence[Message], labels: Sequence[str], *, rank: int = 0
    ) -> tuple[float, ...]:
        """As `Engine.choose`."""
        ...

    async def score(self, member: Member, messages: Sequence[Message], text: str, *, rank: int = 0) -> Score:
        """As `Engine.score`."""
        ...
