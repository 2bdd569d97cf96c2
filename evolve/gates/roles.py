"""Critics and synthesisers: specialists that help a seat with others' answers, and leave its own as they were. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evolve.candidate import Candidate
from evolve.gates.arrangements import Arrangement
from evolve.gates.conjunction import RivalKind
from evolve.gates.rivals import Seats, rival_seats
from evolve.training.config import Role
from mesh.types import Member, Phase, Work

WORK: Mapping[Role, Work] = {"critic": "critique", "synthesiser": "synthesis"}
"""What a role does in a council; a proposer does the rest."""
PHASES: Mapping[Role, tuple[Phase, ...]] = {"critic": ("critique",), "synthesiser": ("revise", "synthesise")}


def helped(seat: Member, candidate: Candidate) -> Member:
    """The seat with the candidate's adapter for its work, in place of whatever did that before.

    It keeps its name: as a proposer it is the same member, which draws the same first proposals.
    """
    work = WORK[candidate.recipe.role]
    others = [pair for pair in seat.phase_adapters if pair[0] != work]
    pairs = sorted([*others, (work, candidate.member.adapter or "")])
    return seat.model_copy(update={"phase_adapters": tuple(pairs)})


def helping(seats: Sequence[Member], candidate: Candidate) -> Arrangement:
    """Today's seats, of which one of the candidate's engine has its help: the first one without such help, if any."""
    work = WORK[candidate.recipe.role]
    mine = [place for place, seat in enumerate(seats) if seat.engine == candidate.member.engine]
    free = [place for place in mine if work not in dict(seats[place].phase_adapters)]
    chosen = (free or mine)[0]
    return Arrangement(
        name=candidate.member.name,
        seats=tuple(helped(seat, candidate) if place == chosen else seat for place, seat in enumerate(seats)),
        candidates=(candidate.member.name,),
        endpoint="council",
    )


def place_of(seats: Sequence[Member], arrangement: Arrangement) -> int:
    """The one place that an arrangement of `helping` changes."""
    return next(place for place, seat in enumerate(arrangement.seats) if seat != seats[place])


def council_rivals(
    seats: Sequence[Member], arrangement: Arrangement, placebo: Candidate | None, best: Member
) -> dict[RivalKind, Seats]:
    """Whom an arrangement of `helping` has to beat in councils; all of them take as many calls.

    Args:
        seats: the incumbents.
        arrangement: theirs with the candidate's help.
        placebo: what learned the form of the same work alone, on the same engine; None: there is none.
        best: the best incumbent on DEV, of which one more takes the helped seat.
    """
    rivals = rival_seats(seats, arrangement.seats, {}, best)
    if placebo is None:
        return rivals
    place = place_of(seats, arrangement)
    form = tuple(helped(seat, placebo) if index == place else seat for index, seat in enumerate(seats))
    return {"incumbent": rivals["incumbent"], "placebo": form, "budget": rivals["budget"]}
