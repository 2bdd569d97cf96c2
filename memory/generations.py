"""Generations of a vector index on disk: published whole, believed only when verified, thrown away without regret.

A generation is a directory `<store>/index/<embedder>/<number>-<sha256>` with an index and a sealed manifest. It is
built under another name and renamed, so it is there entirely or not at all. At most two are kept, for when the newest
is damaged. Whoever builds holds the lock of the directory; what a killed builder left is swept by the next one.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import apsw
from pydantic import Field

from memory import vectors
from memory.index import Kind, VectorIndex
from memory.ledger import LOCK_NAME, AlreadyLocked, exclusive_lock, publish_json, read_record, sync_directory
from memory.types import Record, content_hash
from memory.vectors import StoredEmbedder

_FORMAT = 2
_INDEX = "index.faiss"
_MANIFEST = "manifest.json"
_NAME = re.compile(r"(\d{8})-[0-9a-f]{16}")


class Coverage(Record):
    """What a generation covers: the vectors of one embedder up to `last_vector`, in the store whose history is `head`.

    `num_vectors` and `entry_sum` (sum of the rows) tell a store in which other entries got the same numbers.
    """

    embedder: str
    dim: int
    num_vectors: int
    entry_sum: int
    last_vector: int
    num_events: int
    head: str
    last_erasure: int = Field(description="number of the event that erased last; 0: nothing was erased")


class Rung(Record):
    """How a generation finds neighbours, and the measurement by which that was chosen."""

    kind: Kind = "flat"
    nlist: int = Field(default=0, description="inverted lists; 0 when flat")
    nprobe: int = Field(default=0, description="lists looked into for a query; 0 when flat")
    trained_on: int = Field(
        default=0, description="vectors there were when lists were last learnt, also if in vain; 0: never"
    )
    recall: float = Field(default=1.0, description="recall@10 against exact search, after re-ranking, over the queries")
    recall_bound: float = Field(default=1.0, description="what a fresh set of queries stays above in 95 of 100 cases")
    num_queries: int = Field(default=0, description="held queries of the measurement; 0: exact, nothing to measure")


class Manifest(Record):
    """What lies beside a published index and says what it is; `seal` covers every other field."""

    format: int
    sha256: str
    coverage: Coverage
    rung: Rung
    seal: str

    @staticmethod
    def sealed(sha256: str, coverage: Coverage, rung: Rung) -> Manifest:
        """A manifest with its seal."""
        body = {"format": _FORMAT, "sha256": sha256, "coverage": coverage.model_dump(), "rung": rung.model_dump()}
        return Manifest(format=_FORMAT, sha256=sha256, coverage=coverage, rung=rung, seal=content_hash(body))


@dataclass(frozen=True)
class Generation:
    """A generation that was verified and opened."""

    name: str
    coverage: Coverage
    rung: Rung
    index: VectorIndex


def index_directory(store: Path, embedder: str) -> Path:
    """Where a store keeps the generations of one embedder; a readable name, made unique by a hash of the id."""
    readable = re.sub(r"[^a-z0-9]+", "-", embedder.lower()).strip("-")[:64]
    return store / "index" / f"{readable}-{hashlib.sha256(embedder.encode()).hexdigest()[:8]}"


def coverage_now(connection: apsw.Connection, embedder: StoredEmbedder) -> Coverage:
    """What a generation built now has to cover."""
    with vectors.snapshot(connection):
        last = vectors.last_number(connection, embedder.id)
        num_events, head = vectors.last_event(connection)
        num_vectors, entry_sum = vectors.beginning(connection, embedder.id, last)
        last_erasure = vectors.last_erasure(connection)
    return Coverage(
        embedder=embedder.name,
        dim=embedder.dim,
        num_vectors=num_vectors,
        entry_sum=entry_sum,
        last_vector=last,
        num_events=num_events,
        head=head,
        last_erasure=last_erasure,
    )


def is_beginning(connection: apsw.Connection, embedder: StoredEmbedder, coverage: Coverage) -> bool:
    """True: exactly these vectors are the first ones of this store, and nothing was erased since they were written.

    History only grows, so a store put back from a copy lacks the event or got another one. Vectors may be written
    long after their entries, in another order after such a return: their number and the sum of their rows differ.
    """
    if (coverage.embedder, coverage.dim) != (embedder.name, embedder.dim):
        return False
    with vectors.snapshot(connection):
        if vectors.last_erasure(connection) != coverage.last_erasure:
            return False
        if not vectors.has_event(connection, coverage.num_events, coverage.head):
            return False
        found = vectors.beginning(connection, embedder.id, coverage.last_vector)
    return found == (coverage.num_vectors, coverage.entry_sum)


def names(directory: Path) -> list[str]:
    """Published generations, newest first; [] when there is no such directory."""
    try:
        found = os.listdir(directory)
    except OSError:
        return []
    return sorted((name for name in found if _NAME.fullmatch(name)), reverse=True)


def read_manifest(path: Path) -> Manifest | None:
    """The manifest of one generation; None when it is missing, damaged or of another format."""
    try:
        manifest = read_record(path / _MANIFEST, Manifest)
    except (OSError, ValueError):
        return None
    return manifest if manifest == Manifest.sealed(manifest.sha256, manifest.coverage, manifest.rung) else None


def open_verified(path: Path, manifest: Manifest) -> Generation | None:
    """The generation at `path`, mapped; None when its bytes are not those its manifest names. 0.8 s a gigabyte."""
    try:
        with (path / _INDEX).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
    if digest != manifest.sha256:
        return None
    index = VectorIndex.open(path / _INDEX, mapped=True)
    expected = (manifest.rung.kind, manifest.rung.nlist, manifest.coverage.dim, manifest.coverage.num_vectors)
    if index is None or (index.kind, index.nlist, index.dim, len(index)) != expected:
        return None
    return Generation(path.name, manifest.coverage, manifest.rung, index)


def newest(connection: apsw.Connection, embedder: StoredEmbedder, directory: Path) -> Generation | None:
    """The newest generation in `directory` that is whole and a true beginning of this store; None: build one."""
    for name in names(directory):
        manifest = read_manifest(directory / name)
        if manifest is None or not is_beginning(connection, embedder, manifest.coverage):
            continue
        found = open_verified(directory / name, manifest)
        if found is not None:
            return found
    return None


def in_ram(directory: Path, generation: Generation) -> VectorIndex | None:
    """A copy of an open generation that can be added to; None when it was removed meanwhile."""
    return VectorIndex.open(directory / generation.name / _INDEX, mapped=False)


def publish(directory: Path, index: VectorIndex, coverage: Coverage, rung: Rung) -> str:
    """Write a generation that readers see entirely or not at all, also after a power cut; returns its name.

    The caller holds the lock of `directory`. Raises OSError (disk full, no permission) and then leaves nothing.
    """
    building = directory / f".building-{os.getpid()}-{secrets.token_hex(4)}"
    building.mkdir(parents=True)
    try:
        index.write(building / _INDEX)
        with (building / _INDEX).open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        publish_json(building / _MANIFEST, Manifest.sealed(digest, coverage, rung))
        numbers = [int(name.split("-")[0]) for name in names(directory)]
        name = f"{max(numbers, default=0) + 1:08d}-{digest[:16]}"
        os.rename(building, directory / name)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    sync_directory(directory)
    return name


def sweep(directory: Path, keep: Iterable[str]) -> None:
    """Remove everything but the generations `keep`: older ones, and what killed builders left.

    The caller holds the lock of `directory`. Processes that still map a removed file go on reading it.
    """
    kept = {LOCK_NAME, *keep}
    for path in list(directory.iterdir()) if directory.is_dir() else []:
        if path.name not in kept:
            _remove(path)


def drop_before(store: Path, last_erasure: int) -> int:
    """Remove the generations of every embedder that may hold what was erased at event `last_erasure`; how many.

    A builder at work is left alone: it looks for erasures after it published, and then takes its own work back.
    """
    num_dropped = 0
    for directory in sorted(path for path in store.glob("index/*") if path.is_dir()):
        with suppress(AlreadyLocked), exclusive_lock(directory):
            sweep(directory, names(directory))
        for name in names(directory):
            manifest = read_manifest(directory / name)
            if manifest is None or manifest.coverage.last_erasure < last_erasure:
                _remove(directory / name)
                num_dropped += 1
    return num_dropped


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)  # another process may be sweeping too
    else:
        path.unlink(missing_ok=True)
