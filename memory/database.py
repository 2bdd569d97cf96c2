"""The SQLite file behind memory: how it is opened, what it must be, and its tables."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

FILE_NAME = "memory.sqlite"
SCHEMA_VERSION = 2
APPLICATION_ID = 0x65766F6D  # "evom": tells our file from anybody else's SQLite file
OLDEST_SQLITE = (3, 51, 3)
BUSY_MS = 5_000
MMAP_BYTES = 1 << 38  # pages are read from the system's cache, which all processes share

TOKENIZER = "tokenize = 'unicode61 remove_diacritics 2'"

SCHEMA = f"""
-- The truth: what happened, what was said, and its vectors. Everything below follows from it and can be derived anew.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,      -- canonical JSON, free of times and of texts: equal histories have equal hashes
    prev TEXT NOT NULL,
    hash TEXT NOT NULL,
    created_at REAL NOT NULL    -- seconds since the epoch, never less than the event before; the only time stored
) STRICT;
CREATE TABLE namespaces (
    id INTEGER PRIMARY KEY, team TEXT NOT NULL, project TEXT NOT NULL, run TEXT NOT NULL, UNIQUE (team, project, run)
) STRICT;
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    event INTEGER NOT NULL REFERENCES events (seq),
    namespace INTEGER NOT NULL REFERENCES namespaces (id),
    kind TEXT NOT NULL,
    task_type TEXT NOT NULL,
    split TEXT NOT NULL,
    error_code TEXT NOT NULL,
    environment TEXT NOT NULL,  -- JSON: pairs of key and value
    fingerprint TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT;
