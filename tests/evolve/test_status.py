"""`evomesh status` and `evomesh why`: what is up, what is not, and that one broken thing hides no other."""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from evolve.cli import app
from evolve.commands import status
from evolve.commands.fleet import FleetView
from evolve.commands.status import StatusReport, door_status, holder_of, recent_requests, run_statuses, status_of
from evolve.commands.status_command import _ago
from evolve.config import MeshConfig, load_mesh
from evolve.lineage import Lineage, founders
from memory.ledger import LOCK_NAME, Ledger, exclusive_lock
from mesh.types import Member
from serving.channels import Channel
from serving.endpoint.config import EndpointConfig
from serving.fleet_record import publish_fleet
from serving.replica import ReplicaLoad
from tests.serving.batches import roster_of
from tests.serving.test_fleet_record import record_of
from tests.serving.test_journey import hold_a_batch, line_of, write_log

ADA, BEN = Member(name="ada", engine="ada", family="alpha"), Member(name="ben", engine="ben", family="beta")
NOBODY = 2**22 + 1
"""A process number that Linux never gives."""


def config_in(directory: Path, **serving: Any) -> Path:
    engines = [{"kind": "scripted", "name": "ada", "family": "alpha"}]
    served = {
        "engines": engines, "in_process": True, "channels": str(directory / "channels"),
        "fleet": {"directory": str(directory / "fleet")}, "model_store": str(directory / "models"),
    }  # fmt: skip
    data = {
        "name": "mesh", "run_dir": str(directory / "runs" / "mesh"), "serving": served | serving,
        "endpoint": {"state": str(directory / "state"), "port": 1},
    }  # fmt: skip
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def looked_at(path: Path, *directories: Path) -> StatusReport:
    return asyncio.run(status_of(load_mesh(path), directories))


