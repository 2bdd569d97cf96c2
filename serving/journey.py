"""The life of one request or task, put together from what was kept: request log, batch journals, traces, outcomes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field

from memory.ledger import Ledger, LedgerError
from memory.types import Record
from mesh.types import Deliberation, Exchange, Usage
from serving.batch_journal import JOURNAL, Note
from serving.endpoint.requestlog import REQUESTS, RequestLine
from serving.kept_traces import COMPLETION, KeptTrace, find_traces
from serving.outcomes import OUTCOMES, LateOutcome

_SHORTEST = 4


class Happening(Record):
    """One thing that is known to have happened; in the order in which it did."""

    at: float | None = Field(default=None, description="seconds since 1970; null: only its place in the order is known")
    what: str
    source: str = Field(description="file it stands in")


class Trouble(Record):
    """A call that gave nothing."""

    member: str
    phase: str
    round: int
    step: str = Field(default="", description="place in the pattern, e.g. 'draft/check'; empty: the whole")
    kind: str = Field(description="exception class name")
    message: str


class Slow(Record):
    """A call and how long it took."""

    member: str
    phase: str
    round: int
    seconds: float
    prompt_tokens: int
    output_tokens: int


class Journey(Record):
    """What became of a request or task."""

    wanted: str
    happenings: tuple[Happening, ...]
    deliberation: str | None = Field(default=None, description="id; null: there was none, or it is kept no more")
    task: str | None = None
    decided: str = Field(default="", description="how the verdict came about, in words; empty: no trace of it")
    members: tuple[str, ...] = Field(default=(), description="who was seated, with engine and adapter")
    troubles: tuple[Trouble, ...] = ()
    slowest: tuple[Slow, ...] = Field(default=(), description="the longest calls, longest first")
    usage: Usage = Usage()


def journey_of(wanted: str, states: Sequence[Path], places: Sequence[Path], *, num_slowest: int = 5) -> Journey | None:
    """What is known of the request, deliberation or task `wanted`; None: nothing.

    `states` are directories of doors (request log, outcomes), `places` where traces are looked for, as `find_traces`
    takes them. An id may be shortened to its first characters, 4 or more; a task's may not.
    """
    wanted = wanted.removeprefix(COMPLETION)
    lines = [found for state in states for found in requests_like(state, wanted)]
    ids = [wanted, *(line.deliberation for line, _ in lines if line.deliberation is not None)]
    traces = {
        (one.trace.id, str(one.source)): one
        for identity in dict.fromkeys(ids)
        for one in find_traces([*states, *places], identity)
    }
    found = list(traces.values())
    if not lines and not found:
        return None
    happenings = [
        *(one for line, path in lines for one in _of_request(line, path)),
        *(one for trace in found for one in _of_trace(trace, [line for line, _ in lines])),
        *(one for trace in found for one in _of_batch(trace)),
        *(one for state in (*states, *(trace.source.parent for trace in found)) for one in _of_outcomes(state, found)),
    ]
    told = dict.fromkeys(sorted(happenings, key=lambda one: (one.at is None, one.at or 0.0)))
    first = found[0].trace if found else None
    return Journey(
        wanted=wanted,
        happenings=tuple(told),
        deliberation=first.id if first is not None else next((one.deliberation for one, _ in lines), None),
        task=None if first is None else first.task.id,
        decided="" if first is None else _decided(first),
        members=() if first is None else tuple(_seats(first)),
        troubles=() if first is None else tuple(_troubles(first)),
        slowest=() if first is None else tuple(_slowest(first, num_slowest)),
        usage=Usage() if first is None else first.usage,
    )


def requests_like(state: Path, wanted: str) -> Iterator[tuple[RequestLine, Path]]:
    """Lines of a door's request logs, set-aside ones too, whose id or deliberation begins with `wanted`.

    Read line by line and not verified: a log of a day is long, and a torn line must not hide the others.
    """
    if len(wanted) < _SHORTEST:
        return
    needle = json.dumps(wanted)[1:-1].encode()
    stem = REQUESTS.removesuffix(".jsonl")
    for path in sorted(state.glob(f"{stem}*.jsonl")):
        with path.open("rb") as file:
            for raw in file:
                line = request_in(raw) if needle in raw else None
                if line is not None and _names(line, wanted):
                    yield line, path


def request_in(raw: bytes) -> RequestLine | None:
    """The request in one line of the log; None: it is torn, or something else."""
    try:
        entry = json.loads(raw)
        return RequestLine.model_validate(entry["payload"]) if entry["kind"] == "request" else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _names(line: RequestLine, wanted: str) -> bool:
    return line.id.startswith(wanted) or (line.deliberation or "").startswith(wanted)


def _of_request(line: RequestLine, path: Path) -> Iterator[Happening]:
    who = f"key {line.key_id} of team {line.team}" if line.key_id else f"team {line.team}, without a key"
    model = f" for {line.model}" if line.model else ""
    yield Happening(at=line.started_at, what=f"request {line.id} came in{model}, {who}", source=str(path))
    if line.joined:
        yield Happening(at=line.started_at, what="it joined a request under the same idempotency key", source=str(path))
    seconds = line.ended_at - line.started_at
    error = f", refused with {line.error}" if line.error else ""
    what = {499: "the client left"}.get(line.code, f"answered {line.code}{error}")
    spent = f", {line.tokens:,} tokens" if line.tokens else ""
    roster = f", roster {line.roster}" if line.roster else ""
    yield Happening(at=line.ended_at, what=f"{what} after {seconds:.2f} s{spent}{roster}", source=str(path))


def _of_trace(found: KeptTrace, requests: Sequence[RequestLine]) -> Iterator[Happening]:
    trace, source = found.trace, str(found.source)
    at = None if found.kept is None else _began(trace.id, found.kept.created, requests)
    task = f"{trace.task.id} ({trace.task.type})"
    yield Happening(
        at=at,
        what=f"deliberation {trace.id} of task {task}, {trace.protocol}, seed {trace.seed}",
        source=source,
    )
    asked = sum(len(part.questions) for _, part in trace.walk())
    if asked:
        answered = sum(len(part.replies) for _, part in trace.walk())
        yield Happening(what=f"a person was asked {asked} times and answered {answered}", source=source)
    if found.kept is not None and at is not None:
        yield Happening(
            at=at + found.kept.seconds, what=f"it was decided after {found.kept.seconds:.2f} s", source=source
        )


def _began(deliberation: str, created: int, requests: Sequence[RequestLine]) -> float:
    """When a deliberation began; the door keeps whole seconds, and what it did came after the request."""
    near = [line.started_at for line in requests if line.deliberation == deliberation and not line.joined]
    return max([float(created), *(at for at in near if created <= at < created + 1)])


def _of_batch(found: KeptTrace) -> Iterator[Happening]:
    """What the journal beside a trace says of its task, which it knows by the digest of the trace."""
    directory = found.source.parent.parent if found.source.suffix == ".json" else found.source.parent
    path = directory / JOURNAL
    if not path.is_file():
        return
    digest = hashlib.sha256(found.trace.model_dump_json().encode()).hexdigest()
    try:
        entries = Ledger(path, readonly=True).entries()
    except LedgerError as error:
        yield Happening(what=f"the journal is damaged: {error}", source=str(path))
        return
    starts = sum(entry.kind == "start" for entry in entries)
    if not starts:
        return
    often = "once" if starts == 1 else f"{starts} times"
    yield Happening(what=f"it belongs to a batch that was started {often}", source=str(path))
    for entry in entries:
        if entry.kind in ("finished", "waiting") and entry.payload.get("digest") == digest:
            note = Note.model_validate(entry.payload)
            cheaper = f", {note.rung} steps cheaper than configured: {note.reason}" if note.rung else ""
            roster = f", roster {note.roster}" if note.roster else ""
            done = "finished" if entry.kind == "finished" else "left waiting for a person"
            what = f"{done} as task {note.index + 1} of the file, in {note.seconds:.2f} s{roster}{cheaper}"
            yield Happening(what=what, source=str(path))


def _of_outcomes(directory: Path, found: Sequence[KeptTrace]) -> Iterator[Happening]:
    path = directory / OUTCOMES
    verdicts = {one.trace.id: one.trace.verdict.answer for one in found}
    if not path.is_file() or not verdicts:
        return
    for raw in path.read_bytes().splitlines():
        try:
            outcome = LateOutcome.model_validate(json.loads(raw)["payload"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if outcome.deliberation in verdicts:
            judged = outcome.outcome
            whose = "its answer" if judged.answer == verdicts[outcome.deliberation] else "another answer in it"
            right = "right" if judged.correct else "wrong"
            right = "beyond judging" if judged.evidence.verdict == "unknown" else right
            yield Happening(what=f"{whose} was reported {right} by {judged.evidence.verifier}", source=str(path))


def _decided(trace: Deliberation) -> str:
    verdict = trace.verdict
    sure = "calibrated confidence" if verdict.calibrated else "share"
    shape = "" if verdict.diagnosis is None else f", {verdict.diagnosis.shape}"
    what = "no answer" if verdict.answer is None else "an answer"
    changed = len(trace.mind_changes)
    minds = f", {changed} {'mind' if changed == 1 else 'minds'} changed" if changed else ""
    return f"{what} by {verdict.method}, {sure} {verdict.confidence:.2f}{shape}{minds}"


def _seats(trace: Deliberation) -> Iterator[str]:
    for member in trace.members:
        adapter = "base model" if member.adapter is None else f"adapter {member.adapter[:12]}"
        works = "".join(f", {work} with adapter {one[:12]}" for work, one in member.phase_adapters)
        yield f"{member.name} on {member.engine}, {adapter}{works}"


def _troubles(trace: Deliberation) -> Iterator[Trouble]:
    for path, part in trace.walk():
        for one in part.failures:
            yield Trouble(
                member=one.member, phase=one.phase, round=one.round, step=path, kind=one.kind, message=one.message
            )


def _slowest(trace: Deliberation, number: int) -> list[Slow]:
    calls: list[Exchange] = [exchange for _, part in trace.walk() for exchange in part.exchanges]
    longest = sorted(calls, key=lambda one: -one.usage.seconds)[:number]
    return [
        Slow(
            member=one.member, phase=one.phase, round=one.round, seconds=one.usage.seconds,
            prompt_tokens=one.usage.prompt_tokens, output_tokens=one.usage.output_tokens,
        )
        for one in longest
    ]  # fmt: skip


def clock(at: float | None) -> str:
    """A time as people read it, in UTC; '' for None."""
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
