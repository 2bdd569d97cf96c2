"""Lineage: which specialists there are, whom they descend from, and who is seated in each generation."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field, model_validator

from evolve.training.config import Role
from memory.ledger import Ledger
from memory.types import Record, content_hash
from mesh.types import Member

_KIND = "generation"


class LineageError(ValueError):
    """The lineage contradicts itself, or a generation does not fit the one before it."""


class Specialist(Record):
    """What is inherited: an adapter that earned a seat, and where it comes from."""

    name: str = Field(description="unique within a run, e.g. the recipe's name")
    engine: str = Field(description="engine whose base model the adapter is for")
    family: str = Field(description="model family of that engine")
    adapter: str = Field(description="content hash of the adapter")
    parents: tuple[str, ...] = Field(
        default=(),
        description="adapter hashes it descends from: whose traces it learned from, or what was merged",
    )
    generation: int = Field(ge=1, description="the first generation it is seated in")
    recipe: str = Field(description="name of the recipe it was made by")
    data_digest: str = Field(description="hash of the rows it learned from")
    gate_digest: str = Field(description="hash of the gate record that let it pass")
    niche: tuple[str, ...] = Field(default=(), description="task types it was bred for; empty: all")
    role: Role = Field(
        default="proposer",
        description="what it does in its seat: first answers, or help with others' answers",
        # Left out of a proposer's record, which keeps the hash it had before there were others.
        exclude_if=lambda role: role == "proposer",
    )


class Generation(Record):
    """Who is seated at one point of a run."""

    number: int = Field(ge=0)
    seats: tuple[Member, ...] = Field(min_length=1, description="in seat order, which breaks ties in votes")
    specialists: tuple[Specialist, ...] = Field(default=(), description="the ones that the seats hold")
    parent: str | None = Field(default=None, description="digest of the generation before; None for generation 0")

    @model_validator(mode="after")
    def _seats_hold_specialists(self) -> Generation:
        names = [member.name for member in self.seats]
        if len(set(names)) < len(names):
            raise ValueError(f"seat names must be unique, got {names}; rename the double ones")
        known = {(s.engine, s.adapter) for s in self.specialists}
        held = {(m.engine, adapter) for m in self.seats for adapter in m.adapters}
        if known != held:
            raise ValueError(
                f"expected a specialist for each seated adapter and no other, got seats {sorted(held)} "
                f"and specialists {sorted(known)}; pass exactly the specialists that are seated"
            )
        if (self.number == 0) != (self.parent is None):
            raise ValueError(f"generation {self.number}: only generation 0 has no parent, got {self.parent}")
        return self

    @property
    def digest(self) -> str:
        """Hash of the whole record; the next generation names it as its parent."""
        return content_hash(self)

    @property
    def roster_digest(self) -> str:
        """Hash of the seats alone: equal for two generations that seat the same."""
        return content_hash([member.model_dump(mode="json") for member in self.seats])


def seat(generation: Generation) -> list[Member]:
    """The members of a deliberation in this generation, in seat order."""
    return list(generation.seats)


def founders(seats: Sequence[Member]) -> Generation:
    """Generation 0: base models only."""
    return Generation(number=0, seats=tuple(seats))


def successor(
    current: Generation,
    seats: Sequence[Member],
    promoted: Sequence[Specialist] = (),
    *,
    returning: Iterable[Specialist] = (),
) -> Generation:
    """The next generation with these seats; specialists that lost their seat leave it, the lineage keeps them.

    Args:
        current: the generation before it.
        seats: in seat order.
        promoted: seated for the first time.
        returning: seated in some generation before; those without a seat are passed over.

    Raises:
        LineageError: a seated adapter that is in none of these, or promoted for another number.
    """
    number = current.number + 1
    for specialist in promoted:
        if specialist.generation != number:
            raise LineageError(
                f"specialist {specialist.name}: expected generation {number}, got {specialist.generation}; "
                "a specialist belongs to the generation it is first seated in"
            )
    known = {(s.engine, s.adapter): s for s in (*promoted, *returning, *current.specialists)}
    held = dict.fromkeys((m.engine, adapter) for m in seats for adapter in m.adapters)
    missing = [key for key in held if key not in known]
    if missing:
        raise LineageError(f"seats hold adapters without a specialist: {missing}; pass them as promoted")
    return Generation(
        number=number,
        seats=tuple(seats),
        specialists=tuple(known[key] for key in held),
        parent=current.digest,
    )


class Lineage:
    """The generations of a run, on a ledger; what is appended stays, and can be checked.

    Not covered: two writers at once; the run's lock keeps them apart.
    """

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self._ledger = Ledger(path, readonly=readonly)

    def append(self, generation: Generation) -> None:
        """Add the next generation; the one that is already last may be added again, which changes nothing.

        Raises:
            LineageError: not the next number, or not a child of the last generation.
        """
        generations = self.generations()
        if generations and generations[-1] == generation:
            return
        _check_next(generations, generation)
        self._ledger.append(_KIND, generation.model_dump(mode="json"))

    def enter(self, generation: Generation) -> None:
        """Add the next generation, or find it there as it is: a run that goes on tells its earlier ones again.

        Raises:
            LineageError: as `append`; or another generation of that number is there.
        """
        known = self.generations()
        if generation.number >= len(known):
            self.append(generation)
        elif known[generation.number] != generation:
            there = known[generation.number].digest[:12]
            raise LineageError(
                f"generation {generation.number}: the lineage holds another one ({there}) than the run came to "
                f"({generation.digest[:12]}); restore generations.jsonl, or start a new run directory"
            )

    def generations(self) -> list[Generation]:
        """All generations, oldest first. Raises LedgerError where the file was changed."""
        return [Generation.model_validate(e.payload) for e in self._ledger.entries() if e.kind == _KIND]

    def latest(self) -> Generation | None:
        """The last generation; None before generation 0."""
        generations = self.generations()
        return generations[-1] if generations else None

    def verify(self) -> int:
        """Check the whole record and return the number of generations.

        Raises:
            LedgerError: bytes were changed, inserted or removed.
            LineageError: a generation does not follow from the ones before it.
        """
        generations = self.generations()
        for index, generation in enumerate(generations):
            _check_next(generations[:index], generation)
        return len(generations)

    def specialists(self) -> dict[str, Specialist]:
        """Every specialist that was ever seated, by adapter hash, oldest first."""
        return _specialists(self.generations())

    def ancestors(self, adapter: str) -> list[Specialist]:
        """Parents of `adapter`, then their parents, and so on, nearest first, each once; without itself.

        Raises:
            LineageError: the adapter was never seated.
        """
        known = self.specialists()
        if adapter not in known:
            raise LineageError(f"expected the adapter of a specialist, got {adapter}; known: {sorted(known) or 'none'}")
        found: dict[str, Specialist] = {}
        waiting = deque(known[adapter].parents)
        while waiting:
            parent = waiting.popleft()
            if parent not in found:
                if parent not in known:
                    continue  # an archive elite that never had a seat; its own record is in the generation that bred it
                found[parent] = known[parent]
                waiting.extend(known[parent].parents)
        return list(found.values())


def _specialists(generations: Sequence[Generation]) -> dict[str, Specialist]:
    return {s.adapter: s for generation in reversed(generations) for s in generation.specialists}


def _check_next(before: Sequence[Generation], generation: Generation) -> None:
    if generation.number != len(before):
        raise LineageError(f"expected generation {len(before)}, got {generation.number}; append them in order")
    parent = before[-1].digest if before else None
    if generation.parent != parent:
        raise LineageError(
            f"generation {generation.number}: expected parent {parent}, got {generation.parent}; "
            "make it with successor() from the last generation"
        )
    known = _specialists(before)
    for specialist in generation.specialists:
        inherited = known.get(specialist.adapter)
        if inherited is not None and inherited != specialist:
            raise LineageError(f"specialist {specialist.name} was recorded otherwise before; records do not change")
        if inherited is None and specialist.generation != generation.number:
            raise LineageError(
                f"specialist {specialist.name}: first seated in generation {generation.number}, "
                f"but it says {specialist.generation}"
            )
