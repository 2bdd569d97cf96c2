"""Who reads whom: anonymous, one author per distinct answer, strongest opposition first, in the reader's room."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import get_args

from mesh.equivalence import Equality, canonical, same_answer
from mesh.parse import own_words
from mesh.seeds import derive_random
from mesh.types import Level, Part, Proposal, Reading, Shown

LEVELS: tuple[Level, ...] = get_args(Level)
"""How much of a text a reader sees, from all of it to the count of those who hold its answer."""

_STEP_END = re.compile(r"(?<=[.!?;])\s+|\n+")
_ANNOUNCED = re.compile(r"^[\s*#_]*(?:(?:the )?(?:final |correct )?answer(?: is)?[\s:*_]*)?", re.IGNORECASE)
MAX_CRUX_CHARS = 200


@dataclass(frozen=True)
class Group:
    """Peers who hold one answer, and who speaks for them."""

    answer: str
    speaker: Proposal
    supporters: int
    texts: tuple[str, ...]
    """What can be shown at each of `LEVELS`; empty: this level is not to be had for this text."""


def groups_for(
    reader: str,
    number: int,
    held: Mapping[str, Proposal],
    equality: Equality,
    seed: int,
    *,
    max_chars: int,
    digests: Mapping[str, str],
) -> list[Group]:
    """The distinct answers among `reader`'s peers: against its own first, held by more families, by more members.

    `held` maps every member to its position (`mesh.types.positions`). One author of each group, drawn from `seed`,
    speaks for it; equals stand in an order drawn for this reader. `digests` are by author. Abstentions are not shown.
    """
    random = derive_random(seed, reader, number)
    own = held[reader].answer if reader in held else None
    found: dict[str, list[Proposal]] = {}
    for member, proposal in held.items():
        if member != reader and proposal.answer is not None:
            found.setdefault(canonical(proposal.answer, equality), []).append(proposal)
    groups = list(found.values())
    random.shuffle(groups)
    groups.sort(
        key=lambda group: (
            same_answer(group[0].answer, own, equality),
            -len({proposal.family for proposal in group}),
            -len(group),
        )
    )
    dealt = []
    for group in groups:
        speaker = random.choice(group)
        texts = shown_texts(speaker, max_chars, digests.get(speaker.member, ""))
        dealt.append(Group(speaker.answer or "", speaker, len(group), texts))
    return dealt


def shown_texts(proposal: Proposal, max_chars: int, digest: str) -> tuple[str, ...]:
    """A proposal at each of `LEVELS`, empty where it cannot be had: whole, digest with answer, crux, nothing."""
    whole, answer = own_words(proposal.text).strip(), proposal.answer or ""
    short = answer if len(answer) <= max_chars else ""
    return (
        whole if 0 < len(whole) <= max_chars else "",
        f"{digest}\n{ANSWER}{short}" if digest and short and len(digest) <= max_chars else "",
        crux(whole, short) if short else "",
        "",
    )


def crux(text: str, answer: str) -> str:
    """The answer and the step that leads to it: the last one that is short, mentions the answer and is not just it."""
    for step in reversed(steps_of(text)):
        if answer in step and len(step) <= MAX_CRUX_CHARS and _ANNOUNCED.sub("", step).strip(" .*_") != answer:
            return f"{step}\n{ANSWER}{answer}"
    return answer


def steps_of(text: str) -> list[str]:
    """The sentences and lines of a text, in order, without empty ones."""
    return [step.strip() for step in _STEP_END.split(text) if step.strip()]


def pack(sizes: Sequence[Sequence[int | None]], room: int) -> list[int | None]:
    """The level at which each group is shown so that all together fit `room`; None: there is no room for the group.

    `sizes[g][l]` is what group g takes at level l, None if that level is not to be had; the last level must be. Groups
    come strongest first; the weakest is shortened first, one level at a time, and left out before a stronger one is.
    """
    levels: list[int | None] = [next(level for level, size in enumerate(own) if size is not None) for own in sizes]

    def total() -> int:
        return sum(sizes[g][level] or 0 for g, level in enumerate(levels) if level is not None)

    while total() > room:
        shortened = max((g for g, level in enumerate(levels) if _next(sizes[g], level) is not None), default=None,
                        key=lambda g: (-(levels[g] or 0), g))  # fmt: skip
        if shortened is not None:
            levels[shortened] = _next(sizes[shortened], levels[shortened])
            continue
        last = max((g for g, level in enumerate(levels) if level is not None), default=None)
        if last is None:
            break
        levels[last] = None
    return levels


def _next(sizes: Sequence[int | None], level: int | None) -> int | None:
    if level is None:
        return None
    return next((after for after in range(level + 1, len(sizes)) if sizes[after] is not None), None)


def reading_of(reader: str, number: int, groups: Sequence[Group], levels: Sequence[int | None]) -> Reading:
    """What the reader is shown when each group is cut down to its level."""
    shown = [
        Shown(
            label=label,
            answer=group.answer,
            author=group.speaker.member,
            supporters=group.supporters,
            text=group.texts[level],
            level=LEVELS[level],
        )
        for label, (group, level) in zip(
            ascii_uppercase, ((g, lv) for g, lv in zip(groups, levels, strict=True) if lv is not None), strict=False
        )
    ]
    return Reading(reader=reader, round=number, shown=tuple(shown), num_left_out=len(groups) - len(shown))


def strongest_opponent(reading: Reading, own: Proposal | None, equality: Equality) -> Shown | None:
    """The first shown answer against the reader's own, of which there is something to read; None if none is."""
    if own is None or own.answer is None:
        return None
    against = (shown for shown in reading.shown if shown.text and not same_answer(shown.answer, own.answer, equality))
    return next(against, None)


def excerpt(proposal: Proposal, max_chars: int) -> str:
    """As much of a proposal as fits, never cut in the middle: its text, its crux, or that it is long."""
    return next((text for text in shown_texts(proposal, max_chars, "") if text), TOO_LONG if proposal.answer else "")


def supporters_line(shown: Shown) -> Part:
    """How many hold an answer, as a trusted part: counted here, not claimed by a peer."""
    return Part(text=f"Answer {shown.label}, given by {shown.supporters}{':' if shown.text else TOO_LONG_HERE}\n")


TOO_LONG = "(an answer too long to show)"
TOO_LONG_HERE = " (too long to show)."
ANSWER = "Answer: "
