"""The SQL about vectors: which embedders a store knows, what each has embedded, and which entries were erased."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import apsw
import numpy as np

from memory.database import StoreError, transaction
from memory.embed import Vectors
from memory.index import Rows
from memory.ledger import GENESIS
from memory.types import Kind

EMBEDDED_KINDS = (Kind.PROBLEM, Kind.SOLUTION, Kind.ERROR, Kind.DECISION, Kind.PATTERN)
"""Attempts and outcomes repeat their problem's words and are reached through it; embedding them buys nothing."""

_BLOCK = 8192


class StoredEmbedder(NamedTuple):
    """An embedder as the store knows it; exactly one is active, and only its vectors are searched."""

    id: int
    name: str
    dim: int
    is_active: bool


class Found(NamedTuple):
    """Entries by row (n,), and their vectors (n, dim)."""

    rows: Rows
    vectors: Vectors


class Block(NamedTuple):
    """Some stored vectors, in the order of storing: their numbers (n,), entry rows (n,) and vectors (n, dim)."""

    numbers: Rows
    rows: Rows
    vectors: Vectors


class Beginning(NamedTuple):
    """What the vectors of one embedder up to some number come to; two stores that agree hold the same ones."""

    num_vectors: int
    entry_sum: int


def find_embedder(connection: apsw.Connection, name: str) -> StoredEmbedder | None:
    """The embedder of this name; None when it never embedded anything here."""
    sql = "SELECT id, name, dim, is_active FROM embedders WHERE name = ?"
    return _embedder(connection.execute(sql, (name,)).fetchone())


def active_embedder(connection: apsw.Connection) -> StoredEmbedder | None:
    """The embedder whose vectors are searched; None in a store that nobody has written vectors to."""
    return _embedder(connection.execute("SELECT id, name, dim, is_active FROM embedders WHERE is_active").fetchone())


def is_active(connection: apsw.Connection, embedder: int) -> bool:
    """True: this embedder's vectors are the ones that are searched."""
    return bool(connection.execute("SELECT is_active FROM embedders WHERE id = ?", (embedder,)).get)


def ensure_embedder(connection: apsw.Connection, name: str, dim: int) -> StoredEmbedder:
    """The embedder of this name, made known if it is new; the first one of a store is active from the start.

    Raises StoreError when it is known with another length of vector.
    """
    with transaction(connection):
        connection.execute(
            "INSERT OR IGNORE INTO embedders (name, dim, is_active)"
            " SELECT ?, ?, NOT EXISTS (SELECT 1 FROM embedders WHERE is_active)",
            (name, dim),
        )
    return checked_embedder(connection, name, dim)


def checked_embedder(connection: apsw.Connection, name: str, dim: int) -> StoredEmbedder:
    """The embedder of this name. Raises StoreError when it is unknown, or has another length of vector."""
    found = find_embedder(connection, name)
    if found is None:
        active = active_embedder(connection)
        known = f"{active.name}" if active else "none yet; open it for writing once"
        raise StoreError(f"embedder {name}: expected one that embedded this memory, got an unknown; active is {known}")
    if found.dim != dim:
        raise StoreError(
            f"embedder {name}: expected vectors of {found.dim} numbers, got {dim}; give the changed embedder another id"
        )
    return found


def activate(connection: apsw.Connection, embedder: int) -> bool:
    """Make this embedder the active one in one transaction; False, and no change, while an entry lacks its vector."""
    with transaction(connection):
        if without_vector(connection, embedder, limit=1):
            return False
        connection.execute("UPDATE embedders SET is_active = (id = ?)", (embedder,))
    return True


def insert(connection: apsw.Connection, row: int, embedder: int, vector: Vectors) -> None:
    """Store the vector (dim,) of one entry, inside the caller's transaction.

    Nothing happens when the entry has one already, or was erased while its text was being embedded.
    """
    blob = vector.astype("<f4").tobytes()
    connection.execute(
        "INSERT INTO vectors (entry, embedder, vector, crc32) SELECT seq, ?, ?, ? FROM entries WHERE seq = ?"
        " ON CONFLICT (embedder, entry) DO NOTHING",
        (embedder, blob, zlib.crc32(blob), row),
    )


def without_vector(connection: apsw.Connection, embedder: int, *, after: int = 0, limit: int) -> list[tuple[int, str]]:
    """(row, text) of at most `limit` entries beyond row `after` that this embedder still has to embed, oldest first."""
    sql = (
        "SELECT seq, text FROM entries WHERE seq > ? AND kind IN (SELECT value FROM json_each(?)) AND NOT EXISTS "
        "(SELECT 1 FROM vectors WHERE vectors.embedder = ? AND vectors.entry = entries.seq) ORDER BY seq LIMIT ?"
    )
    kinds = json.dumps([kind.value for kind in EMBEDDED_KINDS])
    found: list[Any] = connection.execute(sql, (after, kinds, embedder, limit)).fetchall()
    return found


def blocks(
    connection: apsw.Connection, embedder: StoredEmbedder, after: int, up_to: int | None = None
) -> Iterator[Block]:
    """Vectors stored after vector number `after`, in order, a few thousand at a time.

    No statement stays open between two blocks, so a slow reader does not keep the write-ahead log from shrinking.
    Raises StoreError if a stored vector is damaged or of another length.
    """
    sql = "SELECT seq, entry, vector FROM vectors WHERE embedder = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
    end = up_to if up_to is not None else 2**62
    while True:
        found: list[Any] = connection.execute(sql, (embedder.id, after, end, _BLOCK)).fetchall()
        if not found:
            return
        after = found[-1][0]
        yield Block(np.array([row[0] for row in found], np.int64), *_parsed(embedder, [row[1:] for row in found]))
        if len(found) < _BLOCK:
            return


