"""`Memory`: experiences remembered durably in SQLite, and recalled by words, by meaning and through the graph."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import apsw

from memory import lanes, rows
from memory.database import FILE_NAME, StoreError, connect, translated
from memory.embed import Embedder, Vectors
from memory.index import Rows
from memory.ledger import exclusive_lock
from memory.mirror import VectorMirror, embed_new
from memory.recall import MIN_OVERLAP, choose, recollection
from memory.stats import MemoryStats, read_stats, write_brief
from memory.types import Edge, Experience, Recollection

MAX_TEXT_CHARS = 1_000_000


class Memory:
    """One store in one directory: a single writer process, any number of readers, safe to share between threads.

    Nothing is lost once `remember` has returned. The same content remembered in the same order gives the same
    `stats().head` and the same recollections. Memory never calls a model and believes only stored evidence.
    """

    def __init__(
        self,
        directory: Path,
        connection: apsw.Connection,
        mirror: VectorMirror,
        *,
        readonly: bool,
        min_similarity: float,
    ) -> None:
        """Use `Memory.open`."""
        self.directory = directory
        self.readonly = readonly
        self.min_similarity = min_similarity
        self._connection = connection
        self._mirror = mirror
        self._mutex = threading.RLock()
        self._query_vector = lru_cache(maxsize=256)(self._embed_query)
        self._holding: ExitStack | None = None

    @classmethod
    def open(
        cls, directory: Path, embedder: Embedder, *, readonly: bool = False, min_similarity: float = 0.3
    ) -> Memory:
        """Open, or make, the memory in `directory`.

        A writer embeds what `embedder` has not seen yet (another embedder's vectors stay beside, never mixed).
        `min_similarity` is the cosine below which a vector match does not count as similar.

        Raises:
            AlreadyLocked: another process writes to it.
            StoreError: damaged, not a memory, not writable, or nothing there to read. SchemaTooNew: a later version's.
        """
        with ExitStack() as stack:
            if not readonly:
                _make_writable(directory)
                stack.enter_context(exclusive_lock(directory))
            connection = connect(directory, readonly=readonly)
            stack.callback(connection.close)
            with translated(directory / FILE_NAME):
                mirror = VectorMirror(connection, embedder, directory)
                if not readonly:
                    mirror.fill()
                mirror.refresh()
            memory = cls(directory, connection, mirror, readonly=readonly, min_similarity=min_similarity)
            memory._holding = stack.pop_all()
        return memory

    def remember(self, experiences: Sequence[Experience], edges: Sequence[Edge] = ()) -> list[str]:
        """Store experiences and edges, all or none; returns the id of each experience, in order.

        What is stored already is left as it is, so repeating a call changes nothing.

        Raises:
            ValueError: an empty or enormous text, or one that is not valid Unicode; names the experience.
            StoreError: an edge to something unknown, a read-only memory, a full disk.
            EmbedderError: the embedder returned something other than unit vectors.
        """
        for place, experience in enumerate(experiences):
            _check_text(experience, place)
        ids = [experience.id for experience in experiences]
        with self._guarded():
            self._check_writable()
            known = rows.known_ids(self._connection, ids)
            new = list({id: item for id, item in zip(ids, experiences, strict=True) if id not in known}.values())
            links = [edge for edge in dict.fromkeys(edges) if rows.is_new_edge(self._connection, edge)]
            if new or links:
                vectors = embed_new(self._mirror, [item.text for item in new], [item.kind for item in new])
                rows.write(self._connection, rows.Writing(new, links, vectors), self._mirror.embedder.id)
                self._mirror.refresh()
        return ids

    def recall(
        self, query: str, *, task_type: str | None = None, splits: Collection[str] | None = None, limit: int = 3
    ) -> list[Recollection]:
        """At most `limit` experiences that may help with `query`, best first; [] when nothing is near enough.

        Solutions and patterns come back only if a check passed them. What failed comes back as a warning, in the
        places solutions leave free. Only experiences of `task_type` and of `splits` are looked at, also through the
        graph; None means any. An empty query recalls nothing.

        Raises:
            ValueError: a negative limit. TypeError: `splits` is a plain string.
        """
        if isinstance(splits, str):
            raise TypeError(f"splits: expected a collection of names, got the string {splits!r}; write [{splits!r}]")
        if _checked_limit(limit) == 0 or not query.strip():
            return []
        with self._guarded():
            self._mirror.refresh()
            question = self._question(query, lanes.Scope(task_type, splits), self.min_similarity, MIN_OVERLAP)
            anchors = lanes.find_anchors(self._connection, question)
            solutions = lanes.candidates(self._connection, question, "verified", anchors)
            failures = lanes.candidates(self._connection, question, "failed", anchors)
        return choose(solutions, failures, limit)

    def search(self, text: str, limit: int = 10) -> list[Recollection]:
        """At most `limit` experiences of any kind and standing, nearest to `text` first: for people, not prompts."""
        if _checked_limit(limit) == 0 or not text.strip():
            return []
        with self._guarded():
            self._mirror.refresh()
            question = self._question(text, lanes.Scope(), min_similarity=-1.0, min_overlap=0.0)
            found = lanes.candidates(self._connection, question, "any")
        return [recollection(candidate, warning=_failed(candidate.experience)) for candidate in found[:limit]]

    def get(self, id: str) -> Experience | None:
        """The experience with this id; None when there is none."""
        with self._guarded():
            found = rows.nodes_by_id(self._connection, [id])
        return found[id][1] if id in found else None

    def edges_of(self, id: str) -> list[Edge]:
        """Edges that start or end at an experience, in the order they were written; [] for an unknown id."""
        with self._guarded():
            return rows.edges_of(self._connection, id)

    def neighbours(self, id: str) -> list[Experience]:
        """Experiences one edge away, in either direction, in the order the edges were written, each once."""
        with self._guarded():
            ends = [edge.target if edge.source == id else edge.source for edge in rows.edges_of(self._connection, id)]
            found = rows.nodes_by_id(self._connection, ends)
        return [found[end][1] for end in dict.fromkeys(ends)]

    def brief(self, max_words: int) -> str:
        """What a new session should know, in at most `max_words` words: counts, solutions, frequent failures."""
        with self._guarded():
            return write_brief(self._connection, max_words)

    def stats(self) -> MemoryStats:
        """Counts, and the hash of the whole history."""
        with self._guarded():
            self._mirror.refresh()
            return read_stats(self._connection, self._mirror.embedder.id, len(self._mirror))

    def verify(self) -> int:
        """Check SQLite's own structure and the chain of events; returns the number of events, or raises StoreError."""
        with self._guarded():
            verdict = self._connection.pragma("quick_check")
            if verdict != "ok":
                raise StoreError(f"{self.directory / FILE_NAME}: damaged: {verdict}; restore it from a copy")
            return rows.verify_events(self._connection)

    def publish_index(self) -> None:
        """Write the vector index beside the store, so that the next opening need not build it. `close` does it too."""
        with self._guarded():
            self._check_writable()
            self._mirror.refresh()
            self._mirror.publish()

    def close(self) -> None:
        """Publish the index and let go of the store. Closing twice is allowed; using it afterwards is not."""
        with self._mutex:
            if self._holding is None:
                return
            try:
                if not self.readonly:
                    self.publish_index()
            finally:
                self._holding.close()
                self._holding = None

    def __enter__(self) -> Memory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with self._mutex, translated(self.directory / FILE_NAME):
            if self._holding is None:
                raise StoreError(f"{self.directory}: this memory was closed; open it again")
            yield

    def _check_writable(self) -> None:
        if self.readonly:
            raise StoreError(f"{self.directory}: opened read-only; open it without readonly to write")

    def _question(self, text: str, scope: lanes.Scope, min_similarity: float, min_overlap: float) -> lanes.Query:
        readable = text.encode("utf-8", "replace").decode()
        vector = self._query_vector(readable)

        def search(among: Rows) -> list[tuple[int, float]]:
            return self._mirror.search(vector, lanes.DEPTH, among)

        words = lanes.weighted_words(self._connection, readable)
        matches = lanes.matching_rows(self._connection, words)
        return lanes.Query(words, matches, search, scope, min_similarity, min_overlap)

    def _embed_query(self, text: str) -> Vectors:
        return self._mirror.embed([text])[0]


def _make_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{directory}: expected a directory to keep memory in, got {error}; check the path") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StoreError(f"{directory}: expected a writable directory; open it with readonly, or change permissions")


def _check_text(experience: Experience, place: int) -> None:
    where = f"experience {place} ({experience.kind.value})"
    if not experience.text.strip():
        raise ValueError(f"{where}: expected some text, got none; leave it out")
    if len(experience.text) > MAX_TEXT_CHARS:
        raise ValueError(
            f"{where}: expected at most {MAX_TEXT_CHARS} characters, got {len(experience.text)}; shorten it"
        )
    try:
        experience.model_dump_json()
    except ValueError as error:  # pydantic refuses lone surrogates only when it writes
        raise ValueError(f"{where}: expected valid Unicode, got {error}; replace the stray surrogates") from error


def _checked_limit(limit: int) -> int:
    if limit < 0:
        raise ValueError(f"limit: expected 0 or more, got {limit}")
    return limit


def _failed(experience: Experience) -> bool:
    return experience.evidence is not None and experience.evidence.verdict == "failed"
