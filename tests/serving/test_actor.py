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

from memory.ledger import publish_json
from mesh.engine import EngineError
from mesh.types import Completion, Member, Sampling
from serving.actor import EngineActor, RayEngine, Seat
from serving.adapters import RECORD_FILE, Adapter
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

    def begin(*, timeout_s: float = 60.0, silence_s: float = 20.0, **settings: object) -> RayEngine:
        spec = {key: settings.pop(key) for key in ("latency_s", "num_slots") if key in settings}
        seat = Seat(
            spec=ScriptedSpec(name="alpha", family="one", **spec),
            model_dir=None,
            adapter_root=tmp_path / "adapters",
            loaded_file=tmp_path / f"loaded-{len(started)}.json",
            probe_interval_s=0.0,
            probe_timeout_s=60.0,
            **settings,
        )
        actor = ray.remote(EngineActor).options(num_cpus=0, max_restarts=-1).remote(seat)
        started.append(RayEngine("alpha", actor, timeout_s=timeout_s, start_timeout_s=60.0, silence_s=silence_s))
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


def admitted(tmp_path: Path) -> Adapter:
    """An adapter in the store, so that a restarted process finds it."""
    record = adapter_record("a")
    publish_json(tmp_path / "adapters" / record.hash / RECORD_FILE, record)
    return record


def said(answer: tuple[tuple[Completion, ...], int]) -> str:
    return answer[0][0].text


QUESTIONS = [f"What is {number} + {number % 7}?" for number in range(60)]


def test_a_killed_process_costs_no_request_and_comes_back_with_its_adapters(start: Start, tmp_path: Path) -> None:
    async def run() -> list[str]:
        fleet = Fleet({"alpha": [start(latency_s=0.3), start(latency_s=0.3)]})
        adapter = admitted(tmp_path)
        await fleet.load_adapter("alpha", adapter)
        specialist = ADA.model_copy(update={"adapter": adapter.hash})
        asked = [asyncio.create_task(fleet.complete(specialist, ask(question), FREE)) for question in QUESTIONS]
        await asyncio.sleep(0.15)
        victim = (await fleet.ask_load())["alpha"][0]
        assert victim.running > 0
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        answers = await asyncio.gather(*asked)
        assert {completions[0].adapter for completions, _ in answers} == {adapter.hash}
        await fleet.replicas["alpha"][0].complete(specialist, ask("What is 1 + 1?"), FREE)
        back, other = (await fleet.ask_load())["alpha"]
        assert (back.state, back.restarts, other.restarts) == ("up", 1, 0)
        assert back.pid != victim.pid
        return [said(answer) for answer in answers]

    said_over_the_wire = asyncio.run(run())
    assert len(said_over_the_wire) == len(QUESTIONS)


def test_one_that_comes_back_without_its_list_of_adapters_is_given_them_again(start: Start, tmp_path: Path) -> None:
    async def run() -> None:
        fleet = Fleet({"alpha": start()})
        adapter = admitted(tmp_path)
        await fleet.load_adapter("alpha", adapter)
        specialist = ADA.model_copy(update={"adapter": adapter.hash})
        await fleet.complete(specialist, ask("What is 1 + 1?"), FREE)
        (before,) = (await fleet.ask_load())["alpha"]
        # As if it were started again on another node, with a disk of its own.
        (tmp_path / "loaded-0.json").unlink()
        assert before.pid is not None
        os.kill(before.pid, signal.SIGKILL)
        completions, _ = await fleet.complete(specialist, ask("What is 1 + 1?"), FREE)
        assert completions[0].adapter == adapter.hash
        assert (await fleet.ask_load())["alpha"][0].pid != before.pid

    asyncio.run(run())


