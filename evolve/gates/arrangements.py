"""Ways to seat the mesh: today's seats with one or several candidates in places of their engines. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import Field

from evolve.gates.coverage import choose_seats
from memory.types import Record
from mesh.types import Member

Endpoint = Literal["vote", "council"]
"""What an arrangement is measured by: the vote over first proposals, or the verdict of full councils."""


class Arrangement(Record):
    """A way to seat the mesh."""

    name: str
    seats: tuple[Member, ...]
    candidates: tuple[str, ...] = Field(description="names of the candidates that are seated")
    endpoint: Endpoint = Field(
        default="vote", description="council: they help with others' answers, so that no vote over first ones differs"
    )


def weakest_places(seats: Sequence[Member], values: Mapping[str, float]) -> dict[str, int]:
    """Engine to the place of its seat that is worth least to the vote; of equals the last.

    Args:
        seats: the incumbents, in seat order.
        values: member name to its worth, e.g. its Shapley value.
    """
    places: dict[str, int] = {}
    for place, member in enumerate(seats):
        held = places.get(member.engine)
        if held is None or values[member.name] <= values[seats[held].name]:
            places[member.engine] = place
    return places


def alone(seats: Sequence[Member], candidate: Member, places: Mapping[str, int]) -> Arrangement:
    """The candidate in its engine's weakest place."""
    return _taking(seats, [candidate], places)


def together(seats: Sequence[Member], candidates: Sequence[Member], places: Mapping[str, int]) -> Arrangement | None:
    """The first candidate of every engine, all at once; None where they are of one engine only."""
    best = {candidate.engine: candidate for candidate in reversed(candidates)}
    return _taking(seats, list(best.values()), places) if len(best) > 1 else None


def widest(
    seats: Sequence[Member], candidates: Sequence[Member], scores: Mapping[str, Sequence[float]]
) -> Arrangement | None:
    """The seats that solve most problems between them, as many of each engine as today; None: today's.

    A mesh is chosen for what it covers together, not for its members' own scores.

    Args:
        seats: the incumbents, in seat order.
        candidates: who may take a place.
        scores: member name to the share of its samples that is right, problem by problem, for all of them.
    """
    people = {member.name: member for member in (*seats, *candidates)}
    chosen = choose_seats(
        {name: scores[name] for name in people},
        len(seats),
        groups={name: member.engine for name, member in people.items()},
        max_per_group=Counter(member.engine for member in seats),
    )
    staying = {name for name in chosen.members if people[name] in seats}
    coming = [people[name] for name in chosen.members if name not in staying]
    if not coming or len(chosen.members) < len(seats):
        return None
    places = list(seats)
    for place, member in enumerate(seats):
        if member.name in staying:
            continue
        new = next(one for one in coming if one.engine == member.engine)
        coming.remove(new)
        places[place] = _after(member, new)
    names = tuple(member.name for member in places if member not in seats)
    return Arrangement(name=" and ".join(names), seats=tuple(places), candidates=names)


def distinct(arrangements: Sequence[Arrangement | None]) -> list[Arrangement]:
    """Those that are there, each set of seats once, the first of equals."""
    seen: dict[frozenset[str], Arrangement] = {}
    for one in arrangements:
        if one is not None:
            seen.setdefault(frozenset(member.name for member in one.seats), one)
    return list(seen.values())


def one_of_each(arrangements: Iterable[Arrangement]) -> list[Arrangement]:
    """The first arrangement of each set of candidates; with several seats of an engine they may take different ones."""
    first: dict[frozenset[str], Arrangement] = {}
    for one in arrangements:
        first.setdefault(frozenset(one.candidates), one)
    return list(first.values())


def _after(seated: Member, candidate: Member) -> Member:
    """The candidate in a seat; whoever helps there with others' answers stays."""
    return candidate.model_copy(update={"phase_adapters": seated.phase_adapters})


def _taking(seats: Sequence[Member], candidates: Sequence[Member], places: Mapping[str, int]) -> Arrangement:
    taken = {places[one.engine]: _after(seats[places[one.engine]], one) for one in candidates}
    return Arrangement(
        name=" and ".join(member.name for _, member in sorted(taken.items())),
        seats=tuple(taken.get(place, member) for place, member in enumerate(seats)),
        candidates=tuple(member.name for _, member in sorted(taken.items())),
    )
