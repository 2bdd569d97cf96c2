"""Two Ray nodes on this machine, one of them killed while replicas on both are at work."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from mesh.types import Member, Sampling
from serving.adapters import AdapterStore
from serving.cluster import RayFleet, rooms, start_fleet, stop_fleet
from serving.config import FleetConfig, RayConfig, ScriptedSpec, ServingConfig
from serving.fleet_record import FleetError
from serving.ray_session import stay_on_loopback
from tests.contract.engine_contract import ask

pytestmark = pytest.mark.engine

NUM_TASKS = 120
ADA = Member(name="ada", engine="ada", family="alpha")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    before = set(psutil.Process().children(recursive=True))
    stay_on_loopback()
    head = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield nodes
    finally:
        nodes.shutdown()
        left = [one for one in psutil.Process().children(recursive=True) if one not in before]
        psutil.wait_procs(left, timeout=20)
        assert [one.name() for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []


def config_of(cluster: Cluster, directory: Path, *engines: ScriptedSpec, placement_timeout_s: float) -> ServingConfig:
    return ServingConfig(
        engines=engines,
        ray=RayConfig(address=cluster.address),
        fleet=FleetConfig(directory=directory, placement_timeout_s=placement_timeout_s),
        start_timeout_s=300,
        call_timeout_s=240,
        max_restarts=-1,
    )


def test_no_task_is_lost_with_a_node(cluster: Cluster, tmp_path: Path) -> None:
    second = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20, resources={"far": 1})
    spread = ScriptedSpec(name="ada", family="alpha", skill=1.0, replicas=2, latency_s=0.2, num_slots=4)
    far = ScriptedSpec(name="ben", family="beta", node="far")
    config = config_of(cluster, tmp_path, spread, far, placement_timeout_s=120)

    async def work() -> tuple[list[str], dict[str, object]]:
        fleet = await start_fleet(config, AdapterStore(tmp_path / "adapters"))
        try:
            assert isinstance(fleet, RayFleet)
            assert len(rooms()) == 2
            asked = [asyncio.create_task(one(fleet, number)) for number in range(NUM_TASKS)]
            await asyncio.gather(*asked[: NUM_TASKS // 10])
            before = await fleet.ask_load()
            busy = [replica.running for replica in before["ada"]]
            cluster.remove_node(second, allow_graceful=False)
            at_kill = sum(task.done() for task in asked)
            answers = await asyncio.gather(*asked)
            after = await fleet.ask_load()
            return list(answers), {"busy": busy, "at_kill": at_kill, "after": after}
        finally:
            await stop_fleet(fleet)
            ray.shutdown()

    answers, seen = asyncio.run(work())
    assert all(running > 0 for running in seen["busy"]), "both replicas were at work"
    assert seen["at_kill"] < NUM_TASKS / 2, "most were under way or still to come"
    assert answers == [str(number + 1) for number in range(NUM_TASKS)]


async def one(fleet: RayFleet, number: int) -> str:
    messages = ask(f"What is {number} + 1?")
    completions, _ = await fleet.complete(ADA, messages, Sampling(temperature=0.0))
    return completions[0].text.rpartition(" ")[2].strip(".")


def test_room_that_the_cluster_does_not_have_is_given_up_and_given_back(cluster: Cluster, tmp_path: Path) -> None:
    ada, ben = (ScriptedSpec(name=name, family=name, node=label) for name, label in (("ada", None), ("ben", "far")))
    config = config_of(cluster, tmp_path, ada, ben, placement_timeout_s=1.0)

    async def start() -> None:
        with pytest.raises(
            FleetError, match=r"(?s)expected room for 1 replicas within 1 s.*no node offers the resource"
        ):
            await start_fleet(config, AdapterStore(tmp_path / "adapters"))

    asyncio.run(start())
    assert not ray.is_initialized()
    ray.init(address=cluster.address)
    try:
        groups = ray.util.placement_group_table().values()
        assert {group["state"] for group in groups} <= {"REMOVED"}
    finally:
        ray.shutdown()
