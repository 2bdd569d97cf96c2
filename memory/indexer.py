"""Builds the next generation of a vector index: which rung of the ladder it gets is measured, not assumed.

Run as `python -m memory.indexer DIRECTORY` it builds beside a running writer, with the store open for reading only.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import apsw
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from memory import generations, vectors
from memory.database import FILE_NAME, StoreError, connect, translated
from memory.embed import Vectors
from memory.generations import Coverage, Generation, Rung
from memory.index import Kind, VectorIndex, nlist_for
from memory.ledger import AlreadyLocked, exclusive_lock
from memory.types import Record
from memory.vectors import Block, StoredEmbedder

TOP = 10
"""The measure is recall@10."""

NUM_CANDIDATES = 4 * TOP
"""Candidates that the measured search re-ranks exactly, as `VectorMirror.search` does for a limit of `TOP`."""

_NPROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_ROWS_PER_LIST = 64
_NOISE = (0.2, 0.8)
_ROUNDING = 1e-5
_Z = 2.33
"""1.645 times the root of 2: the measured mean and that of a fresh set of the same size both vary."""


class Policy(Record):
    """When an index leaves exact search, and what it must prove to be allowed to."""

    ivf_from: int = 20_000
    min_recall: float = 0.95
    num_queries: int = 200
    retrain_growth: float = 3.0
    seed: int = 0
    num_threads: int = Field(default_factory=lambda: min(4, os.cpu_count() or 1))


class _Gate(NamedTuple):
    """Held queries (n, dim), and for each the exact score of its tenth neighbour."""

    queries: Vectors
    tenth: NDArray[np.float32]


def publish_generation(
    connection: apsw.Connection, embedder: StoredEmbedder, directory: Path, policy: Policy, *, anew: bool = False
) -> str | None:
    """Build and publish a generation of all vectors there are; its name, or None when an erase made it void.

    Nothing is built when the newest covers them already, and it is extended where that will do, unless `anew`. The
    generation it follows is kept, everything else in `directory` is removed.

    Raises:
        AlreadyLocked: another process is building.
        StoreError: a stored vector is damaged. OSError: the disk is full.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(directory):
        base = generations.newest(connection, embedder, directory)
        generations.sweep(directory, [base.name] if base else [])
        coverage = generations.coverage_now(connection, embedder)
        if base is not None and not anew and _is_built(base, coverage, policy):
            return base.name
        build = _Build(connection, embedder, coverage, policy)
        index, rung = _build(build, None if anew else base, directory)
        if not _is_still_true(connection, coverage, index):
            return None
        name = generations.publish(directory, index, coverage, rung)
        # An erase that came between the look above and the rename did not see the new name: look once more.
        if not _is_still_true(connection, coverage, index):
            generations.sweep(directory, [])
            return None
    return name


def gate_queries(stored: Vectors, seed: int) -> Vectors:
    """Unit vectors (n, dim): each `stored` one (n, dim) moved up to halfway towards another, and a random way aside.

    Noise alone would be too easy a test: it leaves a vector in the middle of its list, and one list looked into seems
    enough. Between two stored vectors lies what resembles both, and its neighbours are spread over many lists.
    """
    rng = np.random.default_rng(seed)
    towards = rng.uniform(0, 1, size=(len(stored), 1)) * np.roll(stored, 1, axis=0)
    aside = rng.uniform(*_NOISE, size=(len(stored), 1)) * rng.normal(size=stored.shape) / np.sqrt(stored.shape[1])
    moved = stored + towards + aside
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


