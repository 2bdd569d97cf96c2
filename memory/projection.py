"""From events to tables: what an event means for each entry. Applying all events anew gives the same tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apsw

from memory.config import MemoryConfig
from memory.database import StoreError, fetch
from memory.events import Event, all_events
from memory.trust import Check, History, Mark, Reuse, Seen, standing_of
from memory.types import Kind, Level, Relation, Standing

VOIDABLE = ("observations", "checks", "uses", "marks", "edges")

_DERIVED = (*VOIDABLE, "artefacts", "artefact_parts", "standings", "gains")

_LEVELS = {level: place for place, level in enumerate((Level.OBSERVED, Level.CANDIDATE, Level.VERIFIED))}


def apply(connection: apsw.Connection, event: Event, config: MemoryConfig) -> list[int]:
    """Carry one event into the tables, inside the caller's transaction; returns the rows whose standing was derived.

    An id that is not stored (it was erased) is passed over.
    """
    if event.kind not in _HANDLERS:
        raise StoreError(f"event {event.seq}: expected a known kind of event, got {event.kind!r}; use a newer evomesh")
    touched = _HANDLERS[event.kind](connection, event)
    fresh = _fresh(connection, event)
    for row, history in fresh.items():
        _derive_one(connection, row, config, history)
    rows = _closure(connection, [row for row in touched if row not in fresh])
    derive(connection, rows, config)
    # Once more, because one of two that this event bears on may have been looked at before what it depends on.
    derive(connection, _superseded_by(connection, rows), config)
    rows += fresh
    if event.kind in {"used", "rolled_back", "erased"}:
        _count_gains(connection)
    return rows


def rebuild(connection: apsw.Connection, config: MemoryConfig) -> None:
    """Derive every table anew from the events and the texts; inside the caller's transaction."""
    for table in _DERIVED:
        connection.execute(f"DELETE FROM {table}")
    for event in all_events(connection):
        if event.kind not in _HANDLERS:
            raise StoreError(
                f"event {event.seq}: expected a known kind of event, got {event.kind!r}; use a newer evomesh"
            )
        _HANDLERS[event.kind](connection, event)
    derive_all(connection, config)
    _count_gains(connection)


def derive_all(connection: apsw.Connection, config: MemoryConfig) -> None:
    """Derive the standing of every entry; inside the caller's transaction."""
    derive(connection, [row for (row,) in fetch(connection, "SELECT seq FROM entries ORDER BY seq")], config)
    # Whether an entry is superseded depends on what is thought of the other, which may have been written later.
    sql = "SELECT seq FROM entries WHERE id IN (SELECT target FROM edges WHERE relation = 'supersedes')"
    derive(connection, [row for (row,) in fetch(connection, sql)], config)


def derive(connection: apsw.Connection, rows: Iterable[int], config: MemoryConfig) -> None:
    """Derive the standing of each of these entries from what is live about it."""
    for row in rows:
        _derive_one(connection, row, config)


def _derive_one(connection: apsw.Connection, row: int, config: MemoryConfig, fresh: History | None = None) -> None:
    """Derive one standing; `fresh` is the whole history of an entry that this event made, and spares reading it."""
    found: Any = connection.execute(
        "SELECT entries.id, entries.kind, namespace, task_type, split, created_at FROM entries"
        " JOIN events ON events.seq = entries.event WHERE entries.seq = ?",
        (row,),
    ).fetchone()
    if found is None:
        connection.execute("DELETE FROM standings WHERE entry = ?", (row,))
        return
    id, kind, namespace, task_type, split, created_at = found
    history = fresh or _history(connection, row, id, Kind(kind))
    standing = standing_of(history, config.trust)
    works, fails = _pools(connection, id, history.kind, standing, config.shown_from)
    verb = "REPLACE" if fresh is None else "INSERT"
    connection.execute(
        f"{verb} INTO standings (entry, namespace, task_type, split, is_anchor, works, fails, level,"
        " trust, confirmed_at, merged_into, standing) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row,
            namespace,
            task_type,
            split,
            int(history.kind in (Kind.PROBLEM, Kind.ERROR) and standing.level is not Level.RETIRED),
            int(works),
            int(fails),
            standing.level.value,
            standing.trust,
            created_at if fresh else _confirmed_at(connection, row, created_at),
            _row_of(connection, standing.merged_into) if standing.merged_into else None,
            standing.model_dump_json(),
        ),
    )


