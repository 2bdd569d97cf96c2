"""Takes an exported memory in: each line is checked, what is not known yet becomes events, what is bad is recorded."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import apsw

from memory import projection, rows
from memory.config import MemoryConfig
from memory.database import StoreError, fetch, transaction
from memory.events import append_event
from memory.exchange_lines import (
    MAX_LINE_BYTES,
    ArtefactLine,
    BadLine,
    CheckLine,
    EdgeLine,
    Event,
    ExperienceLine,
    Header,
    MarkLine,
    ObservationLine,
    UseLine,
    parse_line,
)
from memory.store import MAX_TEXT_CHARS, Memory
from memory.types import Edge, Experience, Namespace, Use

LINES = "memory.jsonl"

_GROUPS_PER_COMMIT = 500
_MOST_TOGETHER = 10_000
_CHUNK = 1 << 20

_Numbered = tuple[int, Event]


_Said = ExperienceLine | ObservationLine | CheckLine | EdgeLine


class Refusal(NamedTuple):
    """A line that was not taken in. Lines count from 1."""

    line: int
    reason: str


class Imported(NamedTuple):
    """What an import added; lines that said nothing new are counted alone."""

    num_experiences: int
    num_observations: int
    num_checks: int
    num_uses: int
    num_marks: int
    num_edges: int
    num_artefacts: int
    num_known: int
    refused: tuple[Refusal, ...]


def import_from(
    memory: Memory, path: Path, into: Namespace | None = None, *, clock: Callable[[], float] = time.time
) -> Imported:
    """Take in `path`, or `memory.jsonl` in it: what is known already changes nothing, a bad line is recorded.

    What is taken in keeps its order and, as far as the memory's last event is older, its time. It is taken at its
    word: whoever can have a file imported can say what checks said. `into` gives everything to one namespace: ids
    change, and edges, uses and marks follow. What was erased here is refused. Interrupted, it is simply done again.

    Raises:
        StoreError: a read-only memory, a full disk. OSError: no such file, or it cannot be read.
        ValueError: `path` holds no line that could be read; nothing was changed.
    """
    if memory.readonly:
        raise StoreError(f"{memory.directory}: opened read-only; open it without readonly to import")
    path = path / LINES if path.is_dir() else path
    refused: list[Refusal] = []
    with path.open("rb") as file, memory.reading() as connection:
        groups = _groups(_lines(file, refused))
        with _homes(connection):
            work = _Import(connection, memory.config, into, clock, refused)
            while batch := list(islice(groups, _GROUPS_PER_COMMIT)):
                with transaction(connection):
                    work.take(batch)
    if refused and not work.num_good:
        raise ValueError(f"{path}: expected an exported memory, got nothing readable (line 1: {refused[0].reason})")
    counts = work.counts
    return Imported(
        num_experiences=counts["num_experiences"],
        num_observations=counts["num_observations"],
        num_checks=counts["num_checks"],
        num_uses=counts["num_uses"],
        num_marks=counts["num_marks"],
        num_edges=counts["num_edges"],
        num_artefacts=counts["num_artefacts"],
        num_known=counts["num_known"],
        refused=tuple(sorted(refused)),
    )


def _lines(file: IO[bytes], refused: list[Refusal]) -> Iterator[_Numbered]:
    for number, line in enumerate(_raw_lines(file), start=1):
        try:
            if line is None:
                raise BadLine(f"expected at most {MAX_LINE_BYTES} bytes, got more")
            if line.strip():
                found = parse_line(line)
                if not isinstance(found, Header):
                    yield number, found
        except BadLine as error:
            refused.append(Refusal(number, str(error)))


def _raw_lines(file: IO[bytes]) -> Iterator[bytes | None]:
    """Lines without their ends; None for one that is too long, which is passed over in pieces."""
    while line := file.readline(MAX_LINE_BYTES):
        if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
            yield line
            continue
        while (rest := file.readline(_CHUNK)) and not rest.endswith(b"\n"):
            pass
        yield None


def _groups(lines: Iterable[_Numbered]) -> Iterator[list[_Numbered]]:
    """Lines that happened as one. A file that says so of very many is not believed."""
    for event, found in groupby(lines, lambda numbered: numbered[1].event):
        size = _MOST_TOGETHER if event else 1
        while group := list(islice(found, size)):
            yield group


@contextmanager
def _homes(connection: apsw.Connection) -> Iterator[None]:
    """Room, on the disk, to note which id became which."""
    connection.execute("DROP TABLE IF EXISTS temp.homes")
    connection.execute("CREATE TEMP TABLE homes (old TEXT PRIMARY KEY, id TEXT NOT NULL) WITHOUT ROWID")
    try:
        yield
    finally:
        connection.execute("DROP TABLE temp.homes")


class _Together(NamedTuple):
    """What one "remembered" event will say, and checks that need an event of their own."""

    new: dict[str, Experience]
    observations: dict[tuple[str, str, str], dict[str, Any]]
    checks: dict[tuple[str, ...], dict[str, Any]]
    edges: dict[Edge, str]
    alone: dict[tuple[str, ...], dict[str, Any]]


class _Import:
    """One import under way; it writes inside the caller's transaction."""

    def __init__(
        self,
        connection: apsw.Connection,
        config: MemoryConfig,
        into: Namespace | None,
        clock: Callable[[], float],
        refused: list[Refusal],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.num_good = 0
        self._connection = connection
        self._config = config
        self._into = into
        self._clock = clock
        self._refused = refused
        erased = fetch(connection, "SELECT payload FROM events WHERE kind = 'erased'")
        self._erased = {json.loads(payload)["id"] for (payload,) in erased}
        self._texts: list[str] = []

    def take(self, groups: Iterable[Sequence[_Numbered]]) -> None:
        """Write what is new in some groups of lines."""
        for group in groups:
            self._take(group)
        rows.count_terms(self._connection, self._texts)
        self._texts.clear()

    def _take(self, group: Sequence[_Numbered]) -> None:
        together = _Together({}, {}, {}, {}, {})
        for number, line in group:
            if isinstance(line, ExperienceLine | ObservationLine | CheckLine | EdgeLine):
                with self._recording(number):
                    self._gather(line, together)
        at = group[0][1].at
        self._write(together, at)
        for number, line in group:
            with self._recording(number):
                if isinstance(line, UseLine):
                    self._use(line.use, at)
                elif isinstance(line, MarkLine):
                    self._mark(line)
                elif isinstance(line, ArtefactLine):
                    self._artefact(line)

    @contextmanager
    def _recording(self, number: int) -> Iterator[None]:
        try:
            yield
            self.num_good += 1
        except BadLine as error:
            self._refused.append(Refusal(number, str(error)))

    def _gather(self, line: _Said, together: _Together) -> None:
        if isinstance(line, ExperienceLine):
            id = self._meet(line, together)
            self._report(id, line.source, line.episode, together)
        elif isinstance(line, ObservationLine):
            self._report(self._home(line.id, together), line.source, line.episode, together)
        elif isinstance(line, CheckLine):
            self._check(self._home(line.id, together), line, together)
        else:
            source, target = (self._home(end, together) for end in (line.edge.source, line.edge.target))
            edge = line.edge.model_copy(update={"source": source, "target": target})
            if source == target:
                raise BadLine("expected an edge between two experiences, got one whose ends are the same here")
            is_new = edge not in together.edges and rows.is_new_edge(self._connection, edge)
            if self._is_new("num_edges", is_new):
                together.edges[edge] = line.author

    def _meet(self, line: ExperienceLine, together: _Together) -> str:
        """The id that an experience has here; it is written later if it is new."""
        experience = line.experience
        if self._into is not None:
            experience = experience.model_copy(update={"namespace": self._into})
        id = experience.id
        if id not in together.new and self._row(id) is None:
            if {id, line.id} & self._erased:
                raise BadLine("this experience was erased here, and an import does not bring it back")
            if not experience.text.strip() or len(experience.text) > MAX_TEXT_CHARS:
                size = len(experience.text)
                raise BadLine(f"expected a text of 1 to {MAX_TEXT_CHARS} characters, got {size}, or nothing but spaces")
            together.new[id] = experience
            self.counts["num_experiences"] += 1
        if self._into is not None:
            self._connection.execute("INSERT OR IGNORE INTO homes (old, id) VALUES (?, ?)", (line.id, id))
        return id

    def _report(self, id: str, source: str, episode: str, together: _Together) -> None:
        key = (id, source, episode)
        if self._is_new("num_observations", not self._is_reported(key, together)):
            together.observations[key] = {"id": id, "source": source, "episode": episode}

    def _check(self, id: str, line: CheckLine, together: _Together) -> None:
        fields = [line.evidence.verifier, line.evidence.verdict, line.evidence.digest]
        key = (id, *fields, line.episode)
        said = {"id": id, "source": line.source, "episode": line.episode, "evidence": fields}
        sql = (
            "SELECT 1 FROM checks JOIN entries ON seq = entry WHERE id = ? AND (verifier, verdict, digest, episode)"
            " = (?, ?, ?, ?) AND voided_by IS NULL"
        )
        is_met = key in together.checks or key in together.alone
        if self._is_new("num_checks", not is_met and self._connection.execute(sql, key).get is None):
            is_reported = self._is_reported((id, line.source, line.episode), together)
            (together.checks if is_reported else together.alone)[key] = said

    def _is_reported(self, key: tuple[str, str, str], together: _Together) -> bool:
        id, source, episode = key
        if key in together.observations:
            return True
        sql = (
            "SELECT source FROM observations JOIN entries ON seq = entry WHERE (id, episode) = (?, ?)"
            " AND voided_by IS NULL"
        )
        known = {name for (name,) in fetch(self._connection, sql, (id, episode))}
        return known.issuperset(projection.names_in(source))

    def _write(self, together: _Together, at: float | None) -> None:
        observations = [*together.observations.values(), *together.checks.values()]
        edges = [[edge.source, edge.relation.value, edge.target, by] for edge, by in together.edges.items()]
        if observations or edges:
            payload = {"observations": observations, "edges": edges}
            event = append_event(self._connection, "remembered", payload, self._time(at))
            for id, experience in together.new.items():
                rows.insert(self._connection, experience, id, event.seq)
                self._texts.append(experience.text)
            projection.apply(self._connection, event, self._config)
        for said in together.alone.values():
            self._append("verified", said, at)

    def _use(self, use: Use, at: float | None) -> None:
        homes = {id: self._known_home(id) for id in (*use.shown, *use.withheld, *use.same, *use.followed)}

        def here(ids: Iterable[str]) -> list[str]:
            return list(dict.fromkeys(home for id in ids if (home := homes[id]) is not None))

        shown = here(use.shown)
        withheld = [id for id in here(use.withheld) if id not in shown]
        if not shown and not withheld:
            raise BadLine("expected a use of experiences that are stored, got none of them here; import them too")
        changed = {"shown": shown, "withheld": withheld, "same": here(use.same), "followed": here(use.followed)}
        sql = (
            "SELECT count(*) FROM uses JOIN entries ON seq = entry WHERE episode = ? AND voided_by IS NULL"
            " AND id IN (SELECT value FROM json_each(?))"
        )
        num_known = self._connection.execute(sql, (use.episode, json.dumps([*shown, *withheld]))).get
        if self._is_new("num_uses", num_known < len(shown) + len(withheld)):
            self._append("used", use.model_dump(mode="json") | changed, at)

    def _mark(self, line: MarkLine) -> None:
        id, into = self._home(line.id), ""
        if line.kind == "merged":
            into = self._home(line.into)
            row, target = self._row(id), self._row(into)
            if target in (row, *projection.merged_rows(self._connection, id)):
                raise BadLine("expected a merge into another experience, got one that is, or repeats, this one")
        sql = (
            "SELECT 1 FROM marks JOIN entries ON seq = entry WHERE (id, marks.kind, other, reason) = (?, ?, ?, ?)"
            " AND voided_by IS NULL"
        )
        is_known = self._connection.execute(sql, (id, line.kind, into, line.reason)).get is not None
        if self._is_new("num_marks", not is_known):
            payload = {"id": id, "reason": line.reason} | ({"into": into} if into else {})
            self._append(line.kind, payload, line.at)

    def _artefact(self, line: ArtefactLine) -> None:
        sql = "SELECT 1 FROM artefacts WHERE id = ?"
        if self._is_new("num_artefacts", self._connection.execute(sql, (line.artefact.id,)).get is None):
            self._append("artefact", line.artefact.model_dump(mode="json"), line.at)

    def _is_new(self, name: str, is_new: bool) -> bool:
        self.counts[name if is_new else "num_known"] += 1
        return is_new

    def _append(self, kind: str, payload: dict[str, Any], at: float | None) -> None:
        event = append_event(self._connection, kind, payload, self._time(at))
        projection.apply(self._connection, event, self._config)

    def _time(self, at: float | None) -> float:
        # A time that has not come yet would hold back the time of all that is remembered afterwards.
        now = self._clock()
        return now if at is None else min(at, now)

    def _row(self, id: str) -> int | None:
        return self._connection.execute("SELECT seq FROM entries WHERE id = ?", (id,)).get

    def _home(self, id: str, together: _Together | None = None) -> str:
        """The id here of an experience that was met. Raises BadLine where there is none."""
        home = self._known_home(id, together)
        if home is None:
            raise BadLine(f"expected an experience of an earlier line, got the unknown {id[:64]!r}")
        return home

    def _known_home(self, id: str, together: _Together | None = None) -> str | None:
        if self._into is not None:
            found = self._connection.execute("SELECT id FROM homes WHERE old = ?", (id,)).get
            return None if found is None else str(found)
        is_here = (together is not None and id in together.new) or self._row(id) is not None
        return id if is_here else None
