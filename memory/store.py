"""`Memory`: what was tried and what came of it, kept in SQLite and recalled by fingerprint, words and meaning."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import apsw

from memory import projection, rows
from memory.audit import audit, rules_of, stored_rules
from memory.brief import estimated_tokens, write_brief
from memory.config import MemoryConfig
from memory.database import FILE_NAME, StoreError, connect, fetch, savepoint, transaction, translated
from memory.embed import Embedder, Vectors
from memory.events import append_event, head_event
from memory.index import Rows
from memory.lanes import DEPTH, Question, Scope, candidates, classes_of, like_it, met_before, walk
from memory.ledger import exclusive_lock
from memory.mirror import VectorMirror
from memory.recall import MIN_OVERLAP, Candidate, Classes, DamagedText, choose, fits, is_allowed, ranked, recollection
from memory.stats import MemoryStats, read_stats
from memory.types import (
    Artefact,
    Cue,
    Edge,
    Erasure,
    Evidence,
    Experience,
    Observation,
    Recall,
    Recollection,
    Standing,
    Use,
)
from memory.vectors import discard_damaged, ensure_embedder, snapshot

MAX_TEXT_CHARS = 1_000_000

EVERYWHERE = "everywhere"
"""Said to `search` and `brief` by people who hold the file anyway; recall has no such word."""


class Submission(NamedTuple):
    """What one caller of `remember_many` reports: accepted or refused as a whole."""

    observations: Sequence[Observation]
    edges: Sequence[Edge] = ()


class Memory:
    """One store in one directory: a single writer process, any number of readers, safe to share between threads.

    Nothing is lost once a writing method has returned. Everything that is written is an event; what is believed of an
    experience is derived from the events about it, so repeating a call changes nothing and a rollback leaves no trace
    in what is believed. Memory never calls a model and believes only stored evidence. Vectors follow the texts: a
    writer embeds what is missing before it recalls, a reader sees as many as there are.
    """

    def __init__(
        self,
        directory: Path,
        connection: apsw.Connection,
        mirror: VectorMirror,
        config: MemoryConfig,
        *,
        readonly: bool,
        clock: Callable[[], float],
    ) -> None:
        """Use `Memory.open`."""
        self.directory = directory
        self.readonly = readonly
        self.config = config
        self._connection = connection
        self._mirror = mirror
        self._clock = clock
        self._mutex = threading.RLock()
        self._query_vector = lru_cache(maxsize=1024)(self._embed_query)
        self._holding: ExitStack | None = None

    @classmethod
    def open(
        cls,
        directory: Path,
        embedder: Embedder,
        *,
        readonly: bool = False,
        config: MemoryConfig | None = None,
        clock: Callable[[], float] = time.time,
    ) -> Memory:
        """Open, or make, the memory in `directory`.

        `config` None means the defaults, with the rules of trust that the store has. A writer that opens it with other
        rules derives every standing anew.

        Raises:
            AlreadyLocked: another process writes to it.
            StoreError: damaged, not a memory, on a network file system, not writable, or nothing there to read.
            SchemaMismatch: another version's.
        """
        with ExitStack() as stack:
            if not readonly:
                _make_writable(directory)
                stack.enter_context(exclusive_lock(directory))
            connection = connect(directory, readonly=readonly)
            stack.callback(connection.close)
            with translated(directory / FILE_NAME):
                config = config or stored_rules(connection)
                if not readonly:
                    _scrubbed(connection)
                    _apply_rules(connection, config)
                mirror = VectorMirror(connection, embedder, directory, readonly=readonly)
                mirror.refresh()
            memory = cls(directory, connection, mirror, config, readonly=readonly, clock=clock)
            memory._holding = stack.pop_all()
        return memory

    # What happened

    def remember(self, observations: Sequence[Observation], edges: Sequence[Edge] = ()) -> list[str]:
        """Store what was observed, and edges, all or none; returns the id of each experience, in order.

        An experience that is stored already gets a further observation if source or episode are new.

        Raises:
            ValueError: an empty or enormous text, or one that is not valid Unicode; names the observation.
            StoreError: an edge to something unknown, a read-only memory, a full disk.
        """
        (done,) = self.remember_many([Submission(observations, edges)])
        if isinstance(done, Exception):
            raise done
        return done

    def remember_many(self, submissions: Sequence[Submission]) -> list[list[str] | ValueError | StoreError]:
        """Store what several callers report, with one sync of the disk for all; a bad submission is refused alone.

        Returns the ids, or the reason for refusal, of each submission. Raises StoreError where nothing could be
        stored: read-only, disk full.
        """
        done: list[list[str] | ValueError | StoreError] = []
        texts: list[str] = []
        with self._writing():
            for submission in submissions:
                try:
                    _check_submission(submission)
                    with savepoint(self._connection):
                        ids, new = self._remember(submission)
                    done.append(ids)
                    texts += new
                except (ValueError, UnknownEnd) as error:
                    done.append(error)
            rows.count_terms(self._connection, texts)
        return done

    def verify(self, id: str, evidence: Evidence, *, source: str = "", episode: str = "") -> Standing:
        """Store what a check said of an experience, reported by `source` in `episode`; returns what it comes to.

        Raises StoreError for an unknown id.
        """
        fields = [evidence.verifier, evidence.verdict, evidence.digest]
        with self._writing():
            row = self._row(id)
            sql = (
                "SELECT 1 FROM checks WHERE (entry, verifier, verdict, digest, source, episode) = (?, ?, ?, ?, ?, ?)"
                " AND voided_by IS NULL"
            )
            if self._connection.execute(sql, (row, *fields, source, episode)).get is None:
                self._append("verified", {"id": id, "evidence": fields, "source": source, "episode": episode})
            return rows.standings_of(self._connection, [row])[row]

    def used(self, use: Use) -> None:
        """Store what came of an episode in which memory was asked; ids that are not stored any more are passed over."""
        payload = use.model_dump(mode="json")
        with self._writing():
            known = rows.known_ids(self._connection, [*use.shown, *use.withheld])
            sql = (
                "SELECT count(*) FROM uses WHERE episode = ? AND voided_by IS NULL"
                " AND entry IN (SELECT value FROM json_each(?))"
            )
            done = self._connection.execute(sql, (use.episode, json.dumps(list(known.values())))).get
            if done < len(known):
                self._append("used", payload)

    def merge(self, duplicate: str, into: str, reason: str) -> None:
        """Let one experience stand for another that says the same; `unmerge` takes it back.

        Raises:
            StoreError: an unknown id. ValueError: the two are one, or `into` was itself merged into `duplicate`.
        """
        with self._writing():
            row, target = self._row(duplicate), self._row(into)
            if target in (row, *projection.merged_rows(self._connection, duplicate)):
                raise ValueError(f"merge: {into} is, or was merged into, {duplicate}; unmerge it first")
            if rows.standings_of(self._connection, [row])[row].merged_into != into:
                self._append("merged", {"id": duplicate, "into": into, "reason": reason})

    def unmerge(self, duplicate: str, reason: str = "") -> None:
        """Let an experience stand for itself again. Raises StoreError for an unknown id."""
        with self._writing():
            row = self._row(duplicate)
            if rows.standings_of(self._connection, [row])[row].merged_into:
                self._append("unmerged", {"id": duplicate, "reason": reason})

    def retire(self, id: str, reason: str) -> None:
        """Set an experience aside: it is kept and found by `search`, and never recalled. Raises StoreError."""
        self._mark("retired", id, reason)

    def restore(self, id: str, reason: str = "") -> None:
        """Take a retirement back, by a person or by a rule. Raises StoreError for an unknown id."""
        self._mark("restored", id, reason)

    def rollback(self, *, source: str | None = None, since: int | None = None, reason: str = "") -> int:
        """Derive everything as if `source` had never said or judged anything, or as if nothing had happened from
        event `since` on. Returns how many experiences it bore on; they stay stored, without what spoke for them.

        Raises ValueError unless exactly one of the two is given.
        """
        if (source is None) == (since is None) or source == "":
            raise ValueError(f"rollback: expected either source or since, got {source=} and {since=}; give one")
        with self._writing():
            event = append_event(
                self._connection, "rolled_back", {"source": source, "since": since, "reason": reason}, self._clock()
            )
            return len(projection.apply(self._connection, event, self.config))

    def erase(self, id: str) -> Erasure:
        """Remove an experience for good: text, words, vectors, what was said of it, and its place in every index.

        Its id, which is a hash, stays in the chain of events. Returns what was made from it elsewhere.

        Raises StoreError for an unknown id.
        """
        with self._writing():
            row = self._row(id)
            text = self._connection.execute("SELECT text FROM entries WHERE seq = ?", (row,)).get
            episodes = self._episodes(row)
            artefacts = self._made_from(episodes)
            event = append_event(self._connection, "erased", {"id": id, "row": row}, self._clock())
            rows.delete_content(self._connection, row, text)
            projection.apply(self._connection, event, self.config)
            self._connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('unscrubbed', ?)", (id,))
        with self._guarded():
            self._query_vector.cache_clear()
            self._mirror.forget()
        is_scrubbed = self.scrub()
        return Erasure(experience_id=id, episodes=tuple(episodes), artefacts=artefacts, is_scrubbed=is_scrubbed)

    def record_artefact(self, artefact: Artefact) -> None:
        """Note that a dataset or adapter was made from episodes or other artefacts; noting it twice changes nothing."""
        with self._writing():
            if self._connection.execute("SELECT 1 FROM artefacts WHERE id = ?", (artefact.id,)).get is None:
                self._append("artefact", artefact.model_dump(mode="json"))

    # What it gives back

    def recall(self, cue: Cue) -> Recall:
        """At most `cue.limit` experiences that may help, best first; nothing when nothing is near enough.

        The very same problem or error, met before and solved, is answered without embedding anything. Else words,
        meaning and the graph are fused, and what does not fit is left out (see memory/recall.py). What failed comes
        back as a warning, in the places that solutions leave free. An empty cue recalls nothing.

        Raises ValueError for a namespace that names no team, StoreError for a stored text that was damaged.
        """
        if cue.limit == 0 or not (cue.text.strip() or cue.error.strip()):
            return Recall()
        with self._one_state():
            scope = Scope(rows.namespaces_like(self._connection, cue.namespaces), cue.task_type, cue.splits)
            question = self._question(cue, scope, (self.config.min_similarity, MIN_OVERLAP))
            starts = met_before(question)
            reached = walk(question, starts)
            solutions = candidates(question, "works", reached, by_content=False)
            by_content = not any(fits(one.experience, cue) for one in solutions)
            if by_content:
                starts = [
                    *starts,
                    *(one for one in like_it(question) if one.row not in {start.row for start in starts}),
                ]
                reached = walk(question, starts)
                solutions = candidates(question, "works", reached)
            failures = candidates(question, "fails", reached, by_content=by_content)
            classes = classes_of(self._connection, cue.task_type)
            try:
                return choose(self._fit(solutions, cue, classes), self._fit(failures, cue, classes), cue, self.config)
            except DamagedText as error:
                raise StoreError(f"{self.directory / FILE_NAME}: {error}") from error

    def search(self, text: str, namespaces: Sequence[str] | str = EVERYWHERE, limit: int = 10) -> list[Recollection]:
        """At most `limit` experiences of any kind and standing, nearest to `text` first: for people, not prompts.

        Raises ValueError for a negative limit, or a namespace that names no team.
        """
        if limit < 0:
            raise ValueError(f"limit: expected 0 or more, got {limit}")
        if limit == 0 or not text.strip():
            return []
        cue = Cue(text=text, namespaces=())
        with self._one_state():
            question = self._question(cue, Scope(self._chosen(namespaces)), (-1.0, 0.0), max(DEPTH, limit))
            found = candidates(question, "any")
        return [recollection(candidate) for candidate in found[:limit]]

    def get(self, id: str) -> Experience | None:
        """The experience with this id; None when there is none."""
        with self._guarded():
            found = rows.nodes_by_id(self._connection, [id])
        return found[id][1] if id in found else None

    def find(self, beginning: str) -> list[str]:
        """Ids that begin with these characters, at most ten, as people write them."""
        with self._guarded():
            sql = "SELECT id FROM entries WHERE id >= ?1 AND id < ?1 || 'g' ORDER BY id LIMIT 10"
            return [id for (id,) in fetch(self._connection, sql, (beginning,))]

    def standing(self, id: str) -> Standing | None:
        """What the events about an experience come to; None for an unknown id."""
        with self._guarded():
            row = rows.known_ids(self._connection, [id]).get(id)
            return None if row is None else rows.standings_of(self._connection, [row])[row]

    def observations_of(self, id: str) -> list[Observation]:
        """Who reported an experience in which episode, in order, without what was rolled back; no evidence."""
        with self._guarded():
            found = rows.nodes_by_id(self._connection, [id])
            if id not in found:
                return []
            row, experience = found[id]
            sql = "SELECT source, episode FROM observations WHERE entry = ? AND voided_by IS NULL ORDER BY event"
            said = fetch(self._connection, sql, (row,))
        return [Observation(experience=experience, source=source, episode=episode) for source, episode in said]

    def checks_of(self, id: str) -> list[Evidence]:
        """What checks said of an experience, in order, without what was rolled back."""
        with self._guarded():
            sql = (
                "SELECT verifier, verdict, digest FROM checks WHERE entry = (SELECT seq FROM entries WHERE id = ?)"
                " AND voided_by IS NULL ORDER BY event"
            )
            found = fetch(self._connection, sql, (id,))
        return [Evidence(verifier=verifier, verdict=verdict, digest=digest) for verifier, verdict, digest in found]

    def edges_of(self, id: str) -> list[Edge]:
        """Edges that start or end at an experience, in the order they were written; [] for an unknown id."""
        with self._guarded():
            return rows.edges_of(self._connection, id)

    def neighbours(self, id: str) -> list[Experience]:
        """Experiences one edge away, in either direction, in the order the edges were written, each once."""
        with self._one_state():
            ends = [edge.target if edge.source == id else edge.source for edge in rows.edges_of(self._connection, id)]
            found = rows.nodes_by_id(self._connection, ends)
        return [found[end][1] for end in dict.fromkeys(ends) if end in found]

    def brief(
        self,
        max_tokens: int,
        namespaces: Sequence[str] | str = EVERYWHERE,
        count_tokens: Callable[[str], int] = estimated_tokens,
    ) -> str:
        """What a new session should know, in at most `max_tokens` tokens as `count_tokens` counts them."""
        with self._one_state():
            return write_brief(self._connection, max_tokens, self._chosen(namespaces), count_tokens)

    def stats(self) -> MemoryStats:
        """Counts, and the hash of the whole history."""
        with self._guarded():
            self._mirror.refresh()
            return read_stats(self._connection, self._mirror.describe())

    @property
    def embedder(self) -> Embedder:
        """What turns its texts into vectors."""
        return self._mirror.embedder

    @property
    def head(self) -> str:
        """Hash of the last event; two memories with one head hold the same history."""
        with self._guarded():
            return head_event(self._connection)[1]

    # Upkeep

    def check(self) -> int:
        """Check that everything is as it was written, and follows from it as it should; minutes in a big memory.

        Returns the number of events. Raises StoreError, which says what is damaged.
        """
        with self._guarded():
            return audit(self._connection, self.config)

    def rebuild(self) -> None:
        """Derive every table, the full-text index and the vector index anew from the events and the texts.

        Vectors that are damaged are dropped and embedded again.
        """
        with self._guarded():
            self._check_writable()
            discard_damaged(self._connection, ensure_embedder(self._connection, self.embedder.id, self.embedder.dim))
        with self._writing():
            projection.rebuild(self._connection, self.config)
            rows.rebuild_words(self._connection)
        self.publish_index(force=True)

    def scrub(self) -> bool:
        """Write the file anew where something was erased, and empty the log; False: a reader still holds the old pages.

        `erase` does it, and so does the next writer where a crash came between. It takes as long as copying the file.
        """
        with self._guarded():
            self._check_writable()
            return _scrubbed(self._connection)

    def embed_pending(self) -> int:
        """Embed and store what has no vector yet, without keeping others waiting meanwhile; returns how many."""
        count = 0
        while True:
            with self._guarded():
                self._check_writable()
                missing = self._mirror.pending()
            if not missing:
                return count
            vectors = self._mirror.embed([text for _, text in missing])
            with self._guarded():
                self._mirror.store([row for row, _ in missing], vectors)
            count += len(missing)

    def publish_index(self, *, force: bool = False) -> bool:
        """Write the vector index beside the store where enough is new, or `force`; True: it was written.

        A store opens and answers without it, more slowly. `close` does it too.
        """
        with self._guarded():
            self._check_writable()
            self._mirror.fill()
            return self._mirror.publish(force=force)

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
    def reading(self) -> Iterator[apsw.Connection]:
        """The connection, held alone while the block runs: for what memory's own modules derive from the whole."""
        with self._guarded():
            yield self._connection

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with self._mutex, translated(self.directory / FILE_NAME):
            if self._holding is None:
                raise StoreError(f"{self.directory}: this memory was closed; open it again")
            yield

    @contextmanager
    def _one_state(self) -> Iterator[None]:
        """Let every query of the block see the same state, whatever a writer in another process commits meanwhile."""
        with self._guarded():
            if not self.readonly:  # nobody else writes
                yield
                return
            with snapshot(self._connection):
                yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """All of the block's writes, or none."""
        with self._guarded():
            self._check_writable()
            with transaction(self._connection):
                yield

    def _check_writable(self) -> None:
        if self.readonly:
            raise StoreError(f"{self.directory}: opened read-only; open it without readonly to write")

    def _append(self, kind: str, payload: dict[str, Any]) -> None:
        projection.apply(self._connection, append_event(self._connection, kind, payload, self._clock()), self.config)

    def _remember(self, submission: Submission) -> tuple[list[str], list[str]]:
        """The ids, and the texts that are new."""
        connection = self._connection
        ids = [seen.experience.id for seen in submission.observations]
        known = rows.known_ids(connection, ids)
        new = {id: seen.experience for id, seen in zip(ids, submission.observations, strict=True) if id not in known}
        edges = [edge for edge in dict.fromkeys(submission.edges) if rows.is_new_edge(connection, edge)]
        said = [
            (id, seen)
            for id, seen in zip(ids, submission.observations, strict=True)
            if id in new or _says_more(connection, known[id], seen)
        ]
        if not said and not edges:
            return ids, []
        authors = {id: seen.source for id, seen in zip(ids, submission.observations, strict=True)}
        payload = {
            "observations": [_observed(id, seen) for id, seen in said],
            "edges": [[edge.source, edge.relation.value, edge.target, authors.get(edge.source, "")] for edge in edges],
        }
        event = append_event(connection, "remembered", payload, self._clock())
        for id, experience in new.items():
            rows.insert(connection, experience, id, event.seq)
        elsewhere = {end for edge in edges for end in (edge.source, edge.target)} - set(ids)
        if elsewhere and (missing := elsewhere - set(rows.known_ids(connection, list(elsewhere)))):
            raise UnknownEnd(f"edge: expected stored experiences at both ends, got {min(missing)}; remember it too")
        projection.apply(connection, event, self.config)
        return ids, [experience.text for experience in new.values()]

    def _mark(self, kind: str, id: str, reason: str) -> None:
        with self._writing():
            row = self._row(id)
            sql = (
                "SELECT kind FROM marks WHERE entry = ? AND kind IN ('retired', 'restored') AND voided_by IS NULL"
                " ORDER BY event DESC LIMIT 1"
            )
            if self._connection.execute(sql, (row,)).get != kind:
                self._append(kind, {"id": id, "reason": reason})

    def _row(self, id: str) -> int:
        row = rows.known_ids(self._connection, [id]).get(id)
        if row is None:
            raise StoreError(f"{self.directory}: expected the id of a stored experience, got {id!r}; search for it")
        return row

    def _episodes(self, row: int) -> list[str]:
        """Episodes that an experience came out of, or in which it was read; what was rolled back included."""
        sql = (
            "SELECT episode FROM observations WHERE entry = ?1 AND episode <> ''"
            " UNION SELECT episode FROM uses WHERE entry = ?1 AND shown ORDER BY 1"
        )
        return [episode for (episode,) in fetch(self._connection, sql, (row,))]

    def _made_from(self, episodes: Sequence[str]) -> tuple[Artefact, ...]:
        """Artefacts made from these episodes, directly or through other artefacts, in the order they were noted."""
        found: dict[str, None] = {}
        frontier = list(episodes)
        while frontier:
            sql = "SELECT artefact FROM artefact_parts WHERE part = ?"
            part = frontier.pop()
            news = [id for (id,) in fetch(self._connection, sql, (part,)) if id not in found]
            found.update(dict.fromkeys(news))
            frontier += news
        sql = (
            "SELECT id, kind, (SELECT json_group_array(part) FROM artefact_parts WHERE artefact = artefacts.id)"
            " FROM artefacts WHERE id IN (SELECT value FROM json_each(?)) ORDER BY event"
        )
        return tuple(
            Artefact(id=id, kind=kind, made_from=tuple(json.loads(parts)))
            for id, kind, parts in self._connection.execute(sql, (json.dumps(list(found)),))
        )

    def _chosen(self, namespaces: Sequence[str] | str) -> list[int]:
        if isinstance(namespaces, str):
            if namespaces != EVERYWHERE:
                raise TypeError(f"namespaces: expected several, got the string {namespaces!r}; write [{namespaces!r}]")
            return [id for (id,) in fetch(self._connection, "SELECT id FROM namespaces ORDER BY id")]
        return rows.namespaces_like(self._connection, namespaces)

    def _fit(self, found: Sequence[Candidate], cue: Cue, classes: Classes) -> list[Candidate]:
        fitting = [one for one in found if fits(one.experience, cue) and is_allowed(one, classes, self.config)]
        return ranked(fitting, classes, self._clock(), self.config)

    def _question(self, cue: Cue, scope: Scope, floor: tuple[float, float], depth: int = DEPTH) -> Question:
        cue = cue.model_copy(update={"text": _readable(cue.text), "error": _readable(cue.error)})

        def search(limit: int, among: Rows | None) -> list[tuple[int, float]]:
            if not self.readonly:
                self._mirror.fill()
            self._mirror.refresh()
            return self._mirror.search(self._query_vector(question.text), limit, among)

        question = Question(self._connection, cue, scope, search, floor=floor, depth=depth)
        return question

    def _embed_query(self, text: str) -> Vectors:
        return self._mirror.embed([text])[0]


