"""What a rollback would change, found by doing it and taking it back."""

from __future__ import annotations

import json
from typing import NamedTuple

from memory import projection, rows
from memory.database import StoreError, fetch
from memory.events import append_event
from memory.store import Memory
from memory.types import Kind, Standing


class Change(NamedTuple):
    """An experience that would be believed differently."""

    id: str
    kind: Kind
    text: str
    before: Standing
    after: Standing


def rollback_preview(memory: Memory, *, source: str | None = None, since: int | None = None) -> list[Change]:
    """The standings that `Memory.rollback` would change, in the order of writing; nothing is changed by asking.

    Raises StoreError for a read-only memory, ValueError unless exactly one of the two is given.
    """
    if (source is None) == (since is None) or source == "":
        raise ValueError(f"rollback: expected either source or since, got {source=} and {since=}; give one")
    if memory.readonly:
        raise StoreError(f"{memory.directory}: opened read-only; open it without readonly to try a rollback")
    with memory.reading() as connection:
        before = dict(fetch(connection, "SELECT entry, standing FROM standings"))
        connection.execute("BEGIN IMMEDIATE")
        try:
            last = connection.execute("SELECT max(created_at) FROM events").get or 0.0
            event = append_event(connection, "rolled_back", {"source": source, "since": since, "reason": ""}, last)
            touched = projection.apply(connection, event, memory.config)
            sql = "SELECT entry, standing FROM standings WHERE entry IN (SELECT value FROM json_each(?)) ORDER BY entry"
            after = dict(fetch(connection, sql, (json.dumps(touched),)))
        finally:
            connection.execute("ROLLBACK")
        changed = {row: standing for row, standing in after.items() if before[row] != standing}
        nodes = rows.nodes_by_row(connection, list(changed))
    return [
        Change(nodes[row].id, nodes[row].kind, nodes[row].text, Standing.model_validate_json(before[row]),
               Standing.model_validate_json(text))
        for row, text in changed.items()
    ]  # fmt: skip
