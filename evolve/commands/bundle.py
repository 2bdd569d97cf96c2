"""A support archive: how everything stands and what happened, without a word of what was asked or answered.

Nothing is copied as it lies: every member is made of fields that are known to hold no text, of phrases of this
program's own, and of counts. Each has a bound, and so has the whole.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from pydantic import Field, ValidationError

from evolve.commands.bundle_logs import REMOVED, log_lines
from evolve.commands.bundle_redact import Pseudonyms, message, plain, without_secrets
from evolve.commands.bundle_tails import batch_entry, error_line, lines_of, request_line, run_entry
from evolve.commands.codes import code_of
from evolve.commands.status import RunStatus, run_statuses, status_of
from evolve.config import MeshConfig, load_mesh
from evolve.planning.doctor import (
    DoctorReport,
    diagnose,
    installed_versions,
    list_gpus,
    memory_limit_bytes,
    usable_cores,
)
from evolve.planning.doctor_placement import check_placement
from evolve.run_files import CONFIG
from memory.ledger import Ledger, LedgerError, publish_bytes
from memory.types import Record
from serving.batch_journal import ERRORS, JOURNAL
from serving.channels import CURRENT, HISTORY, Channel, Current
from serving.config import RayConfig
from serving.endpoint.requestlog import REQUESTS
from serving.fleet_record import read_fleet, record_path

MANIFEST = "MANIFEST.json"
MAX_BYTES = 24 * 2**20
MAX_MEMBER_BYTES = 2 * 2**20
MAX_RUNS = 20
MAX_CHANNELS = 50
MAX_LOGS = 24
NUM_REQUESTS = 2_000
NUM_ENTRIES = 200
NUM_ERRORS = 200
NUM_LOG_LINES = 400

_KINDS = {"run": "runs", "batch": "batches"}
_CHECKED_BYTES = 64 * 2**20
"""Chains of larger files are not verified: it would take longer than anybody waits at 2 am."""
_FORESEEN = (OSError, ValueError, RuntimeError, LookupError, TypeError)
"""What a missing, torn or forged file raises while it is read. Anything else is a defect and may stop the command."""
_ENVIRONMENT = ("RAY_", "VLLM_", "CUDA_", "NVIDIA_", "HF_", "TRANSFORMERS_", "AWS_", "OTEL_", "NCCL_", "OMP_", "TORCH")

NEVER = (
    "questions, answers, prompts, peers' texts, traces and served deliberations",
    "memory (its texts, its index) and training data",
    "keys.json and every other secret; values of environment variables",
    "names of teams, keys and people: they are team-1, key-1, person-1 here",
    "files of tasks and labels, schemas, personas, instructions and reasons that people gave",
    "weights and adapters",
)
"""What no bundle holds."""


class Packed(Record):
    """One member of the archive."""

    name: str
    bytes: int
    source: str = Field(default="", description="file it was made from; empty: from the machine as it is")
    note: str = Field(default="", description="what of it is not in here; empty: nothing")


class Omitted(Record):
    """Something that is not in the archive, and why."""

    what: str
    why: str


class Manifest(Record):
    """What an archive holds."""

    made_at: datetime
    members: tuple[Packed, ...]
    left_out: tuple[Omitted, ...] = Field(default=(), description="there was no room, or it is not there")
    damaged: tuple[Omitted, ...] = Field(
        default=(), description="files that could not be read, or whose chain is broken"
    )
    never: tuple[str, ...] = NEVER


class _Archive:
    """Takes members one after the other until the whole is full; the last net against secrets is here."""

    def __init__(self) -> None:
        self.names = Pseudonyms()
        self.members: list[Packed] = []
        self.left_out: list[Omitted] = []
        self.damaged: list[Omitted] = []
        self._contents: list[tuple[str, bytes]] = []
        self._room = MAX_BYTES

    def add(self, name: str, content: object, source: Path | None = None, note: str = "") -> None:
        """Put a member in: JSON data, or text as it is."""
        text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        data = without_secrets(text).encode("utf-8", "backslashreplace")
        if len(data) > min(MAX_MEMBER_BYTES, self._room):
            self.left_out.append(Omitted(what=name, why=f"{len(data):,} bytes, there is no room for it"))
            return
        self._room -= len(data)
        self._contents.append((name, data))
        where = "" if source is None else without_secrets(str(source))
        self.members.append(Packed(name=name, bytes=len(data), source=where, note=note))

    def add_lines(self, name: str, lines: Iterable[object], source: Path, note: str = "") -> None:
        """Put JSON lines in."""
        self.add(name, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), source, note)

    def leave_out(self, what: str | Path, why: str) -> None:
        """Say that something is not in here."""
        self.left_out.append(Omitted(what=without_secrets(str(what)), why=why))

    def note_damage(self, what: str | Path, why: str) -> None:
        """Say that something is not as it should be."""
        self.damaged.append(Omitted(what=without_secrets(str(what)), why=why))

    @contextmanager
    def reading(self, what: str | Path) -> Iterator[None]:
        """What cannot be read is listed and goes no further."""
        try:
            yield
        except FileNotFoundError:
            self.leave_out(what, "it is not there")
        except _FORESEEN as error:
            self.note_damage(what, _told(error))

    def packed(self) -> tuple[bytes, Manifest]:
        """The archive as bytes, its manifest first."""
        manifest = Manifest(
            made_at=datetime.now(UTC), members=tuple(self.members), left_out=tuple(self.left_out),
            damaged=tuple(self.damaged),
        )  # fmt: skip
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
            for name, data in [(MANIFEST, manifest.model_dump_json(indent=2).encode()), *self._contents]:
                about = tarfile.TarInfo(f"evomesh-bundle/{name}")
                about.size, about.mode, about.mtime = len(data), 0o600, int(manifest.made_at.timestamp())
                tar.addfile(about, io.BytesIO(data))
        return buffer.getvalue(), manifest


def make_bundle(config_path: Path, out: Path, directories: Sequence[Path] = ()) -> Manifest:
    """Write the archive to `out` (readable by its owner alone) and tell what is in it.

    `directories` hold further runs, batches and states of doors. A file that is missing or damaged is listed in the
    manifest and stops nothing; only an `out` that cannot be written raises OSError.
    """
    archive = _Archive()
    _pack_machine(archive)
    config: MeshConfig | None = None
    with archive.reading(config_path):
        config = load_mesh(config_path)
        archive.add("config.json", plain(config.model_dump(mode="json"), archive.names), config_path, "texts, secrets")
    with archive.reading("doctor"):
        _pack_doctor(archive, config)
    if config is not None:
        _pack_config(archive, config, directories)
    roots = [*directories] if config is None else [config.run_dir, config.run_dir.parent, *directories]
    _pack_runs(archive, roots)
    for number, state in enumerate(
        dict.fromkeys([*([config.endpoint.state] if config else []), *directories]), start=1
    ):
        _pack_requests(archive, "door" if number == 1 and config else f"door-{number}", state, expected=number == 1)
    _pack_logs(archive, RayConfig() if config is None else config.serving.ray)
    data, manifest = archive.packed()
    publish_bytes(out, data)
    out.chmod(0o600)
    return manifest


def _pack_machine(archive: _Archive) -> None:
    """Versions, cores, memory, GPUs and which variables are set; looks at nothing that anybody wrote."""
    archive.add("versions.json", {"python": sys.version, "packages": dict(sorted(installed_versions().items()))})
    memory = psutil.virtual_memory()
    machine = {
        "at": datetime.now(UTC).isoformat(),
        "kernel": " ".join(os.uname()[0:4:2]),
        "cores": usable_cores(),
        "load": os.getloadavg(),
        "memory_bytes": {"total": memory.total, "available": memory.available, "limit": memory_limit_bytes()},
        "swap_bytes": {"total": psutil.swap_memory().total, "used": psutil.swap_memory().used},
        "shared_memory_bytes": _room("/dev/shm"),  # noqa: S108  its size is read
        "up_since": datetime.fromtimestamp(psutil.boot_time(), UTC).isoformat(),
        "gpus": list_gpus(),
        "variables_set": sorted(name for name in os.environ if name.startswith(_ENVIRONMENT)),
    }
    archive.add("machine.json", machine, None, "values of variables")


def _pack_doctor(archive: _Archive, config: MeshConfig | None) -> None:
    found = diagnose() if config is None else diagnose(config.serving.model_store)
    placed = () if config is None else check_placement(config.serving)
    report = DoctorReport(findings=(*found.findings, *placed))
    archive.add("doctor.json", {"ok": report.ok, **plain(report.model_dump(mode="json"), archive.names)})


def _pack_config(archive: _Archive, config: MeshConfig, directories: Sequence[Path]) -> None:
    with archive.reading("status"):
        report = asyncio.run(status_of(config, directories))
        data = plain(report.model_dump(mode="json"), archive.names)
        data["door"]["recent"]["by_team"] = [
            [archive.names.of("team", team), number] for team, number in report.door.recent.by_team
        ]
        data["door"]["reason"] = message(report.door.reason)
        for run, status in zip(data["runs"], report.runs, strict=True):
            run["detail"] = message(status.detail) if status.state == "damaged" else status.detail
        archive.add("status.json", data, None, "what messages quote")
    fleet = record_path(config.serving.fleet)
    with archive.reading(fleet):
        record = read_fleet(config.serving.fleet)
        if record is None:
            archive.leave_out(fleet, "no fleet is up")
        else:
            archive.add("fleet.json", plain(record.model_dump(mode="json"), archive.names), fleet, "texts, secrets")
    _pack_channels(archive, config.serving.channels)
    disks = {str(path): _room(path) for path in (config.run_dir, config.endpoint.state, config.serving.model_store)}
    archive.add("disks.json", {"bytes": disks})


def _pack_channels(archive: _Archive, root: Path) -> None:
    histories = sorted(root.glob(f"*/{HISTORY}"))
    for path in histories[:MAX_CHANNELS]:
        name = path.parent.name
        with archive.reading(path):
            changes = Channel(root, name).history()[-NUM_ENTRIES:]
            told = [
                {**plain(one.model_dump(mode="json"), archive.names), "by": archive.names.of("person", one.by)}
                for one in changes
            ]
            archive.add_lines(f"channels/{name}.jsonl", told, path, "reasons and names")
        with archive.reading(path.with_name(CURRENT)):
            current = Channel(root, name).current()
            archive.add(f"channels/{name}.current.json", _seating(current, archive), path.with_name(CURRENT))
    for path in histories[MAX_CHANNELS:]:
        archive.leave_out(path, f"more than {MAX_CHANNELS} channels")


def _seating(current: Current, archive: _Archive) -> dict[str, Any]:
    """Who sits in a channel; not what was measured of them, which is by the teams' kinds of tasks."""
    roster = current.roster
    seats = [] if roster is None else [plain(one.model_dump(mode="json"), archive.names) for one in roster.everyone]
    return {"standing": plain(current.standing.model_dump(mode="json"), archive.names), "seats": seats}