def _fresh(connection: apsw.Connection, event: Event) -> dict[int, History]:
    """The histories of the entries that this event made: nothing else has been said of them yet."""
    if event.kind != "remembered":
        return {}
    superseded = {target for _, relation, target, _ in event.payload["edges"] if relation == Relation.SUPERSEDES}
    sql = "SELECT id, seq, kind FROM entries WHERE event = ?"
    made = {id: (row, kind) for id, row, kind in fetch(connection, sql, (event.seq,)) if id not in superseded}
    histories: dict[int, History] = {}
    for seen in event.payload["observations"]:
        if seen["id"] not in made:
            continue
        row, kind = made[seen["id"]]
        before = histories.get(row, History(Kind(kind)))
        said = tuple(Seen(name, seen["episode"], event.seq) for name in names_in(seen["source"]))
        checks = before.checks
        if "evidence" in seen:
            verifier, verdict, digest = seen["evidence"]
            checks += (Check(verifier, verdict, digest, seen["source"], seen["episode"], event.seq),)
        histories[row] = before._replace(observations=before.observations + said, checks=checks)
    return histories


def _pools(
    connection: apsw.Connection, id: str, kind: Kind, standing: Standing, shown_from: Level
) -> tuple[bool, bool]:
    """Whether an entry may be recalled as something that works, and as a warning."""
    if standing.level is Level.RETIRED:
        return False, False
    if standing.warns:
        # A failed attempt speaks through its error when it has one.
        quiet = kind is Kind.ATTEMPT and _has_edge(connection, id, Relation.FAILED_WITH)
        return False, kind in _WARNING_KINDS and standing.level is Level.VERIFIED and not quiet
    return kind in _WORKING_KINDS and _LEVELS[standing.level] >= _LEVELS[shown_from], False


_WORKING_KINDS = (Kind.SOLUTION, Kind.PATTERN)
_WARNING_KINDS = (Kind.ERROR, Kind.SOLUTION, Kind.PATTERN, Kind.ATTEMPT)


def _history(connection: apsw.Connection, row: int, id: str, kind: Kind) -> History:
    """What is live about one entry and about the entries that were merged into it, in order of events."""
    rows = json.dumps([row, *merged_rows(connection, id)])
    among = "entry IN (SELECT value FROM json_each(?)) AND voided_by IS NULL ORDER BY event, rowid"
    observed = fetch(connection, f"SELECT source, episode, event FROM observations WHERE {among}", (rows,))
    checks = fetch(
        connection, f"SELECT verifier, verdict, digest, source, episode, event FROM checks WHERE {among}", (rows,)
    )
    uses = fetch(
        connection, f"SELECT episode, shown, same, followed, success, verifier, event FROM uses WHERE {among}", (rows,)
    )
    marks = fetch(
        connection,
        "SELECT kind, iif(kind = 'merged', other, reason), event FROM marks"
        " WHERE entry = ? AND voided_by IS NULL ORDER BY event",
        (row,),
    )
    return History(
        kind=kind,
        observations=tuple(Seen(*one) for one in observed),
        checks=tuple(Check(*one) for one in checks),
        uses=tuple(
            Reuse(episode, bool(shown), bool(same), bool(followed), bool(success), verifier, event)
            for episode, shown, same, followed, success, verifier, event in uses
        ),
        marks=tuple(Mark(*one) for one in marks),
        is_superseded=_is_superseded(connection, row, id),
    )


