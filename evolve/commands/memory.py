"""What the `memory` commands do: look at what a run or a directory remembers, beside a writer, and take things back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import typer
from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from evolve.cli import ExitCode
from evolve.commands.general import OUT, print_json
from evolve.config import ConfigError, load_config
from evolve.run_files import CONFIG
from memory.config import MemoryConfig
from memory.database import FILE_NAME, StoreError, connect
from memory.embed import Embedder, EmbedderError, HashedNgramEmbedder, MiniLmEmbedder, Vectors, embedder_named
from memory.exchange import export_to, import_from
from memory.health import Finding, examine
from memory.ledger import publish_bytes
from memory.preview import Change, rollback_preview
from memory.store import EVERYWHERE, Memory
from memory.story import as_text, readable, story
from memory.types import Evidence, Namespace, Standing, content_hash
from memory.vectors import StoredEmbedder, active_embedder

FENCE = "  | "
"""Stands before every line that a model or a user wrote, so that none of them can pass for one of ours."""

MAX_SHOWN = 20

Chosen = Literal["minilm", "hashed"]


class Place(NamedTuple):
    """Where a memory lies, by which rules it believes, and where it looks when nobody says."""

    directory: Path
    config: MemoryConfig | None
    scope: Sequence[str] | str
    embedder: Chosen | None


def located(where: Path, embedder: str | None = None, *, may_make: bool = False) -> Place:
    """The memory of the run in `where`, or `where` itself; `may_make`: also a directory that is missing or empty.

    Raises FileNotFoundError for neither, ConfigError for an embedder or a configuration that cannot be.
    """
    chosen = _chosen(embedder)
    if (where / CONFIG).is_file():
        config = load_config(where / CONFIG)
        directory = config.memory.directory or where / "memory"
        return Place(directory, config.memory, config.memory.scope(config.name), chosen or config.memory.embedder)
    if (where / FILE_NAME).is_file() or (may_make and not (where.is_dir() and any(where.iterdir()))):
        return Place(where, None, EVERYWHERE, chosen)
    raise FileNotFoundError(
        f"{where}: expected the directory of a run (with {CONFIG}) or of a memory (with {FILE_NAME}), found neither"
    )


def brief_command(where: Path, tokens: int, namespaces: Sequence[str], embedder: str | None, *, as_json: bool) -> None:
    """`evomesh memory brief`."""
    place = located(where, embedder)
    with _reading(place) as memory, _asked():
        text = memory.brief(tokens, list(namespaces) or place.scope)
    if as_json:
        print_json({"brief": text})
    else:
        OUT.print(text, markup=False, highlight=False)


def search_command(
    where: Path, text: str, limit: int, namespaces: Sequence[str], embedder: str | None, *, as_json: bool
) -> None:
    """`evomesh memory search`."""
    place = located(where, embedder)
    with _reading(place, embeds=True) as memory, _asked():
        found = memory.search(text, list(namespaces) or EVERYWHERE, limit)
    if as_json:
        print_json([recollection.model_dump(mode="json") for recollection in found])
        return
    if not found:
        _say("nothing found")
    for one in found:
        _say(f"{one.experience_id[:12]}  {one.score:.3f}  {one.kind.value}, {one.task_type or 'no type'}: {one.why}")
        _fenced(one.text)


def show_command(
    where: Path, beginning: str, svg: Path | None, html: Path | None, nodes: int, *, as_json: bool
) -> None:
    """`evomesh memory show`."""
    from evolve.report.story_page import story_page
    from evolve.report.story_picture import story_svg

    with _reading(located(where)) as memory, _asked():
        id = _found(memory, beginning)
        told = story(memory, id, nodes)
        said = memory.observations_of(id)
    if svg is not None:
        publish_bytes(svg, story_svg(told, alone=True).encode("utf-8", "backslashreplace"))
    if html is not None:
        publish_bytes(html, story_page(told).encode("utf-8", "backslashreplace"))
    if as_json:
        print_json(told)
        return
    experience = told.nodes[0].experience
    _say(f"{experience.kind.value} {id}")
    _say(
        f"in {experience.namespace}, {readable(experience.task_type) or 'no type'}, {_standing(told.nodes[0].standing)}"
    )
    for one in said[:MAX_SHOWN]:
        _say(f"reported by {readable(one.source) or 'nobody known'} in {readable(one.episode) or 'no episode'}")
    if len(said) > MAX_SHOWN:
        _say(f"and {len(said) - MAX_SHOWN} more reports")
    _fenced(experience.text)
    _say("")
    _say(as_text(told))
    for path in (svg, html):
        if path is not None:
            _say(f"Written to {path}")


def verify_command(
    where: Path, beginning: str, verdict: str, by: str, note: str, episode: str, *, as_json: bool
) -> None:
    """`evomesh memory verify`: what a person found, kept as evidence under their name."""
    if verdict not in ("passed", "failed"):
        raise ConfigError(f"--verdict: expected passed or failed, got {verdict!r}")
    if not by.strip() or "," in by:
        raise ConfigError(f"--by: expected one name, got {by!r}")
    name = f"person:{by.strip()}"
    evidence = Evidence.model_validate({"verifier": name, "verdict": verdict, "digest": content_hash(note)})
    with _writing(located(where)) as memory:
        id = _found(memory, beginning)
        standing = memory.verify(id, evidence, source=name, episode=episode)
    _stands(id, standing, as_json=as_json)


def mark_command(kind: str, where: Path, beginning: str, reason: str, *, as_json: bool) -> None:
    """`evomesh memory retire` and `evomesh memory restore`."""
    with _writing(located(where)) as memory:
        id = _found(memory, beginning)
        (memory.retire if kind == "retire" else memory.restore)(id, reason)
        standing = memory.standing(id)
    assert standing is not None
    _stands(id, standing, as_json=as_json)


def rollback_command(
    where: Path, source: str | None, since: str | None, reason: str, *, yes: bool, as_json: bool
) -> None:
    """`evomesh memory rollback`: shows what would change, asks, and does it."""
    if (source is None) == (since is None) or source == "":
        raise ConfigError("expected either --source NAME or --since EVENT_OR_TIME; give one of them")
    with _writing(located(where)) as memory:
        event = None if since is None else _event_since(memory, since)
        changes = rollback_preview(memory, source=source, since=event)
        if not as_json:
            _tell_changes(changes, f"source {source!r}" if event is None else f"event {event}")
        done = yes or (not as_json and bool(changes) and typer.confirm("Roll back?"))
        if done:
            memory.rollback(source=source, since=event, reason=reason)
    if as_json:
        print_json({"done": done, "since": event, "source": source, "changes": [_change(one) for one in changes]})
    else:
        _say("Rolled back." if done else "Nothing was changed.")


def erase_command(where: Path, beginning: str, *, yes: bool, as_json: bool) -> None:
    """`evomesh memory erase`: removes one experience for good, and says what was made from it."""
    with _writing(located(where)) as memory:
        id = _found(memory, beginning)
        experience = memory.get(id)
        assert experience is not None
        if not as_json:
            _say(f"{experience.kind.value} {id} in {experience.namespace}")
            _fenced(experience.text)
        done = yes or (not as_json and typer.confirm("Erase it for good? This cannot be taken back."))
        erased = memory.erase(id) if done else None
    if as_json:
        print_json({"done": done, "erasure": None if erased is None else erased.model_dump(mode="json")})
        return
    if erased is None:
        _say("Nothing was changed.")
        return
    _say("Erased: text, words, vectors and what was said of it.")
    for artefact in erased.artefacts:
        _say(f"{artefact.kind} {readable(artefact.id)} was made from it and still holds what it taught")
    if not erased.artefacts:
        _say("No dataset or adapter is known that was made from it.")
    if not erased.is_scrubbed:
        _say("A reader still holds the pages of before: close readers, then run `evomesh memory rebuild`.")


def export_command(where: Path, out: Path, namespaces: Sequence[str], *, as_json: bool) -> None:
    """`evomesh memory export`."""
    with _reading(located(where)) as memory, _asked():
        done = export_to(memory, out, list(namespaces) or None)
    if as_json:
        print_json({"lines": str(done.lines), "table": str(done.table), "num_lines": done.num_lines,
                    "num_experiences": done.num_experiences})  # fmt: skip
    else:
        _say(f"{done.num_experiences:,} experiences in {done.num_lines:,} lines: {done.lines}")
        _say(f"As a table: {done.table}")


def import_command(where: Path, path: Path, into: str | None, embedder: str | None, *, as_json: bool) -> None:
    """`evomesh memory import`."""
    with _asked():
        home = None if into is None else Namespace.parse(into)
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected an exported memory, found nothing there")
    with _writing(located(where, embedder, may_make=True)) as memory, _asked():
        done = import_from(memory, path, home)
    if as_json:
        print_json(done._asdict() | {"refused": [refusal._asdict() for refusal in done.refused]})
        return
    counts = [f"{count:,} {name.removeprefix('num_')}" for name, count in done._asdict().items() if name != "refused"]
    _say(", ".join(counts))
    for refusal in done.refused[:MAX_SHOWN]:
        _say(f"line {refusal.line} was refused: {readable(refusal.reason)}")
    if len(done.refused) > MAX_SHOWN:
        _say(f"and {len(done.refused) - MAX_SHOWN:,} more lines were refused")


def rebuild_command(where: Path, embedder: str | None, *, as_json: bool) -> None:
    """`evomesh memory rebuild`."""
    started = time.monotonic()
    with _writing(located(where, embedder)) as memory:
        memory.rebuild()
        stats = memory.stats()
    if as_json:
        print_json(stats)
    else:
        seconds = time.monotonic() - started
        _say(f"Derived anew from {stats.num_events:,} events in {seconds:.1f} s: {stats.num_experiences:,} experiences")


def doctor_command(where: Path, *, as_json: bool) -> None:
    """`evomesh memory doctor`: exit code 1 where something is broken."""
    place = located(where)
    try:
        with _reading(place) as memory:
            findings = examine(memory)
    except StoreError as error:
        advice = "restore the directory from a copy, or import an export into a new one"
        findings = [Finding(name="open", level="fail", found=str(error), advice=advice)]
    if as_json:
        print_json({"directory": str(place.directory), "findings": [one.model_dump() for one in findings]})
    else:
        table = Table("check", "level", "found", "what to do")
        for one in findings:
            table.add_row(one.name, one.level, Text(one.found), Text(one.advice))
        OUT.print(table)
    if any(one.level == "fail" for one in findings):
        raise SystemExit(ExitCode.FAILED)


def stats_command(where: Path, *, as_json: bool) -> None:
    """`evomesh memory stats`."""
    with _reading(located(where)) as memory:
        stats = memory.stats()
    if as_json:
        print_json(stats)
        return
    table = Table("what", "count")
    for name, value in stats.model_dump(mode="json").items():
        table.add_row(name, Text(str(value)))
    OUT.print(table)


@contextmanager
def _reading(place: Place, *, embeds: bool = False) -> Iterator[Memory]:
    """The memory for reading, beside a writer; without `embeds` no weights are needed."""
    active = _active(place.directory)
    with _plain(), Memory.open(
        place.directory,
        _embedder(place, active) if embeds or active is None else _Named(active.name, active.dim),
        readonly=True,
        config=place.config,
    ) as memory:  # fmt: skip
        yield memory


@contextmanager
def _writing(place: Place) -> Iterator[Memory]:
    """The memory for writing; raises AlreadyLocked while another process writes."""
    active = None
    if (place.directory / FILE_NAME).exists():
        active = _active(place.directory)
    with _plain(), Memory.open(place.directory, _embedder(place, active), config=place.config) as memory:
        yield memory


def _active(directory: Path) -> StoredEmbedder | None:
    connection = connect(directory, readonly=True)
    try:
        return active_embedder(connection)
    finally:
        connection.close()


def _embedder(place: Place, active: StoredEmbedder | None) -> Embedder:
    """The embedder that is asked for, else the one the store works with."""
    if place.embedder is not None:
        return embedder_named(place.embedder)
    if active is None or active.name == MiniLmEmbedder.id:
        return MiniLmEmbedder()
    hashed = HashedNgramEmbedder(active.dim)
    if active.name == hashed.id:
        return hashed
    raise ConfigError(
        f"{place.directory}: expected a memory embedded by minilm or hashed, got {active.name}; "
        "give --embedder to embed it anew, or the run that works with it"
    )


class _Named:
    """Stands for an embedder where nothing is embedded."""

    def __init__(self, id: str, dim: int) -> None:
        self.id = id
        self.dim = dim

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Refuse. Raises EmbedderError."""
        raise EmbedderError(f"embedder {self.id}: expected nothing to embed, got {len(texts)} texts")