def recall_bound(recalls: NDArray[np.float64]) -> float:
    """What the mean of a fresh set of as many queries stays above in 95 of 100 cases (normal approximation)."""
    if len(recalls) < 2:
        return 0.0
    return float(recalls.mean() - _Z * recalls.std(ddof=1) / np.sqrt(len(recalls)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Build one generation. Returns 0, or 1 with a message on stderr."""
    parser = argparse.ArgumentParser(prog="python -m memory.indexer", description="Build the next vector index.")
    parser.add_argument("directory", type=Path, help="the directory of the memory")
    parser.add_argument("--embedder", default="", help="id of the embedder; the active one if not given")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads to build with")
    given = parser.parse_args(arguments)
    try:
        print(_run(given.directory, given.embedder, Policy(num_threads=given.threads)))
    except (StoreError, AlreadyLocked, OSError) as error:
        print(f"memory.indexer: {error}", file=sys.stderr)
        return 1
    return 0


def _run(store: Path, name: str, policy: Policy) -> str:
    connection = connect(store, readonly=True)
    try:
        with translated(store / FILE_NAME):
            embedder = vectors.find_embedder(connection, name) if name else vectors.active_embedder(connection)
            if embedder is None:
                raise StoreError(
                    f"{store}: expected vectors of {name or 'some embedder'}, got none; open it for writing"
                )
            published = publish_generation(
                connection, embedder, generations.index_directory(store, embedder.name), policy
            )
    finally:
        connection.close()
    return f"{embedder.name}: " + (published or "an entry was erased meanwhile; nothing was published, run again")


def _build(build: _Build, base: Generation | None, directory: Path) -> tuple[VectorIndex, Rung]:
    num_vectors = build.coverage.num_vectors
    if num_vectors < build.policy.ivf_from:
        return build.flat(), Rung()
    if base is not None and num_vectors < build.policy.retrain_growth * base.rung.trained_on:
        if base.rung.kind == "flat":  # lists were learnt not long ago, and did not pass
            return build.flat(), base.rung
        previous = generations.in_ram(directory, base)
        if previous is not None and base.coverage.last_erasure == build.coverage.last_erasure:
            rung = build.extended(previous, base)
            if rung.kind == "ivf_sq8":
                return previous, rung
    index, rung = build.trained()
    return (index if rung.kind == "ivf_sq8" else build.flat()), rung


class _Build(NamedTuple):
    """One build: what it reads, and what it must cover."""

    connection: apsw.Connection
    embedder: StoredEmbedder
    coverage: Coverage
    policy: Policy

    def flat(self) -> VectorIndex:
        index = VectorIndex.flat(self.embedder.dim)
        for block in self._blocks():
            index.add(block.rows, block.vectors)
        return index

    def trained(self) -> tuple[VectorIndex, Rung]:
        """An inverted index on lists learnt from a sample, and what the gate says of it."""
        num_vectors = self.coverage.num_vectors
        nlist = nlist_for(num_vectors)
        index = VectorIndex.trained(self._sample(nlist * _ROWS_PER_LIST), nlist, self.policy.num_threads)
        return index, self._gated(index, self._fill(index, after=0), trained_on=num_vectors)

    def extended(self, index: VectorIndex, base: Generation) -> Rung:
        """Add to the previous inverted `index` what was stored since; what the gate says of it now."""
        return self._gated(index, self._fill(index, base.coverage.last_vector), trained_on=base.rung.trained_on)

    def _blocks(self) -> Iterator[Block]:
        return vectors.blocks(self.connection, self.embedder, 0, self.coverage.last_vector)

    def _sample(self, size: int) -> Vectors:
        num_vectors = self.coverage.num_vectors
        rng = np.random.default_rng(self.policy.seed)
        wanted = np.sort(rng.choice(num_vectors, min(size, num_vectors), replace=False))
        sample = np.empty((len(wanted), self.embedder.dim), dtype=np.float32)
        place = last = 0
        for block in self._blocks():
            first, last = np.searchsorted(wanted, (place, place + len(block.rows)))
            sample[first:last] = block.vectors[wanted[first:last] - place]
            place += len(block.rows)
        return sample[:last]

    def _fill(self, index: VectorIndex, after: int) -> _Gate:
        """Add what `index` lacks, and find the exact neighbours of the held queries on the way."""
        rng = np.random.default_rng(self.policy.seed + 1)
        numbers = rng.integers(1, self.coverage.last_vector + 1, self.policy.num_queries)
        queries = gate_queries(vectors.near_number(self.connection, self.embedder, numbers.tolist()), self.policy.seed)
        best = np.full((len(queries), TOP), -np.inf, dtype=np.float32)
        for block in self._blocks():
            best = np.partition(np.hstack([best, queries @ block.vectors.T]), -TOP, axis=1)[:, -TOP:]
            is_new = block.numbers > after
            if is_new.any():
                index.add(block.rows[is_new], block.vectors[is_new], self.policy.num_threads)
        return _Gate(queries, best.min(axis=1))

    def _gated(self, index: VectorIndex, gate: _Gate, trained_on: int) -> Rung:
        """The rung with the least `nprobe` that passes; a flat one, with the best that was measured, if none does."""
        recalls = np.zeros(0)
        for nprobe in (nprobe for nprobe in _NPROBES if nprobe <= index.nlist):
            recalls = np.array([self._recall(index, query, tenth, nprobe) for query, tenth in zip(*gate, strict=True)])
            if recall_bound(recalls) >= self.policy.min_recall:
                return _rung(recalls, trained_on, "ivf_sq8", index.nlist, nprobe)
        return _rung(recalls, trained_on, "flat", 0, 0)

    def _recall(self, index: VectorIndex, query: Vectors, tenth: np.float32, nprobe: int) -> float:
        candidates = index.search(query, NUM_CANDIDATES, nprobe=nprobe).rows
        exact = vectors.by_entries(self.connection, self.embedder, candidates.tolist()).vectors @ query
        # Counted by score, not by row: of vectors that are equal any may be the tenth.
        return min(TOP, int((exact >= tenth - _ROUNDING).sum())) / TOP


def _rung(recalls: NDArray[np.float64], trained_on: int, kind: Kind, nlist: int, nprobe: int) -> Rung:
    return Rung(
        kind=kind,
        nlist=nlist,
        nprobe=nprobe,
        trained_on=trained_on,
        recall=float(recalls.mean()),
        recall_bound=recall_bound(recalls),
        num_queries=len(recalls),
    )


def _is_built(base: Generation, coverage: Coverage, policy: Policy) -> bool:
    """True: `base` holds exactly these vectors, and is not a flat one that may now try for another rung."""
    is_same = (base.coverage.last_vector, base.coverage.num_vectors) == (coverage.last_vector, coverage.num_vectors)
    is_untried = base.rung.trained_on == 0 and coverage.num_vectors >= policy.ivf_from
    return is_same and not is_untried


def _is_still_true(connection: apsw.Connection, coverage: Coverage, index: VectorIndex) -> bool:
    return vectors.last_erasure(connection) == coverage.last_erasure and len(index) == coverage.num_vectors


if __name__ == "__main__":
    sys.exit(main())
