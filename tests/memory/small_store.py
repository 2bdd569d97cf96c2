"""A store with nothing but entries, vectors and events, for tests of what is built on them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import apsw
import numpy as np

from memory import vectors
from memory.database import connect, transaction
from memory.embed import Vectors
from memory.ledger import GENESIS

DIM = 16


class WordEmbedder:
    """A text's vector is near that of its first word, and otherwise random; `id` turns all of them."""

    def __init__(self, id: str = "words", dim: int = DIM) -> None:
        self.id = id
        self.dim = dim
        self.num_embedded = 0

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`."""
        self.num_embedded += len(texts)
        rows = [self._noise(text.split()[0]) + 0.5 * self._noise(text) for text in texts]
        found = np.array(rows, dtype=np.float32).reshape(len(texts), self.dim)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def one(self, text: str) -> Vectors:
        """The vector of one text."""
        return self.embed([text])[0]

    def _noise(self, text: str) -> Vectors:
        seed = int.from_bytes(hashlib.sha256(f"{self.id} {text}".encode()).digest()[:8])
        return np.random.default_rng(seed).normal(size=self.dim)


class SmallStore:
    """One writing connection to a store, and the shortest ways to change it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.connection = connect(directory, readonly=False)
        self.connection.pragma("synchronous", "OFF")

    def reader(self) -> apsw.Connection:
        """Another connection, for reading."""
        return connect(self.directory, readonly=True)

    def event(self, salt: str = "") -> int:
        """Append an event that differs by `salt`; inside a transaction."""
        seq, head = vectors.last_event(self.connection)
        digest = hashlib.sha256(f"{seq} {head} {salt}".encode()).hexdigest()
        self.connection.execute(
            "INSERT INTO events (seq, kind, payload, prev, hash, created_at) VALUES (?, 'test', '{}', ?, ?, 0.0)",
            (seq + 1, head if seq else GENESIS, digest),
        )
        return seq + 1

    def add(self, texts: Iterable[str], kind: str = "problem") -> list[int]:
        """New entries without vectors; their rows."""
        rows = []
        with transaction(self.connection):
            event = self.event("added")
            self.connection.execute("INSERT OR IGNORE INTO namespaces VALUES (1, 'team', 'project', 'run')")
            for text in texts:
                self.connection.execute(
                    "INSERT INTO entries (id, event, namespace, kind, task_type, split, error_code, environment, text,"
                    " fingerprint) VALUES (?, ?, 1, ?, '', '', '', '[]', ?, '')",
                    (f"{event}-{len(rows)}-{text}", event, kind, text),
                )
                rows.append(self.connection.last_insert_rowid())
        return rows

    def erase(self, row: int) -> None:
        """Erase one entry for good."""
        with transaction(self.connection):
            event = self.event("erased")
            self.connection.execute("DELETE FROM vectors WHERE entry = ?", (row,))
            self.connection.execute("DELETE FROM entries WHERE seq = ?", (row,))
            self.connection.execute("INSERT OR IGNORE INTO erasures (entry, event) VALUES (?, ?)", (row, event))

    def copied_to(self, directory: Path) -> SmallStore:
        """A copy of this store as it is now, without its indexes."""
        directory.mkdir()
        self.connection.execute("VACUUM INTO ?", (str(directory / "memory.sqlite"),))
        return SmallStore(directory)