def _pack_runs(archive: _Archive, roots: Sequence[Path]) -> None:
    found: list[RunStatus] = []
    for root in dict.fromkeys(roots):
        with archive.reading(root):
            found += run_statuses([root])
    latest = sorted({one.directory: one for one in found}.values(), key=lambda one: -(one.changed_at or 0.0))
    for number, run in enumerate(latest[:MAX_RUNS], start=1):
        _pack_run(archive, f"{_KINDS[run.kind]}/{number:02d}-{_safe(Path(run.directory).name)}", run)
    for run in latest[MAX_RUNS:]:
        archive.leave_out(run.directory, f"the {MAX_RUNS} that changed last are in here")


def _pack_run(archive: _Archive, name: str, run: RunStatus) -> None:
    directory = Path(run.directory)
    journal = directory / JOURNAL
    with archive.reading(journal):
        shown = run_entry if run.kind == "run" else batch_entry
        lines, note = lines_of(journal, shown, num_first=20, num_last=NUM_ENTRIES)
        archive.add_lines(f"{name}/{JOURNAL}", lines, journal, note)
        _check_chain(archive, journal)
    if run.kind == "run":
        with archive.reading(directory / CONFIG):
            config = load_mesh(directory / CONFIG)
            shown_config = plain(config.model_dump(mode="json"), archive.names)
            archive.add(f"{name}/config.json", shown_config, directory / CONFIG, "texts, secrets")
    elif (directory / ERRORS).is_file():
        with archive.reading(directory / ERRORS):
            lines, note = lines_of(directory / ERRORS, error_line, num_first=NUM_ERRORS, num_last=0)
            archive.add_lines(f"{name}/{ERRORS}", lines, directory / ERRORS, note)


