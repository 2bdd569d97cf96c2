"""Who reads whom: anonymous, one representative per distinct answer, shuffled per reader, in limited room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase

from mesh.equivalence import Equality, canonical, same_answer
from mesh.parse import own_words
from mesh.seeds import derive_random
from mesh.types import Part, Proposal, Reading, Shown


@dataclass(frozen=True)
class Room:
    """How much of its peers one reader gets to see."""

    max_peers_shown: int
    peer_max_chars: int


def read_peers(
    reader: str, number: int, held: Mapping[str, Proposal], kind: Equality, room: Room, seed: int
) -> Reading:
    """What `reader` is shown of the others' positions in round `number`.

    `held` maps every member to its position (`mesh.types.positions`), in seat order. The others are grouped by
    distinct answer; one author of each group, drawn from `seed`, speaks for it. Where there are more groups than
    room, those against the reader's own answer come first, the larger before the smaller. Abstentions are not shown.
    """
    random = derive_random(seed, reader, number)
    own = held[reader].answer if reader in held else None
    groups: dict[str, list[Proposal]] = {}
    for member, proposal in held.items():
        if member != reader and proposal.answer is not None:
            groups.setdefault(canonical(proposal.answer, kind), []).append(proposal)
    kept = sorted(groups.values(), key=lambda group: (same_answer(group[0].answer, own, kind), -len(group)))
    kept = kept[: room.max_peers_shown]
    random.shuffle(kept)
    shown = []
    for label, group in zip(ascii_uppercase, kept, strict=False):
        speaker = random.choice(group)
        answer, text = speaker.answer or "", excerpt(speaker, room.peer_max_chars)
        shown.append(Shown(label=label, answer=answer, author=speaker.member, supporters=len(group), text=text))
    return Reading(reader=reader, round=number, shown=tuple(shown))


def strongest_opponent(reading: Reading, own: Proposal | None, kind: Equality) -> Shown | None:
    """The shown answer against the reader's own that most peers hold (the first shown of equals); None if none is."""
    if own is None or own.answer is None:
        return None
    against = [shown for shown in reading.shown if not same_answer(shown.answer, own.answer, kind)]
    return max(against, key=lambda shown: shown.supporters, default=None)


def excerpt(proposal: Proposal, max_chars: int) -> str:
    """As much of a proposal as fits, never cut in the middle: its text, its answer, or that it is long."""
    for text in (own_words(proposal.text).strip(), proposal.answer or ""):
        if 0 < len(text) <= max_chars:
            return text
    return TOO_LONG if proposal.answer else ""


def supporters_line(shown: Shown) -> Part:
    """How many hold an answer, as a trusted part: counted here, not claimed by a peer."""
    return Part(text=f"Answer {shown.label}, given by {shown.supporters}:\n")


TOO_LONG = "(an answer too long to show)"
