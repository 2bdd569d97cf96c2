"""Engines in real Ray actors: the contract over the wire, deaths and stops in the middle, pushing back, sleep."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import ray

from mesh.engine import EngineError
from mesh.types import Member, Sampling
from serving.actor import EngineActor, RayEngine, Seat
from serving.cluster import start_local_ray
from serving.config import RayConfig, ScriptedSpec
from serving.fleet import Fleet
from serving.hosting import EngineBusy
from serving.ticket import Ticket
from tests.contract.engine_contract import ADAPTER_CONTRACT, CONTRACT, ask
from tests.serving.adapter_records import adapter_record

pytestmark = pytest.mark.engine

ADA = Member(name="ada", engine="alpha", family="one")
FREE = Sampling(temperature=1.0, max_tokens=16)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))
    running = start_local_ray(RayConfig(num_cpus=1, object_store_mib=80))
    yield
    ours = list(set(psutil.Process().children(recursive=True)) - before)
    running.close()
    _, left = psutil.wait_procs(ours, timeout=10)
    assert left == []


Start = Callable[..., RayEngine]


@pytest.fixture
def start(cluster: None, tmp_path: Path) -> Iterator[Start]:
    """Starts a replica of the scripted engine "alpha"; all are killed afterwards."""
    started: list[RayEngine] = []

    def begin(*, timeout_s: float = 60.0, max_restarts: int = -1, latency_s: float = 0.0, **limits: int) -> RayEngine:
        seat = Seat(
            spec=ScriptedSpec(name="alpha", family="one", latency_s=latency_s),
            model_dir=None,
            adapter_root=tmp_path / "adapters",
            loaded_file=tmp_path / f"loaded-{len(started)}.json",
            probe_interval_s=0.0,
            probe_timeout_s=60.0,
            **limits,
        )
        actor = ray.remote(EngineActor).options(num_cpus=0, max_restarts=max_restarts).remote(seat)
        started.append(RayEngine("alpha", actor, timeout_s=timeout_s, start_timeout_s=60.0))
        return started[-1]

    yield begin
    for engine in started:
        ray.kill(engine.actor, no_restart=True)


def test_contract_is_kept_over_the_wire(start: Start) -> None:
    engine = start()
    for check in CONTRACT:
        asyncio.run(check(engine, ADA))
    for adapter_check in ADAPTER_CONTRACT:
        asyncio.run(adapter_check(engine, ADA, adapter_record("a")))
