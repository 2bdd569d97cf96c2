"""Which adapters an engine keeps in memory when it knows more than fit: a pure policy, without clock and engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

MIN_TURN = 32
"""Requests an adapter serves before it must make room for one that waits: a load costs as much as many tokens."""


@dataclass(frozen=True)
class Warm:
    """An adapter in memory."""

    num_users: int = 0
    """Requests under way with it."""
    num_served: int = 0
    """Requests begun with it since it came in."""
    last_used: int = 0
    """When a request last began or ended with it, by any clock that only goes forward."""


@dataclass(frozen=True)
class Place:
    """What to do about a request: "go" on, "bring" its adapter in first, or "wait" until something ends."""

    act: Literal["go", "bring", "wait"]
    evict: str | None = None
    """With "bring": the adapter that goes out for it; None: there is room."""


def place_for(wanted: str, warm: Mapping[str, Warm], waiting: Iterable[str], capacity: int) -> Place:
    """What a request for the adapter `wanted` does; `waiting`: what others that wait are waiting for.

    An adapter in use is never put out, and the one put out is the least recently used. Somebody always gets on: when
    every adapter is in use and one outside is waited for, those that had their turn take in nothing new until they
    are idle, as many as there are adapters waited for.
    """
    if wanted in warm:
        return Place("wait" if wanted in closing(warm, waiting) else "go")
    if len(warm) < capacity:
        return Place("bring")
    idle = [adapter for adapter, state in warm.items() if state.num_users == 0]
    return Place("bring", min(idle, key=lambda adapter: warm[adapter].last_used)) if idle else Place("wait")


def closing(warm: Mapping[str, Warm], waiting: Iterable[str]) -> frozenset[str]:
    """Adapters that take in nothing new, so that others get their turn: those that served most in this one."""
    outside = {adapter for adapter in waiting if adapter not in warm}
    served = [adapter for adapter, state in warm.items() if state.num_served >= MIN_TURN]
    return frozenset(sorted(served, key=lambda adapter: (-warm[adapter].num_served, adapter))[: len(outside)])
