"""Experiences, edges and where they belong as rows: how they are written, and how they are read back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import apsw

from memory.database import fetch
from memory.fingerprint import fingerprint
from memory.ledger import canonical_json
from memory.recall import words_of
from memory.types import Edge, Experience, Kind, Namespace, Relation, Standing

Node = tuple[int, Experience]
"""A stored experience and its row number, which counts up in the order of writing."""

_COLUMNS = (
    "entries.seq, entries.id, team, project, run, kind, entries.task_type, entries.split, error_code, environment, text"
)
_ENTRIES = f"SELECT {_COLUMNS} FROM entries JOIN namespaces ON namespaces.id = entries.namespace"


def insert(connection: apsw.Connection, experience: Experience, id: str, event: int) -> int:
    """Store the content of a new experience, its words included; inside the caller's transaction. Returns its row."""
    connection.execute(
        "INSERT INTO entries (id, event, namespace, kind, task_type, split, error_code, environment, fingerprint, text)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            id,
            event,
            ensure_namespace(connection, experience.namespace),
            experience.kind.value,
            experience.task_type,
            experience.split,
            experience.error_code,
            canonical_json(experience.environment),
            fingerprint(experience.kind, experience.text),
            experience.text,
        ),
    )
    row = connection.last_insert_rowid()
    connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (row, experience.text))
    return row


def count_terms(connection: apsw.Connection, texts: Iterable[str], sign: int = 1) -> None:
    """Keep how many entries hold each word; `sign` -1 takes texts away again. Inside the caller's transaction."""
    counts = Counter(word for text in texts for word in words_of(text))
    connection.executemany(
        "INSERT INTO terms (term, num_entries) VALUES (?1, ?2)"
        " ON CONFLICT DO UPDATE SET num_entries = num_entries + ?2",
        [(word, sign * count) for word, count in sorted(counts.items())],
    )


def delete_content(connection: apsw.Connection, row: int, text: str) -> None:
    """Take an entry's text, words and vectors out of every table; inside the caller's transaction."""
    connection.execute("INSERT INTO words (words, rowid, text) VALUES ('delete', ?, ?)", (row, text))
    count_terms(connection, [text], sign=-1)
    connection.execute("DELETE FROM terms WHERE num_entries <= 0")
    connection.execute("DELETE FROM vectors WHERE entry = ?", (row,))
    connection.execute("DELETE FROM entries WHERE seq = ?", (row,))


def rebuild_words(connection: apsw.Connection) -> None:
    """Make the full-text index and the word counts anew from the texts; inside the caller's transaction."""
    connection.execute("INSERT INTO words (words) VALUES ('rebuild')")
    count_all_terms(connection)


def count_all_terms(connection: apsw.Connection) -> None:
    """Make the word counts anew from the texts; inside the caller's transaction."""
    connection.execute("DELETE FROM terms")
    for rows in _batches(connection, "SELECT text FROM entries ORDER BY seq"):
        count_terms(connection, [text for (text,) in rows])


def ensure_namespace(connection: apsw.Connection, namespace: Namespace) -> int:
    """Number of a namespace, given one if it is new; inside the caller's transaction."""
    parts = (namespace.team, namespace.project, namespace.run)
    found = connection.execute("SELECT id FROM namespaces WHERE (team, project, run) = (?, ?, ?)", parts).get
    if found is not None:
        return int(found)
    connection.execute("INSERT INTO namespaces (team, project, run) VALUES (?, ?, ?)", parts)
    return connection.last_insert_rowid()


def namespaces_like(connection: apsw.Connection, patterns: Sequence[str]) -> list[int]:
    """Numbers of the namespaces that 'team/project/run' patterns name; '*' stands for any project or any run.

    Raises ValueError for another shape, or a '*' for the team: nothing crosses teams by a wildcard.
    """
    chosen: set[int] = set()
    for pattern in patterns:
        parts = pattern.split("/")
        if len(parts) != 3 or not all(parts) or parts[0] == "*":
            raise ValueError(
                f"namespace: expected team/project/run, where project and run may be *, got {pattern!r}; name the team"
            )
        sql = "SELECT id FROM namespaces WHERE team = ?1 AND ?2 IN ('*', project) AND ?3 IN ('*', run)"
        chosen.update(id for (id,) in fetch(connection, sql, parts))
    return sorted(chosen)


def known_ids(connection: apsw.Connection, ids: Sequence[str]) -> dict[str, int]:
    """Rows of those of `ids` that are stored."""
    sql = "SELECT id, seq FROM entries WHERE id IN (SELECT value FROM json_each(?))"
    return dict(fetch(connection, sql, (json.dumps(list(ids)),)))


def kinds_of(connection: apsw.Connection, ids: Sequence[str]) -> dict[str, Kind]:
    """Kind of each stored experience among `ids`."""
    sql = "SELECT id, kind FROM entries WHERE id IN (SELECT value FROM json_each(?))"
    return {str(id): Kind(kind) for id, kind in connection.execute(sql, (json.dumps(list(ids)),))}


def nodes_by_row(connection: apsw.Connection, rows: Sequence[int]) -> dict[int, Experience]:
    """Experiences by row number; rows that are gone are left out."""
    sql = f"{_ENTRIES} WHERE entries.seq IN (SELECT value FROM json_each(?))"
    return {found[0]: _experience(found) for found in connection.execute(sql, (json.dumps(list(rows)),))}


