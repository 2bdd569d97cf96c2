"""Whether a store still holds what was written: all that can be derived is derived again and compared."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest

import apsw

from memory import projection, rows
from memory.config import MemoryConfig
from memory.database import SCHEMA, TOKENIZER, StoreError, fetch
from memory.events import verify_events
from memory.fingerprint import fingerprint
from memory.ledger import canonical_json

_COLUMNS = {
    "observations": "*",
    "checks": "*",
    "uses": "*",
    "marks": "*",
    "edges": "source, relation, target, author, event, voided_by",
    "artefacts": "*",
    "artefact_parts": "*",
    "erasures": "*",
    "standings": "*",
    "gains": "*",
    "terms": "*",
}
"""What is compared of each table that follows from events and texts; not the numbers of edges, which may have gaps."""


def audit(connection: apsw.Connection, config: MemoryConfig) -> int:
    """Look at everything; changes nothing, also in a store opened for reading. Minutes for a million entries.

    SQLite's structure, the chain of events, each text against the hash that names it, each vector against its sum, and
    every derived table, the full-text index included, against one derived anew. `config`: the rules of trust; standings
    that were derived by other rules are not compared.

    Returns the number of events. Raises StoreError at the first thing that is wrong, apsw.Error where SQLite says so.
    """
    try:
        with _scratch(connection):
            _check_structure(connection)
            num_events = verify_events(connection)
            _check_times(connection)
            _check_entries(connection)
            _check_vectors(connection)
            _check_words(connection)
            _check_derived(connection, config)
    except ValueError as error:  # a kind that is none, or bytes that are no text
        raise _damaged(str(error)) from error
    return num_events


def rules_of(config: MemoryConfig) -> str:
    """What standings depend on besides events, as the store keeps it: JSON."""
    return canonical_json(config.model_dump(mode="json", include={"trust", "shown_from"}))


def stored_rules(connection: apsw.Connection) -> MemoryConfig:
    """The defaults, with the rules that this store's standings were derived by."""
    stored = connection.execute("SELECT value FROM meta WHERE key = 'rules'").get
    return MemoryConfig.model_validate_json(stored) if stored else MemoryConfig()


@contextmanager
def _scratch(connection: apsw.Connection) -> Iterator[None]:
    """One state for every query, and temporary tables that are gone afterwards."""
    is_query_only = connection.pragma("query_only")
    connection.pragma("query_only", False)  # a reader's file stays read-only: it was opened so
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.pragma("query_only", is_query_only)


def _damaged(what: str) -> StoreError:
    return StoreError(f"damaged: {what}; restore the directory from a copy, or `rebuild` what is derived")


def _check_structure(connection: apsw.Connection) -> None:
    found = fetch(connection, "PRAGMA integrity_check(1)")
    if found != [("ok",)]:
        raise _damaged(str(found[0][0]))
    sql = "SELECT type, name, tbl_name, sql FROM main.sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY name"
    with _expected() as fresh:
        if (ours := fetch(connection, sql)) != (expected := fetch(fresh, sql)):
            odd = next(one or other for one, other in zip_longest(ours, expected) if one != other)
            raise _damaged(f"expected the tables of this version, got another {odd[0]} {odd[1]}")
    wrong = fetch(connection, "PRAGMA foreign_key_check")
    if wrong:
        raise _damaged(f"row {wrong[0][1]} of {wrong[0][0]} refers to nothing")


@contextmanager
def _expected() -> Iterator[apsw.Connection]:
    fresh = apsw.Connection(":memory:")
    try:
        fresh.execute(SCHEMA)
        yield fresh
    finally:
        fresh.close()


def _check_times(connection: apsw.Connection) -> None:
    last = -math.inf
    for seq, created_at in connection.execute("SELECT seq, created_at FROM events ORDER BY seq"):
        if not last <= created_at < math.inf:
            raise _damaged(f"event {seq}: expected a time from {last} on, got {created_at}")
        last = created_at


def _check_entries(connection: apsw.Connection) -> None:
    for row, experience in rows.all_nodes(connection):
        id, stored = connection.execute("SELECT id, fingerprint FROM entries WHERE seq = ?", (row,)).get
        if id != experience.id:
            raise _damaged(f"entry {row}: expected content with hash {id}, got {experience.id}")
        if stored != fingerprint(experience.kind, experience.text):
            raise _damaged(f"entry {row}: expected the fingerprint of its text, got {stored}")


def _check_vectors(connection: apsw.Connection) -> None:
    for entry, vector, sum_ in connection.execute("SELECT entry, vector, crc32 FROM vectors"):
        if zlib.crc32(vector) != sum_:
            raise _damaged(f"the vector of entry {entry}: expected bytes with CRC-32 {sum_}, got {zlib.crc32(vector)}")


def _check_words(connection: apsw.Connection) -> None:
    """The full-text index against one made anew, word by word in the order of the index."""
    connection.execute(f"CREATE VIRTUAL TABLE temp.fresh USING fts5 (text, {TOKENIZER}, content = '')")
    connection.execute("INSERT INTO temp.fresh (rowid, text) SELECT seq, text FROM entries ORDER BY seq")
    connection.execute("CREATE VIRTUAL TABLE temp.found USING fts5vocab (main, words, instance)")
    connection.execute("CREATE VIRTUAL TABLE temp.expected USING fts5vocab (temp, fresh, instance)")
    sql = "SELECT term, doc, offset FROM temp."
    for ours, anew in zip_longest(connection.execute(f"{sql}found"), connection.execute(f"{sql}expected")):
        if ours != anew:
            raise _damaged(f"the full-text index: expected {anew}, got {ours}")


def _check_derived(connection: apsw.Connection, config: MemoryConfig) -> None:
    _make_temporary(connection)
    projection.rebuild(connection, config)
    rows.count_all_terms(connection)
    same_rules = connection.execute("SELECT value FROM meta WHERE key = 'rules'").get == rules_of(config)
    for table, columns in _COLUMNS.items():
        if table == "standings" and not same_rules:
            continue
        for one, other in (("main", "temp"), ("temp", "main")):
            sql = f"SELECT {columns} FROM {one}.{table} EXCEPT SELECT {columns} FROM {other}.{table} LIMIT 1"
            for odd in connection.execute(sql):
                raise _damaged(f"table {table}: {'stored' if one == 'main' else 'missing'}: {odd}")
        counts = [connection.execute(f"SELECT count(*) FROM {which}.{table}").get for which in ("main", "temp")]
        if counts[0] != counts[1]:
            raise _damaged(f"table {table}: expected {counts[1]} rows, got {counts[0]}")


def _make_temporary(connection: apsw.Connection) -> None:
    """Empty tables of the same names; SQLite looks for a name among the temporary ones first."""
    with _expected() as fresh:
        for table in _COLUMNS:
            sql = "SELECT sql, type, name FROM sqlite_schema WHERE tbl_name = ? AND sql NOT NULL ORDER BY type DESC"
            for statement, kind, name in fetch(fresh, sql, (table,)):
                found = f"CREATE {kind.upper()} {name}"
                connection.execute(statement.replace(found, f"CREATE {kind.upper()} temp.{name}", 1))
