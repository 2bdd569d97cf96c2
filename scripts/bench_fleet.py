"""How many completions one driver gets through a fleet of 1 to 16 scripted engines on one Ray, and what limits it.

    python scripts/bench_fleet.py [--engines 1 2 4 8 16] [--per-engine 128] [--seconds 5] [--rounds 3]

The engines answer after `--latency` seconds, as many requests at a time as come; everything else is this project's own
work and Ray's. The first row has the same engines inside the driver, without Ray; "one call each" is what Ray does
without coalescing, asked of the same actors. The aim: a driver with a core of its own is not the limit below 2,000
completions/s, at any number of engines.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median

import psutil
import ray

from mesh.engine import Engine
from mesh.propose import proposal_messages
from mesh.types import Member, Sampling, Task
from serving.actor import RayEngine
from serving.adapters import AdapterStore
from serving.cluster import start_fleet, stop_fleet
from serving.config import FleetConfig, RayConfig, ScriptedSpec, ServingConfig
from serving.fleet import Fleet
from serving.scripted_engine import ScriptedEngine
from serving.ticket import Ticket

AIM = 2000.0
"""Completions a second."""
SAMPLING = Sampling(max_tokens=64)
WARM_UP_S = 0.5
Ask = Callable[[str, int], Awaitable[object]]
"""Asks the engine of that name the question of that number."""


@dataclass(frozen=True)
class Row:
    """One measurement."""

    what: str
    per_second: float
    driver_us: float
    """CPU time of the driver for one completion, in microseconds."""
    others_us: float
    """The same, of all processes of the cluster together."""
    busy: float
    """Share of its one core that the driver used."""
    machine: float
    """Share of all cores that driver and cluster used."""
    p50_ms: float
    p99_ms: float

    @property
    def limit(self) -> str:
        """What would have to be faster."""
        if self.machine > 0.9:
            return "the machine's cores"
        return "the driver" if self.busy > 0.85 else "the engines' latency"


async def measure(what: str, ask: Ask, names: Sequence[str], options: argparse.Namespace, num_open: int) -> Row:
    """Keeps requests open for `--seconds`, spread evenly over the engines of these names."""
    numbers, ended, times = count(), 0, list[float]()
    is_over = False

    async def work(name: str) -> None:
        nonlocal ended
        while not is_over:
            started = time.perf_counter()
            await ask(name, next(numbers))
            times.append(time.perf_counter() - started)
            ended += 1

    await asyncio.gather(*(ask(name, next(numbers)) for name in names))
    workers = [asyncio.create_task(work(names[index % len(names)])) for index in range(num_open)]
    await asyncio.sleep(WARM_UP_S + options.latency)
    first, times[:] = ended, []
    before, cpu, others = time.perf_counter(), time.process_time(), cluster_seconds()
    await asyncio.sleep(options.seconds)
    wall, cpu, others = time.perf_counter() - before, time.process_time() - cpu, cluster_seconds() - others
    num, took = ended - first, sorted(times)
    is_over = True
    await asyncio.gather(*workers)
    cores = len(os.sched_getaffinity(0))
    return Row(
        what=what,
        per_second=num / wall,
        driver_us=cpu / num * 1e6,
        others_us=others / num * 1e6,
        busy=cpu / wall,
        machine=(cpu + others) / wall / cores,
        p50_ms=took[len(took) // 2] * 1e3,
        p99_ms=took[len(took) * 99 // 100] * 1e3,
    )


def cluster_seconds() -> float:
    """CPU seconds of everything below this process, so far."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def question(number: int, options: argparse.Namespace) -> Task:
    """One of many questions, as long as a real one."""
    words = "Show every step, and then say the number alone. " * options.padding
    return Task(id=f"t{number}", question=f"{words}What is {number} + {number % 97}?", instruction="Take care.")


def through(fleet: Fleet, options: argparse.Namespace) -> Ask:
    """Asks as a batch does: with a ticket for each task."""

    async def ask(name: str, number: int) -> object:
        task = question(number, options)
        engine: Engine = fleet.for_ticket(Ticket(priority="batch", order=number, affinity=task.id))
        member = Member(name="ada", engine=name, family="one")
        return await engine.complete(member, proposal_messages(task), SAMPLING)

    return ask


@ray.remote
class Plain:
    """An actor as one writes it without a mailbox: one call for each request."""

    def __init__(self, spec: ScriptedSpec) -> None:
        self.engine = ScriptedEngine(spec)

    async def complete(self, member: Member, messages: object, sampling: Sampling) -> object:
        """As `Engine.complete`."""
        return await self.engine.complete(member, messages, sampling)  # type: ignore[arg-type]


