"""A channel followed over real actors: their own stores are filled from the shared one, and kills drop nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from mesh.types import Member, Message, Part, Sampling
from serving.adapter_share import SharedAdapters
from serving.adapters import Adapter, AdapterStore
from serving.channels import Channel
from serving.cluster import start_fleet, stop_fleet
from serving.config import RayConfig, ScriptedSpec, ServingConfig
from serving.follow import RosterFollower
from serving.roster import Roster
from tests.serving.lora_files import admitted

pytestmark = pytest.mark.engine

ADA = Member(name="ada", engine="ada", family="alpha")
QUESTION = (Message(role="user", parts=(Part(text="What is 20 + 22?"),)),)


def promote(tmp_path: Path, value: float) -> Roster:
    run = AdapterStore(tmp_path / "run")
    adapter: Adapter = admitted(run, tmp_path / "scratch", value)
    SharedAdapters(tmp_path / f"publisher-{value:g}", str(tmp_path / "share")).publish(adapter.hash, run)
    seat = Member(name="g1", engine="ada", family="alpha", adapter=adapter.hash)
    roster = Roster(channel="prod", seats=(seat,), bases=(ADA,), safe="ada", source=f"run@{value:g}")
    Channel(tmp_path, "prod").promote(roster)
    return roster


def test_seats_change_while_replicas_are_killed_and_no_request_is_dropped(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    config = ServingConfig(
        engines=(ScriptedSpec(name="ada", family="alpha", replicas=2, latency_s=0.01),),
        ray=RayConfig(num_cpus=1, object_store_mib=80),
        max_restarts=-1,
    )

    async def work() -> None:
        first = promote(tmp_path, 1.0)
        # The engines' own store is elsewhere, as on another node.
        fleet = await start_fleet(config, AdapterStore(tmp_path / "engines"))
        try:
            node = SharedAdapters(tmp_path / "node", str(tmp_path / "share"))
            async with RosterFollower(tmp_path / "prod", fleet, node, poll_s=0.05, first_retry_s=0.2) as follower:
                assert follower.state.roster == first.id
                is_over = asyncio.Event()

                async def ask() -> set[str]:
                    seen = set()
                    while not is_over.is_set():
                        async with follower.held() as held:
                            completions, _ = await fleet.complete(held.seats[0], QUESTION, Sampling())
                            assert completions[0].adapter == held.seats[0].adapter
                            seen.add(held.id)
                    return seen

                askers = [asyncio.create_task(ask()) for _ in range(8)]
                await asyncio.sleep(0.3)
                (victim, *_) = [load.pid for load in fleet.load()["ada"] if load.pid is not None]
                os.kill(victim, signal.SIGKILL)
                second = promote(tmp_path, 2.0)
                end = time.monotonic() + 60.0
                while follower.state.roster != second.id:
                    assert time.monotonic() < end, follower.state
                    await asyncio.sleep(0.05)
                await asyncio.sleep(0.5)
                is_over.set()
                seen = set().union(*await asyncio.gather(*askers))
                assert seen == {first.id, second.id}
                assert (tmp_path / "engines" / str(second.seats[0].adapter)).is_dir()
        finally:
            await stop_fleet(fleet)

    asyncio.run(work())
    _, left = psutil.wait_procs(set(psutil.Process().children(recursive=True)) - before, timeout=10)
    assert left == []