def nodes_by_id(connection: apsw.Connection, ids: Sequence[str]) -> dict[str, Node]:
    """Rows and experiences by id; unknown ids are left out."""
    sql = f"{_ENTRIES} WHERE entries.id IN (SELECT value FROM json_each(?))"
    return {found[1]: (found[0], _experience(found)) for found in connection.execute(sql, (json.dumps(list(ids)),))}


def all_nodes(connection: apsw.Connection, namespaces: Sequence[int] | None = None) -> Iterator[Node]:
    """Every stored experience in the order of writing; None means of every namespace."""
    where = "" if namespaces is None else " WHERE namespace IN (SELECT value FROM json_each(?))"
    bindings = () if namespaces is None else (json.dumps(list(namespaces)),)
    for rows in _batches(connection, f"{_ENTRIES}{where} ORDER BY entries.seq", bindings):
        yield from ((found[0], _experience(found)) for found in rows)


def standings_of(connection: apsw.Connection, rows: Sequence[int]) -> dict[int, Standing]:
    """Standing of each of these rows."""
    sql = "SELECT entry, standing FROM standings WHERE entry IN (SELECT value FROM json_each(?))"
    found = connection.execute(sql, (json.dumps(list(rows)),))
    return {entry: Standing.model_validate_json(text) for entry, text in found}


def merged_into(connection: apsw.Connection, found: Sequence[int]) -> dict[int, list[str]]:
    """Ids of what was merged into each of these rows; rows into which nothing was are left out."""
    sql = (
        "SELECT merged_into, entries.id FROM standings JOIN entries ON entries.seq = entry"
        " WHERE merged_into IN (SELECT value FROM json_each(?)) AND merged_into IS NOT NULL ORDER BY entry"
    )
    repeats: dict[int, list[str]] = {}
    for row, id in connection.execute(sql, (json.dumps(list(found)),)):
        repeats.setdefault(row, []).append(id)
    return repeats


def surviving(connection: apsw.Connection, known: Mapping[str, int]) -> dict[str, int]:
    """Row by id, where what was merged stands for what it was merged into."""
    sql = (
        "SELECT entry, merged_into FROM standings WHERE entry IN (SELECT value FROM json_each(?))"
        " AND merged_into IS NOT NULL"
    )
    kept = dict(fetch(connection, sql, (json.dumps(list(known.values())),)))
    return {id: kept.get(row, row) for id, row in known.items()}


def edges_from(connection: apsw.Connection, ids: Sequence[str]) -> list[Edge]:
    """Edges that start at any of `ids`, in the order they were written."""
    sql = (
        "SELECT source, relation, target FROM edges WHERE voided_by IS NULL"
        " AND source IN (SELECT value FROM json_each(?)) ORDER BY edges.seq"
    )
    return _edges(connection, sql, (json.dumps(list(ids)),))


def edges_into(connection: apsw.Connection, ids: Sequence[str]) -> list[Edge]:
    """Edges that end at any of `ids`, in the order they were written."""
    sql = (
        "SELECT source, relation, target FROM edges WHERE voided_by IS NULL"
        " AND target IN (SELECT value FROM json_each(?)) ORDER BY edges.seq"
    )
    return _edges(connection, sql, (json.dumps(list(ids)),))


def edges_of(connection: apsw.Connection, id: str) -> list[Edge]:
    """Edges that start or end at one experience, in the order they were written."""
    sql = (
        "SELECT source, relation, target FROM (SELECT * FROM edges WHERE source = ?1"
        " UNION SELECT * FROM edges WHERE target = ?1) WHERE voided_by IS NULL ORDER BY seq"
    )
    return _edges(connection, sql, (id,))


def is_new_edge(connection: apsw.Connection, edge: Edge) -> bool:
    """True: this edge is not stored yet, or was rolled back."""
    sql = "SELECT 1 FROM edges WHERE source = ? AND relation = ? AND target = ? AND voided_by IS NULL"
    return connection.execute(sql, (edge.source, edge.relation.value, edge.target)).get is None


def _experience(found: Sequence[Any]) -> Experience:
    _, _, team, project, run, kind, task_type, split, error_code, environment, text = found
    # What lies in the store was checked when it came in; checking it again would be most of the time of a recall.
    return Experience.model_construct(
        kind=Kind(kind),
        text=text,
        namespace=_namespace(team, project, run),
        task_type=task_type,
        split=split,
        error_code=error_code,
        environment=tuple((key, value) for key, value in json.loads(environment)),
    )


@lru_cache(maxsize=1024)
def _namespace(team: str, project: str, run: str) -> Namespace:
    return Namespace(team=team, project=project, run=run)


def _edges(connection: apsw.Connection, sql: str, bindings: tuple[str, ...]) -> list[Edge]:
    return [
        Edge(source=source, relation=Relation(relation), target=target)
        for source, relation, target in connection.execute(sql, bindings)
    ]


def _batches(connection: apsw.Connection, sql: str, bindings: tuple[str, ...] = ()) -> Iterator[list[Any]]:
    cursor = connection.execute(sql, bindings)
    while rows := list(islice(cursor, 1000)):
        yield rows