@contextmanager
def _plain() -> Iterator[None]:
    try:
        yield
    except EmbedderError as error:
        raise ConfigError(str(error)) from error


@contextmanager
def _asked() -> Iterator[None]:
    """What somebody typed is at fault for a ValueError in the block."""
    try:
        yield
    except ValidationError as error:
        raise ConfigError("; ".join(str(found["msg"]) for found in error.errors())) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _chosen(embedder: str | None) -> Chosen | None:
    if embedder is None or embedder == "minilm" or embedder == "hashed":
        return embedder  # type: ignore[return-value]
    raise ConfigError(f"--embedder: expected minilm or hashed, got {embedder!r}")


def _found(memory: Memory, beginning: str) -> str:
    """The one id that begins so. Raises ConfigError for none and for several."""
    ids = memory.find(beginning) if beginning else []
    if len(ids) == 1:
        return ids[0]
    if not ids:
        raise ConfigError(f"expected the id of an experience, or how it begins, got {beginning!r}; search for it")
    raise ConfigError(f"expected how one id begins, got {beginning!r}, which several do: {', '.join(ids)}")


def _event_since(memory: Memory, since: str) -> int:
    """Number of an event; a time, taken as local where it names no zone, means the first event from then on."""
    if since.isdigit():
        return int(since)
    try:
        moment = datetime.fromisoformat(since)
    except ValueError as error:
        raise ConfigError(
            f"--since: expected an event number or a time like 2026-01-31T12:00, got {since!r}"
        ) from error
    with memory.reading() as connection:
        event: int | None = connection.execute(
            "SELECT min(seq) FROM events WHERE created_at >= ?", (moment.timestamp(),)
        ).get
    if event is None:
        raise ConfigError(f"--since: expected a time with events after it, got {since}, after which nothing happened")
    return event


