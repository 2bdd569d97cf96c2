"""How everything of a configuration stands: fleet, door, channels, runs and disks; looks only, changes nothing."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

from pydantic import Field, ValidationError

from evolve.commands.fleet import FleetView, view_fleet
from evolve.config import MeshConfig
from evolve.lineage import Lineage, LineageError
from evolve.run_files import CONFIG, GENERATIONS, REPORT_DATA
from evolve.stopped import why_stopped
from memory.ledger import LOCK_NAME, LedgerError
from memory.types import Record
from serving.batch_journal import ERRORS, JOURNAL, PARTS
from serving.batch_types import BatchSummary
from serving.channels import Channel, ChannelError, list_channels
from serving.config import FleetConfig, TimeWindow
from serving.endpoint.config import EndpointConfig
from serving.endpoint.requestlog import REQUESTS, RequestLine
from serving.fleet_record import FleetError
from serving.journey import request_in
from serving.processes import mark_of

RECENT_S = 900.0
_TAIL_BYTES = 4 * 2**20
_LOW_DISK = 5 * 2**30
_DIRECT = build_opener(ProxyHandler({}))

Work = Literal["finished", "running", "stopped", "damaged"]


class Recent(Record):
    """Requests of the last quarter of an hour, by the door's log."""

    num_requests: int = 0
    by_code: tuple[tuple[str, int], ...] = Field(default=(), description="(HTTP status, requests), most first")
    by_team: tuple[tuple[str, int], ...] = ()
    median_s: float | None = Field(default=None, description="seconds a request took; null: there was none")
    slowest_s: float | None = None
    last_at: float | None = Field(default=None, description="end of the last request, seconds since 1970")


class DoorStatus(Record):
    """The door of the configuration's address."""

    url: str
    state: Literal["ready", "not ready", "down"]
    reason: str = ""
    pid: int | None = Field(default=None, description="process that holds its state; null: none")
    recent: Recent = Recent()


class ChannelStatus(Record):
    """One channel."""

    name: str
    roster: str | None = Field(default=None, description="id of what is in force; null: nothing was promoted yet")
    source: str = ""
    num_seats: int = 0
    since: float | None = Field(default=None, description="last change, seconds since 1970")
    is_frozen: bool = False
    trouble: str = ""


class RunStatus(Record):
    """One evolution run or batch."""

    directory: str
    kind: Literal["run", "batch"]
    state: Work
    detail: str = ""
    pid: int | None = None
    changed_at: float | None = Field(default=None, description="last step, seconds since 1970")


class DiskStatus(Record):
    """Room where something is written."""

    path: str
    free_bytes: int
    total_bytes: int


class StatusReport(Record):
    """Everything, and what of it is not as it should be."""

    at: float
    fleet: FleetView
    door: DoorStatus
    channels: tuple[ChannelStatus, ...] = ()
    runs: tuple[RunStatus, ...] = ()
    windows: tuple[TimeWindow, ...] = ()
    disks: tuple[DiskStatus, ...] = ()
    troubles: tuple[str, ...] = Field(default=(), description="what somebody should look at; empty: nothing")

    @property
    def ok(self) -> bool:
        """Nothing is amiss. What is simply not started is not amiss."""
        return not self.troubles


async def status_of(config: MeshConfig, directories: Sequence[Path] = ()) -> StatusReport:
    """Look at all that `config` names; `directories` hold further runs and batches. Takes seconds with a fleet up."""
    fleet = await _fleet_view(config.serving.fleet)
    door = door_status(config.endpoint)
    channels = tuple(channel_statuses(config.serving.channels))
    runs = tuple(run_statuses(dict.fromkeys([config.run_dir, config.run_dir.parent, *directories])))
    disks = tuple(_disks([config.run_dir, config.endpoint.state, config.serving.model_store, config.serving.channels]))
    troubles = (*_of_fleet(fleet), *_of_door(door), *_of_channels(channels), *_of_runs(runs), *_of_disks(disks))
    return StatusReport(
        at=time.time(), fleet=fleet, door=door, channels=channels, runs=runs, windows=config.serving.fleet.windows,
        disks=disks, troubles=troubles,
    )  # fmt: skip


async def _fleet_view(config: FleetConfig) -> FleetView:
    """A fleet whose record cannot be read must not hide how the rest stands."""
    try:
        return await view_fleet(config)
    except (FleetError, OSError) as error:
        return FleetView(is_up=False, trouble=str(error))


