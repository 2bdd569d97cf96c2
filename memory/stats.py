"""Counts over a memory."""

from __future__ import annotations

from typing import Any

import apsw
from pydantic import Field

from memory.database import fetch
from memory.events import head_event
from memory.mirror import MirrorState
from memory.types import Level, Record


class MemoryStats(Record):
    """How much a memory holds. Equal `head`: equal content, written in the same order."""

    num_experiences: int
    num_edges: int
    num_events: int
    num_verified: int = Field(description="solutions and patterns that may be recalled")
    num_failed: int = Field(description="experiences that may be recalled as a warning")
    num_retired: int
    num_uses: int = Field(description="episodes that were shown or denied a recollection, and judged")
    by_level: dict[str, int]
    by_kind: dict[str, int]
    by_task_type: dict[str, int]
    by_namespace: dict[str, int]
    index: MirrorState
    head: str = Field(description="hash of the last event; 64 zeros while empty")
    sqlite_version: str


def read_stats(connection: apsw.Connection, index: MirrorState) -> MemoryStats:
    """Count everything."""
    num_events, head = head_event(connection)
    return MemoryStats(
        num_experiences=_one(connection, "SELECT count(*) FROM entries"),
        num_edges=_one(connection, "SELECT count(*) FROM edges WHERE voided_by IS NULL"),
        num_events=num_events,
        num_verified=_one(connection, "SELECT count(*) FROM standings WHERE works"),
        num_failed=_one(connection, "SELECT count(*) FROM standings WHERE fails"),
        num_retired=_one(connection, f"SELECT count(*) FROM standings WHERE level = '{Level.RETIRED.value}'"),
        num_uses=_one(connection, "SELECT count(DISTINCT episode) FROM uses WHERE voided_by IS NULL"),
        by_level=_counts(connection, "SELECT level, count(*) FROM standings GROUP BY level ORDER BY level"),
        by_kind=_counts(connection, "SELECT kind, count(*) FROM entries GROUP BY kind ORDER BY kind"),
        by_task_type=_counts(
            connection, "SELECT task_type, count(*) FROM entries GROUP BY task_type ORDER BY task_type"
        ),
        by_namespace=_counts(
            connection,
            "SELECT team || '/' || project || '/' || run, count(*) FROM entries"
            " JOIN namespaces ON namespaces.id = namespace GROUP BY namespace ORDER BY 1",
        ),
        index=index,
        head=head,
        sqlite_version=apsw.sqlite_lib_version(),
    )


def _one(connection: apsw.Connection, sql: str) -> int:
    return int(connection.execute(sql).get)


def _counts(connection: apsw.Connection, sql: str) -> dict[str, int]:
    found: list[Any] = fetch(connection, sql)
    return dict(found)