def by_entries(connection: apsw.Connection, embedder: StoredEmbedder, rows: Sequence[int]) -> Found:
    """The vectors of those of `rows` that still have one, in any order. 100 of them take .6 ms."""
    sql = "SELECT entry, vector FROM vectors WHERE embedder = ? AND entry IN (SELECT value FROM json_each(?))"
    return _parsed(embedder, connection.execute(sql, (embedder.id, json.dumps(list(rows)))).fetchall())


def near_number(connection: apsw.Connection, embedder: StoredEmbedder, numbers: Sequence[int]) -> Vectors:
    """The first vector at or after each of these numbers, (at most len(numbers), dim): a cheap random sample."""
    sql = "SELECT entry, vector FROM vectors WHERE embedder = ? AND seq >= ? ORDER BY seq LIMIT 1"
    found = [connection.execute(sql, (embedder.id, number)).fetchone() for number in numbers]
    return _parsed(embedder, [row for row in found if row is not None]).vectors


def last_number(connection: apsw.Connection, embedder: int) -> int:
    """Number of the newest vector; 0 when there is none."""
    return int(connection.execute("SELECT max(seq) FROM vectors WHERE embedder = ?", (embedder,)).get or 0)


def last_entry(connection: apsw.Connection) -> int:
    """Row of the newest entry; 0 when there is none."""
    return int(connection.execute("SELECT max(seq) FROM entries").get or 0)


def beginning(connection: apsw.Connection, embedder: int, up_to: int) -> Beginning:
    """What the vectors numbered at most `up_to` come to; 60 ms for a million."""
    # "+seq" keeps SQLite to the index over (embedder, entry), which alone answers this without reading any vector.
    sql = "SELECT count(*), coalesce(sum(entry), 0) FROM vectors WHERE embedder = ? AND +seq <= ?"
    found: list[Any] = connection.execute(sql, (embedder, up_to)).fetchall()
    return Beginning(*found[0])


def last_erasure(connection: apsw.Connection) -> int:
    """Number of the event that erased last; 0 when nothing was erased."""
    return int(connection.execute("SELECT max(event) FROM erasures").get or 0)


def erased_after(connection: apsw.Connection, event: int) -> Rows:
    """Rows of the entries that were erased by a later event."""
    found = connection.execute("SELECT entry FROM erasures WHERE event > ?", (event,)).fetchall()
    return np.array([row for (row,) in found], dtype=np.int64)


def last_event(connection: apsw.Connection) -> tuple[int, str]:
    """Number of events, and the hash of the last."""
    return connection.execute("SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1").get or (0, GENESIS)


def has_event(connection: apsw.Connection, seq: int, hash: str) -> bool:
    """True: this event, with this hash, is in the history. Event 0 is the empty history."""
    stored = GENESIS if seq == 0 else connection.execute("SELECT hash FROM events WHERE seq = ?", (seq,)).get
    return bool(stored == hash)


def discard_damaged(connection: apsw.Connection, embedder: StoredEmbedder) -> int:
    """Delete stored vectors that are damaged or of another length, so that their texts are embedded anew; how many."""
    sql = "SELECT seq, vector, crc32 FROM vectors WHERE embedder = ?"
    found = connection.execute(sql, (embedder.id,))
    bad = [seq for seq, blob, crc32 in found if not _is_sound(blob, crc32, embedder.dim)]
    with transaction(connection):
        connection.execute("DELETE FROM vectors WHERE seq IN (SELECT value FROM json_each(?))", (json.dumps(bad),))
    return len(bad)


@contextmanager
def snapshot(connection: apsw.Connection) -> Iterator[None]:
    """Let every query of the block see the same state; inside a transaction it already does."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("COMMIT")


def _embedder(row: Any) -> StoredEmbedder | None:
    return None if row is None else StoredEmbedder(row[0], row[1], row[2], bool(row[3]))


def _parsed(embedder: StoredEmbedder, found: Sequence[Any]) -> Found:
    for entry, blob in found:
        if len(blob) != 4 * embedder.dim:
            raise StoreError(
                f"the vector of entry {entry}: expected {embedder.dim} numbers from embedder {embedder.name}, "
                f"got {len(blob) / 4:g}; give the changed embedder another id, or rebuild the memory"
            )
    rows = np.array([entry for entry, _ in found], dtype=np.int64)
    vectors = np.frombuffer(b"".join(blob for _, blob in found), dtype="<f4").reshape(len(found), embedder.dim)
    lengths = np.einsum("ij,ij->i", vectors, vectors)
    bad = np.flatnonzero(~(np.abs(lengths - 1.0) < 1e-2))  # written so that NaN counts as bad
    if bad.size:
        raise StoreError(
            f"the vector of entry {rows[bad[0]]}: expected length 1 from embedder {embedder.name}, "
            f"got {lengths[bad[0]] ** 0.5:g}; it is damaged: rebuild the memory, or restore a copy"
        )
    return Found(rows, vectors)


def _is_sound(blob: bytes, crc32: int, dim: int) -> bool:
    if len(blob) != 4 * dim or zlib.crc32(blob) != crc32:
        return False
    vector = np.frombuffer(blob, dtype="<f4")
    return bool(abs(float(vector @ vector) - 1.0) < 1e-2)