def evomesh(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def said(result: Result) -> str:
    return re.sub(r"\s+", " ", result.stdout + result.stderr)


@contextmanager
def answering(code: int, body: bytes) -> Iterator[int]:
    """A server that says one thing; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


def test_where_nothing_was_started_nothing_is_amiss(tmp_path: Path) -> None:
    report = looked_at(config_in(tmp_path))
    assert report.ok
    assert (report.fleet.is_up, report.door.state, report.channels, report.runs) == (False, "down", (), ())
    assert "refused" in report.door.reason
    assert "urlopen" not in report.door.reason


@pytest.mark.parametrize(
    ("code", "body", "state", "reason"),
    [
        (200, b"{}", "ready", ""),
        (503, b'{"reason": "engines are starting"}', "not ready", "engines are starting"),
        (503, b"\xff", "not ready", "HTTP 503"),
        (404, b"[]", "not ready", "HTTP 404"),
    ],
)
def test_the_door_says_itself_whether_it_is_ready(
    tmp_path: Path, code: int, body: bytes, state: str, reason: str
) -> None:
    with answering(code, body) as port:
        door = door_status(EndpointConfig(state=tmp_path, port=port))
    assert (door.state, door.reason) == (state, reason)


def test_a_door_that_holds_its_state_and_does_not_answer_is_amiss(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    with exclusive_lock(tmp_path / "state" / LOCK_NAME):
        report = looked_at(config)
    assert report.door.pid == os.getpid()
    assert "holds its state and does not answer" in report.troubles[0]


def test_a_lock_file_without_a_holder_is_nobodys(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path / LOCK_NAME):
        assert holder_of(tmp_path / LOCK_NAME) == os.getpid()
    (tmp_path / LOCK_NAME).write_text(str(os.getpid()))
    assert holder_of(tmp_path / LOCK_NAME) is None, "this process lives and does not hold it"
    for text in (str(NOBODY), "", "not a number"):
        (tmp_path / LOCK_NAME).write_text(text)
        assert holder_of(tmp_path / LOCK_NAME) is None
    assert holder_of(tmp_path / "absent") is None


def test_the_requests_of_the_last_quarter_of_an_hour_are_counted_by_code_and_team(tmp_path: Path) -> None:
    write_log(
        tmp_path,
        line_of(started_at=1.0, ended_at=99.0),
        line_of(started_at=100.0, ended_at=101.0, team="a"),
        line_of(started_at=100.0, ended_at=103.0, team="a"),
        line_of(started_at=100.0, ended_at=109.0, team="b", code=503),
    )
    recent = recent_requests(tmp_path / "requests.jsonl", 100.0)
    assert (recent.by_code, recent.by_team) == ((("200", 2), ("503", 1)), (("a", 2), ("b", 1)))
    assert (recent.median_s, recent.slowest_s, recent.last_at) == (3.0, 9.0, 109.0)
    assert recent_requests(tmp_path / "absent", 0.0).num_requests == 0


def test_server_errors_are_amiss_and_refusals_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status.time, "time", lambda: 10.0)
    config = config_in(tmp_path)
    write_log(tmp_path / "state", line_of(code=429))
    assert looked_at(config).ok
    write_log(tmp_path / "state", line_of(code=429), line_of(code=500))
    assert looked_at(config).troubles == ("door: 1 of 2 requests of the last 15 minutes ended in a server error",)


def test_a_batch_is_finished_stopped_or_running(tmp_path: Path) -> None:
    out = hold_a_batch(tmp_path)
    (done,) = run_statuses([out])
    assert (done.kind, done.state, done.detail) == ("batch", "finished", "3 of 3 tasks answered")
    journal = (out / "journal.jsonl").read_text().splitlines(keepends=True)
    (out / "journal.jsonl").write_text("".join(journal[:-1]))
    (stopped,) = run_statuses([tmp_path])
    assert (stopped.state, stopped.detail, stopped.pid) == ("stopped", "3 tasks done", None)
    with exclusive_lock(out / LOCK_NAME):
        (running,) = run_statuses([out])
    assert (running.state, running.pid) == ("running", os.getpid())


def a_run(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text("name: run")
    Ledger(directory / "journal.jsonl").append("step", {"step": "survey", "id": "1", "digest": "2"})
    return directory


def test_a_run_tells_its_generation_its_steps_and_what_it_is_in(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    (fresh,) = run_statuses([tmp_path])
    assert (fresh.kind, fresh.state, fresh.detail) == ("run", "stopped", "no generation yet, 1 steps")
    Lineage(run / "generations.jsonl").append(founders([ADA, BEN]))
    (run / "generation-0").mkdir()
    (run / "generation-0" / "dev.partial.jsonl").write_text("")
    with exclusive_lock(run / "driver"):
        (running,) = run_statuses([run])
    assert running.state == "running"
    assert running.detail == "generation 0, 1 steps, in generation-0/dev"
    (run / "report.json").write_text("{}")
    assert next(run_statuses([run])).state == "finished"


def test_what_is_damaged_says_so_and_hides_nothing_else(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    out = hold_a_batch(tmp_path)
    out.rename(tmp_path / "runs-batch")
    (tmp_path / "runs-batch" / "journal.jsonl").write_bytes(b"\xff\n" + b"[" * 100_000 + b"\n7\n")
    run = a_run(tmp_path / "runs" / "other")
    (run / "generations.jsonl").write_text("torn\nand more\n")
    Channel(tmp_path / "channels", "good").promote(roster_of((ADA, BEN), channel="good"))
    (tmp_path / "channels" / "bad").mkdir()
    (tmp_path / "channels" / "bad" / "current.json").write_text("{")
    (tmp_path / "fleet").mkdir()
    (tmp_path / "fleet" / "fleet.json").write_text("{}")
    report = looked_at(config, tmp_path / "runs-batch")
    assert {one.state for one in report.runs} == {"damaged"}
    assert [(one.name, bool(one.trouble), one.num_seats) for one in report.channels] == [
        ("bad", True, 0),
        ("good", False, 2),
    ]
    assert len(report.troubles) == 4
    assert report.troubles[0].startswith("fleet: ")
    result = evomesh("status", "-c", config, "--in", tmp_path / "runs-batch")
    assert result.exit_code == 1
    assert said(result).count("! ") == 4


def test_a_fleet_whose_process_was_killed_is_amiss(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    publish_fleet(load_mesh(config).serving.fleet, record_of(pid=NOBODY))
    result = evomesh("status", "-c", config)
    assert result.exit_code == 1
    assert f"! fleet: process {NOBODY} was killed; `evomesh fleet down`" in said(result)
    assert "Fleet: killed" in said(result)


def test_every_replica_that_is_not_up_is_amiss_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replicas = (
        ReplicaLoad(engine="ada", replica=0, served=7, node="10.0.0.1"),
        ReplicaLoad(engine="ada", replica=1, state="dead", restarts=3, trouble="exit by signal 9"),
        ReplicaLoad(engine="ben", asleep=True),
    )

    async def seen(_: object) -> FleetView:
        return FleetView(is_up=True, record=record_of(), replicas=replicas)

    monkeypatch.setattr(status, "view_fleet", seen)
    result = evomesh("status", "-c", config_in(tmp_path))
    assert result.exit_code == 1
    for part in ("Fleet: ready", "asleep", "10.0.0.1", "! replica 1 of engine ada is dead: exit by signal 9"):
        assert part in said(result), part
    assert said(result).count("! ") == 1


def test_a_frozen_channel_its_source_and_the_windows_are_shown(tmp_path: Path) -> None:
    fleet = {"directory": str(tmp_path / "fleet"), "windows": [{"who": "batch", "start": "20:00", "end": "07:00"}]}
    config = config_in(tmp_path, fleet=fleet)
    channel = Channel(tmp_path / "channels", "prod")
    channel.promote(roster_of((ADA, BEN), channel="prod", source="runs/quickstart@1"))
    channel.freeze(reason="audit")
    result = evomesh("status", "-c", config)
    assert result.exit_code == 0, result.output
    assert re.search(r"Channel prod: roster \w{16} from runs/quickstart@1, since [\d -]+:[\d:]+, frozen", said(result))
    assert "Window: batch from 20:00 to 07:00" in said(result)
    assert "Nothing is amiss." in said(result)


def test_a_disk_with_little_room_is_amiss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_LOW_DISK", 2**60)
    report = looked_at(config_in(tmp_path))
    assert "GiB free" in report.troubles[0]
    assert len(report.disks) == 1, "four paths on one file system are one disk"


def test_status_as_json_says_whether_all_is_well(tmp_path: Path) -> None:
    result = evomesh("status", "-c", config_in(tmp_path), "--json")
    data = json.loads(result.stdout)
    assert data.pop("ok") is True
    assert StatusReport.model_validate(data).ok


def test_why_tells_the_life_of_a_task_and_as_json_too(tmp_path: Path) -> None:
    config, out = config_in(tmp_path), hold_a_batch(tmp_path)
    result = evomesh("why", "task-1", "-c", config, "--in", out)
    assert result.exit_code == 0, result.output
    for part in (
        "finished as task 2 of the file",
        "Decided: an answer by",
        "Seats",
        "The longest calls",
        "evomesh replay",
    ):
        assert part in said(result), part
    data = json.loads(evomesh("why", "task-1", "-c", config, "--in", out, "--json").stdout)
    assert data["task"] == "task-1"


def test_why_explains_an_error_code_in_any_case(tmp_path: Path) -> None:
    result = evomesh("why", "em-locked", "-c", tmp_path / "no-configuration-is-needed.yaml")
    assert result.exit_code == 0
    assert "docs/runbook.md#em-locked" in said(result)
    assert json.loads(evomesh("why", "EM-LOCKED", "--json").stdout)["exit"] == 3


def test_why_of_something_unknown_says_where_it_looked(tmp_path: Path) -> None:
    result = evomesh("why", "nobody-knows", "-c", config_in(tmp_path))
    assert result.exit_code == 1
    assert str(tmp_path / "state") in said(result).replace(" ", "")
    assert "--in" in result.stderr


def test_what_a_file_says_cannot_drive_the_terminal(tmp_path: Path) -> None:
    write_log(tmp_path / "state", line_of(id="evil", model="\x1b]0;x\x07 [red]m"))
    result = evomesh("why", "evil", "-c", config_in(tmp_path))
    assert "\x1b" not in result.stdout
    assert "\x07" not in result.stdout
    assert "[red]m" in result.stdout


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-1, "0 s ago"), (119, "119 s ago"), (121, "2 min ago"), (7_300, "2 h ago"), (400_000, "4 d ago")],
)
def test_an_age_is_shown_in_one_unit(seconds: float, shown: str) -> None:
    assert _ago(seconds) == shown


def test_the_address_that_is_asked_is_one_of_this_machine() -> None:
    config = MeshConfig.model_validate(
        {"name": "m", "run_dir": "r", "serving": {"engines": [{"kind": "scripted", "name": "a", "family": "f"}]}}
    )
    for host, url in (("0.0.0.0", "http://127.0.0.1:1"), ("::", "http://127.0.0.1:1"), ("::1", "http://[::1]:1")):
        endpoint = config.endpoint.model_copy(update={"host": host, "port": 1, "state": Path("/nowhere")})
        assert door_status(endpoint, timeout_s=0.5).url == url
