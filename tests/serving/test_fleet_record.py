"""What a fleet publishes about itself, and whether another configuration may use it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from serving.config import EngineSpec, FleetConfig, ScriptedSpec
from serving.fleet_record import (
    FleetError,
    FleetRecord,
    actor_name,
    differences,
    publish_fleet,
    read_fleet,
    record_path,
)
from serving.processes import FLEET_VARIABLE, end_marked, mark_of, marked_processes

ADA, BEN = ScriptedSpec(name="ada", family="alpha"), ScriptedSpec(name="ben", family="beta")


def record_of(*engines: EngineSpec, **fields: object) -> FleetRecord:
    mark = mark_of(os.getpid())
    known = {
        "id": "f1",
        "state": "ready",
        "address": "127.0.0.1:1",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_mark": mark,
        "engines": engines or (ADA, BEN),
        "adapter_root": Path("/adapters"),
        "started_at": datetime(2026, 3, 2, tzinfo=UTC),
    }
    return FleetRecord.model_validate(known | fields)


def test_a_record_comes_back_as_it_was_published(tmp_path: Path) -> None:
    config = FleetConfig(directory=tmp_path / "fleet")
    assert read_fleet(config) is None
    publish_fleet(config, record_of())
    assert read_fleet(config) == record_of()


def test_a_file_that_is_no_record_is_named(tmp_path: Path) -> None:
    config = FleetConfig(directory=tmp_path)
    record_path(config).write_text("{}")
    with pytest.raises(FleetError, match=r"fleet\.json: expected the record of a fleet"):
        read_fleet(config)


def test_replicas_have_names_of_their_own() -> None:
    record = record_of(ADA.model_copy(update={"replicas": 2}), BEN)
    assert record.replicas == (("ada", "evomesh/ada/0"), ("ada", "evomesh/ada/1"), ("ben", actor_name("ben", 0)))


def test_a_fleet_lives_as_long_as_the_process_that_owns_it() -> None:
    assert record_of().is_alive
    assert not record_of(process_mark="an earlier process of that number").is_alive
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    record = record_of(pid=child.pid, process_mark=mark_of(child.pid))
    assert record.is_alive
    child.kill()
    child.wait()
    assert not record.is_alive


def test_a_process_that_only_awaits_its_burial_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read()
    for _ in range(10_000):
        if mark_of(child.pid) is None:
            break
    assert mark_of(child.pid) is None
    child.wait()


def test_of_another_machines_process_nothing_is_known_and_it_counts_as_alive() -> None:
    assert record_of(host="elsewhere", pid=1, process_mark="?").is_alive


def test_engines_may_be_fewer_and_differ_in_what_they_do_not_say() -> None:
    mine = ADA.model_copy(update={"replicas": 4, "node": "x", "persona": "terse", "price_per_hour": 2.0})
    assert differences([mine], [ADA, BEN]) == ()


def test_a_missing_engine_and_another_setting_are_named() -> None:
    mine = ADA.model_copy(update={"skill": 0.9, "latency_s": 1.0})
    assert differences([mine, BEN], [ADA]) == (
        "engine 'ada': latency_s is 0.0 there and 1.0 here",
        "engine 'ada': skill is 0.5 there and 0.9 here",
        "engine 'ben' is not among ada",
    )


def test_the_digest_is_of_the_settings() -> None:
    assert record_of().config_digest == record_of(id="f2").config_digest
    assert record_of().config_digest != record_of(ADA).config_digest


def test_processes_with_the_mark_are_ended_with_what_they_started_and_no_others() -> None:
    code = (
        "import subprocess, sys, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "c = subprocess.Popen(['sleep', '300']); print(c.pid, flush=True); c.wait()"
    )
    start = [sys.executable, "-c", code]
    ours = subprocess.Popen(start, stdout=subprocess.PIPE, env=os.environ | {FLEET_VARIABLE: "test-mark-1"})
    other = subprocess.Popen(start, stdout=subprocess.PIPE, env=os.environ | {FLEET_VARIABLE: "test-mark-10"})
    assert ours.stdout is not None
    assert other.stdout is not None
    below = int(ours.stdout.readline())
    other_below = int(other.stdout.readline())
    assert {process.pid for process in marked_processes("test-mark-1")} == {ours.pid, below}
    # The shell's child ends when asked; its parent does not listen and is killed.
    assert end_marked("test-mark-1", patience_s=0.5) >= 2
    assert (mark_of(ours.pid), mark_of(below)) == (None, None)
    assert mark_of(other.pid) is not None
    assert mark_of(other_below) is not None
    end_marked("test-mark-10", patience_s=0.5)
    ours.wait()
    other.wait()
    assert end_marked("test-mark-1") == 0
