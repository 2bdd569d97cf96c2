"""Where a deliberation lies: found by its id, or its task's, in what a door, a batch, a run or a command has kept."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from memory.ledger import Ledger, LedgerError
from mesh.config import ProtocolConfig
from mesh.types import Deliberation
from serving.batch_journal import JOURNAL, PARTS
from serving.endpoint.deliberations import SUFFIX, Kept, read_kept
from serving.roster import Roster
from serving.traces import ROWS_PER_GROUP, TraceError

COMPLETION = "chatcmpl-"
"""Stands before a deliberation's id in what OpenAI's clients get."""
_HEAD = 4096
"""A trace as JSON begins with its id and its task's: that much of a file tells whether it is the one."""
_SHORTEST = 4


@dataclass(frozen=True)
class KeptTrace:
    """A deliberation and what lies beside it."""

    trace: Deliberation
    source: Path
    protocol: ProtocolConfig | None = None
    """As it was held, where that was kept; None: only its kind is known."""
    roster: Roster | None = None
    """The seats that decided, with their measured weights, where that was kept."""
    kept: Kept | None = None
    """What the door kept of the request; None: it was no request."""


def find_traces(places: Sequence[Path], wanted: str) -> list[KeptTrace]:
    """Every deliberation in `places` whose id begins with `wanted` (4 characters or more), or whose task has that id.

    "" for `wanted`: all of them.

    A place is the state of a door, the output of a batch, a run, a directory of reviews, a file of traces (Parquet), of
    one trace (JSON) or of a door's deliberation; or a directory of such directories. What cannot be read is passed
    over, but for a file that is named itself: that raises TraceError.
    """
    found: dict[tuple[str, str], KeptTrace] = {}
    wanted = wanted.removeprefix(COMPLETION)
    for place in places:
        for one in _in_place(place, wanted):
            found.setdefault((one.trace.id, one.trace.task.id), one)
    return list(found.values())


def _in_place(place: Path, wanted: str) -> Iterator[KeptTrace]:
    if place.is_file():
        yield from _in_file(place, wanted)
        return
    if not place.is_dir():
        return
    roots = [place, *(path for path in sorted(place.iterdir()) if path.is_dir() and not path.name.startswith("."))]
    for path in dict.fromkeys(file for root in roots for file in _files(root)):
        try:
            yield from _in_file(path, wanted)
        except (TraceError, LedgerError):
            continue


def _files(root: Path) -> Iterator[Path]:
    """Files of one directory that may hold traces, the likeliest first."""
    yield from sorted(root.glob(f"deliberations/*/*{SUFFIX}"))
    yield from sorted(root.glob("*.parquet"))
    yield from sorted(root.glob(f"{PARTS}/*.json"))
    yield from sorted(root.glob("*/*.parquet"))
    yield from sorted(root.glob("*.partial.jsonl"))
    yield from sorted(root.glob("*/*.partial.jsonl"))
    yield from sorted(root.glob("reviews/paused-*.json"))
    yield from sorted(root.glob("paused-*.json"))


def _in_file(path: Path, wanted: str) -> Iterator[KeptTrace]:
    """Raises TraceError where the file cannot be read."""
    if path.name.endswith(SUFFIX):
        yield from _in_store(path, wanted)
    elif path.suffix == ".parquet":
        rosters = _rosters(path.parent)
        for text in _rows(path, wanted):
            yield KeptTrace(_parse(text, path), path, roster=_only(rosters))
    elif path.name.endswith(".partial.jsonl"):
        for entry in Ledger(path, readonly=True).entries():
            text = json.dumps(entry.payload.get("deliberation"), ensure_ascii=False)
            if _is_wanted(text, wanted):
                yield KeptTrace(_parse(text, path), path)
    elif path.suffix == ".json":
        text = _read(path)
        if _is_wanted(text, wanted):
            yield KeptTrace(_parse(text, path), path, roster=_only(_rosters(path.parent.parent)))


def _in_store(path: Path, wanted: str) -> Iterator[KeptTrace]:
    """A door's file is named by the id, so that only the one is opened."""
    if not _begins(path.name.removesuffix(SUFFIX), wanted):
        return
    kept = read_kept(path)
    if kept is None:
        raise TraceError(f"{path}: expected a deliberation of a door, got something else; it was damaged")
    yield KeptTrace(kept.deliberation, path, protocol=kept.protocol, kept=kept)


def _rows(path: Path, wanted: str) -> Iterator[str]:
    try:
        with pq.ParquetFile(path) as file:
            if "trace" not in file.schema_arrow.names or "id" not in file.schema_arrow.names:
                return
            for batch in file.iter_batches(batch_size=ROWS_PER_GROUP, columns=["id", "trace"]):
                pairs = zip(batch.column("id").to_pylist(), batch.column("trace").to_pylist(), strict=True)
                yield from (text for task, text in pairs if task == wanted or _is_wanted(text, wanted))
    except (pa.ArrowException, OSError) as error:
        raise TraceError(f"{path}: expected Parquet with traces, got: {error}; write it again") from error


def _is_wanted(text: str, wanted: str) -> bool:
    head = text[:_HEAD]
    identity = re.match(r'\s*\{\s*"id":\s*"([0-9a-f]+)"', head)
    if identity is not None and _begins(identity.group(1), wanted):
        return True
    task = re.search(r'"task":\s*\{\s*"id":\s*("(?:[^"\\]|\\.)*")', head)
    return task is not None and json.loads(task.group(1)) == wanted


def _begins(identity: str, wanted: str) -> bool:
    return not wanted or (len(wanted) >= _SHORTEST and identity.startswith(wanted))


def _rosters(directory: Path) -> dict[str, Roster]:
    """Seats that a batch's journal names, by id; empty where there is no journal, or an older one."""
    try:
        entries = Ledger(directory / JOURNAL, readonly=True).entries()
        found = [entry.payload for entry in entries if entry.kind == "roster"]
        return {str(payload["id"]): Roster.model_validate(payload["roster"]) for payload in found}
    except (OSError, LedgerError, ValidationError, KeyError):
        return {}


def _only(rosters: dict[str, Roster]) -> Roster | None:
    return next(iter(rosters.values())) if len(rosters) == 1 else None


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: expected a trace as JSON, got: {error}") from error


def _parse(text: str, path: Path) -> Deliberation:
    try:
        return Deliberation.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TraceError(f"{path}: expected a deliberation, got {first['msg']} ({where}); write it again") from error