def _is_superseded(connection: apsw.Connection, row: int, id: str) -> bool:
    """By an entry that checks speak for, or by one of its own author's; else anybody could retire a truth."""
    sql = (
        "SELECT 1 FROM edges JOIN entries AS other ON other.id = edges.source"
        " JOIN observations AS theirs ON theirs.entry = other.seq AND theirs.voided_by IS NULL"
        " LEFT JOIN standings ON standings.entry = other.seq"
        " WHERE target = ?1 AND relation = 'supersedes' AND edges.voided_by IS NULL"
        " AND (json_extract(standing, '$.num_passed') > json_extract(standing, '$.num_failed')"
        " OR theirs.source <> '' AND theirs.source IN"
        " (SELECT source FROM observations WHERE entry = ?2 AND voided_by IS NULL)) LIMIT 1"
    )
    return connection.execute(sql, (id, row)).get is not None


def _has_edge(connection: apsw.Connection, id: str, relation: Relation) -> bool:
    sql = "SELECT 1 FROM edges WHERE source = ? AND relation = ? AND voided_by IS NULL LIMIT 1"
    return connection.execute(sql, (id, relation.value)).get is not None


def _confirmed_at(connection: apsw.Connection, row: int, created_at: float) -> float:
    sql = (
        "SELECT max(created_at) FROM (SELECT event FROM checks WHERE entry = ?1 AND verdict = 'passed' AND voided_by IS"
        " NULL UNION ALL SELECT event FROM uses WHERE entry = ?1 AND success AND shown AND voided_by IS NULL) AS good"
        " JOIN events ON events.seq = good.event"
    )
    return max(created_at, connection.execute(sql, (row,)).get or 0.0)


def merged_rows(connection: apsw.Connection, id: str) -> list[int]:
    """Rows of the entries that repeat this one, those that repeat them included."""
    found: dict[str, int] = {}
    frontier = [id]
    while frontier:
        sql = (
            "SELECT entries.id, entry FROM marks JOIN entries ON entries.seq = entry WHERE other = ?1"
            " AND marks.kind = 'merged' AND voided_by IS NULL AND NOT EXISTS (SELECT 1 FROM marks AS later"
            " WHERE later.entry = marks.entry AND later.kind IN ('merged', 'unmerged')"
            " AND later.voided_by IS NULL AND later.event > marks.event)"
        )
        for other, row in fetch(connection, sql, (frontier.pop(),)):
            if other != id and other not in found:
                found[other] = row
                frontier.append(other)
    return list(found.values())


def _closure(connection: apsw.Connection, touched: Sequence[int]) -> list[int]:
    """The rows themselves, then those whose standing follows from theirs: what they repeat, and what they supersede."""
    rows = dict.fromkeys(touched)
    frontier = list(rows)
    while frontier:
        among = json.dumps(frontier)
        sql = (
            "SELECT merged_into FROM standings WHERE merged_into NOT NULL"
            " AND entry IN (SELECT value FROM json_each(?1))"
            " UNION SELECT target.seq FROM entries AS one JOIN edges ON edges.source = one.id"
            " AND relation = 'supersedes' JOIN entries AS target ON target.id = edges.target"
            " WHERE one.seq IN (SELECT value FROM json_each(?1))"
        )
        frontier = [row for (row,) in fetch(connection, sql, (among,)) if row not in rows]
        rows.update(dict.fromkeys(frontier))
    return list(rows)


def _superseded_by(connection: apsw.Connection, rows: Sequence[int]) -> list[int]:
    """Rows of the entries that any of these supersedes."""
    if not rows:
        return []
    sql = (
        "SELECT DISTINCT target.seq FROM entries AS one JOIN edges ON edges.source = one.id"
        " AND relation = 'supersedes' JOIN entries AS target ON target.id = edges.target"
        " WHERE one.seq IN (SELECT value FROM json_each(?)) ORDER BY 1"
    )
    return [row for (row,) in fetch(connection, sql, (json.dumps(list(rows)),))]


