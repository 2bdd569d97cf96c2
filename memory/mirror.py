"""The vectors of one store in one process: a FAISS index kept in step with SQLite, published and believed with care."""

from __future__ import annotations

from pathlib import Path

import apsw
import numpy as np

from memory import rows
from memory.database import transaction
from memory.embed import Embedder, Vectors, checked_vectors
from memory.index import Coverage, Rows, VectorIndex, index_directory
from memory.types import Kind

EMBEDDED_KINDS = (Kind.PROBLEM, Kind.SOLUTION, Kind.ERROR, Kind.DECISION, Kind.PATTERN)
"""Attempts and outcomes repeat their problem's words and are reached through it; embedding them buys nothing."""

_FILL_BATCH = 64


class VectorMirror:
    """Vectors of one embedder, as SQLite holds them; starts from the published index where that can be believed.

    Not thread-safe; `Memory` holds a lock around it.
    """

    def __init__(self, connection: apsw.Connection, embedder: Embedder, directory: Path) -> None:
        self.embedder = embedder
        self._connection = connection
        self._directory = index_directory(directory / "index", embedder.id)
        self._index = VectorIndex(embedder.dim)
        self._last_vector = 0
        self._published: Coverage | None = None
        self._load()

    def __len__(self) -> int:
        """Number of vectors."""
        return len(self._index)

    @property
    def from_published(self) -> bool:
        """True: the index on disk was believed at opening, or was written by us since."""
        return self._published is not None

    def embed(self, texts: list[str]) -> Vectors:
        """Unit vectors (len(texts), dim). Raises EmbedderError."""
        return checked_vectors(self.embedder, texts)

    def fill(self) -> None:
        """Embed and store what this embedder has not embedded yet."""
        while missing := rows.without_vector(self._connection, self.embedder.id, EMBEDDED_KINDS, _FILL_BATCH):
            vectors = self.embed([text for _, text in missing])
            with transaction(self._connection):
                for (row, _), vector in zip(missing, vectors, strict=True):
                    rows.insert_vector(self._connection, row, self.embedder.id, vector)

    def refresh(self) -> None:
        """Take in what any process stored since the last time."""
        last, entries, vectors = rows.vectors_after(
            self._connection, self.embedder.id, self.embedder.dim, self._last_vector
        )
        if len(entries):
            self._index.add(entries, vectors)
            self._last_vector = last

    def search(self, query: Vectors, limit: int, among: Rows) -> list[tuple[int, float]]:
        """See `VectorIndex.search`."""
        return self._index.search(query, limit, among)

    def publish(self) -> None:
        """Write the index beside the store, unless what lies there is the same."""
        num_events, head = rows.head_event(self._connection)
        coverage = Coverage(
            embedder=self.embedder.id,
            dim=self.embedder.dim,
            num_vectors=len(self._index),
            last_vector=self._last_vector,
            num_events=num_events,
            head=head,
        )
        if coverage != self._published:
            self._index.publish(self._directory, coverage)
            self._published = coverage

    def _load(self) -> None:
        loaded = VectorIndex.load(self._directory, self.embedder.id, self.embedder.dim)
        if loaded is None:
            return
        index, coverage = loaded
        # History and vectors only grow, so an index is a true beginning of this store when its last event is in our
        # history and it holds as many vectors as we do up to its last one. A store put back from a copy fails this.
        same_history = rows.event_hash(self._connection, coverage.num_events) == coverage.head
        num_stored = rows.count_vectors(self._connection, self.embedder.id, coverage.last_vector)
        if same_history and num_stored == coverage.num_vectors:
            self._index, self._last_vector, self._published = index, coverage.last_vector, coverage


def embed_new(mirror: VectorMirror, texts: list[str], kinds: list[Kind]) -> dict[int, Vectors]:
    """Vectors of those `texts` whose kind is embedded, by place; equal texts are embedded once."""
    places = [place for place, kind in enumerate(kinds) if kind in EMBEDDED_KINDS]
    distinct = list(dict.fromkeys(texts[place] for place in places))
    vectors = dict(zip(distinct, mirror.embed(distinct), strict=True)) if distinct else {}
    return {place: np.asarray(vectors[texts[place]]) for place in places}
