"""The SQLite file behind memory: how it is opened, what it must be, and its tables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

FILE_NAME = "memory.sqlite"
SCHEMA_VERSION = 1
APPLICATION_ID = 0x65766F6D  # "evom": tells our file from anybody else's SQLite file
OLDEST_SQLITE = (3, 51, 3)
BUSY_MS = 5_000

SCHEMA = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,      -- canonical JSON, free of times: equal histories have equal hashes
    prev TEXT NOT NULL,
    hash TEXT NOT NULL,
    created_at REAL NOT NULL    -- seconds since the epoch; the only time that is stored
) STRICT;
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    event INTEGER NOT NULL REFERENCES events (seq),
    kind TEXT NOT NULL,
    task_type TEXT NOT NULL,
    split TEXT NOT NULL,
    verdict TEXT NOT NULL,      -- of the evidence; '' where there is none
    text TEXT NOT NULL,
    rest TEXT NOT NULL          -- canonical JSON of every other field
) STRICT;
CREATE INDEX entries_by_standing ON entries (kind, verdict, task_type, split, id);
CREATE TABLE edges (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL REFERENCES entries (id),
    relation TEXT NOT NULL,
    target TEXT NOT NULL REFERENCES entries (id),
    event INTEGER NOT NULL REFERENCES events (seq),
    UNIQUE (source, relation, target)
) STRICT;
CREATE INDEX edges_by_target ON edges (target, relation);
CREATE TABLE vectors (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    entry INTEGER NOT NULL REFERENCES entries (seq),
    embedder TEXT NOT NULL,
    vector BLOB NOT NULL,       -- float32, little-endian, unit length
    UNIQUE (entry, embedder)
) STRICT;
CREATE INDEX vectors_by_embedder ON vectors (embedder, seq);
CREATE VIRTUAL TABLE words USING fts5 (
    text, content = 'entries', content_rowid = 'seq', tokenize = 'unicode61 remove_diacritics 2'
);
CREATE VIRTUAL TABLE vocabulary USING fts5vocab (words, 'row');
"""


class StoreError(RuntimeError):
    """The store cannot be opened, is damaged, refused a write, or holds something other than was expected."""


class SchemaTooNew(StoreError):
    """A later version of evomesh wrote this store."""


def connect(directory: Path, *, readonly: bool) -> apsw.Connection:
    """Open the store in `directory`, making it if it is missing and we may write.

    A writer gets WAL with a sync at every commit; a reader can change nothing.

    Raises:
        StoreError: no store to read, not a store, damaged, or an SQLite that loses commits.
        SchemaTooNew: written by a later version.
    """
    _check_sqlite(apsw.sqlite_lib_version())
    path = directory / FILE_NAME
    if readonly and not path.exists():
        raise StoreError(f"{path}: expected a memory, got no file; open it for writing once, or check the path")
    with translated(path):
        connection = _open(path, readonly)
        try:
            _prepare(connection, path, readonly)
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into a `StoreError` that names the file and says what to do."""
    try:
        yield
    except apsw.FullError as error:
        raise StoreError(f"{path}: the disk is full ({error}); free some space, nothing was half-written") from error
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise StoreError(f"{path}: damaged, or not an SQLite file ({error}); restore it from a copy") from error
    except (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError, apsw.IOError) as error:
        raise StoreError(f"{path}: cannot be opened or written ({error}); check disk and permissions") from error
    except apsw.BusyError as error:
        raise StoreError(f"{path}: locked for {BUSY_MS} ms by another process ({error}); stop it") from error
    except apsw.Error as error:
        raise StoreError(f"{path}: {type(error).__name__}: {error}") from error


@contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """All of the block's writes, or none."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # After a full disk SQLite has rolled back by itself; to ask again would hide the first error.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _check_sqlite(version: str) -> None:
    if tuple(int(part) for part in version.split(".")) < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise StoreError(
            f"SQLite: expected {oldest} or later, got {version}, which can lose committed WAL transactions; "
            "install apsw >= 3.54"
        )


def _open(path: Path, readonly: bool) -> apsw.Connection:
    if not readonly:
        return apsw.Connection(str(path))
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    uri = path.absolute().as_uri() + "?mode=ro"
    # WAL needs to make a file beside the store. Where nobody can write, and no WAL is left, nothing can change either.
    if not os.access(path.parent, os.W_OK) and not path.with_name(f"{FILE_NAME}-wal").exists():
        uri += "&immutable=1"
    return apsw.Connection(uri, flags=flags)


def _prepare(connection: apsw.Connection, path: Path, readonly: bool) -> None:
    connection.set_busy_timeout(BUSY_MS)
    if readonly:
        connection.pragma("query_only", True)
    else:
        if connection.pragma("journal_mode", "wal") != "wal":
            raise StoreError(f"{path}: this file system cannot hold a WAL; keep memory on a local disk")
        connection.pragma("synchronous", "FULL")
        connection.pragma("foreign_keys", True)
        if _is_empty(connection):
            _create(connection)
    found = connection.pragma("application_id")
    if found != APPLICATION_ID:
        raise StoreError(f"{path}: expected a memory of evomesh, got another SQLite file (application id {found})")
    version = connection.pragma("user_version")
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{path}: expected schema version {SCHEMA_VERSION} or older, got {version}; use a newer evomesh"
        )


def _is_empty(connection: apsw.Connection) -> bool:
    return connection.execute("SELECT count(*) FROM sqlite_schema").get == 0


def _create(connection: apsw.Connection) -> None:
    with transaction(connection):
        connection.execute(SCHEMA)
        connection.pragma("application_id", APPLICATION_ID)
        connection.pragma("user_version", SCHEMA_VERSION)
