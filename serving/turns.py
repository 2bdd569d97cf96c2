"""The turns of a conversation as a template takes them: a refused system role folded in, equal roles merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mesh.types import Message, Part

Role = Literal["system", "user", "assistant"]
Turn = tuple[Role, tuple[Part, ...]]
TURN_BREAK = "\n\n"


def as_turns(messages: Sequence[Message], *, accepts_system: bool, needs_alternation: bool) -> list[Turn]:
    """Roles and parts. A system turn that is not accepted joins the user turn after it, after an empty line.

    Where user and assistant must alternate, turns of one role in a row become one in the same way.
    """
    turns: list[Turn] = []
    joins_next = False
    for message in messages:
        is_folded = message.role == "system" and not accepts_system
        role: Role = "user" if is_folded else message.role
        if turns and turns[-1][0] == role and (joins_next or needs_alternation):
            turns[-1] = (role, (*turns[-1][1], Part(text=TURN_BREAK), *message.parts))
        else:
            turns.append((role, message.parts))
        joins_next = is_folded
    return turns
