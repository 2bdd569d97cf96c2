"""Who stands against a candidate at equal budget: the seats of every rival, and the contests replayed from a pool."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from evolve.evaluate import Pool, Precedence, as_seated, right_votes
from evolve.gates.conjunction import Contest, Rival, RivalKind
from evolve.gates.gate import ArmKind
from evolve.problems.sealed import Asked
from mesh.types import Member

Seats = tuple[Member, ...]


def again(member: Member, label: str) -> Member:
    """The same model under another name, so that its draws have seeds of their own and no journal entry to replay."""
    return member.model_copy(update={"name": f"{member.name}~{label}"})


def aa_seats(seats: Sequence[Member], label: str) -> Seats:
    """The incumbents re-entered under fresh seeds: what passes with these seats is a false promotion."""
    return tuple(again(member, f"aa-{label}") for member in seats)


def best_incumbent(seats: Sequence[Member], scores: Mapping[str, Sequence[float]]) -> Member:
    """The seat with the highest sum of `scores` (by member name, problem by problem); of equals the earlier one."""
    return max(seats, key=lambda member: sum(scores[member.name]))


def rival_seats(
    seats: Sequence[Member],
    candidate: Sequence[Member],
    twins: Mapping[str, Member],
    best: Member,
    *,
    without: Collection[str] = (),
) -> dict[RivalKind, Seats]:
    """The seats of every rival of an arrangement; "placebo" is missing where no candidate in it learned from rows, or
    one that did has no twin.

    Args:
        seats: the incumbents, in seat order.
        candidate: the arrangement that wants to be seated, place by place like `seats`.
        twins: candidate to the member that was trained like it on shuffled targets.
        best: the best incumbent on DEV; one more sample of it takes each changed place.
        without: candidates that learned from no rows. They stay beside the twins of the others, so that the two sides
            differ in nothing but what the targets taught.

    Raises:
        ValueError: another number of places, or no place was changed.
    """
    changed = [place for place, (old, new) in enumerate(zip(seats, candidate, strict=True)) if old != new]
    if not changed:
        raise ValueError("expected an arrangement that changes at least one seat, got the incumbents themselves")
    rivals: dict[RivalKind, Seats] = {"incumbent": tuple(seats)}
    learned = {place: candidate[place].name for place in changed if candidate[place].name not in without}
    if learned and all(name in twins for name in learned.values()):
        rivals["placebo"] = _taking(candidate, {place: twins[name] for place, name in learned.items()})
    rivals["budget"] = _taking(seats, {place: again(best, f"budget-{place}") for place in changed})
    return rivals


def contest_of(
    name: str,
    pool: Pool,
    candidate: Sequence[Member],
    rivals: Mapping[RivalKind, Sequence[Member]],
    problems: Sequence[Asked],
    judged: Mapping[tuple[str, str], bool],
    *,
    ties: Precedence = as_seated,
    kind: ArmKind = "candidate",
    clusters: Sequence[str] = (),
    exempt: Sequence[RivalKind] = (),
    num_left_out: int = 0,
) -> Contest:
    """The first-round votes of an arrangement and its rivals on the same problems, replayed from `pool`.

    The pool must hold as many first proposals of every member named; `judged` is keyed by (task id, answer).
    """
    return Contest(
        name=name,
        kind=kind,
        right=right_votes(pool, candidate, problems, judged, ties),
        rivals=tuple(
            Rival(
                kind=rival,
                name=" and ".join(member.name for member in seats),
                right=right_votes(pool, seats, problems, judged, ties),
            )
            for rival, seats in rivals.items()
        ),
        task_types=tuple(problem.task.type for problem in problems),
        clusters=tuple(clusters),
        exempt=tuple(exempt),
        num_left_out=num_left_out,
    )


def members_of(arrangements: Sequence[Sequence[Member]]) -> list[Member]:
    """Every member that has to be drawn once, as it proposes, in order of appearance."""
    return list(dict.fromkeys(member.at("propose") for seats in arrangements for member in seats))


def _taking(seats: Sequence[Member], places: Mapping[int, Member]) -> Seats:
    return tuple(places.get(place, member) for place, member in enumerate(seats))
