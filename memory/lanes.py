"""The candidates of a recall: who may be one, and the ranked list that each lane makes of them.

Every lane costs about the same in a memory of a thousand entries and of a million: nothing here reads all of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Literal, NamedTuple

import apsw
import numpy as np

from memory import rows
from memory.database import fetch
from memory.fingerprint import fingerprint, same_particulars
from memory.graph import follow
from memory.index import Rows
from memory.recall import Candidate, Classes, Lane, fuse, query_terms, weighted_overlap
from memory.types import Cue, Experience, Kind, Standing
from memory.utility import Tally

Pool = Literal["anchor", "works", "fails", "any"]

DEPTH = 16
"""Candidates taken from each lane, and half as many again after their fusion: a recall shows three at most."""

NARROW = 1024
"""A pool of at most so many entries in scope is searched by itself; a larger one by searching everything and keeping
what belongs to it."""

WIDER = (64, 512, 2_000)
"""How many neighbours are looked at until enough of them belong to the pool."""

MAX_MATCHES = 400
"""Entries that the words of a query may match in all. Rare words are taken first: common ones rank nothing, and in a
large memory they alone would cost more than everything else."""

MIN_WEIGHT = 0.05
"""Words below this share of the heaviest word's weight are not searched for."""

MAX_ERROR_CHARS = 2_000
"""A question of more characters is not taken for an error message."""

NUM_ANCHORS = 16
"""Similar problems and errors from which the graph is walked."""

NUM_COMPARED = 3
"""Of those, so many are compared with the question word by word; the same in other words is among the nearest."""

SAME_COSINE = 0.85
SAME_OVERLAP = 0.8
"""How near a problem with the same particulars must be, in meaning or in words, to be the same in other words."""

_COLUMNS: dict[Pool, str] = {"anchor": "is_anchor", "works": "works", "fails": "fails", "any": "1"}

_FLAGGED: tuple[Pool, ...] = ("anchor", "works", "fails")

Search = Callable[[int, Rows | None], list[tuple[int, float]]]
"""At most so many nearest rows, among these or (None) all, best first, as (row, cosine)."""


class Scope(NamedTuple):
    """Where a recall may look: namespaces by number; None elsewhere means everything."""

    namespaces: Sequence[int]
    task_type: str | None = None
    splits: Sequence[str] | None = None

    def where(self, pool: Pool) -> tuple[str, tuple[object, ...]]:
        """A condition on `standings`, and its bindings."""
        sql = f"{_COLUMNS[pool]} AND namespace IN (SELECT value FROM json_each(?))"
        bindings: list[object] = [json.dumps(list(self.namespaces))]
        if self.task_type is not None:
            sql += " AND task_type = ?"
            bindings.append(self.task_type)
        if self.splits is not None:
            sql += " AND split IN (SELECT value FROM json_each(?))"
            bindings.append(json.dumps(list(self.splits)))
        return sql, tuple(bindings)


