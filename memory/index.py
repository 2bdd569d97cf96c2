"""Vectors to neighbours: an exact FAISS index, and its disposable copy on disk.

SQLite holds the truth. A published index is only believed when its bytes have the sha256 its manifest names and its
`Coverage` still describes the store; anything else is None, and the caller builds a new one. FAISS files carry no
checksum of their own and a damaged one can crash the process, so nothing is parsed before it was verified.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from memory.embed import Vectors
from memory.ledger import publish_bytes, publish_json, read_record
from memory.types import Record, content_hash

Rows = NDArray[np.int64]

_FORMAT = 1
_MANIFEST = "manifest.json"


class Coverage(Record):
    """What an index covers: the vectors of one embedder up to `last_vector`, in the store whose history is `head`."""

    embedder: str
    dim: int
    num_vectors: int
    last_vector: int
    num_events: int
    head: str


class _Manifest(Record):
    format: int
    file: str
    sha256: str
    coverage: Coverage
    seal: str

    @staticmethod
    def sealed(file: str, sha256: str, coverage: Coverage) -> _Manifest:
        body = {"format": _FORMAT, "file": file, "sha256": sha256, "coverage": coverage.model_dump(mode="json")}
        return _Manifest(format=_FORMAT, file=file, sha256=sha256, coverage=coverage, seal=content_hash(body))


class VectorIndex:
    """Exact inner-product search over rows added under integer ids.

    Not thread-safe: adding and searching need mutual exclusion, which `Memory` provides. An id must be added once.
    """

    def __init__(self, dim: int) -> None:
        self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(dim))

    def __len__(self) -> int:
        """Number of rows."""
        return int(self._index.ntotal)

    def add(self, rows: Rows, vectors: Vectors) -> None:
        """Add unit `vectors` (n, dim) under ids `rows` (n,)."""
        self._index.add_with_ids(np.ascontiguousarray(vectors), rows)

    def search(self, query: Vectors, limit: int, among: Rows) -> list[tuple[int, float]]:
        """At most `limit` of the rows `among`, nearest to `query` (dim,) first, as (id, cosine).

        Rows at equal distance come in the order of their ids.
        """
        limit = min(limit, len(among), len(self))
        if limit <= 0:
            return []
        chosen = faiss.SearchParameters(sel=faiss.IDSelectorBatch(among))  # type: ignore[call-arg]
        # One query gains nothing from OpenMP, and its waiting threads cost 20 ms on a busy machine. Per calling thread.
        faiss.omp_set_num_threads(1)
        scores, ids = self._index.search(query[np.newaxis], limit, params=chosen)
        found = [(int(row), float(score)) for row, score in zip(ids[0], scores[0], strict=True) if row >= 0]
        return sorted(found, key=lambda hit: (-hit[1], hit[0]))

    def publish(self, directory: Path, coverage: Coverage) -> None:
        """Replace the copy in `directory`: the new file first, then the manifest that makes it count."""
        data = faiss.serialize_index(self._index).tobytes()
        name = f"{hashlib.sha256(data).hexdigest()[:16]}.faiss"
        digest = publish_bytes(directory / name, data)
        publish_json(directory / _MANIFEST, _Manifest.sealed(name, digest, coverage))
        for old in directory.glob("*.faiss"):
            if old.name != name:
                old.unlink(missing_ok=True)

    @staticmethod
    def load(directory: Path, embedder: str, dim: int) -> tuple[VectorIndex, Coverage] | None:
        """The published copy, or None when it is missing, damaged, or of another embedder.

        Whether it is stale is for the caller to say, by its `Coverage`.
        """
        try:
            manifest = read_record(directory / _MANIFEST, _Manifest)
            data = (directory / Path(manifest.file).name).read_bytes()
        except (OSError, ValueError):
            return None
        coverage = manifest.coverage
        if manifest != _Manifest.sealed(manifest.file, hashlib.sha256(data).hexdigest(), coverage):
            return None
        if (coverage.embedder, coverage.dim) != (embedder, dim):
            return None
        loaded = faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
        if not isinstance(loaded, faiss.IndexIDMap2) or (loaded.d, loaded.ntotal) != (dim, coverage.num_vectors):
            return None
        index = VectorIndex(dim)
        index._index = loaded
        return index, coverage


def index_directory(root: Path, embedder: str) -> Path:
    """Where the index of one embedder lives; a readable name, made unique by a hash of the id."""
    readable = re.sub(r"[^a-z0-9]+", "-", embedder.lower()).strip("-")
    return root / f"{readable}-{hashlib.sha256(embedder.encode()).hexdigest()[:8]}"