CREATE INDEX entries_by_fingerprint ON entries (fingerprint, namespace);
CREATE INDEX entries_by_event ON entries (event);
CREATE TABLE embedders (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, dim INTEGER NOT NULL, is_active INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE vectors (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    entry INTEGER NOT NULL REFERENCES entries (seq),
    embedder INTEGER NOT NULL REFERENCES embedders (id),
    vector BLOB NOT NULL,       -- float32, little-endian, unit length
    crc32 INTEGER NOT NULL,     -- of the vector: a flipped bit in it would look like another vector
    UNIQUE (embedder, entry)
) STRICT;
CREATE INDEX vectors_by_embedder ON vectors (embedder, seq);
CREATE TABLE erasures (entry INTEGER PRIMARY KEY, event INTEGER NOT NULL) STRICT;
CREATE INDEX erasures_by_event ON erasures (event);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

-- What the events say about each entry; a rollback voids rows, it deletes none.
CREATE TABLE observations (
    entry INTEGER NOT NULL, source TEXT NOT NULL, episode TEXT NOT NULL, event INTEGER NOT NULL, voided_by INTEGER,
    UNIQUE (entry, source, episode)
) STRICT;
CREATE INDEX observations_by_source ON observations (source);
CREATE INDEX observations_by_episode ON observations (episode);
CREATE TABLE checks (
    entry INTEGER NOT NULL, verifier TEXT NOT NULL, verdict TEXT NOT NULL, digest TEXT NOT NULL,
    source TEXT NOT NULL, episode TEXT NOT NULL, event INTEGER NOT NULL, voided_by INTEGER,
    UNIQUE (entry, verifier, verdict, digest, source, episode)
) STRICT;
CREATE TABLE uses (
    entry INTEGER NOT NULL, episode TEXT NOT NULL, shown INTEGER NOT NULL, same INTEGER NOT NULL,
    followed INTEGER NOT NULL, success INTEGER NOT NULL, verifier TEXT NOT NULL, event INTEGER NOT NULL,
    voided_by INTEGER, UNIQUE (entry, episode)
) STRICT;
CREATE INDEX uses_by_episode ON uses (episode);
CREATE TABLE marks (
    entry INTEGER NOT NULL, kind TEXT NOT NULL, other TEXT NOT NULL, reason TEXT NOT NULL, event INTEGER NOT NULL,
    voided_by INTEGER
) STRICT;
CREATE INDEX marks_by_entry ON marks (entry);
CREATE INDEX marks_by_other ON marks (other);
CREATE TABLE edges (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL, relation TEXT NOT NULL, target TEXT NOT NULL,
    author TEXT NOT NULL,       -- source of the observation at its beginning
    event INTEGER NOT NULL, voided_by INTEGER,
    UNIQUE (source, relation, target)
) STRICT;
CREATE INDEX edges_by_target ON edges (target, relation);
CREATE TABLE artefacts (id TEXT PRIMARY KEY, kind TEXT NOT NULL, event INTEGER NOT NULL) STRICT;
CREATE TABLE artefact_parts (artefact TEXT NOT NULL, part TEXT NOT NULL, UNIQUE (part, artefact)) STRICT;

-- What all that comes to. Who may be recalled as what is decided in these columns and nowhere else.
CREATE TABLE standings (
    entry INTEGER PRIMARY KEY,
    namespace INTEGER NOT NULL, task_type TEXT NOT NULL, split TEXT NOT NULL,
    is_anchor INTEGER NOT NULL, works INTEGER NOT NULL, fails INTEGER NOT NULL,
    level TEXT NOT NULL, trust REAL NOT NULL, confirmed_at REAL NOT NULL,
    merged_into INTEGER,        -- row of the entry that it repeats
    standing TEXT NOT NULL      -- the whole record, as JSON
) STRICT;
CREATE INDEX standings_anchors ON standings (namespace, task_type, split, entry) WHERE is_anchor;
CREATE INDEX standings_works ON standings (namespace, task_type, split, entry) WHERE works;
CREATE INDEX standings_fails ON standings (namespace, task_type, split, entry) WHERE fails;
CREATE INDEX standings_merged ON standings (merged_into) WHERE merged_into IS NOT NULL;
CREATE TABLE gains (
    task_type TEXT NOT NULL, same INTEGER NOT NULL, shown INTEGER NOT NULL,
    successes INTEGER NOT NULL, trials INTEGER NOT NULL, PRIMARY KEY (task_type, same, shown)
) STRICT;
CREATE TABLE terms (term TEXT PRIMARY KEY, num_entries INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5 (
    text, content = 'entries', content_rowid = 'seq', {TOKENIZER}
);
"""


class StoreError(RuntimeError):
    """The store cannot be opened, is damaged, refused a write, or holds something other than was expected."""


class SchemaMismatch(StoreError):
    """Another version of evomesh wrote this store."""


class SchemaTooNew(SchemaMismatch):
    """A later version of evomesh wrote this store."""


NETWORK_FILE_SYSTEMS = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "ncpfs",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "gpfs",
        "beegfs",
        "orangefs",
        "fuse.sshfs",
        "fuse.s3fs",
        "fuse.glusterfs",
        "fuse.ceph",
        "fuse.gcsfuse",
        "fuse.rclone",
        "fuse.juicefs",
    }
)
"""Where locks and shared memory between machines cannot be relied on, which SQLite's WAL needs."""


def connect(directory: Path, *, readonly: bool) -> apsw.Connection:
    """Open the store in `directory`, making it if it is missing and we may write.

    A writer gets WAL with a sync at every commit; a reader can change nothing.

    Raises:
        StoreError: no store to read, not a store, damaged, or an SQLite that loses commits.
        SchemaTooNew: written by a later version.
    """
    _check_sqlite(apsw.sqlite_lib_version())
    path = directory / FILE_NAME
    _check_file_system(directory)
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


def fetch(connection: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> list[Any]:
    """All rows of a query."""
    return connection.execute(sql, bindings).fetchall()


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
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StoreError(f"{path}: damaged: {error}; restore it from a copy") from error
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


@contextmanager
def savepoint(connection: apsw.Connection) -> Iterator[None]:
    """Inside a transaction: all of the block's writes, or none of them and the transaction goes on."""
    connection.execute("SAVEPOINT part")
    try:
        yield
        connection.execute("RELEASE part")
    except BaseException:
        if connection.in_transaction:  # else a full disk has ended the whole of it
            connection.execute("ROLLBACK TO part")
            connection.execute("RELEASE part")
        raise


def _check_sqlite(version: str) -> None:
    if tuple(int(part) for part in version.split(".")) < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise StoreError(
            f"SQLite: expected {oldest} or later, got {version}, which can lose committed WAL transactions; "
            "install apsw >= 3.54"
        )


def file_system(path: Path, mounts: str) -> str:
    """Type of the file system that holds `path`, by the text of /proc/self/mounts; "" when it names none."""
    best, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        # The kernel writes a space in a path as \\040, and so on for tab, newline and backslash.
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[1])
        # The later of two mounts on one point hides the earlier.
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


def _check_file_system(directory: Path) -> None:
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return  # not Linux: nothing can be said
    kind = file_system(directory.resolve(), mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StoreError(
            f"{directory}: expected a local disk, got a network file system ({kind}), where SQLite can lose commits; "
            "keep memory on a local disk, and let other nodes reach it through the memory actor"
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
    connection.pragma("mmap_size", MMAP_BYTES)
    if readonly:
        connection.pragma("query_only", True)
    else:
        if connection.pragma("journal_mode", "wal") != "wal":
            raise StoreError(f"{path}: this file system cannot hold a WAL; keep memory on a local disk")
        connection.pragma("synchronous", "FULL")
        connection.pragma("foreign_keys", True)
        connection.pragma("secure_delete", True)  # what is erased is overwritten, not left in free pages
        if _is_empty(connection):
            _create(connection)
    found = connection.pragma("application_id")
    if found != APPLICATION_ID:
        raise StoreError(f"{path}: expected a memory of evomesh, got another SQLite file (application id {found})")
    version = connection.pragma("user_version")
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(f"{path}: expected schema version {SCHEMA_VERSION}, got {version}; use a newer evomesh")
    if version < SCHEMA_VERSION:
        raise SchemaMismatch(
            f"{path}: expected schema version {SCHEMA_VERSION}, got {version}, whose entries have other ids; "
            "move the directory away and let memory start anew"
        )


def _is_empty(connection: apsw.Connection) -> bool:
    return connection.execute("SELECT count(*) FROM sqlite_schema").get == 0


def _create(connection: apsw.Connection) -> None:
    with transaction(connection):
        connection.execute(SCHEMA)
        connection.execute("INSERT INTO words (words, rank) VALUES ('secure-delete', 1)")
        connection.pragma("application_id", APPLICATION_ID)
        connection.pragma("user_version", SCHEMA_VERSION)