def test_a_process_that_is_stopped_is_out_of_reach_and_another_one_answers(start: Start) -> None:
    async def run() -> None:
        first, second = start(latency_s=0.2, silence_s=1.0), start(latency_s=0.2)
        fleet = Fleet({"alpha": [first, second]})
        pid = await first.start()
        await second.start()
        asked = [asyncio.create_task(fleet.complete(ADA, ask(question), FREE)) for question in QUESTIONS]
        await asyncio.sleep(0.1)
        os.kill(pid, signal.SIGSTOP)
        try:
            answers = await asyncio.gather(*asked)
            assert fleet.load()["alpha"][0].state == "away"
        finally:
            os.kill(pid, signal.SIGCONT)
        assert [said(answer) for answer in answers] == [
            said(await second.complete(ADA, ask(question), FREE)) for question in QUESTIONS
        ]
        await first.wait_up()
        assert (await first.ask_load()).state == "up"
        assert (await first.ask_load()).pending == 0

    asyncio.run(run())


def test_a_full_replica_refuses_people_at_once_and_lets_jobs_wait(start: Start) -> None:
    async def run() -> None:
        fleet = Fleet({"alpha": start(latency_s=0.5, max_pending=2)})
        person, job = fleet.for_ticket(Ticket()), fleet.for_ticket(Ticket(priority="batch"))
        assert len(await asyncio.gather(*(job.complete(ADA, ask(question), FREE) for question in QUESTIONS[:6]))) == 6
        results = await asyncio.gather(
            *(person.complete(ADA, ask(question), FREE) for question in QUESTIONS[:6]), return_exceptions=True
        )
        refused = [result for result in results if isinstance(result, BaseException)]
        assert len(refused) == 4
        assert all(isinstance(result, EngineBusy) and result.retry_after_s > 0 for result in refused)

    asyncio.run(run())


def test_people_overtake_a_batch_inside_the_engine(start: Start) -> None:
    async def run() -> None:
        fleet, order = Fleet({"alpha": start(latency_s=0.05, num_slots=1)}), list[str]()

        async def complete(ticket: Ticket) -> None:
            await fleet.for_ticket(ticket).complete(ADA, ask("What is 1 + 1?"), FREE)
            order.append(f"{ticket.priority} {ticket.order}")

        await complete(Ticket())
        jobs = [asyncio.create_task(complete(Ticket(priority="batch", order=5 - place))) for place in range(5)]
        await asyncio.sleep(0.02)
        await complete(Ticket(order=9))
        await asyncio.gather(*jobs)
        assert order.index("interactive 9") <= 2
        assert order[-4:] == sorted(order[-4:])

    asyncio.run(run())


def test_one_that_sleeps_stays_asleep_over_its_death_and_serves_when_it_is_woken(start: Start) -> None:
    async def run() -> None:
        fleet = Fleet({"alpha": start()})
        await fleet.complete(ADA, ask("What is 1 + 1?"), FREE)
        await fleet.sleep("alpha")
        (asleep,) = (await fleet.ask_load())["alpha"]
        assert asleep.asleep
        with pytest.raises(EngineBusy, match="sleeps"):
            await fleet.for_ticket(Ticket()).complete(ADA, ask("What is 1 + 1?"), FREE)
        assert asleep.pid is not None
        os.kill(asleep.pid, signal.SIGKILL)
        await fleet.replicas["alpha"][0].start()
        (back,) = (await fleet.ask_load())["alpha"]
        assert back.asleep
        assert back.pid != asleep.pid
        waiting = asyncio.create_task(fleet.complete(ADA, ask("What is 1 + 1?"), FREE))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await fleet.wake("alpha")
        await waiting

    asyncio.run(run())


def test_an_actor_that_was_ended_is_dead_for_everybody(start: Start) -> None:
    async def run() -> None:
        engine = start()
        await engine.start()
        await engine.shutdown()
        with pytest.raises(EngineError, match="does not come back"):
            await Fleet({"alpha": engine}).complete(ADA, ask("What is 1 + 1?"), FREE)
        assert engine.state == "dead"

    asyncio.run(run())
