"""What a killed engine costs a batch: tasks lost, processes left behind, and extra time against a cold start.

    python scripts/bench_recovery.py [--config configs/quickstart.yaml] [--tasks 48] [--rounds 2] [--victim smollm2]

A batch runs undisturbed, then with kill -9 of vLLM's core after a third of its tasks, then undisturbed again, on one
fleet whose prefix caches are emptied before each. Calls may wait as long as an engine takes to start, so nobody has to
be decided without. Extra time is that of the disturbed batch over the mean of its
neighbours; a cold start is the start of the fleet, from nothing to ready. Aims: tasks lost 0, processes left 0, extra
time over a cold start at most 1.2.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import psutil
from real_fleet import everywhere, members_of, on, real_fleet, settings, tasks_of

from evolve.config import RunConfig
from memory.ledger import publish_bytes, publish_json
from serving.adapters import AdapterStore
from serving.batch import run_batch
from serving.batch_types import BatchMesh, BatchPace, BatchPlan, BatchProgress
from serving.cluster import RayFleet
from serving.roster import Roster
from serving.traces import read_traces


class Seats:
    """The same seats for every task."""

    def __init__(self, config: RunConfig) -> None:
        members = members_of(config)
        self._roster = Roster(channel="local", seats=members, safe=members[0].name, source="bench")

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Roster]:
        """As `SeatSource.held`."""
        yield self._roster


@dataclass(frozen=True)
class Batch:
    """One run over the task file."""

    seconds: float
    num_lost: int
    """Tasks without an answer row."""
    num_thin: int
    """Tasks that were decided without one of their members."""
    num_orphans: int = 0


async def run_once(
    fleet: RayFleet, config: RunConfig, tasks: Path, out: Path, victim: str, options: argparse.Namespace
) -> Batch:
    """One batch; `victim`: the engine whose core is killed after a third of the tasks, empty: none."""
    await everywhere(fleet, "record")
    pids: list[int] = await on(fleet, victim, "processes") if victim else []
    below = [psutil.Process(pid) for pid in pids]

    def told(progress: BatchProgress) -> None:
        if below and progress.num_done >= options.tasks / 3 and below[0].is_running():
            below[0].kill()

    plan, pace = BatchPlan(protocol=config.deliberation, seed=config.seed), BatchPace(concurrency=options.concurrency)
    started = time.perf_counter()
    await run_batch(tasks, out, plan, BatchMesh(engine=fleet, seats=Seats(config)), pace, progress=told)
    seconds = time.perf_counter() - started
    _, left = psutil.wait_procs(below, timeout=30)
    answered = {json.loads(line)["id"] for line in (out / "answers.jsonl").read_text().splitlines()}
    thin = {trace.task.id for trace in read_traces(out / "traces.parquet") if trace.failures}
    return Batch(seconds, options.tasks - len(answered), len(thin), len(left))


async def run(options: argparse.Namespace) -> dict[str, float]:
    """Undisturbed and disturbed batches by turns."""
    config = settings(options.config, options.engines)
    # A call may wait as long as an engine may take to start: nobody has to be decided without.
    talk = config.deliberation.model_copy(update={"call_timeout_s": config.serving.call_timeout_s})
    config = config.model_copy(update={"deliberation": talk})
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        lines = [task.model_dump_json(exclude_defaults=True) for task in tasks_of(config, options.tasks)]
        publish_bytes(root / "tasks.jsonl", "".join(f"{line}\n" for line in lines).encode())
        started = time.perf_counter()
        async with real_fleet(config, AdapterStore(root / "store")) as fleet:
            cold = time.perf_counter() - started
            print(f"cold start {cold:.1f} s", flush=True)
            found = []
            for number in range(2 * options.rounds + 1):
                victim = options.victim if number % 2 else ""
                found.append(await run_once(fleet, config, root / "tasks.jsonl", root / str(number), victim, options))
                last = found[-1]
                print(f"{'killed' if victim else 'undisturbed':12} {last.seconds:.1f} s, tasks lost {last.num_lost}, "
                      f"without a member {last.num_thin}, processes left {last.num_orphans}", flush=True)  # fmt: skip
    extra = [one.seconds - mean((found[i - 1].seconds, found[i + 1].seconds)) for i, one in enumerate(found) if i % 2]
    result = {
        "tasks_lost": float(sum(one.num_lost for one in found)),
        "tasks_without_a_member": float(sum(one.num_thin for one in found)),
        "orphans": float(sum(one.num_orphans for one in found)),
        "cold_start_s": cold,
        "extra_over_cold_start": median(extra) / cold,
    }
    print(f"extra {median(extra):.1f} s, {result['extra_over_cold_start']:.2f} of a cold start (aim 1.2); tasks lost "
          f"{result['tasks_lost']:.0f}, without a member {result['tasks_without_a_member']:.0f}, processes left "
          f"{result['orphans']:.0f}")  # fmt: skip
    return result


def main() -> None:
    """Prints every batch and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"))
    parser.add_argument("--engines", nargs="*", default=[], help="only these engines of the configuration")
    parser.add_argument("--victim", default="smollm2", help="whose core is killed")
    parser.add_argument("--tasks", type=int, default=48)
    parser.add_argument("--concurrency", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=2, help="kills")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    found = asyncio.run(run(options))
    if options.json is not None:
        publish_json(options.json, found)


if __name__ == "__main__":
    main()
