"""The vectors of one store in one process: a mapped generation, what was stored since, and SQLite, which is right."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import apsw
import numpy as np
from pydantic import Field

from memory import generations, indexer, vectors
from memory.database import StoreError, transaction
from memory.embed import Embedder, Vectors, checked_vectors
from memory.generations import Generation, Rung
from memory.index import Hits, Rows, VectorIndex
from memory.indexer import Policy
from memory.ledger import AlreadyLocked
from memory.types import Kind, Record
from memory.vectors import EMBEDDED_KINDS, StoredEmbedder

_FILL_BATCH = 64
_LOOK_EVERY_S = 1.0
_ASIDE_FROM = 20_000
"""Generations of more vectors are verified by a thread beside: a million take 0.4 s, which a search should not wait."""

_MAX_CANDIDATES = 1_024
_ROUNDING = 1e-5
_DELTA_SHARE = 50
_ROWS_PER_FETCH = 400
"""Scanning so many coded vectors costs what fetching one from SQLite does (6 microseconds)."""


class MirrorState(Record):
    """What searches run on, for people."""

    embedder: str
    is_active: bool
    generation: str = Field(description="name of the generation in use; empty: none, all is searched exactly in RAM")
    num_generation: int = Field(description="vectors of the generation that are still stored")
    num_delta: int = Field(description="vectors in RAM, searched exactly")
    rung: Rung


class VectorMirror:
    """Vectors of one embedder. Every answer is re-ranked with, and therefore exists in, what SQLite holds now.

    Not thread-safe; `Memory` holds a lock around it. An erased entry never comes back: its vector is gone from SQLite,
    its generations from the disk, and its row from RAM at the next `refresh`. A large generation that is already
    mapped serves on without the row until a new one is published.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        embedder: Embedder,
        directory: Path,
        *,
        readonly: bool,
        policy: Policy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the newest generation that can be believed; `refresh` then loads the rest.

        Raises StoreError when a reader brings an embedder that is not the active one, or its vectors changed length.
        """
        self.embedder = embedder
        self.readonly = readonly
        self._connection = connection
        self._store = directory
        self._policy = policy or Policy()
        self._clock = clock
        self._stored = self._known_embedder()
        self._directory = generations.index_directory(directory, embedder.id)
        self._erasure = vectors.last_erasure(connection)
        self._generation: Generation | None = None
        self._num_in_generation = 0
        self._complete_to = 0
        self._refused: set[str] = set()
        self._opening: Future[Generation | None] | None = None
        self._looked_at = clock()
        self._start_delta(0)
        if not readonly:
            generations.drop_before(directory, self._erasure)
        self._use(generations.newest(connection, self._stored, self._directory))

    def __len__(self) -> int:
        """Number of vectors that a search can reach, as of the last `refresh`."""
        return self._num_in_generation + len(self._delta)

    def describe(self) -> MirrorState:
        """What searches run on."""
        generation = self._generation
        return MirrorState(
            embedder=self.embedder.id,
            is_active=self._stored.is_active,
            generation=generation.name if generation else "",
            num_generation=self._num_in_generation,
            num_delta=len(self._delta),
            rung=generation.rung if generation else Rung(),
        )

    @property
    def from_published(self) -> bool:
        """True: a generation on disk is in use."""
        return self._generation is not None

    @property
    def id(self) -> int:
        """Number of the embedder, for `memory.vectors.insert`."""
        return self._stored.id

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors (len(texts), dim); touches nothing that needs the lock. Raises EmbedderError."""
        return checked_vectors(self.embedder, texts)

    def pending(self, limit: int = _FILL_BATCH) -> list[tuple[int, str]]:
        """(row, text) of at most `limit` entries that this embedder still has to embed, oldest first."""
        last = vectors.last_entry(self._connection)
        missing = vectors.without_vector(self._connection, self.id, after=self._complete_to, limit=limit)
        # Vectors of older entries are only ever removed together with them, so nobody need look there again.
        self._complete_to = missing[0][0] - 1 if missing else last
        return missing

    def store(self, rows: Sequence[int], found: Vectors) -> None:
        """Store vectors (n, dim) of entries; those that have one, or were erased meanwhile, are left out."""
        with transaction(self._connection):
            for row, vector in zip(rows, found, strict=True):
                vectors.insert(self._connection, row, self.id, vector)

    def fill(self) -> None:
        """Embed and store until nothing is missing; an embedder that was not the active one then takes over."""
        while missing := self.pending():
            self.store([row for row, _ in missing], self.embed([text for _, text in missing]))
        if not self._stored.is_active:
            switch_over(self._connection, self.embedder, self._store, self._policy)
            self._stored = self._known_embedder()
            self._use(generations.newest(self._connection, self._stored, self._directory))

    def refresh(self) -> None:
        """Take in what any process stored, erased or published since the last time; 20 microseconds if nothing.

        Raises StoreError when another embedder took over, or a stored vector is damaged.
        """
        self._check_active()
        self._forget_erased()
        self._adopt()
        self._extend_delta()

    def search(self, query: Vectors, limit: int, among: Rows | None = None) -> list[tuple[int, float]]:
        """At most `limit` entries nearest to `query` (dim,), as (row, cosine); equal ones in the order of their rows.

        `among` restricts it to a few thousand rows at most; None searches them all. Cosines are exact. On a flat rung
        nothing is missed; on an inverted one an unrestricted search finds the share that `describe().rung` states, and
        a restricted one looks into every list.
        """
        if limit <= 0 or not len(self):
            return []
        if among is not None and len(among) * _ROWS_PER_FETCH <= len(self):
            return self._exact(query, among)[:limit]
        num_candidates = limit + 8 if self._is_exact else min(4 * limit, limit + 64)
        while True:
            hits, is_all = self._candidates(query, num_candidates, among)
            found = self._exact(query, hits.rows)
            # Erased rows leave gaps, and equal vectors at the end of the list may stand for others that rank before.
            is_enough = len(found) >= limit and found[limit - 1][1] > hits.scores[-1] + _ROUNDING
            if is_all or is_enough or num_candidates >= _MAX_CANDIDATES:
                return found[:limit]
            num_candidates *= 2

    def publish(self, *, force: bool = False) -> bool:
        """Publish a generation when enough is new to be worth it (2%); `force`: in any case, and built anew.

        True: it was done. False also while another process builds one. From 20,000 vectors on this takes seconds, at
        a million minutes: then run `python -m memory.indexer` beside the writer.
        """
        if self.readonly:
            raise StoreError(f"{self._store}: opened read-only; open it without readonly to publish an index")
        self.refresh()
        if not (force or self._is_worth_publishing()):
            return False
        try:
            name = indexer.publish_generation(self._connection, self._stored, self._directory, self._policy, anew=force)
        except AlreadyLocked:
            return False
        if name is not None:
            self._use(generations.newest(self._connection, self._stored, self._directory))
            self._extend_delta()
        return name is not None

    def forget(self) -> None:
        """After an erase was committed: remove what holds the erased from RAM, and from the disk for all embedders."""
        self._forget_erased()
        self._extend_delta()
        generations.drop_before(self._store, self._erasure)

    def _known_embedder(self) -> StoredEmbedder:
        name, dim = self.embedder.id, self.embedder.dim
        if not self.readonly:
            return vectors.ensure_embedder(self._connection, name, dim)
        found = vectors.checked_embedder(self._connection, name, dim)
        if not found.is_active:
            raise _not_active(self._connection, name)
        return found

    def _check_active(self) -> None:
        if self._stored.is_active and not vectors.is_active(self._connection, self.id):
            raise _not_active(self._connection, self.embedder.id)

    @property
    def _is_exact(self) -> bool:
        return self._generation is None or self._generation.rung.kind == "flat"

    def _is_worth_publishing(self) -> bool:
        generation = self._generation
        if generation is None or generation.coverage.last_erasure < self._erasure:
            return len(self) > 0
        is_newest = generations.names(self._directory)[:1] == [generation.name]
        return not is_newest or len(self._delta) * _DELTA_SHARE >= max(1, len(self))

    def _candidates(self, query: Vectors, limit: int, among: Rows | None) -> tuple[Hits, bool]:
        """At most `limit` rows that may be the nearest, best first, and whether there are no others."""
        found = [self._delta.search(query, limit, among=among)]
        if self._generation is not None:
            # A restricted search looks into all lists: few of them hold any of the rows.
            nprobe = self._generation.rung.nprobe if among is None else 0
            found.append(self._generation.index.search(query, limit, among=among, nprobe=nprobe))
        rows = np.concatenate([hits.rows for hits in found])
        scores = np.concatenate([hits.scores for hits in found])
        best = np.argsort(-scores, kind="stable")[:limit]
        return Hits(rows[best], scores[best]), len(rows) < limit

    def _exact(self, query: Vectors, rows: Rows) -> list[tuple[int, float]]:
        """Those of `rows` that still have a vector, with its cosine, best first."""
        found = vectors.by_entries(self._connection, self._stored, rows.tolist())
        # Row by row, so that a score depends on nothing but the two vectors: equal ones must tie.
        scores = np.einsum("ij,j->i", found.vectors.astype(np.float64), query.astype(np.float64))
        return sorted(zip(found.rows.tolist(), scores.tolist(), strict=True), key=lambda hit: (-hit[1], hit[0]))

    def _use(self, generation: Generation | None) -> None:
        if generation is None:
            return
        self._generation = generation
        self._num_in_generation = generation.coverage.num_vectors
        self._start_delta(generation.coverage.last_vector)

    def _start_delta(self, after: int) -> None:
        self._delta = VectorIndex.flat(self.embedder.dim)
        self._last_vector = after

    def _extend_delta(self) -> None:
        for block in vectors.blocks(self._connection, self._stored, self._last_vector):
            self._delta.add(block.rows, block.vectors)
            self._last_vector = int(block.numbers[-1])

    def _forget_erased(self) -> None:
        last = vectors.last_erasure(self._connection)
        if last == self._erasure:
            return
        self._delta.remove(vectors.erased_after(self._connection, self._erasure))
        self._erasure = last
        if self._generation is None:
            return
        coverage = self._generation.coverage
        if coverage.num_vectors < _ASIDE_FROM:
            self._generation, self._num_in_generation = None, 0
            self._start_delta(0)
        else:
            found = vectors.beginning(self._connection, self.id, coverage.last_vector)
            self._num_in_generation = found.num_vectors

    def _adopt(self) -> None:
        """Go over to a newer generation that somebody published."""
        if self._opening is not None:
            if self._opening.done():
                opened, self._opening = self._opening.result(), None
                self._adopt_opened(opened)
            return
        if self._clock() - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = self._clock()
        name = next(iter(generations.names(self._directory)), "")
        if name and name not in self._refused and not (self._generation and name == self._generation.name):
            self._refused.add(name)
            self._open(name)

    def _open(self, name: str) -> None:
        path = self._directory / name
        manifest = generations.read_manifest(path)
        if manifest is None or not generations.is_beginning(self._connection, self._stored, manifest.coverage):
            return
        if manifest.coverage.num_vectors < _ASIDE_FROM:
            self._adopt_opened(generations.open_verified(path, manifest))
            return
        thread = ThreadPoolExecutor(max_workers=1)
        self._opening = thread.submit(generations.open_verified, path, manifest)
        thread.shutdown(wait=False)

    def _adopt_opened(self, generation: Generation | None) -> None:
        if generation is None:
            return
        if generation.coverage.last_erasure == self._erasure:
            self._use(generation)
        else:  # something was erased while it was being opened: look at it again
            self._refused.discard(generation.name)


