"""Three stores behind one small interface, driven as a child process: what scripts/bench_memory_rival.py measures.

    python scripts/rival_stores.py STORE VERB DIRECTORY DATA [OPTIONS]

Runs under the Python of the environment in which the store is installed, and needs numpy there and no more. DATA is an
.npz with `vectors` (n, dim), `texts` (n,), `queries` (q, dim) and `query_texts` (q,). The answer is one JSON line.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

TOP = 10


class Store(Protocol):
    """What every store can do, at the lowest public entry that keeps text and vector together durably."""

    settings: str

    def insert(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Store new texts with their vectors (n, dim); returns when the store calls them stored."""
        ...

    def nearest(self, vector: np.ndarray) -> list[str]:
        """Texts of the `TOP` nearest vectors."""
        ...

    def search(self, text: str, vector: np.ndarray) -> list[str]:
        """`TOP` texts by words and meaning; [] where the store knows vectors only."""
        ...

    def texts(self) -> set[str]:
        """Every text that is stored."""
        ...

    def close(self) -> None:
        """Let go in an orderly way."""
        ...


class Mem0Faiss:
    """mem0's FAISS vector store: an exact index in RAM, and both files written whole at every insert."""

    settings = "mem0.vector_stores.faiss.FAISS, distance_strategy='cosine', else defaults"

    def __init__(self, directory: Path, dim: int) -> None:
        os.environ.update(MEM0_TELEMETRY="False", MEM0_DIR=str(directory / "home"))
        from mem0.vector_stores.faiss import FAISS

        self._store = FAISS("bench", str(directory / "bench"), distance_strategy="cosine", embedding_model_dims=dim)

    def insert(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        """See `Store.insert`."""
        self._store.insert(vectors.tolist(), [{"data": text} for text in texts])

    def nearest(self, vector: np.ndarray) -> list[str]:
        """See `Store.nearest`."""
        return [hit.payload["data"] for hit in self._store.search("", [vector.tolist()], top_k=TOP)]

    def search(self, text: str, vector: np.ndarray) -> list[str]:
        """See `Store.search`: it has no words."""
        return []

    def texts(self) -> set[str]:
        """See `Store.texts`."""
        return {hit.payload["data"] for hit in self._store.list(top_k=10**9)[0]}

    def close(self) -> None:
        """See `Store.close`: it has nothing to close."""


class Ariadne:
    """ariadne-memory's store: SQLite with vectors as BLOBs, and a FAISS index in RAM built anew at every opening.

    Its `AriadneDB`, not its `AriadneMemory`, whose near-duplicate filter would drop most of these texts.
    """

    settings = "arriadne.AriadneDB, AriadneConfig defaults"

    def __init__(self, directory: Path, dim: int) -> None:
        from arriadne import AriadneConfig, AriadneDB

        self._store = AriadneDB(AriadneConfig(db_path=directory / "ariadne.db", embedding_dim=dim))
        self._store.open()

    def insert(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        """See `Store.insert`."""
        if len(texts) == 1:
            self._store.add_memory(texts[0], embedding=vectors[0])
        else:
            rows = zip(texts, vectors, strict=True)
            self._store.add_memories_bulk([{"content": text, "embedding": vector} for text, vector in rows])

    def nearest(self, vector: np.ndarray) -> list[str]:
        """See `Store.nearest`."""
        return [hit["content"] for hit in self._store.vector_search(vector, k=TOP)]

    def search(self, text: str, vector: np.ndarray) -> list[str]:
        """See `Store.search`."""
        return [hit["content"] for hit in self._store.hybrid_search(text, embedding=vector, k=TOP)]

    def texts(self) -> set[str]:
        """See `Store.texts`."""
        return {row[0] for row in self._store.conn.execute("SELECT content FROM memories WHERE is_deleted = 0")}

    def close(self) -> None:
        """See `Store.close`."""
        self._store.close()


class Ours:
    """`Memory`: text durable and its vector with it, before an insert counts as done."""

    settings = "memory.store.Memory, defaults; an insert is remember() and embed_pending()"

    def __init__(self, directory: Path, dim: int, table: dict[str, np.ndarray]) -> None:
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
        from memory.store import Memory

        self._memory = Memory.open(directory / "ours", TableEmbedder(dim, table))

    def insert(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        """See `Store.insert`; the vectors are those the table has."""
        from memory.types import Experience, Kind, Observation

        self._memory.remember(
            [Observation(experience=Experience(kind=Kind.PROBLEM, text=text), source="bench") for text in texts]
        )
        self._memory.embed_pending()

    def nearest(self, vector: np.ndarray) -> list[str]:
        """See `Store.nearest`: the vector lane alone, brought up to date, with the texts fetched."""
        from memory.rows import nodes_by_row

        with self._memory.reading() as connection:
            self._memory._mirror.refresh()
            found = [row for row, _ in self._memory._mirror.search(vector, TOP)]
            nodes = nodes_by_row(connection, found)
        return [nodes[row].text for row in found]

    def search(self, text: str, vector: np.ndarray) -> list[str]:
        """See `Store.search`; the vector of the text is the one the table has."""
        return [hit.text for hit in self._memory.search(text, limit=TOP)]

    def texts(self) -> set[str]:
        """See `Store.texts`."""
        with self._memory.reading() as connection:
            return {text for (text,) in connection.execute("SELECT text FROM entries")}

    def close(self) -> None:
        """See `Store.close`; it publishes the index."""
        self._memory.close()


class TableEmbedder:
    """An embedder of texts whose vectors were computed before."""

    id = "table"

    def __init__(self, dim: int, table: dict[str, np.ndarray]) -> None:
        self.dim = dim
        self._table = table

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (len(texts), dim)."""
        return np.stack([self._table[text] for text in texts]) if texts else np.zeros((0, self.dim), np.float32)


class Data:
    """The texts, vectors and queries of one run, from an .npz."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self.texts = [str(text) for text in file["texts"]]
            self.vectors = np.ascontiguousarray(file["vectors"])
            self.queries = np.ascontiguousarray(file["queries"])
            self.query_texts = [str(text) for text in file["query_texts"]]

    def exact(self, size: int) -> list[set[str]]:
        """Texts of the `TOP` nearest of the first `size`, for each query."""
        scores = self.queries @ self.vectors[:size].T
        return [{self.texts[i] for i in np.argpartition(-line, TOP)[:TOP]} for line in scores]


def opened(name: str, directory: Path, data: Data) -> Store:
    """The store in its directory, made if it is not there."""
    dim = data.vectors.shape[1]
    if name == "ours":
        table = dict(zip([*data.texts, *data.query_texts], [*data.vectors, *data.queries], strict=True))
        return Ours(directory, dim, table)
    return Mem0Faiss(directory, dim) if name == "mem0" else Ariadne(directory, dim)


def measure(name: str, directory: Path, data: Data, size: int, singles: int) -> dict[str, Any]:
    """Fill to `size` in batches of 100, then time single inserts, opening and queries."""
    store = opened(name, directory, data)
    started = time.perf_counter()
    for first in range(0, size, 100):
        store.insert(data.texts[first : first + 100], data.vectors[first : first + 100])
    batch_s = time.perf_counter() - started
    single_s = []
    for i in range(size, size + singles):
        started = time.perf_counter()
        store.insert([data.texts[i]], data.vectors[i : i + 1])
        single_s.append(time.perf_counter() - started)
    store.close()
    size += singles
    open_s, store = timed(lambda: opened(name, directory, data))
    truth, found, near_ms, search_ms = data.exact(size), [], [], []
    for query, text, right in zip(data.queries, data.query_texts, truth, strict=True):
        seconds, texts = timed(lambda query=query: store.nearest(query))
        near_ms.append(1e3 * seconds)
        found.append(len(set(texts) & right) / TOP)
        seconds, hits = timed(lambda text=text, query=query: store.search(text, query))
        search_ms.append(1e3 * seconds if hits else float("nan"))
    store.close()
    return {
        "settings": store.settings,
        "batch_per_s": (size - singles) / batch_s,
        "single_per_s": 1 / float(np.median(single_s)) if single_s else float("nan"),
        "open_s": open_s,
        "near_p50_ms": float(np.percentile(near_ms, 50)),
        "near_p99_ms": float(np.percentile(near_ms, 99)),
        "search_p50_ms": float(np.percentile(search_ms, 50)),
        "search_p99_ms": float(np.percentile(search_ms, 99)),
        "recall_at_10": float(np.mean(found)),
        "disk_mib": sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()) / 2**20,
        "versions": versions(),
    }


def write(name: str, directory: Path, data: Data, first: int, count: int) -> dict[str, Any]:
    """Insert one text after another, and print the number of each that the store calls stored: to be killed, or not."""
    store = opened(name, directory, data)
    print("ready", flush=True)
    sys.stdin.readline()
    for i in range(first, first + count):
        store.insert([data.texts[i]], data.vectors[i : i + 1])
        print(i, flush=True)
    store.close()
    return {}


def check(name: str, directory: Path, data: Data) -> dict[str, Any]:
    """Numbers of the texts that are there, and of those that a search by their own vector finds."""
    store = opened(name, directory, data)
    here = store.texts()
    present = [i for i, text in enumerate(data.texts) if text in here]
    reachable = [i for i in present if data.texts[i] in store.nearest(data.vectors[i])]
    store.close()
    return {"present": present, "reachable": reachable}


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds it took, and what it gave."""
    started = time.perf_counter()
    found = act()
    return time.perf_counter() - started, found


def versions() -> dict[str, str]:
    """What is installed here of what matters."""
    found = {}
    for package in ("mem0ai", "ariadne-memory", "faiss-cpu", "numpy", "apsw"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", choices=("ours", "mem0", "ariadne"))
    parser.add_argument("verb", choices=("measure", "write", "check"))
    parser.add_argument("directory", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("numbers", type=int, nargs="*", help="measure: size, singles; write: first, count")
    args = parser.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    verb: Any = {"measure": measure, "write": write, "check": check}[args.verb]
    print(json.dumps(verb(args.store, args.directory, Data(args.data), *args.numbers)), flush=True)


if __name__ == "__main__":
    main()