def one_call_each(options: argparse.Namespace) -> Ask:
    """Asks an actor of Ray's directly."""
    actor = Plain.options(num_cpus=0).remote(ScriptedSpec(name="e0", family="one", latency_s=options.latency))

    async def ask(name: str, number: int) -> object:
        member = Member(name="ada", engine=name, family="one")
        messages = proposal_messages(question(number, options))
        return await asyncio.wrap_future(actor.complete.remote(member, messages, SAMPLING).future())

    return ask


async def run(options: argparse.Namespace) -> list[Row]:
    """All rows, each the round of median throughput."""
    rows = []
    specs = [
        ScriptedSpec(name=f"e{index}", family="one", latency_s=options.latency) for index in range(max(options.engines))
    ]
    here = Fleet({spec.name: ScriptedEngine(spec) for spec in specs})
    rows.append(await rounds("in the driver, no Ray", through(here, options), [specs[0].name], options))
    with tempfile.TemporaryDirectory() as directory:
        config = ServingConfig(
            engines=tuple(specs),
            canary_interval_s=0.0,
            ray=RayConfig(object_store_mib=128),
            fleet=FleetConfig(max_pending=100_000, min_free_memory_mib=0),
        )
        started = time.perf_counter()
        fleet = await start_fleet(config, AdapterStore(Path(directory)))
        print(f"{len(specs)} engines started in {time.perf_counter() - started:.0f} s")
        try:
            rows.append(await rounds("one call each, 1 engine", one_call_each(options), ["e0"], options))
            for number in options.engines:
                names = [spec.name for spec in specs[:number]]
                rows.append(await rounds(f"{number} engine(s)", through(fleet, options), names, options))
            replicas = [engine for engine in fleet.engines.values() if isinstance(engine, RayEngine)]
            ask, names = as_replicas(replicas, options)
            title = f"1 engine, {len(replicas)} replicas"
            rows.append(await rounds(title, ask, names, options, num_engines=len(replicas)))
        finally:
            await stop_fleet(fleet)
    return rows


def as_replicas(engines: Sequence[RayEngine], options: argparse.Namespace) -> tuple[Ask, list[str]]:
    """The same actors as the replicas of one engine: what routing costs. Each answers to its own name only."""
    ask = through(Fleet({"any": [Renamed(engine) for engine in engines]}), options)
    return ask, ["any"]


class Renamed(RayEngine):
    """A replica that asks its actor under the name the actor has."""

    def __init__(self, engine: RayEngine) -> None:
        super().__init__(engine.name, engine.actor, timeout_s=300.0, start_timeout_s=60.0)

    async def ask(self, request):  # type: ignore[no-untyped-def]
        """As `RayEngine.ask`."""
        import dataclasses

        member = request.member.model_copy(update={"engine": self.name})
        return await super().ask(dataclasses.replace(request, member=member))


async def rounds(
    what: str, ask: Ask, names: list[str], options: argparse.Namespace, *, num_engines: int | None = None
) -> Row:
    """The round of median throughput. `num_engines` None: as many as there are names."""
    num_open = options.per_engine * (num_engines or len(names))
    found = [await measure(what, ask, names, options, num_open) for _ in range(options.rounds)]
    middle = median(row.per_second for row in found)
    return min(found, key=lambda row: abs(row.per_second - middle))


def show(rows: Sequence[Row]) -> None:
    """The table."""
    heads = f"{'compl./s':>9}{'driver µs':>11}{'others µs':>11}{'driver':>8}{'machine':>9}{'p50 ms':>8}{'p99 ms':>8}"
    print(f"{'':<26}{heads}  limit")
    for row in rows:
        print(
            f"{row.what:<26}{row.per_second:>9.0f}{row.driver_us:>11.0f}{row.others_us:>11.0f}{row.busy:>8.0%}"
            f"{row.machine:>9.0%}{row.p50_ms:>8.1f}{row.p99_ms:>8.1f}  {row.limit}"
        )
    fleets = rows[2:]
    dearest = max(row.driver_us for row in fleets)
    print(f"aim: {AIM:.0f} completions/s; least over Ray: {min(row.per_second for row in fleets):.0f}")
    print(
        f"the driver alone on a core gives {1e6 / dearest:.0f} completions/s at {dearest:.0f} µs each, the dearest row"
    )


def main() -> None:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--per-engine", type=int, default=128, help="requests open at the same time for each engine")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds an engine takes for one completion")
    parser.add_argument("--padding", type=int, default=3, help="sentences in a question beside the sum")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    before = os.getloadavg()[0]
    rows = asyncio.run(run(options))
    print(f"load average {before:.1f} before, {os.getloadavg()[0]:.1f} after, {len(os.sched_getaffinity(0))} cores")
    show(rows)


if __name__ == "__main__":
    main()
