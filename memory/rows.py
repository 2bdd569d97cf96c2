"""Experiences, edges, vectors and events as rows: what is written together, and how it is read back."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import apsw
import numpy as np

from memory.database import StoreError, transaction
from memory.embed import Vectors
from memory.index import Rows
from memory.ledger import GENESIS
from memory.types import Edge, Experience, Kind, Relation, content_hash

Node = tuple[int, Experience]
"""A stored experience and its row number, which counts up in the order of writing."""


class Writing(NamedTuple):
    """What one transaction adds; `vectors` holds the rows of `experiences` that are embedded, by place."""

    experiences: Sequence[Experience]
    edges: Sequence[Edge]
    vectors: dict[int, Vectors]


def write(connection: apsw.Connection, writing: Writing, embedder: str) -> None:
    """Add experiences, words, vectors, edges and the event that says so, in one transaction.

    Everything must be new. Raises StoreError if an edge leads to an experience that is not stored.
    """
    ids = [experience.id for experience in writing.experiences]
    with transaction(connection):
        event = _append_event(
            connection, "remembered", {"entries": ids, "edges": [list(_triple(edge)) for edge in writing.edges]}
        )
        for place, experience in enumerate(writing.experiences):
            row = _insert(connection, experience, ids[place], event)
            if place in writing.vectors:
                insert_vector(connection, row, embedder, writing.vectors[place])
        for edge in writing.edges:
            for end in (edge.source, edge.target):
                if not _exists(connection, end):
                    raise StoreError(f"edge {_triple(edge)}: expected a stored experience, got {end}; remember it too")
            connection.execute(
                "INSERT INTO edges (source, relation, target, event) VALUES (?, ?, ?, ?)", (*_triple(edge), event)
            )


def insert_vector(connection: apsw.Connection, row: int, embedder: str, vector: Vectors) -> None:
    """Store one vector of one entry; inside the caller's transaction."""
    blob = vector.astype("<f4").tobytes()
    connection.execute("INSERT INTO vectors (entry, embedder, vector) VALUES (?, ?, ?)", (row, embedder, blob))


def is_new_edge(connection: apsw.Connection, edge: Edge) -> bool:
    """True: this edge is not stored yet."""
    sql = "SELECT 1 FROM edges WHERE source = ? AND relation = ? AND target = ?"
    return connection.execute(sql, _triple(edge)).get is None


def known_ids(connection: apsw.Connection, ids: Sequence[str]) -> set[str]:
    """Those of `ids` that are stored."""
    return set(kinds_of(connection, ids))


def kinds_of(connection: apsw.Connection, ids: Sequence[str]) -> dict[str, Kind]:
    """Kind of each stored experience among `ids`."""
    sql = "SELECT id, kind FROM entries WHERE id IN (SELECT value FROM json_each(?))"
    return {str(id): Kind(kind) for id, kind in connection.execute(sql, (json.dumps(list(ids)),))}


def nodes_by_row(connection: apsw.Connection, rows: Sequence[int]) -> dict[int, Experience]:
    """Experiences by row number."""
    sql = "SELECT seq, text, rest FROM entries WHERE seq IN (SELECT value FROM json_each(?))"
    return {row: _experience(text, rest) for row, text, rest in connection.execute(sql, (json.dumps(list(rows)),))}


def nodes_by_id(connection: apsw.Connection, ids: Sequence[str]) -> dict[str, Node]:
    """Rows and experiences by id; unknown ids are left out."""
    sql = "SELECT id, seq, text, rest FROM entries WHERE id IN (SELECT value FROM json_each(?))"
    found = connection.execute(sql, (json.dumps(list(ids)),))
    return {id: (row, _experience(text, rest)) for id, row, text, rest in found}


def edges_from(connection: apsw.Connection, ids: Sequence[str]) -> list[Edge]:
    """Edges that start at any of `ids`, in the order they were written."""
    sql = (
        "SELECT source, relation, target FROM edges WHERE source IN (SELECT value FROM json_each(?)) ORDER BY edges.seq"
    )
    return _edges(connection, sql, (json.dumps(list(ids)),))


def edges_of(connection: apsw.Connection, id: str) -> list[Edge]:
    """Edges that start or end at one experience, in the order they were written."""
    return _edges(
        connection, "SELECT source, relation, target FROM edges WHERE ?1 IN (source, target) ORDER BY seq", (id,)
    )


def head_event(connection: apsw.Connection) -> tuple[int, str]:
    """Number of events, and the hash of the last."""
    return connection.execute("SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1").get or (0, GENESIS)