def _count_gains(connection: apsw.Connection) -> None:
    connection.execute("DELETE FROM gains")
    connection.execute(
        "INSERT INTO gains (task_type, same, shown, successes, trials)"
        " SELECT task_type, same, shown, sum(success), count(*) FROM uses JOIN entries ON entries.seq = uses.entry"
        " WHERE voided_by IS NULL GROUP BY task_type, same, shown"
    )


def _once(*columns: str) -> str:
    """What is live already stays; what a rollback voided is live again, as the one who says it anew says it."""
    changes = "".join(f", {column} = excluded.{column}" for column in columns)
    return f" ON CONFLICT DO UPDATE SET event = excluded.event, voided_by = NULL{changes} WHERE voided_by IS NOT NULL"


def _row_of(connection: apsw.Connection, id: str) -> int | None:
    return connection.execute("SELECT seq FROM entries WHERE id = ?", (id,)).get


def _remembered(connection: apsw.Connection, event: Event) -> list[int]:
    touched: list[int] = []
    for seen in event.payload["observations"]:
        row = _row_of(connection, seen["id"])
        if row is None:
            continue
        touched.append(row)
        for source in names_in(seen["source"]):
            connection.execute(
                "INSERT INTO observations (entry, source, episode, event) VALUES (?, ?, ?, ?)" + _once(),
                (row, source, seen["episode"], event.seq),
            )
        if "evidence" in seen:
            _check(connection, event.seq, row, seen["evidence"], seen["source"], seen["episode"])
    for source, relation, target, author in event.payload["edges"]:
        ends = [row for row in (_row_of(connection, source), _row_of(connection, target)) if row is not None]
        if len(ends) == 2:
            touched += ends
            connection.execute(
                "INSERT INTO edges (source, relation, target, author, event) VALUES (?, ?, ?, ?, ?)" + _once("author"),
                (source, relation, target, author, event.seq),
            )
    return touched


def names_in(source: str) -> list[str]:
    """The names in a source that several share, which is written with commas; [""] where none is known."""
    return list(dict.fromkeys(name.strip() for name in source.split(",")))


def _verified(connection: apsw.Connection, event: Event) -> list[int]:
    said = event.payload
    row = _row_of(connection, said["id"])
    if row is None:
        return []
    _check(connection, event.seq, row, said["evidence"], said["source"], said["episode"])
    return [row]


def _check(
    connection: apsw.Connection, event: int, row: int, evidence: Sequence[str], source: str, episode: str
) -> None:
    connection.execute(
        "INSERT INTO checks (entry, verifier, verdict, digest, source, episode, event) VALUES (?, ?, ?, ?, ?, ?, ?)"
        + _once(),
        (row, *evidence, source, episode, event),
    )


def _used(connection: apsw.Connection, event: Event) -> list[int]:
    use, touched = event.payload, []
    for id in (*use["shown"], *use["withheld"]):
        row = _row_of(connection, id)
        if row is not None:
            touched.append(row)
            connection.execute(
                "INSERT INTO uses (entry, episode, shown, same, followed, success, verifier, event)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)" + _once("shown", "same", "followed", "success", "verifier"),
                (
                    row,
                    use["episode"],
                    int(id in use["shown"]),
                    int(id in use["same"]),
                    int(id in use["followed"]),
                    int(use["success"]),
                    use["verifier"],
                    event.seq,
                ),
            )
    return touched


def _marked(connection: apsw.Connection, event: Event) -> list[int]:
    said = event.payload
    row, other = _row_of(connection, said["id"]), said.get("into", "")
    if row is None or (event.kind == "merged" and _row_of(connection, other) is None):
        return []
    connection.execute(
        "INSERT INTO marks (entry, kind, other, reason, event) VALUES (?, ?, ?, ?, ?)",
        (row, event.kind, other, said["reason"], event.seq),
    )
    before = connection.execute("SELECT merged_into FROM standings WHERE entry = ?", (row,)).get
    after = _row_of(connection, other) if other else None
    return [row, *(end for end in (before, after) if end is not None)]