class Question:
    """A cue put to one memory; what is dear, such as embedding it, is done when first needed and then once."""

    def __init__(
        self,
        connection: apsw.Connection,
        cue: Cue,
        scope: Scope,
        search: Search,
        *,
        floor: tuple[float, float],
        depth: int = DEPTH,
    ) -> None:
        """`floor`: least cosine of a vector match and least overlap of a text match. `depth`: taken from each lane."""
        self.depth = depth
        self.connection = connection
        self.cue = cue
        self.scope = scope
        self.min_similarity, self.min_overlap = floor
        self._search = search
        self._nearest: dict[int, list[tuple[int, float]]] = {}
        self._pools: dict[int, frozenset[Pool]] = {}
        self._nodes: dict[int, Experience] = {}
        self._overlaps: dict[int, float] = {}

    @property
    def text(self) -> str:
        """What is asked, the error that was met included."""
        return f"{self.cue.text}\n{self.cue.error}" if self.cue.error else self.cue.text

    @cached_property
    def words(self) -> dict[str, float]:
        """Distinct words of the question and what each says: BM25's inverse document frequency, in nats."""
        terms = query_terms(self.text)
        total = self.connection.execute("SELECT max(seq) FROM entries").get or 0
        known = self._counts
        return {
            term: math.log(1 + max(0.0, total - known.get(term, 0) + 0.5) / (known.get(term, 0) + 0.5))
            for term in terms
        }

    @cached_property
    def matches(self) -> list[int]:
        """Rows that hold some telling words, best first by BM25."""
        heaviest = max(self.words.values(), default=0.0)
        telling: list[str] = []
        room = MAX_MATCHES
        for word in sorted(self.words, key=lambda word: self._counts.get(word, 0)):
            room -= self._counts.get(word, 0)
            if room < 0:
                break
            if word in self._counts and self.words[word] >= MIN_WEIGHT * heaviest:
                telling.append(word)
        if not telling:
            return []
        # Quoted, so that a word like NEAR stays a word. A word never holds the quote itself.
        phrase = " OR ".join(f'"{word}"' for word in telling)
        sql = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY bm25(words), rowid"
        return [row for (row,) in fetch(self.connection, sql, (phrase,))]

    def near(self, pool: Pool) -> dict[int, float]:
        """Rows of a pool in scope near in meaning, nearest first, with their cosines."""
        among = self._rows_in_scope(pool, NARROW + 1)
        if len(among) <= NARROW:
            return self._close_enough(self._search(self.depth, among))
        for limit in (max(WIDER[0], self.depth), *WIDER[1:]):
            if limit not in self._nearest:
                self._nearest[limit] = self._search(limit, None)
            kept = self.belonging([row for row, _ in self._nearest[limit]], pool)
            if len(kept) >= self.depth or len(self._nearest[limit]) < limit:
                break
        return self._close_enough([hit for hit in self._nearest[limit] if hit[0] in kept][: self.depth])

    def belonging(self, found: Sequence[int], pool: Pool) -> set[int]:
        """Those of the rows that belong to the pool and lie in scope."""
        if unknown := [row for row in found if row not in self._pools]:
            condition, bindings = self.scope.where("any")
            sql = (
                "SELECT entry, is_anchor, works, fails FROM standings"
                f" WHERE entry IN (SELECT value FROM json_each(?)) AND {condition}"
            )
            self._pools.update(dict.fromkeys(unknown, frozenset()))
            for row, *flags in fetch(self.connection, sql, (json.dumps(unknown), *bindings)):
                of: list[Pool] = [name for name, flag in zip(_FLAGGED, flags, strict=True) if flag]
                self._pools[row] = frozenset(["any", *of])
        return {row for row in found if pool in self._pools[row]}

    def nodes(self, found: Sequence[int]) -> dict[int, Experience]:
        """The experiences in these rows; rows that are gone are left out."""
        if unknown := [row for row in found if row not in self._nodes]:
            self._nodes.update(rows.nodes_by_row(self.connection, unknown))
        return {row: self._nodes[row] for row in found if row in self._nodes}

    def overlap(self, row: int) -> float:
        """Share of what the question's words say that the text in a row holds."""
        if row not in self._overlaps:
            self._overlaps[row] = weighted_overlap(self.words, self._nodes[row].text)
        return self._overlaps[row]

    @cached_property
    def _counts(self) -> dict[str, int]:
        sql = "SELECT term, num_entries FROM terms WHERE term IN (SELECT value FROM json_each(?))"
        return dict(fetch(self.connection, sql, (json.dumps(query_terms(self.text)),)))

    def _close_enough(self, hits: Sequence[tuple[int, float]]) -> dict[int, float]:
        return {row: cosine for row, cosine in hits if cosine >= self.min_similarity}

    def _rows_in_scope(self, pool: Pool, limit: int) -> Rows:
        condition, bindings = self.scope.where(pool)
        sql = f"SELECT entry FROM standings WHERE {condition} LIMIT {limit}"
        found: list[Any] = fetch(self.connection, sql, bindings)
        return np.array([row for (row,) in found], dtype=np.int64)


class Anchor(NamedTuple):
    """A problem or error in memory that is like the one asked about, and what merged into it."""

    row: int
    kind: Kind
    ids: tuple[str, ...]
    same: bool


Reached = tuple[int, Anchor]
"""A row that a walk came to, and from which anchor."""


def met_before(question: Question) -> list[Anchor]:
    """Problems and errors with the very fingerprint of the question, oldest first: no embedding, look-ups alone.

    What was merged into another leads to that other.
    """
    cue = question.cue
    found = _of_fingerprint(question, Kind.PROBLEM, cue.text)
    # A question may be an error message itself; a long one is not, and its normal form as an error takes time.
    if cue.error or (not found and len(cue.text) <= MAX_ERROR_CHARS):
        found += [row for row in _of_fingerprint(question, Kind.ERROR, cue.error or cue.text) if row not in found]
    return anchors(question, found, same=True)[:NUM_ANCHORS]


def _of_fingerprint(question: Question, kind: Kind, text: str) -> list[int]:
    if not text.strip():
        return []
    condition, bindings = question.scope.where("any")
    sql = (
        "SELECT DISTINCT coalesce(merged_into, entry) FROM standings WHERE entry IN"
        " (SELECT seq FROM entries WHERE fingerprint = ? AND kind IN ('problem', 'error'))"
        f" AND (is_anchor OR merged_into IS NOT NULL) AND {condition} ORDER BY 1"
    )
    return [row for (row,) in fetch(question.connection, sql, (fingerprint(kind, text), *bindings))]


def like_it(question: Question) -> list[Anchor]:
    """Problems and errors near the question in words or in meaning, best first."""
    near = question.near("anchor")
    matches = _matching(question, "anchor")
    nodes = question.nodes([*near, *matches])
    telling = [row for row in matches if row in nodes and question.overlap(row) >= question.min_overlap]
    fused = fuse({"text": telling, "vector": list(near)})
    found = anchors(question, [one.row for one in fused[:NUM_ANCHORS]], same=False)
    return [
        anchor._replace(same=_is_same(question, anchor.row, near.get(anchor.row, 0.0)))
        if place < NUM_COMPARED
        else anchor
        for place, anchor in enumerate(found)
    ]


