"""Exchanges of an earlier start of a deliberation, given back instead of asked for again."""

from __future__ import annotations

from collections import defaultdict, deque

from memory.types import content_hash
from mesh.types import Deliberation, Exchange, Message

Key = tuple[str, str, str, int, str]


class Replay:
    """Answers by what was asked: a deliberation that waited for a person goes on where it stopped, at no cost.

    Every decision of a deliberation follows from its arguments and from what its engine said, so giving the same
    answers brings it to the same place.
    """

    def __init__(self, earlier: Deliberation | None) -> None:
        self._heard: dict[Key, deque[Exchange]] = defaultdict(deque)
        if earlier is None:
            return
        for path, part in earlier.walk():
            for exchange in part.exchanges:
                key = _key(path, exchange.member, exchange.phase, exchange.round, exchange.messages)
                self._heard[key].append(exchange)

    def take(self, path: str, member: str, phase: str, number: int, messages: tuple[Message, ...]) -> Exchange | None:
        """What this call gave earlier; None if it was not made, or was given back already."""
        if not self._heard:
            return None
        heard = self._heard.get(_key(path, member, phase, number, messages))
        return heard.popleft() if heard else None


def _key(path: str, member: str, phase: str, number: int, messages: tuple[Message, ...]) -> Key:
    return path, member, phase, number, content_hash([message.model_dump(mode="json") for message in messages])
