"""A memory as files that outlive it: everything that stands as JSONL, and a flat table as Parquet, for analysis."""

from __future__ import annotations

import heapq
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from memory import rows
from memory.database import fetch
from memory.events import head_event
from memory.exchange_lines import (
    FORMAT,
    ArtefactLine,
    CheckLine,
    EdgeLine,
    Event,
    ExperienceLine,
    Header,
    MarkLine,
    ObservationLine,
    UseLine,
)
from memory.importing import LINES, Imported, Refusal, import_from
from memory.ledger import sync_directory
from memory.projection import merged_rows
from memory.store import Memory
from memory.types import Artefact, Edge, Evidence, Relation, Standing, Use
from memory.vectors import snapshot

__all__ = ["EXPERIENCES", "LINES", "Exported", "Imported", "Refusal", "export_to", "import_from"]

EXPERIENCES = "experiences.parquet"

_BATCH = 1000

_Placed = tuple[tuple[int, int, int], Event]
"""A line, and where it belongs: its event, the rank of its kind, and its place among those."""


class Exported(NamedTuple):
    """What an export wrote."""

    lines: Path
    table: Path
    num_lines: int
    num_experiences: int


def export_to(memory: Memory, directory: Path, namespaces: Sequence[str] | None = None) -> Exported:
    """Write `memory.jsonl` and `experiences.parquet` of these namespaces (None: all) to `directory`, each whole or not.

    What was rolled back is left out, and so is an experience of which no report is left, with all that hangs on it;
    of marks that followed each other the last is written. What is written is one state of the memory, whoever writes
    to it meanwhile. Nothing is held in RAM but a thousand entries and SQLite's sorters.

    Raises:
        ValueError: a namespace that names no team. OSError: the disk is full, no permission.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with memory.reading() as connection, snapshot(connection):
        chosen = None if namespaces is None else rows.namespaces_like(connection, namespaces)
        export = _Export(connection, json.dumps(chosen))
        header = Header(format=FORMAT, head=head_event(connection)[1], namespaces=tuple(namespaces or ()))
        num_lines = 1
        with _published(directory / LINES) as path, path.open("wb") as file:
            file.write(header.model_dump_json().encode() + b"\n")
            for line in export.lines():
                file.write(line.model_dump_json().encode() + b"\n")
                num_lines += 1
        with _published(directory / EXPERIENCES) as path:
            num_experiences = _write_table(path, export)
    return Exported(directory / LINES, directory / EXPERIENCES, num_lines, num_experiences)


class _Export(NamedTuple):
    """One state of a memory, and the namespaces to take from it: their numbers as JSON, or null for all."""

    connection: apsw.Connection
    chosen: str

    def lines(self) -> Iterator[Event]:
        """Every line, in the order of the events behind them."""
        parts = (
            self._experiences(),
            self._observations(),
            self._checks(),
            self._uses(),
            self._marks(),
            self._edges(),
            self._artefacts(),
        )
        yield from (line for _, line in heapq.merge(*parts, key=lambda placed: placed[0]))

    def experiences(self) -> Iterator[list[ExperienceLine]]:
        """The experiences in the order of writing, some at a time."""
        sql = (
            "SELECT chosen.seq, chosen.id, entries.event, created_at, (SELECT json_array(source, episode)"
            " FROM observations WHERE entry = chosen.seq AND voided_by IS NULL ORDER BY event, rowid LIMIT 1)"
            " FROM chosen JOIN entries ON entries.seq = chosen.seq JOIN events ON events.seq = entries.event"
            " ORDER BY chosen.seq"
        )
        found = self._all(sql)
        while batch := list(islice(found, _BATCH)):
            nodes = rows.nodes_by_row(self.connection, [row for row, *_ in batch])
            lines = []
            for row, id, event, at, first in batch:
                source, episode = json.loads(first) if first else self._report_of_merged(id)
                lines.append(
                    ExperienceLine(event=event, at=at, id=id, source=source, episode=episode, experience=nodes[row])
                )
            yield lines

    def _all(self, sql: str) -> Iterator[Any]:
        return iter(self.connection.execute(_CHOSEN + sql, (self.chosen,)))

    def _report_of_merged(self, id: str) -> list[str]:
        """The first report of what repeats an experience, for one that stands through its repeats alone."""
        sql = (
            "SELECT source, episode FROM observations WHERE entry IN (SELECT value FROM json_each(?))"
            " AND voided_by IS NULL ORDER BY event, rowid LIMIT 1"
        )
        found: Any = self.connection.execute(sql, (json.dumps(merged_rows(self.connection, id)),)).fetchone()
        return list(found)

    def _experiences(self) -> Iterator[_Placed]:
        for number, line in enumerate(line for batch in self.experiences() for line in batch):
            yield (line.event, 0, number), line

    def _observations(self) -> Iterator[_Placed]:
        sql = (
            "SELECT said.event, said.rowid, created_at, chosen.id, source, episode FROM observations AS said"
            " JOIN chosen ON chosen.seq = said.entry JOIN events ON events.seq = said.event WHERE voided_by IS NULL"
            " AND said.rowid <> (SELECT rowid FROM observations AS first WHERE first.entry = said.entry"
            " AND first.voided_by IS NULL ORDER BY event, rowid LIMIT 1) ORDER BY said.event, said.rowid"
        )
        for event, number, at, id, source, episode in self._all(sql):
            yield (event, 1, number), ObservationLine(event=event, at=at, id=id, source=source, episode=episode)

    def _checks(self) -> Iterator[_Placed]:
        sql = (
            "SELECT event, checks.rowid, created_at, chosen.id, source, episode, verifier, verdict, digest FROM checks"
            " JOIN chosen ON chosen.seq = entry JOIN events ON events.seq = event WHERE voided_by IS NULL"
            " ORDER BY event, checks.rowid"
        )
        for event, number, at, id, source, episode, verifier, verdict, digest in self._all(sql):
            evidence = Evidence(verifier=verifier, verdict=verdict, digest=digest)
            line = CheckLine(event=event, at=at, id=id, source=source, episode=episode, evidence=evidence)
            yield (event, 2, number), line

    def _uses(self) -> Iterator[_Placed]:
        sql = (
            "SELECT event, uses.rowid, created_at, episode, success, verifier, chosen.id, shown, same, followed"
            " FROM uses JOIN chosen ON chosen.seq = entry JOIN events ON events.seq = event WHERE voided_by IS NULL"
            " ORDER BY event, uses.rowid"
        )
        for (event, at, episode, success, verifier), found in groupby(
            self._all(sql), lambda row: (row[0], row[2], *row[3:6])
        ):
            parts = list(found)
            use = Use(
                episode=episode,
                success=bool(success),
                verifier=verifier,
                shown=tuple(id for *_, id, shown, _same, _followed in parts if shown),
                withheld=tuple(id for *_, id, shown, _same, _followed in parts if not shown),
                same=tuple(id for *_, id, _shown, same, _followed in parts if same),
                followed=tuple(id for *_, id, _shown, _same, followed in parts if followed),
            )
            yield (event, 3, parts[0][1]), UseLine(event=event, at=at, use=use)

    def _marks(self) -> Iterator[_Placed]:
        """The last mark of each sort: no earlier one has any effect, and to be unmerged is to be as at first."""
        sql = (
            "SELECT event, marks.rowid, created_at, marks.kind, chosen.id, other, reason FROM marks"
            " JOIN chosen ON chosen.seq = entry JOIN events ON events.seq = event WHERE voided_by IS NULL"
            " AND marks.kind <> 'unmerged' AND (marks.kind <> 'merged' OR other IN (SELECT id FROM chosen))"
            " AND NOT EXISTS (SELECT 1 FROM marks AS later WHERE later.entry = marks.entry"
            " AND later.voided_by IS NULL AND later.event > marks.event"
            " AND (later.kind IN ('merged', 'unmerged')) = (marks.kind = 'merged')) ORDER BY event, marks.rowid"
        )
        for event, number, at, kind, id, into, reason in self._all(sql):
            yield (event, 4, number), MarkLine(event=event, at=at, kind=kind, id=id, into=into, reason=reason)

    def _edges(self) -> Iterator[_Placed]:
        sql = (
            "SELECT edges.event, edges.seq, created_at, source, relation, target, author FROM edges"
            " JOIN chosen AS start ON start.id = source JOIN chosen AS goal ON goal.id = target"
            " JOIN events ON events.seq = edges.event WHERE voided_by IS NULL ORDER BY edges.event, edges.seq"
        )
        for event, number, at, source, relation, target, author in self._all(sql):
            edge = Edge(source=source, relation=Relation(relation), target=target)
            yield (event, 5, number), EdgeLine(event=event, at=at, edge=edge, author=author)

    def _artefacts(self) -> Iterator[_Placed]:
        sql = (
            ", made (id) AS (SELECT artefact FROM artefact_parts WHERE part IN (SELECT episode FROM observations"
            " JOIN chosen ON seq = entry UNION SELECT episode FROM uses JOIN chosen ON seq = entry)"
            " UNION SELECT artefact FROM artefact_parts JOIN made ON part = made.id)"
            " SELECT event, artefacts.rowid, created_at, artefacts.id, artefacts.kind,"
            " (SELECT json_group_array(part) FROM artefact_parts WHERE artefact = artefacts.id) FROM artefacts"
            " JOIN events ON events.seq = event WHERE ?1 = 'null' OR artefacts.id IN (SELECT id FROM made)"
            " ORDER BY event, artefacts.rowid"
        )
        for event, number, at, id, kind, parts in self._all(sql):
            artefact = Artefact(id=id, kind=kind, made_from=tuple(json.loads(parts)))
            yield (event, 6, number), ArtefactLine(event=event, at=at, artefact=artefact)


_CHOSEN = (
    "WITH RECURSIVE reported (entry) AS (SELECT entry FROM observations WHERE voided_by IS NULL"
    " UNION SELECT merged_into FROM standings JOIN reported USING (entry) WHERE merged_into IS NOT NULL),"
    " chosen (seq, id) AS MATERIALIZED (SELECT seq, id FROM entries WHERE seq IN (SELECT entry FROM reported)"
    " AND (?1 = 'null' OR namespace IN (SELECT value FROM json_each(?1)))) "
)
"""What is exported: experiences of which a report stands, their own or that of a repeat."""


def _write_table(path: Path, export: _Export) -> int:
    """One row an experience, with its standing and without its vector; returns how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [
        *((name, pa.string()) for name in ("id", "team", "project", "run", "kind", "task_type", "split")),
        *((name, pa.string()) for name in ("error_code", "environment", "text")),
        ("first_seen", pa.timestamp("us", tz="UTC")),
        ("sources", pa.list_(pa.string())),
        ("level", pa.string()),
        ("warns", pa.bool_()),
        *((name, pa.int64()) for name in ("num_passed", "num_failed", "num_episodes")),
        *((name, pa.float64()) for name in ("trust", "gain")),
        ("num_uses", pa.int64()),
        *((name, pa.string()) for name in ("reason", "merged_into")),
    ]
    schema = pa.schema(columns)
    num_experiences = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in export.experiences():
            writer.write_table(pa.Table.from_pylist(list(_flat(export.connection, batch)), schema=schema))
            num_experiences += len(batch)
    return num_experiences


def _flat(connection: apsw.Connection, lines: Sequence[ExperienceLine]) -> Iterator[dict[str, Any]]:
    sql = (
        "SELECT id, standing, (SELECT json_group_array(DISTINCT source) FROM observations WHERE entry = seq"
        " AND voided_by IS NULL AND source <> '') FROM entries JOIN standings ON entry = seq"
        " WHERE id IN (SELECT value FROM json_each(?))"
    )
    found = {id: rest for id, *rest in fetch(connection, sql, (json.dumps([line.id for line in lines]),))}
    for line in lines:
        standing, sources = found[line.id]
        experience = line.experience
        yield {
            "id": line.id,
            **experience.namespace.model_dump(),
            **experience.model_dump(mode="json", exclude={"namespace", "environment"}),
            "environment": json.dumps(dict(experience.environment), ensure_ascii=False),
            "first_seen": None if line.at is None else round(line.at * 1e6),
            "sources": sorted(json.loads(sources)),
            **Standing.model_validate_json(standing).model_dump(mode="json"),
        }


@contextmanager
def _published(path: Path) -> Iterator[Path]:
    """A name to write a file under that becomes `path` at the end, also after a power cut; on an error it is gone."""
    temporary = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        yield temporary
        descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