def _tell_changes(changes: Sequence[Change], what: str) -> None:
    _say(f"Without {what}, {len(changes):,} experiences would be believed differently:")
    for one in changes[:MAX_SHOWN]:
        _say(f"{one.kind.value} {one.id[:12]}: {_standing(one.before)} -> {_standing(one.after)}")
        _fenced(one.text, most=1)
    if len(changes) > MAX_SHOWN:
        _say(f"and {len(changes) - MAX_SHOWN:,} more")


def _change(one: Change) -> dict[str, Any]:
    return one._asdict() | {"before": one.before.model_dump(mode="json"), "after": one.after.model_dump(mode="json")}


def _stands(id: str, standing: Standing, *, as_json: bool) -> None:
    if as_json:
        print_json({"id": id, "standing": standing.model_dump(mode="json")})
    else:
        _say(f"{id[:12]} is {_standing(standing)}")


def _standing(standing: Standing) -> str:
    level = standing.level.value + (" as failing" if standing.warns else "")
    why = f" ({readable(standing.reason)})" if standing.reason else ""
    return f"{level}{why}, trust {standing.trust:.2f}, {standing.num_passed} passed {standing.num_failed} failed"


def _fenced(text: str, most: int = 200) -> None:
    lines = text.splitlines() or [""]
    for line in lines[:most]:
        _say(FENCE + readable(line))
    if len(lines) > most:
        _say(f"{FENCE}... and {len(lines) - most} more lines")


def _say(line: str) -> None:
    OUT.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