def _pack_requests(archive: _Archive, name: str, state: Path, *, expected: bool) -> None:
    path = state / REQUESTS
    if not expected and not path.is_file():
        return
    with archive.reading(path):
        lines, note = lines_of(
            path, lambda kind, payload: request_line(kind, payload, archive.names), num_first=0, num_last=NUM_REQUESTS
        )
        archive.add_lines(f"{name}/{REQUESTS}", lines, path, note)
        _check_chain(archive, path)


def _pack_logs(archive: _Archive, config: RayConfig) -> None:
    """Logs of the Ray session on this machine that was started last: its engines', then its own."""
    root = config.temp_dir or Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray"  # noqa: S108  Ray's own default
    logs = root / "session_latest" / "logs"
    files: list[Path] = []
    with archive.reading(logs):
        files = [path for path in logs.iterdir() if path.is_file() and path.stat().st_size and _is_log(path.name)]
        files.sort(key=lambda path: (not path.name.startswith("worker-"), -path.stat().st_mtime))
    for path in files[:MAX_LOGS]:
        with archive.reading(path):
            of_ray = not path.name.startswith("worker-")
            kept = list(log_lines(_last_lines(path, NUM_LOG_LINES), of_ray=of_ray))
            if len(kept) == 1 and kept[0].endswith(REMOVED):
                archive.leave_out(path, "nothing in it is known to hold no text")
                continue
            archive.add(
                f"logs/{_safe(path.name)}", "".join(f"{line}\n" for line in kept), path, "all but known phrases"
            )
    if len(files) > MAX_LOGS:
        archive.leave_out(logs, f"{len(files) - MAX_LOGS} older logs")


