"""Exchanges of an earlier start of a deliberation, given back instead of asked for again."""

from __future__ import annotations

from collections import defaultdict, deque

from memory.types import content_hash
from mesh.types import Deliberation, Exchange, Failure, Message

Key = tuple[str, str, str, int, str]


class Replay:
    """Answers by what was asked: a deliberation that waited for a person goes on where it stopped, at no cost.

    Every decision of a deliberation follows from its arguments, from what its engine said and from what it could pay,
    so giving the same answers, and leaving undone what was left undone, brings it to the same place.
    """

    def __init__(self, earlier: Deliberation | None) -> None:
        self._heard: dict[Key, deque[Exchange]] = defaultdict(deque)
        self._parts = {} if earlier is None else dict(earlier.walk())
        for path, part in self._parts.items():
            for exchange in part.exchanges:
                key = _key(path, exchange.member, exchange.phase, exchange.round, exchange.messages)
                self._heard[key].append(exchange)

    def take(self, path: str, member: str, phase: str, number: int, messages: tuple[Message, ...]) -> Exchange | None:
        """What this call gave earlier; None if it was not made, or was given back already."""
        if not self._heard:
            return None
        heard = self._heard.get(_key(path, member, phase, number, messages))
        return heard.popleft() if heard else None

    def ended(self, path: str) -> Deliberation | None:
        """The part that had come to its end, be it to wait for a person there; None: it had not, or none of its name.

        Such a part makes no call that it did not make then.
        """
        part = self._parts.get(path)
        return None if part is None or any(child.is_waiting for child in part.children) else part

    def failure(self, path: str, member: str, phase: str, number: int) -> Failure | None:
        """Why a call of a part that ended had not been made; None: nothing is known of it."""
        part = self.ended(path)
        failures = () if part is None else part.failures
        return next((f for f in failures if (f.member, f.phase, f.round) == (member, phase, number)), None)


def _key(path: str, member: str, phase: str, number: int, messages: tuple[Message, ...]) -> Key:
    return path, member, phase, number, content_hash([message.model_dump(mode="json") for message in messages])