class UnknownEnd(StoreError):
    """An edge leads to an experience that is not stored."""


def _scrubbed(connection: apsw.Connection) -> bool:
    """See `Memory.scrub`."""
    if connection.execute("SELECT 1 FROM meta WHERE key = 'unscrubbed'").get is None:
        return True
    # FTS5 keeps words that are gone as separators of its pages.
    connection.execute("INSERT INTO words (words) VALUES ('rebuild')")
    # SQLite overwrites what it deletes, but not the copies that stay behind when it moves rows between pages.
    connection.execute("VACUUM")
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() or (0, 0, 0)
    if not busy:
        connection.execute("DELETE FROM meta WHERE key = 'unscrubbed'")
    return not busy


def _apply_rules(connection: apsw.Connection, config: MemoryConfig) -> None:
    """Derive every standing anew where the rules are not those it was derived by."""
    rules = rules_of(config)
    if connection.execute("SELECT value FROM meta WHERE key = 'rules'").get == rules:
        return
    with transaction(connection):
        projection.derive_all(connection, config)
        connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('rules', ?)", (rules,))


def _says_more(connection: apsw.Connection, row: int, seen: Observation) -> bool:
    """Whether an observation of a stored experience adds who, where or what a check said."""
    sql = "SELECT source FROM observations WHERE (entry, episode) = (?, ?) AND voided_by IS NULL"
    known = {source for (source,) in fetch(connection, sql, (row, seen.episode))}
    if not known.issuperset(projection.names_in(seen.source)):
        return True
    if seen.evidence is None:
        return False
    sql = (
        "SELECT 1 FROM checks WHERE (entry, verifier, verdict, digest, source, episode) = (?, ?, ?, ?, ?, ?)"
        " AND voided_by IS NULL"
    )
    evidence = seen.evidence
    bindings = (row, evidence.verifier, evidence.verdict, evidence.digest, seen.source, seen.episode)
    return connection.execute(sql, bindings).get is None


def _observed(id: str, seen: Observation) -> dict[str, Any]:
    said: dict[str, Any] = {"id": id, "source": seen.source, "episode": seen.episode}
    if seen.evidence is not None:
        said["evidence"] = [seen.evidence.verifier, seen.evidence.verdict, seen.evidence.digest]
    return said


def _check_submission(submission: Submission) -> None:
    for place, seen in enumerate(submission.observations):
        where = f"observation {place} ({seen.experience.kind.value})"
        text = seen.experience.text
        if not text.strip():
            raise ValueError(f"{where}: expected some text, got none; leave it out")
        if len(text) > MAX_TEXT_CHARS:
            raise ValueError(f"{where}: expected at most {MAX_TEXT_CHARS} characters, got {len(text)}; shorten it")
        try:
            seen.model_dump_json()
        except ValueError as error:  # pydantic refuses lone surrogates only when it writes
            raise ValueError(f"{where}: expected valid Unicode, got {error}; replace the stray surrogates") from error


def _readable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _make_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{directory}: expected a directory to keep memory in, got {error}; check the path") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StoreError(f"{directory}: expected a writable directory; open it with readonly, or change permissions")