def event_hash(connection: apsw.Connection, seq: int) -> str | None:
    """Hash of one event; None when there is none. Event 0 is the empty history."""
    return GENESIS if seq == 0 else connection.execute("SELECT hash FROM events WHERE seq = ?", (seq,)).get


def verify_events(connection: apsw.Connection) -> int:
    """Recompute the chain of events. Returns how many there are; raises StoreError at the first broken one."""
    head, count = GENESIS, 0
    for seq, kind, payload, prev, stored in connection.execute(
        "SELECT seq, kind, payload, prev, hash FROM events ORDER BY seq"
    ):
        count += 1
        expected = _event_digest(count, head, kind, json.loads(payload))
        if (seq, prev, stored) != (count, head, expected):
            raise StoreError(f"event {count}: expected hash {expected} after {head[:12]}, got {stored}; restore a copy")
        head = stored
    return count


def vectors_after(connection: apsw.Connection, embedder: str, dim: int, after: int) -> tuple[int, Rows, Vectors]:
    """Vectors of `embedder` stored after vector number `after`: (last number, entry rows (n,), vectors (n, dim)).

    Raises StoreError if a stored vector is not `dim` long.
    """
    sql = "SELECT seq, entry, vector FROM vectors WHERE embedder = ? AND seq > ? ORDER BY seq"
    found: list[Any] = connection.execute(sql, (embedder, after)).fetchall()
    for seq, _, blob in found:
        if len(blob) != 4 * dim:
            raise StoreError(
                f"vector {seq}: expected {dim} numbers from embedder {embedder}, got {len(blob) / 4:g}; "
                "give the changed embedder another id"
            )
    rows = np.array([entry for _, entry, _ in found], dtype=np.int64)
    vectors = np.frombuffer(b"".join(blob for *_, blob in found), dtype="<f4").reshape(len(found), dim)
    return (found[-1][0] if found else after), rows, vectors


def count_vectors(connection: apsw.Connection, embedder: str, up_to: int) -> int:
    """How many vectors of `embedder` have a number of at most `up_to`."""
    return int(
        connection.execute("SELECT count(*) FROM vectors WHERE embedder = ? AND seq <= ?", (embedder, up_to)).get
    )


def without_vector(
    connection: apsw.Connection, embedder: str, kinds: Sequence[Kind], limit: int
) -> list[tuple[int, str]]:
    """(row, text) of at most `limit` entries of `kinds` that `embedder` has not embedded, oldest first."""
    sql = (
        "SELECT seq, text FROM entries WHERE kind IN (SELECT value FROM json_each(?)) AND NOT EXISTS "
        "(SELECT 1 FROM vectors WHERE vectors.entry = entries.seq AND vectors.embedder = ?) ORDER BY seq LIMIT ?"
    )
    found: list[Any] = connection.execute(sql, (json.dumps(list(kinds)), embedder, limit)).fetchall()
    return found


def _insert(connection: apsw.Connection, experience: Experience, id: str, event: int) -> int:
    fields = experience.model_dump(mode="json")
    text = fields.pop("text")
    verdict = experience.evidence.verdict if experience.evidence else ""
    connection.execute(
        "INSERT INTO entries (id, event, kind, task_type, split, verdict, text, rest) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (id, event, experience.kind, experience.task_type, experience.split, verdict, text, _canonical(fields)),
    )
    row = connection.last_insert_rowid()
    connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (row, text))
    return row


def _append_event(connection: apsw.Connection, kind: str, payload: dict[str, object]) -> int:
    count, head = head_event(connection)
    digest = _event_digest(count + 1, head, kind, payload)
    connection.execute(
        "INSERT INTO events (seq, kind, payload, prev, hash, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        (count + 1, kind, _canonical(payload), head, digest, time.time()),
    )
    return count + 1


def _event_digest(seq: int, prev: str, kind: str, payload: dict[str, object]) -> str:
    return content_hash({"seq": seq, "prev": prev, "kind": kind, "payload": payload})


def _experience(text: str, rest: str) -> Experience:
    return Experience.model_validate({**json.loads(rest), "text": text})


def _edges(connection: apsw.Connection, sql: str, bindings: tuple[str, ...]) -> list[Edge]:
    return [
        Edge(source=source, relation=Relation(relation), target=target)
        for source, relation, target in connection.execute(sql, bindings)
    ]


def _exists(connection: apsw.Connection, id: str) -> bool:
    return connection.execute("SELECT 1 FROM entries WHERE id = ?", (id,)).get is not None


def _triple(edge: Edge) -> tuple[str, str, str]:
    return edge.source, edge.relation.value, edge.target


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
