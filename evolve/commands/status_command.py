"""What `evomesh status` and `evomesh why` print: how everything stands, and what became of one request or task."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from evolve.cli import ExitCode
from evolve.commands.codes import Code, code_named, code_of_kind
from evolve.commands.general import OUT, print_json
from evolve.commands.replay import places_of
from evolve.commands.replaying import ReplayError
from evolve.commands.status import StatusReport, status_of
from evolve.config import load_mesh
from serving.journey import Journey, clock, journey_of

MAX_CELL_CHARS = 160


def status_command(path: Path, directories: Sequence[Path], *, as_json: bool) -> None:
    """`evomesh status`; exit code 1 where something is amiss."""
    report = asyncio.run(status_of(load_mesh(path), directories))
    if as_json:
        print_json({"ok": report.ok, **report.model_dump(mode="json")})
    else:
        _show_status(report)
    if not report.ok:
        raise SystemExit(ExitCode.FAILED)


def why_command(wanted: str, path: Path, places: Sequence[Path], *, as_json: bool) -> None:
    """`evomesh why`: of a request, a deliberation, a task, or an error code."""
    code = code_named(wanted)
    if code is not None:
        _show_code(code, as_json=as_json)
        return
    config = load_mesh(path)
    looked = places_of(config, places)
    journey = journey_of(wanted, [config.endpoint.state, *places], looked)
    if journey is None:
        listed = ", ".join(str(place) for place in dict.fromkeys([config.endpoint.state, *looked]))
        raise ReplayError(
            f"expected a request, deliberation or task that is kept in {listed}, got {wanted!r}; say where to look "
            "with --in, or give an error code such as EM-LOCKED"
        )
    if as_json:
        print_json({**journey.model_dump(mode="json"), "codes": _codes_of(journey)})
        return
    for line in _lines_of(journey):
        _say(line)


def _show_code(code: Code, *, as_json: bool) -> None:
    if as_json:
        print_json({"code": code.name, "exit": code.exit, "means": code.means, "do": code.do, "runbook": code.anchor})
        return
    for line in (code.name, f"  {code.means}", f"  {code.do}", f"  Exit code {code.exit}; more in {code.anchor}"):
        _say(line)


def _codes_of(journey: Journey) -> dict[str, str]:
    found = {trouble.kind: code_of_kind(trouble.kind) for trouble in journey.troubles}
    return {kind: code.name for kind, code in found.items() if code is not None}


def _lines_of(journey: Journey) -> Iterator[str]:
    for one in journey.happenings:
        yield f"{clock(one.at) or ' ' * 19}  {_cell(one.what)}"
    sources = dict.fromkeys(one.source for one in journey.happenings)
    yield f"From {', '.join(sources)}"
    if journey.decided:
        yield f"Decided: {_cell(journey.decided)}"
    if journey.members:
        yield "Seats"
        yield from (f"  {_cell(member)}" for member in journey.members)
    if journey.troubles:
        yield "What failed"
    for trouble in journey.troubles:
        code = code_of_kind(trouble.kind)
        step = f" of {trouble.step}" if trouble.step else ""
        where = f"{trouble.member} in {trouble.phase}{step}, round {trouble.round}"
        yield f"  {_cell(where)}: {'' if code is None else code.name + ' '}{trouble.kind}: {_cell(trouble.message)}"
    if journey.slowest:
        yield "The longest calls"
    for slow in journey.slowest:
        yield (
            f"  {slow.seconds:8.2f} s  {_cell(slow.member)} in {slow.phase}, round {slow.round}: {slow.prompt_tokens} "
            f"tokens read, {slow.output_tokens} written"
        )
    if journey.usage.num_calls:
        usage = journey.usage
        yield f"{usage.num_calls} calls, {usage.prompt_tokens:,} prompt and {usage.output_tokens:,} output tokens"
    if journey.deliberation is not None and journey.decided:
        yield f"All that was said: evomesh replay {journey.deliberation[:12]} holds it again; the trace has every word."


def _show_status(report: StatusReport) -> None:
    for line in _status_lines(report):
        _say(line)
    if report.fleet.replicas:
        table = Table("engine", "replica", "state", "pending", "running", "served", "restarts", "node")
        for one in report.fleet.replicas:
            numbers = (one.pending, one.running, one.served, one.restarts)
            state = "asleep" if one.asleep else one.state
            table.add_row(one.engine, str(one.replica), state, *map(str, numbers), one.node)
        OUT.print(table)
    if report.runs:
        table = Table("where", "kind", "state", "how far", "last step")
        for run in report.runs:
            ago = "" if run.changed_at is None else _ago(report.at - run.changed_at)
            table.add_row(*(Text(_cell(text)) for text in (run.directory, run.kind, run.state, run.detail, ago)))
        OUT.print(table)
    for trouble in report.troubles:
        _say(f"! {_cell(trouble)}")
    if report.ok:
        _say("Nothing is amiss.")


def _status_lines(report: StatusReport) -> Iterator[str]:
    record = report.fleet.record
    if record is None:
        yield "Fleet: none is up; commands start engines of their own."
    else:
        state = record.state if report.fleet.is_up else "killed"
        up_for = _ago(report.at - record.started_at.timestamp(), "")
        yield f"Fleet: {state}, process {record.pid} on {record.host}, up for {up_for}"
    door, recent = report.door, report.door.recent
    holder = "" if door.pid is None else f", process {door.pid}"
    reason = f" ({_cell(door.reason)})" if door.reason and door.state != "down" else ""
    yield f"Door: {door.state} at {door.url}{holder}{reason}"
    if recent.num_requests:
        codes = ", ".join(f"{number} x {code}" for code, number in recent.by_code)
        teams = ", ".join(f"{team} {number}" for team, number in recent.by_team)
        yield f"  last 15 minutes: {codes}; median {recent.median_s:.2f} s, slowest {recent.slowest_s:.2f} s; {teams}"
    for channel in report.channels:
        frozen = ", frozen" if channel.is_frozen else ""
        since = "" if channel.since is None else f", since {clock(channel.since)}"
        what = "nothing promoted" if channel.roster is None else f"roster {channel.roster} from {channel.source}"
        yield f"Channel {channel.name}: {_cell(channel.trouble or what)}{since}{frozen}"
    for window in report.windows:
        days = f" on {', '.join(window.days)}" if window.days else ""
        yield f"Window: {window.who} from {window.start} to {window.end}{days}"
    for disk in report.disks:
        yield f"Disk of {disk.path}: {disk.free_bytes / 2**30:,.0f} of {disk.total_bytes / 2**30:,.0f} GiB free"


def _ago(seconds: float, suffix: str = " ago") -> str:
    whole = max(0, round(seconds))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if whole >= 2 * size:
            return f"{whole // size} {unit}{suffix}"
    return f"{whole} s{suffix}"


def _cell(text: str) -> str:
    line = "".join(character if character.isprintable() else "·" for character in " ".join(text.split()))
    return line if len(line) <= MAX_CELL_CHARS else f"{line[:MAX_CELL_CHARS]}..."


def _say(line: str) -> None:
    OUT.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