def _is_same(question: Question, row: int, cosine: float) -> bool:
    """Whether the text in a row says what the question says, in other words."""
    if cosine < SAME_COSINE and question.overlap(row) < SAME_OVERLAP:
        return False
    return same_particulars(question.nodes([row])[row].text, question.text)


def anchors(question: Question, found: Sequence[int], *, same: bool) -> list[Anchor]:
    """The anchors in these rows, in their order."""
    nodes = question.nodes(found)
    repeats = rows.merged_into(question.connection, found)
    return [Anchor(row, nodes[row].kind, (nodes[row].id, *repeats.get(row, ())), same) for row in found if row in nodes]


def candidates(
    question: Question, pool: Pool, reached: Sequence[Reached] = (), *, by_content: bool = True
) -> list[Candidate]:
    """Fused candidates of one pool, best first: what was `reached` by a walk, and what is like the question itself.

    `by_content` False leaves the graph lane alone. What is not near enough enters no lane.
    """
    belonging = question.belonging([row for row, _ in reached], pool)
    came_of: dict[int, Anchor] = {}
    for row, anchor in reached:
        if row in belonging:
            came_of.setdefault(row, anchor)
    near = question.near(pool) if by_content else {}
    matches = _matching(question, pool) if by_content else []
    nodes = question.nodes([*near, *came_of, *matches])
    lanes: dict[Lane, list[int]] = {
        "fingerprint": [] if by_content else list(came_of),
        "text": [row for row in matches if row in nodes and question.overlap(row) >= question.min_overlap],
        "vector": list(near),
        "graph": list(came_of) if by_content else [],
    }
    fused = [one for one in fuse(lanes) if one.row in nodes][: question.depth + question.depth // 2]
    details = _details(question.connection, [one.row for one in fused])
    same = {row for row, start in came_of.items() if start.same}
    return [
        Candidate(
            fused=one,
            id=details[one.row].id,
            experience=nodes[one.row],
            standing=details[one.row].standing,
            similarity=near.get(one.row),
            overlap=question.overlap(one.row) if by_content else 0.0,
            via=f"it came of a similar {came_of[one.row].kind.value}" if one.row in came_of and by_content else None,
            same=one.row in same,
            confirmed_at=details[one.row].confirmed_at,
            sources=details[one.row].sources,
        )
        for one in fused
        if one.row in details
    ]


def classes_of(connection: apsw.Connection, task_type: str | None) -> Classes:
    """What uses of recollections came to, in one task type or (None) in all."""
    sql = "SELECT same, shown, sum(successes), sum(trials) FROM gains WHERE ?1 IS NULL OR task_type = ?1 GROUP BY 1, 2"
    found = {
        (same, shown): Tally(trials, right) for same, shown, right, trials in connection.execute(sql, (task_type,))
    }
    arms = ((1, 1), (1, 0), (0, 1), (0, 0))
    return Classes(*(found.get(arm, Tally()) for arm in arms))


class _Details(NamedTuple):
    id: str
    standing: Standing
    confirmed_at: float
    sources: tuple[str, ...]


def _details(connection: apsw.Connection, found: Sequence[int]) -> dict[int, _Details]:
    sql = (
        "SELECT entry, (SELECT id FROM entries WHERE seq = entry), standing, confirmed_at,"
        " (SELECT json_group_array(DISTINCT source) FROM observations"
        " WHERE observations.entry = standings.entry AND voided_by IS NULL AND source <> '')"
        " FROM standings WHERE entry IN (SELECT value FROM json_each(?))"
    )
    return {
        entry: _Details(id, Standing.model_validate_json(standing), confirmed_at, tuple(json.loads(sources)))
        for entry, id, standing, confirmed_at, sources in connection.execute(sql, (json.dumps(list(found)),))
    }


def _matching(question: Question, pool: Pool) -> list[int]:
    belonging = question.belonging(question.matches, pool)
    return list(islice((row for row in question.matches if row in belonging), question.depth))


def walk(question: Question, starts: Sequence[Anchor]) -> list[Reached]:
    """What came of the anchors, those of the best anchor first; where something was merged, what stands for it."""
    if not starts:
        return []
    connection = question.connection
    anchor_of = {id: anchor for anchor in starts for id in anchor.ids}
    place = {id: number for number, id in enumerate(anchor_of)}
    steps = follow(
        list(anchor_of), lambda ids: rows.edges_from(connection, ids), lambda ids: rows.kinds_of(connection, ids)
    )
    known = rows.surviving(connection, rows.known_ids(connection, [step.edge.target for step in steps]))
    reached = [
        (known[step.edge.target], anchor_of[step.start])
        for step in sorted(steps, key=lambda step: place[step.start])
        if step.edge.target in known
    ]
    # An error that was met before is a warning itself, and not only what followed from it.
    return [*reached, *((anchor.row, anchor) for anchor in starts if anchor.kind is Kind.ERROR and anchor.same)]
