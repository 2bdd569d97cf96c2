"""A shared fleet in a process of its own: found, used, refused, drained, killed, and nothing left of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from memory.ledger import AlreadyLocked
from mesh.types import Member, Sampling
from serving.adapters import AdapterStore
from serving.cluster import RayFleet, stop_fleet
from serving.config import FleetConfig, RayConfig, ScriptedSpec, ServingConfig
from serving.fleet import Fleet
from serving.fleet_host import attach_fleet, open_fleet
from serving.fleet_owner import clean_up, end_fleet, own_fleet
from serving.fleet_record import FleetError, FleetRecord, read_fleet
from serving.processes import marked_processes
from tests.contract.engine_contract import ask

pytestmark = pytest.mark.engine

START_S = 300.0
ADA, BEN = Member(name="ada", engine="ada", family="alpha"), Member(name="ben", engine="ben", family="beta")
QUESTION = ask("What is 20 + 22?")


def config_of(directory: Path, **settings: object) -> ServingConfig:
    slow = ScriptedSpec(name="ben", family="beta", skill=1.0, latency_s=3.0)
    return ServingConfig(
        engines=(ScriptedSpec(name="ada", family="alpha", skill=1.0, replicas=2), slow),
        ray=RayConfig(num_cpus=1, object_store_mib=80),
        fleet=FleetConfig(directory=directory),
        start_timeout_s=START_S,
    ).model_copy(update=settings)


class Owner:
    """`evomesh fleet up` as a process, and every process that was below it."""

    def __init__(self, config: ServingConfig) -> None:
        self.config = config
        path = config.fleet.directory.with_suffix(".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        mesh = {"name": "t", "run_dir": str(path.with_suffix("")), "serving": json.loads(config.model_dump_json())}
        path.write_text(json.dumps(mesh))
        command = [sys.executable, "-m", "evolve.cli", "fleet", "up", str(path), "--drain", "30", "--json"]
        # A RAY_ADDRESS of whoever runs the tests is another cluster's.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    def wait(self, state: str) -> FleetRecord:
        end = time.monotonic() + START_S
        while (record := read_fleet(self.config.fleet)) is None or record.state != state:
            assert self.process.poll() is None, "it ended"
            assert time.monotonic() < end, f"not {state} in time"
            time.sleep(0.05)
        return record

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    running = Owner(config_of(tmp_path_factory.mktemp("shared") / "fleet"))
    try:
        running.wait("ready")
        yield running
    finally:
        running.kill()
        clean_up(running.config.fleet)


async def answer(fleet: Fleet, member: Member = ADA) -> str:
    completions, _ = await fleet.complete(member, QUESTION, Sampling(temperature=0.0))
    return completions[0].text


def test_a_command_finds_the_fleet_that_is_up_and_leaves_it_up(owner: Owner, tmp_path: Path) -> None:
    async def use() -> tuple[str, set[int | None]]:
        ready: list[str] = []
        fleet = await open_fleet(owner.config, AdapterStore(tmp_path), ready.append)
        try:
            assert isinstance(fleet, RayFleet)
            assert fleet.is_attached
            assert (ready, {name: len(found) for name, found in fleet.replicas.items()}) == (
                ["ada", "ben"],
                {"ada": 2, "ben": 1},
            )
            text = await answer(fleet)
            load = await fleet.ask_load()
            return text, {one.pid for replicas in load.values() for one in replicas}
        finally:
            await stop_fleet(fleet)

    text, pids = asyncio.run(use())
    assert "42" in text
    assert asyncio.run(use())[1] == pids, "the processes are the same for the second command"
    assert len(pids) == 3
    assert read_fleet(owner.config.fleet) == owner.wait("ready")


def test_another_configuration_is_refused_with_what_differs(owner: Owner) -> None:
    other = config_of(owner.config.fleet.directory, engines=(ScriptedSpec(name="ada", family="alpha", skill=0.5),))
    with pytest.raises(FleetError, match=r"engine 'ada': skill is 1\.0 there and 0\.5 here"):
        asyncio.run(attach_fleet(other))


def test_a_second_fleet_on_one_directory_is_refused(owner: Owner) -> None:
    with pytest.raises(AlreadyLocked):
        asyncio.run(own_fleet(owner.config, drain_s=0.0))


def test_nobody_cleans_up_after_a_fleet_that_lives(owner: Owner) -> None:
    with pytest.raises(FleetError, match="is up; end it with"):
        clean_up(owner.config.fleet)
    assert owner.process.poll() is None


def test_a_private_cluster_listens_on_loopback_alone(owner: Owner) -> None:
    found = set()
    for process in marked_processes(owner.wait("ready").id):
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                found.add(connection.laddr.ip.removeprefix("::ffff:"))
    assert found == {"127.0.0.1"}


def test_the_end_lets_requests_end_first_and_leaves_no_process(owner: Owner, tmp_path: Path) -> None:
    record = owner.wait("ready")

    async def ask_while_it_ends() -> str:
        fleet = await open_fleet(owner.config, AdapterStore(tmp_path))
        try:
            asked = asyncio.create_task(answer(fleet, BEN))
            for _ in range(1_000):
                if (await fleet.ask_load())["ben"][0].pending:
                    break
                await asyncio.sleep(0.05)
            owner.process.send_signal(signal.SIGTERM)
            return await asked
        finally:
            await stop_fleet(fleet)

    assert "42" in asyncio.run(ask_while_it_ends())
    assert owner.process.wait(60) == 0
    assert read_fleet(owner.config.fleet) is None
    assert marked_processes(record.id) == []
    assert asyncio.run(attach_fleet(owner.config)) is None


def test_what_a_killed_fleet_left_is_ended_by_the_next_one_and_by_down(tmp_path: Path) -> None:
    config = config_of(tmp_path / "fleet")
    first = Owner(config)
    killed = first.wait("ready")
    first.kill()
    assert asyncio.run(attach_fleet(config)) is None, "a killed fleet is none"
    assert marked_processes(killed.id), "Ray's workers outlive it for a moment, or for ever"
    second = Owner(config)
    try:
        assert second.wait("starting").id != killed.id
        assert marked_processes(killed.id) == []
        while not marked_processes(second.wait("starting").id):
            time.sleep(0.05)
    finally:
        # Killed in the middle of its start.
        second.kill()
    left = read_fleet(config.fleet)
    assert left is not None
    asyncio.run(end_fleet(config.fleet, timeout_s=1.0))
    assert marked_processes(left.id) == []
    assert read_fleet(config.fleet) is None
    assert asyncio.run(end_fleet(config.fleet, timeout_s=1.0)) is None
