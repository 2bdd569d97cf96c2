"""The seats in force: what is served under a channel's name, published whole and followed by whoever serves it."""

from __future__ import annotations

from collections.abc import Sequence
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
    bases: tuple[Member, ...] = Field(
        default=(), description="members on a base model without a seat: asked by name, or alone, never deliberating"
    )
    safe: str = Field(description="name of the single best base member; `serve --safe` answers with it alone")
    source: str = Field(description="where the seats come from, e.g. 'runs/quickstart@1'")
    reliability: Reliability | None = Field(default=None, description="measured weights; null: all are equal")

    @model_validator(mode="after")
    def _safe_is_a_base_member(self) -> Roster:
        names = [member.name for member in self.everyone]
        if len(set(names)) != len(names):
            raise ValueError(f"expected members of different names, got {', '.join(names)}")
        if not any(member.name == self.safe and member.adapter is None for member in self.everyone):
            raise ValueError(f"safe: expected a member on a base model among {', '.join(names)}, got {self.safe!r}")
        trained = [member.name for member in self.bases if member.adapters]
        if trained:
            raise ValueError(f"bases: expected members without an adapter, got {', '.join(trained)}; give them a seat")
        return self

    @property
    def id(self) -> str:
        """Hash of what is served; the same seating has the same id wherever it comes from and is published to."""
        return content_hash(self.model_dump(mode="json", exclude={"channel", "source"}))[:16]

    @property
    def everyone(self) -> tuple[Member, ...]:
        """Whoever can be asked by name: the seats, then the base members without one."""
        return (*self.seats, *self.bases)

    @property
    def safe_member(self) -> Member:
        """The single best base member, on its base alone: whatever helps it in talk is left out."""
        return next(member for member in self.everyone if member.name == self.safe).at("propose")

    @property
    def adapters(self) -> tuple[tuple[str, str], ...]:
        """(engine, adapter hash) of every specialist, each once."""
        return tuple(dict.fromkeys((seat.engine, adapter) for seat in self.seats for adapter in seat.adapters))

    def alone(self) -> Roster:
        """The same with the single best base member in the only seat, so that no adapter is needed."""
        return self.model_copy(update={"seats": (self.safe_member,), "bases": self._bases_but_safe()})

    def _bases_but_safe(self) -> tuple[Member, ...]:
        others = (member for member in self.everyone if member.adapter is None and member.name != self.safe)
        return tuple(member.at("propose") for member in others)


def best_base(bases: Sequence[Member], reliability: Reliability | None) -> str:
    """Name of the base member measured to be right most often; the first one where nobody was measured.

    A member whose share rests on nothing but the others' is passed over. Raises ValueError without a base member.
    """
    if not bases:
        raise ValueError("expected at least one member on a base model, got none")
    if reliability is None:
        return bases[0].name
    shares = {member.name: reliability.accuracy(member) for member in bases}
    known = [name for name, share in shares.items() if share.num_judged]
    return max(known, key=lambda name: shares[name].mean) if known else bases[0].name


class SeatSource(Protocol):
    """Where a task gets its seats from; a channel's may change between two tasks, never during one."""

    def held(self) -> AbstractAsyncContextManager[Roster]:
        """The roster in force; its adapters stay loaded until the context is left."""
        ...