def door_status(config: EndpointConfig, *, timeout_s: float = 2.0) -> DoorStatus:
    """Asks the door at its configured address, on this machine; a port given on the command line is missed."""
    host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host  # noqa: S104  it is compared, not bound
    url = f"http://[{host}]:{config.port}" if ":" in host else f"http://{host}:{config.port}"
    pid = holder_of(config.state / LOCK_NAME)
    recent = recent_requests(config.state / REQUESTS, time.time() - RECENT_S)
    try:
        with _DIRECT.open(f"{url}/readyz", timeout=timeout_s) as answer:
            answer.read(4096)
        return DoorStatus(url=url, state="ready", pid=pid, recent=recent)
    except HTTPError as error:
        reason = _reason(error.read(4096)) or f"HTTP {error.code}"
        return DoorStatus(url=url, state="not ready", reason=reason, pid=pid, recent=recent)
    except (URLError, OSError, ValueError) as error:
        reason = str(error.reason) if isinstance(error, URLError) else str(error)
        return DoorStatus(url=url, state="down", reason=reason, pid=pid, recent=recent)


def recent_requests(path: Path, since: float) -> Recent:
    """What the end of a request log says of the time `since`, in seconds since 1970."""
    lines = [line for line in _tail(path) if line.ended_at >= since]
    if not lines:
        return Recent()
    seconds = sorted(line.ended_at - line.started_at for line in lines)
    return Recent(
        num_requests=len(lines),
        by_code=tuple(Counter(str(line.code) for line in lines).most_common()),
        by_team=tuple(Counter(line.team for line in lines).most_common(20)),
        median_s=seconds[len(seconds) // 2],
        slowest_s=seconds[-1],
        last_at=max(line.ended_at for line in lines),
    )


def channel_statuses(root: Path) -> Iterator[ChannelStatus]:
    """Every channel in a directory; one that is damaged says so."""
    for name in list_channels(root):
        channel = Channel(root, name)
        try:
            current, history = channel.current(), channel.history()
        except (ChannelError, LedgerError, OSError) as error:
            yield ChannelStatus(name=name, trouble=str(error))
            continue
        roster = current.roster
        yield ChannelStatus(
            name=name,
            roster=current.standing.roster,
            source="" if roster is None else roster.source,
            num_seats=0 if roster is None else len(roster.seats),
            since=history[-1].at if history else None,
            is_frozen=current.standing.is_frozen,
        )


def run_statuses(directories: Sequence[Path] | dict[Path, None]) -> Iterator[RunStatus]:
    """Every run and batch in these directories and one level below; one that cannot be read says so."""
    roots = [path for path in directories if path.is_dir()]
    below = [child for root in roots for child in sorted(root.iterdir()) if child.is_dir()]
    for path in dict.fromkeys([*roots, *below]):
        kind = _kind_of(path)
        if kind is None:
            continue
        try:
            yield _run_status(path) if kind == "run" else _batch_status(path)
        except OSError as error:
            yield RunStatus(directory=str(path), kind=kind, state="damaged", detail=str(error))


def _kind_of(path: Path) -> Literal["run", "batch"] | None:
    if not (path / JOURNAL).is_file():
        return None
    if (path / CONFIG).is_file():
        return "run"
    return "batch" if (path / PARTS).is_dir() or (path / ERRORS).is_file() else None


def holder_of(lock: Path) -> int | None:
    """Process that holds a lock of `exclusive_lock`; None: nobody does. The lock is not touched."""
    try:
        text, inode = lock.read_text().strip(), lock.stat().st_ino
    except (OSError, UnicodeDecodeError):
        return None
    if not text.isdigit() or mark_of(int(text)) is None:
        return None
    try:
        held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return int(text)
    # A process can outlive its lock, and its number be taken by another; the kernel knows which inode is locked.
    return int(text) if any(fields[-3].rpartition(":")[2] == str(inode) for fields in held) else None


def _run_status(path: Path) -> RunStatus:
    pid = holder_of(path / "driver")
    changed = (path / JOURNAL).stat().st_mtime
    try:
        latest = Lineage(path / GENERATIONS, readonly=True).latest()
        number = "no generation yet" if latest is None else f"generation {latest.number}"
    except FileNotFoundError:
        number = "no generation yet"
    except (LedgerError, LineageError, ValidationError) as error:
        return RunStatus(directory=str(path), kind="run", state="damaged", detail=str(error), changed_at=changed)
    state: Work = "finished" if (path / REPORT_DATA).is_file() else "stopped" if pid is None else "running"
    partial = sorted(path.glob("*/*.partial.jsonl"))
    doing = f", in {partial[-1].parent.name}/{partial[-1].name.partition('.')[0]}" if partial else ""
    why = why_stopped(path) if state == "stopped" else ""
    detail = f"{number}, {_num_lines(path / JOURNAL)} steps{doing}{f'; {why}' if why else ''}"
    return RunStatus(directory=str(path), kind="run", state=state, detail=detail, pid=pid, changed_at=changed)


def _batch_status(path: Path) -> RunStatus:
    pid = holder_of(path / LOCK_NAME)
    changed = (path / JOURNAL).stat().st_mtime
    kinds: Counter[str] = Counter()
    summary: BatchSummary | None = None
    for raw in (path / JOURNAL).read_bytes().splitlines():
        try:
            entry = json.loads(raw)
            kinds[str(entry["kind"])] += 1
            if entry["kind"] == "complete":
                summary = BatchSummary.model_validate(entry["payload"]["summary"])
        except (ValueError, KeyError, TypeError, RecursionError):
            kinds["unreadable"] += 1
    if kinds["unreadable"] > 1:
        detail = f"{kinds['unreadable']} lines of the journal cannot be read"
        return RunStatus(directory=str(path), kind="batch", state="damaged", detail=detail, changed_at=changed)
    if summary is not None:
        detail = f"{summary.num_answered} of {summary.num_tasks} tasks answered"
        return RunStatus(directory=str(path), kind="batch", state="finished", detail=detail, changed_at=changed)
    waiting = f", {kinds['waiting']} waited for a person" if kinds["waiting"] else ""
    detail = f"{kinds['finished']} tasks done{waiting}"
    state: Work = "stopped" if pid is None else "running"
    return RunStatus(directory=str(path), kind="batch", state=state, detail=detail, pid=pid, changed_at=changed)


def _tail(path: Path) -> Iterator[RequestLine]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return
    yield from (line for raw in lines if (line := request_in(raw)) is not None)


def _num_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["reason"])
    except (ValueError, KeyError, TypeError):
        return ""


