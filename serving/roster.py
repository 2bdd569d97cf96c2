"""The seats in force: what is served under a channel's name, published whole and followed by whoever serves it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from pydantic import Field, model_validator

from memory.types import Record, content_hash
from mesh.reliability import Reliability
from mesh.types import Member


class Roster(Record):
    """Who sits in the mesh. It never changes: another seating is another roster."""

    channel: str = Field(description="channel it was published to, e.g. 'prod'; 'local': seats of a configuration")
    seats: tuple[Member, ...] = Field(min_length=1, description="with adapters by content hash")
    safe: str = Field(description="name of the single best seat on a base model; `serve --safe` answers with it alone")
    source: str = Field(description="where the seats come from, e.g. 'runs/quickstart@1'")
    reliability: Reliability | None = Field(default=None, description="measured weights; null: all are equal")

    @model_validator(mode="after")
    def _safe_is_a_base_seat(self) -> Roster:
        names = [seat.name for seat in self.seats]
        if len(set(names)) != len(names):
            raise ValueError(f"expected seats of different names, got {', '.join(names)}")
        if not any(seat.name == self.safe and seat.adapter is None for seat in self.seats):
            raise ValueError(f"safe: expected a seat on a base model among {', '.join(names)}, got {self.safe!r}")
        return self

    @property
    def id(self) -> str:
        """Content hash; the same seating has the same id wherever it is published."""
        return content_hash(self)[:16]

    @property
    def adapters(self) -> tuple[tuple[str, str], ...]:
        """(engine, adapter hash) of every specialist, each once."""
        return tuple(dict.fromkeys((seat.engine, seat.adapter) for seat in self.seats if seat.adapter is not None))


class SeatSource(Protocol):
    """Where a task gets its seats from; a channel's may change between two tasks, never during one."""

    def held(self) -> AbstractAsyncContextManager[Roster]:
        """The roster in force; its adapters stay loaded until the context is left."""
        ...