def _rolled_back(connection: apsw.Connection, event: Event) -> list[int]:
    """Void what a source said, or all that was said since an event; merges and retirements go by time alone."""
    source, since = event.payload["source"], event.payload["since"]
    touched: dict[int, None] = {}
    for table, authors in _AUTHORS.items():
        where = f"voided_by IS NULL AND event < {event.seq} AND "
        # Names of several are separated by commas; what one of them reported goes with him.
        where += "event >= ?1" if source is None else f"instr(', ' || {authors} || ', ', ', ' || ?1 || ', ')"
        bindings = (since if source is None else source,)
        found = fetch(connection, f"SELECT {_TOUCHES[table]} FROM {table} WHERE {where}", bindings)
        touched.update(dict.fromkeys(row for rows in found for row in rows if row is not None))
        connection.execute(f"UPDATE {table} SET voided_by = {event.seq} WHERE {where}", bindings)
    return list(touched)


_AUTHORS = {
    "observations": "source",
    "checks": "source || ', ' || verifier",
    "uses": "verifier",
    "marks": "''",  # merges and retirements have no source; `since` takes them back
    "edges": "author",
}


_TOUCHES = {
    **dict.fromkeys(("observations", "checks", "uses"), "DISTINCT entry"),
    "marks": "entry, (SELECT seq FROM entries WHERE entries.id = other)",
    "edges": "(SELECT seq FROM entries WHERE entries.id = source), (SELECT seq FROM entries WHERE entries.id = target)",
}
"""The rows whose standing a row of each table bears on."""


def _erased(connection: apsw.Connection, event: Event) -> list[int]:
    row, id = event.payload["row"], event.payload["id"]
    later = _row_of(connection, id)  # while events are replayed: the same content, remembered again afterwards
    merged = fetch(
        connection,
        "SELECT entry FROM marks WHERE other = ?1 UNION SELECT entries.seq FROM marks JOIN entries"
        " ON entries.id = other WHERE entry IN (?2, ?3)",
        (id, row, later),
    )
    ended = fetch(
        connection,
        "SELECT seq FROM entries WHERE id IN (SELECT target FROM edges WHERE source = ?1"
        " UNION SELECT source FROM edges WHERE target = ?1)",
        (id,),
    )
    for one in {row, later} - {None}:
        for table in ("observations", "checks", "uses", "marks"):
            connection.execute(f"DELETE FROM {table} WHERE entry = ?", (one,))
        connection.execute("DELETE FROM standings WHERE entry = ?", (one,))
    connection.execute("DELETE FROM edges WHERE ? IN (source, target)", (id,))
    connection.execute("DELETE FROM marks WHERE other = ?", (id,))
    connection.execute("INSERT OR IGNORE INTO erasures (entry, event) VALUES (?, ?)", (row, event.seq))
    return [one for (one,) in (*merged, *ended)]


def _artefact(connection: apsw.Connection, event: Event) -> list[int]:
    said = event.payload
    connection.execute(
        "INSERT OR IGNORE INTO artefacts (id, kind, event) VALUES (?, ?, ?)", (said["id"], said["kind"], event.seq)
    )
    for part in said["made_from"]:
        connection.execute("INSERT OR IGNORE INTO artefact_parts (artefact, part) VALUES (?, ?)", (said["id"], part))
    return []


_Handler = Callable[[apsw.Connection, Event], list[int]]

_HANDLERS: dict[str, _Handler] = {
    "remembered": _remembered,
    "verified": _verified,
    "used": _used,
    "merged": _marked,
    "unmerged": _marked,
    "retired": _marked,
    "restored": _marked,
    "rolled_back": _rolled_back,
    "erased": _erased,
    "artefact": _artefact,
}
