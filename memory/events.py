"""The chain of events: what happened to memory, in order, each event sealed by the hash of the one before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import apsw

from memory.database import StoreError
from memory.ledger import GENESIS, canonical_json, chain_digest


class Event(NamedTuple):
    """One thing that happened. `payload` holds ids and names, never text."""

    seq: int
    kind: str
    payload: dict[str, Any]
    created_at: float


def append_event(connection: apsw.Connection, kind: str, payload: dict[str, Any], now: float) -> Event:
    """Add an event to the chain; inside the caller's transaction.

    A clock that went backwards counts as standing still: no event is older than the one before.
    """
    found: Any = connection.execute("SELECT seq, hash, created_at FROM events ORDER BY seq DESC LIMIT 1").fetchone()
    count, head, last = found or (0, GENESIS, now)
    event = Event(count + 1, kind, payload, max(now, last))
    connection.execute(
        "INSERT INTO events (seq, kind, payload, prev, hash, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        (
            event.seq,
            kind,
            canonical_json(payload),
            head,
            chain_digest(event.seq, head, kind, payload),
            event.created_at,
        ),
    )
    return event


def head_event(connection: apsw.Connection) -> tuple[int, str]:
    """Number of events, and the hash of the last."""
    return connection.execute("SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1").get or (0, GENESIS)


def event_hash(connection: apsw.Connection, seq: int) -> str | None:
    """Hash of one event; None when there is none. Event 0 is the empty history."""
    return GENESIS if seq == 0 else connection.execute("SELECT hash FROM events WHERE seq = ?", (seq,)).get


def all_events(connection: apsw.Connection) -> Iterator[Event]:
    """Every event, in order."""
    for seq, kind, payload, created_at in connection.execute(
        "SELECT seq, kind, payload, created_at FROM events ORDER BY seq"
    ):
        yield Event(seq, kind, json.loads(payload), created_at)


def verify_events(connection: apsw.Connection) -> int:
    """Recompute the chain of events. Returns how many there are; raises StoreError at the first broken one."""
    head, count = GENESIS, 0
    for seq, kind, payload, prev, stored in connection.execute(
        "SELECT seq, kind, payload, prev, hash FROM events ORDER BY seq"
    ):
        count += 1
        expected = chain_digest(count, head, kind, json.loads(payload))
        if (seq, prev, stored) != (count, head, expected):
            raise StoreError(f"event {count}: expected hash {expected} after {head[:12]}, got {stored}; restore a copy")
        head = stored
    return count