def _is_log(name: str) -> bool:
    return name.startswith(("worker-", "raylet.", "gcs_server.")) and name.endswith((".out", ".err"))


def _last_lines(path: Path, number: int) -> list[str]:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2**19))
        return [line.decode("utf-8", "replace") for line in file.read().splitlines()[-number:]]


def _check_chain(archive: _Archive, path: Path) -> None:
    if path.stat().st_size > _CHECKED_BYTES:
        archive.leave_out(path, f"its chain was not verified: more than {_CHECKED_BYTES // 2**20} MiB")
        return
    try:
        Ledger(path, readonly=True)
    except (LedgerError, ValidationError) as error:
        archive.note_damage(path, _told(error))


def _told(error: BaseException) -> str:
    """An error by its code, its class and what of its message is the program's own."""
    code = code_of(error)
    known = "" if code is None else f"{code.name} "
    return f"{known}{type(error).__name__}: {message(str(error))}"


def _room(path: str | Path) -> dict[str, int] | None:
    absolute = Path(path).absolute()
    there = next(one for one in (absolute, *absolute.parents) if one.exists())
    usage = shutil.disk_usage(there)
    return {"total": usage.total, "free": usage.free}


def _safe(name: str) -> str:
    """A name for a member, from the name of a directory, which may be anything."""
    return "".join(character if character.isalnum() or character in "-_." else "_" for character in name)[:80]


def default_name() -> Path:
    """Where the archive goes if nobody says: the current directory, by the time in UTC."""
    return Path(time.strftime("evomesh-bundle-%Y%m%d-%H%M%S.tar.gz", time.gmtime()))
