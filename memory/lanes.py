"""The candidates of a recall: who may be one, and the ranked list that each lane makes of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import apsw
import numpy as np

from memory import rows
from memory.graph import follow
from memory.index import Rows
from memory.recall import Candidate, Lane, fuse, query_terms, weighted_overlap

Pool = Literal["anchor", "verified", "failed", "any"]

DEPTH = 50
"""Candidates taken from each lane."""

MIN_WEIGHT = 0.05
"""Words below this share of the heaviest word's weight are not searched for."""

NUM_ANCHORS = 16
"""Similar problems and errors from which the graph is walked."""

# Who may be recalled as what. Trust is decided here and nowhere else: a solution counts when an executed check passed
# it and nothing superseded it; a failed attempt speaks through its error when it has one.
_CANDIDATES = """
WITH current AS (
    SELECT seq, id, kind, verdict, task_type, split FROM entries
    WHERE NOT EXISTS (SELECT 1 FROM edges WHERE target = entries.id AND relation = 'supersedes')
), candidates AS (
    SELECT 'anchor' AS pool, seq, task_type, split FROM current WHERE kind IN ('problem', 'error')
    UNION ALL
    SELECT 'verified', seq, task_type, split FROM current WHERE verdict = 'passed' AND kind IN ('solution', 'pattern')
    UNION ALL
    SELECT 'failed', seq, task_type, split FROM current
    WHERE verdict = 'failed' AND kind IN ('error', 'solution', 'pattern', 'attempt') AND NOT (
        kind = 'attempt' AND EXISTS (SELECT 1 FROM edges WHERE source = current.id AND relation = 'failed_with')
    )
    UNION ALL
    SELECT 'any', seq, task_type, split FROM entries
), allowed AS (
    SELECT seq FROM candidates
    WHERE pool = ?1 AND (?2 IS NULL OR task_type = ?2)
    AND (?3 IS NULL OR split IN (SELECT value FROM json_each(?3)))
)
"""
_ALLOWED = _CANDIDATES + "SELECT seq FROM allowed ORDER BY seq"  # noqa: S608 - constants only

Search = Callable[[Rows], list[tuple[int, float]]]
"""Nearest rows among those allowed, best first, as (row, cosine)."""


class Scope(NamedTuple):
    """Where a recall may look; None means everywhere."""

    task_type: str | None = None
    splits: Collection[str] | None = None

    def bindings(self, pool: Pool) -> tuple[str | None, ...]:
        """The first three values of every query over candidates."""
        splits = None if self.splits is None else json.dumps(sorted(self.splits))
        return pool, self.task_type, splits


class Query(NamedTuple):
    """A question put to memory: its words with their weights, the rows that hold some, and its neighbours."""

    words: Mapping[str, float]
    matches: Sequence[int]
    search: Search
    scope: Scope
    min_similarity: float
    min_overlap: float


def weighted_words(connection: apsw.Connection, text: str) -> dict[str, float]:
    """The distinct words of `text` and what each says: BM25's inverse document frequency, in nats."""
    terms = query_terms(text)
    total = connection.execute("SELECT count(*) FROM entries").get
    sql = "SELECT term, doc FROM vocabulary WHERE term IN (SELECT value FROM json_each(?))"
    found: list[Any] = connection.execute(sql, (json.dumps(terms),)).fetchall()
    known: dict[str, int] = dict(found)
    return {term: math.log(1 + (total - known.get(term, 0) + 0.5) / (known.get(term, 0) + 0.5)) for term in terms}


def matching_rows(connection: apsw.Connection, words: Mapping[str, float]) -> list[int]:
    """Rows that hold some of `words`, best first by BM25.

    Words that nearly every entry holds are not looked for: they would match everything and rank nothing.
    """
    telling = [word for word, weight in words.items() if weight >= MIN_WEIGHT * max(words.values())]
    if not telling:
        return []
    # Quoted, so that a word like NEAR stays a word. A word never holds the quote itself.
    phrase = " OR ".join(f'"{word}"' for word in telling)
    sql = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY bm25(words), rowid"
    found: list[Any] = connection.execute(sql, (phrase,)).fetchall()
    return [row for (row,) in found]


def candidates(
    connection: apsw.Connection, query: Query, pool: Pool, anchors: Sequence[Candidate] = ()
) -> list[Candidate]:
    """Fused candidates of one pool, best first; `anchors`, if given, open the graph lane.

    What is not near enough enters no lane: a vector below `min_similarity`, a text below `min_overlap`.
    """
    allowed = _allowed(connection, query.scope, pool)
    known = set(allowed.tolist())
    similarity = {row: cosine for row, cosine in query.search(allowed) if cosine >= query.min_similarity}
    came_of = _came_of(connection, anchors, known) if anchors else {}
    matches = list(islice((row for row in query.matches if row in known), DEPTH))
    nodes = rows.nodes_by_row(connection, [*similarity, *came_of, *matches])
    overlap = {row: weighted_overlap(query.words, node.text) for row, node in nodes.items()}
    lanes: dict[Lane, list[int]] = {
        "text": [row for row in matches if overlap[row] >= query.min_overlap],
        "vector": list(similarity),
        "graph": list(came_of),
    }
    return [
        Candidate(one, nodes[one.row], similarity.get(one.row), overlap[one.row], came_of.get(one.row))
        for one in fuse(lanes)
    ]


def find_anchors(connection: apsw.Connection, query: Query) -> list[Candidate]:
    """Problems and errors like the query, best first."""
    return candidates(connection, query, "anchor")[:NUM_ANCHORS]


def _allowed(connection: apsw.Connection, scope: Scope, pool: Pool) -> Rows:
    found: list[Any] = connection.execute(_ALLOWED, scope.bindings(pool)).fetchall()
    return np.array([row for (row,) in found], dtype=np.int64)


def _came_of(connection: apsw.Connection, anchors: Sequence[Candidate], allowed: set[int]) -> dict[int, str]:
    """What came of the anchors, best first: row -> the reason in words."""
    problems = {anchor.experience.id: anchor for anchor in anchors}
    steps = follow(
        list(problems), lambda ids: rows.edges_from(connection, ids), lambda ids: rows.kinds_of(connection, ids)
    )
    nodes = rows.nodes_by_id(connection, [step.edge.target for step in steps])
    came_of: dict[int, str] = {}
    for step in sorted(steps, key=lambda step: list(problems).index(step.start)):
        row, _ = nodes[step.edge.target]
        if row in allowed:
            came_of.setdefault(row, f"it came of a similar {problems[step.start].experience.kind.value}")
    return came_of
