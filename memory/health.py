"""How a memory is: what a person should know about its files, its vectors and its index, and what to do about it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import apsw

from memory import generations
from memory.database import FILE_NAME, OLDEST_SQLITE, StoreError, file_system
from memory.ledger import LOCK_NAME
from memory.mirror import MirrorState
from memory.store import Memory
from memory.types import Record
from memory.vectors import EMBEDDED_KINDS

MAX_DELTA = 20_000
"""Vectors searched exactly in RAM: so many cost a search some milliseconds."""

MAX_WAL_BYTES = 256 << 20
MIN_FREE_BYTES = 1 << 30

_OURS = frozenset({FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm", LOCK_NAME, "index"})


class Finding(Record):
    """One thing that was looked at."""

    name: str
    level: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def examine(memory: Memory) -> list[Finding]:
    """Look at an open memory; changes nothing, and may run beside a writer. A big one takes minutes (every hash)."""
    stats = memory.stats()
    with memory.reading() as connection:
        missing = list(_missing(connection, stats.index.embedder))
    return [
        _integrity(memory),
        Finding(name="SQLite", level="ok", found=f"{stats.sqlite_version}, at least {_version()} is needed"),
        *_files(memory.directory),
        *missing,
        *_index(memory, stats.index),
        *_orphans(memory, stats.index),
    ]


def _version() -> str:
    return ".".join(map(str, OLDEST_SQLITE))


def _integrity(memory: Memory) -> Finding:
    try:
        num_events = memory.check()
    except StoreError as error:
        return Finding(name="integrity", level="fail", found=str(error), advice="restore the directory from a copy")
    return Finding(name="integrity", level="ok", found=f"{num_events:,} events, every hash and SQLite's structure hold")


def _files(directory: Path) -> Iterator[Finding]:
    kind = file_system(directory.resolve(), _mounts())
    yield Finding(name="file system", level="ok", found=kind or "not known")
    free = shutil.disk_usage(directory).free
    yield Finding(
        name="free space",
        level="ok" if free >= MIN_FREE_BYTES else "warn",
        found=f"{free / 2**30:.1f} GiB",
        advice="" if free >= MIN_FREE_BYTES else "free some: a full disk refuses writes, though it loses nothing",
    )
    log = directory / f"{FILE_NAME}-wal"
    size = log.stat().st_size if log.exists() else 0
    is_long = size > MAX_WAL_BYTES
    yield Finding(
        name="write-ahead log",
        level="warn" if is_long else "ok",
        found=f"{size / 2**20:.1f} MiB",
        advice="a reader has kept it from being emptied: close readers that stay open" if is_long else "",
    )
    yield Finding(name="writer", level="ok", found=_writer(directory))


def _mounts() -> str:
    try:
        return Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _writer(directory: Path) -> str:
    try:
        pid = (directory / LOCK_NAME).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return "none"
    if not pid.isdigit() or not Path(f"/proc/{pid}").exists():
        return "none"
    return "this process" if int(pid) == os.getpid() else f"process {pid}"


def _missing(connection: apsw.Connection, embedder: str) -> Iterator[Finding]:
    sql = (
        "SELECT count(*) FROM entries WHERE kind IN (SELECT value FROM json_each(?)) AND NOT EXISTS (SELECT 1 FROM"
        " vectors JOIN embedders ON embedders.id = embedder WHERE vectors.entry = entries.seq AND name = ?)"
    )
    count = connection.execute(sql, (json.dumps([kind.value for kind in EMBEDDED_KINDS]), embedder)).get
    yield Finding(
        name="embeddings",
        level="warn" if count else "ok",
        found=f"{count:,} texts wait to be embedded by {embedder}" if count else f"all texts, by {embedder}",
        advice="a writer embeds them; if none is at work: evomesh memory rebuild" if count else "",
    )
    others = [name for (name,) in connection.execute("SELECT name FROM embedders WHERE NOT is_active ORDER BY name")]
    if others:
        yield Finding(name="other embedders", level="ok", found=f"{', '.join(others)}: not searched")


def _index(memory: Memory, state: MirrorState) -> Iterator[Finding]:
    rung = state.rung
    lying = generations.names(generations.index_directory(memory.directory, state.embedder))
    if not state.generation and lying:
        yield Finding(
            name="index",
            level="warn",
            found=f"{lying[0]} is damaged, or of another history; all {state.num_delta:,} vectors are searched in RAM",
            advice="evomesh memory rebuild",
        )
        return
    if not state.generation:
        found = f"none; {state.num_delta:,} vectors are searched exactly in RAM"
        yield Finding(name="index", level="warn" if state.num_delta > MAX_DELTA else "ok", found=found,
                      advice="evomesh memory rebuild" if state.num_delta > MAX_DELTA else "")  # fmt: skip
        return
    how = f"{rung.kind} of {rung.nlist} lists, {rung.nprobe} looked into" if rung.kind != "flat" else "flat, exact"
    if rung.num_queries:
        how += f", recall@10 {rung.recall:.3f} (at least {rung.recall_bound:.3f}) over {rung.num_queries} queries"
    yield Finding(
        name="index",
        level="ok",
        found=f"{state.generation}: {state.num_generation:,} vectors, {how}",
    )
    is_long = state.num_delta > MAX_DELTA
    yield Finding(
        name="since the index",
        level="warn" if is_long else "ok",
        found=f"{state.num_delta:,} vectors, searched exactly in RAM",
        advice="python -m memory.indexer DIRECTORY, which may run beside the writer" if is_long else "",
    )


def _orphans(memory: Memory, state: MirrorState) -> Iterator[Finding]:
    """Files that nobody needs: what killed builders left, indexes of embedders that are not searched."""
    found = [path.name for path in memory.directory.iterdir() if path.name not in _OURS]
    active = generations.index_directory(memory.directory, state.embedder)
    for path in sorted(memory.directory.glob("index/*")):
        if path != active:
            found.append(f"index/{path.name}")
        elif path.is_dir():
            whole = {name for name in generations.names(path) if generations.read_manifest(path / name)}
            found += [f"index/{path.name}/{one.name}" for one in path.iterdir() if one.name not in {*whole, LOCK_NAME}]
    yield Finding(
        name="orphaned files",
        level="warn" if found else "ok",
        found=", ".join(sorted(found)[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "") or "none",
        advice="the next writer's index sweeps what a killed builder left; the rest may be removed" if found else "",
    )
