"""A request as the serving side hands it on: one call of one member, under an id that it keeps over every retry."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

from mesh.types import Completion, Member, Message, Profile, Sampling, Score

Verb = Literal["complete", "choose", "score", "count_tokens", "profile"]
Argument = Sampling | tuple[str, ...] | str | None
Answer = tuple[tuple[Completion, ...], int] | tuple[float, ...] | Score | int | Profile
"""What the verb gives: of `complete`, the completions and the number of prompt tokens."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call of one member."""

    id: str
    """Kept when the request is asked again: a replica that already works on it, or has done so, does it once."""
    verb: Verb
    member: Member
    messages: tuple[Message, ...] = ()
    argument: Argument = None
    """`complete`: the sampling; `choose`: the labels; `score`: the text; else None."""
    rank: int = 0
    """Smaller ones are served first; see `Ticket.rank`."""


class Requests:
    """Makes requests, each under an id that no other process and no other object of this class gives."""

    def __init__(self) -> None:
        self._prefix = os.urandom(12).hex()
        self._numbers = count()

    def new(
        self, verb: Verb, member: Member, messages: Sequence[Message] = (), argument: Argument = None, rank: int = 0
    ) -> Request:
        """One request."""
        return Request(f"{self._prefix}.{next(self._numbers)}", verb, member, tuple(messages), argument, rank)
