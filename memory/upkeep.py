"""What is done to a memory between its uses: near-duplicates merged, the stale archived, a copy frozen."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import apsw
import numpy as np

from memory.database import FILE_NAME, StoreError, fetch
from memory.decay import is_stale
from memory.duplicates import Item, find_duplicates
from memory.ledger import sync_directory
from memory.recall import SECONDS_PER_DAY
from memory.store import Memory
from memory.types import WRONG_ANSWER, Kind, Level, Record, Standing
from memory.vectors import EMBEDDED_KINDS

_TIDIED = "tidied_to"
_LASTING = (Kind.PROBLEM, Kind.OUTCOME)
"""Kinds that say what happened and claim nothing; they do not grow stale."""


class Tidied(Record):
    """What `tidy` did. Both are marks that can be taken back (`unmerge`, `restore`), and nothing is erased."""

    num_merged: int
    num_archived: int


def tidy(memory: Memory, now: float) -> Tidied:
    """Merge what repeats an older entry, and archive what nothing confirmed for long.

    `now`: seconds since the epoch. Entries written since the last time are compared with all of their kind, task
    type, split and namespace. Interrupted, it goes on where it was: a merge is one event.
    """
    memory.embed_pending()
    with memory.reading() as connection:
        done = int(connection.execute("SELECT value FROM meta WHERE key = ?", (_TIDIED,)).get or 0)
        last = int(connection.execute("SELECT max(seq) FROM entries").get or 0)
        gates = list(_gates_with_news(connection, done))
    num_merged = 0
    for gate in gates:
        with memory.reading() as connection:
            items = list(_items(connection, gate))
        for merge in find_duplicates(items, [item.row for item in items if item.row > done]):
            memory.merge(merge.duplicate, merge.into, merge.reason)
            num_merged += 1
    stale = _stale(memory, now)
    for id, reason in stale:
        memory.retire(id, reason)
    with memory.reading() as connection:
        connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (_TIDIED, str(last)))
    return Tidied(num_merged=num_merged, num_archived=len(stale))


def freeze(memory: Memory, directory: Path) -> str:
    """Copy a memory as it is now to `directory`, whole or not at all; returns the hash of its last event.

    The copy is a memory like any other. Opened read-only it does not change: GATE and AUDIT problems, and batches
    that must be repeatable, recall from such a copy. One that is there already is kept if it is the same.

    Raises StoreError if another memory lies there.
    """
    head = memory.head
    if (directory / FILE_NAME).exists():
        with Memory.open(directory, memory.embedder, readonly=True) as found:
            if found.head != head:
                raise StoreError(f"{directory}: expected nothing, or the memory with head {head}, got {found.head}")
        return head
    directory.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        with memory.reading() as connection:
            _copy(connection, beside / FILE_NAME)
            index = memory.directory / "index"
            if index.is_dir():
                shutil.copytree(index, beside / "index", ignore=shutil.ignore_patterns(".*"))
        sync_directory(beside)
        os.replace(beside, directory)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    sync_directory(directory.parent)
    return head


class _Gate(NamedTuple):
    """What two entries must share to be compared."""

    namespace: int
    kind: str
    task_type: str
    split: str


def _gates_with_news(connection: apsw.Connection, after: int) -> Iterator[_Gate]:
    kinds = ", ".join(f"'{kind.value}'" for kind in EMBEDDED_KINDS)
    sql = f"SELECT DISTINCT namespace, kind, task_type, split FROM entries WHERE seq > ? AND kind IN ({kinds})"
    for row in fetch(connection, sql + " ORDER BY 1, 2, 3, 4", (after,)):
        yield _Gate(*row)


def _items(connection: apsw.Connection, gate: _Gate) -> Iterator[Item]:
    sql = (
        "SELECT entries.seq, entries.id, text, error_code, environment, vector FROM entries"
        " JOIN standings ON standings.entry = entries.seq AND level <> ?"
        " LEFT JOIN vectors ON vectors.entry = entries.seq"
        " AND embedder = (SELECT id FROM embedders WHERE is_active)"
        " WHERE (entries.namespace, kind, entries.task_type, entries.split) = (?, ?, ?, ?) AND error_code <> ?"
        " ORDER BY entries.seq"
    )
    for row, id, text, error_code, environment, vector in fetch(
        connection, sql, (Level.RETIRED.value, *gate, WRONG_ANSWER)
    ):
        yield Item(
            row=row,
            id=id,
            kind=Kind(gate.kind),
            text=text,
            namespace=str(gate.namespace),
            task_type=gate.task_type,
            split=gate.split,
            error_code=error_code,
            environment=((environment, ""),),
            vector=None if vector is None else np.frombuffer(vector, dtype="<f4"),
        )


def _stale(memory: Memory, now: float) -> list[tuple[str, str]]:
    half_life = memory.config.half_life_days
    sql = (
        "SELECT id, kind, standing, confirmed_at FROM entries JOIN standings ON entry = seq"
        " WHERE level IN ('observed', 'candidate') ORDER BY seq"
    )
    with memory.reading() as connection:
        found = fetch(connection, sql)
    stale = []
    for id, kind, standing, confirmed_at in found:
        age = (now - confirmed_at) / SECONDS_PER_DAY
        if Kind(kind) not in _LASTING and is_stale(Standing.model_validate_json(standing), age, half_life):
            stale.append((id, f"archived: nothing confirmed it in {age:.0f} days"))
    return stale


def _copy(connection: apsw.Connection, path: Path) -> None:
    target = apsw.Connection(str(path))
    try:
        with target.backup("main", connection, "main") as backup:
            while not backup.done:
                backup.step(4096)
        # Without a log beside it, the file alone is the whole memory.
        target.pragma("journal_mode", "delete")
    finally:
        target.close()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