def _disks(paths: Sequence[Path]) -> Iterator[DiskStatus]:
    """Each file system once, by the first path that lies on it."""
    seen = set()
    for path in paths:
        there = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
        device = there.stat().st_dev
        if device not in seen:
            seen.add(device)
            usage = shutil.disk_usage(there)
            yield DiskStatus(path=str(path), free_bytes=usage.free, total_bytes=usage.total)


def _of_fleet(fleet: FleetView) -> Iterator[str]:
    if fleet.trouble:
        yield f"fleet: {fleet.trouble}"
    if fleet.record is not None and not fleet.is_up:
        yield f"fleet: process {fleet.record.pid} was killed; `evomesh fleet down` or the next `fleet up` cleans up"
    for one in fleet.replicas:
        which, reason = f"replica {one.replica} of engine {one.engine}", f": {one.trouble}" if one.trouble else ""
        if one.state != "up":
            yield f"{which} is {one.state}{reason}"
        elif reason:
            yield f"{which}{reason}"


def _of_door(door: DoorStatus) -> Iterator[str]:
    if door.state == "not ready":
        yield f"door: not ready: {door.reason}"
    elif door.state == "down" and door.pid is not None:
        yield f"door: process {door.pid} holds its state and does not answer at {door.url} ({door.reason})"
    failed = sum(number for code, number in door.recent.by_code if code.startswith("5"))
    if failed:
        yield f"door: {failed} of {door.recent.num_requests} requests of the last 15 minutes ended in a server error"


def _of_channels(channels: Sequence[ChannelStatus]) -> Iterator[str]:
    yield from (f"channel {one.name}: {one.trouble}" for one in channels if one.trouble)


def _of_runs(runs: Sequence[RunStatus]) -> Iterator[str]:
    yield from (f"{one.kind} {one.directory}: {one.detail}" for one in runs if one.state == "damaged")


def _of_disks(disks: Sequence[DiskStatus]) -> Iterator[str]:
    for disk in disks:
        if disk.free_bytes < _LOW_DISK:
            yield f"disk of {disk.path}: {disk.free_bytes / 2**30:.1f} GiB free"