def switch_over(connection: apsw.Connection, embedder: Embedder, store: Path, policy: Policy) -> bool:
    """Fill an embedder beside the active one, publish its generation, and make it the active one; False: not yet.

    Meanwhile the active one serves. Entries that come in while the generation is built are embedded before the end.

    Raises:
        AlreadyLocked: another process builds its index.
        StoreError, EmbedderError: as reading and embedding do; the active one stays.
    """
    stored = vectors.ensure_embedder(connection, embedder.id, embedder.dim)
    fill(connection, embedder)
    directory = generations.index_directory(store, embedder.id)
    if vectors.last_number(connection, stored.id) and generations.newest(connection, stored, directory) is None:
        if indexer.publish_generation(connection, stored, directory, policy) is None:
            return False
        fill(connection, embedder)
    return vectors.activate(connection, stored.id)


def fill(connection: apsw.Connection, embedder: Embedder, batch: int = _FILL_BATCH) -> int:
    """Embed and store what `embedder`, which is known already, has not embedded yet; returns how many texts."""
    stored = vectors.checked_embedder(connection, embedder.id, embedder.dim)
    num_filled = after = 0
    while missing := vectors.without_vector(connection, stored.id, after=after, limit=batch):
        found = checked_vectors(embedder, [text for _, text in missing])
        with transaction(connection):
            for (row, _), vector in zip(missing, found, strict=True):
                vectors.insert(connection, row, stored.id, vector)
        num_filled, after = num_filled + len(missing), missing[-1][0]
    return num_filled


def embed_new(mirror: VectorMirror, texts: list[str], kinds: list[Kind]) -> dict[int, Vectors]:
    """Vectors of those `texts` whose kind is embedded, by place; equal texts are embedded once."""
    places = [place for place, kind in enumerate(kinds) if kind in EMBEDDED_KINDS]
    distinct = list(dict.fromkeys(texts[place] for place in places))
    found = dict(zip(distinct, mirror.embed(distinct), strict=True)) if distinct else {}
    return {place: np.asarray(found[texts[place]]) for place in places}


def _not_active(connection: apsw.Connection, name: str) -> StoreError:
    active = vectors.active_embedder(connection)
    return StoreError(
        f"embedder {name}: expected the active one, which is {active.name if active else 'none'}; open this memory "
        "with it, or switch over from a writer"
    )
