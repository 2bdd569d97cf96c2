"""What orchestration costs real engines: deliberations through the fleet against raw vLLM on the same prompts.

    python scripts/bench_orchestration.py [--config configs/quickstart.yaml] [--tasks 48] [--concurrency 24]

Each round holds the same tasks under the configured protocol, then gives every engine the calls that it got, whole and
at once, with the same lengths: what vLLM does with this work when nobody waits for anybody. The ratio is raw seconds
over orchestrated seconds, so of tokens a second; aim 0.80 on a CPU, 0.90 on a GPU. "Plain" raw calls leave out seeds
and label probabilities. Prefix-cache hits are measured against the tokens that could have been shared: whole blocks
that an earlier call of the same engine and adapter began with; aim 0.90.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from real_fleet import Traffic, everywhere, members_of, on, real_fleet, settings, tasks_of

from evolve.config import RunConfig
from memory.ledger import publish_json
from mesh.deliberate import deliberate
from mesh.job import Job
from mesh.types import Deliberation, Task
from serving.adapters import AdapterStore
from serving.cluster import RayFleet
from serving.ticket import Ticket, with_ticket


@dataclass(frozen=True)
class Round:
    """One round."""

    orchestrated: Traffic
    raw: Traffic
    plain: Traffic
    by_engine: dict[str, tuple[Traffic, Traffic]]
    num_failures: int

    @property
    def ratio(self) -> float:
        """Orchestrated over raw tokens a second, with the same settings."""
        return self.raw.seconds / self.orchestrated.seconds

    @property
    def plain_ratio(self) -> float:
        """The same against plain calls."""
        return self.plain.seconds / self.orchestrated.seconds

    @property
    def hits(self) -> float:
        """Prefix-cache hits over shareable tokens."""
        return self.orchestrated.cached_tokens / max(1, self.orchestrated.shareable_tokens)


async def hold(fleet: RayFleet, config: RunConfig, tasks: list[Task], concurrency: int) -> list[Deliberation]:
    """All tasks, at most `concurrency` of them under way."""
    job, members, places = Job(), members_of(config), asyncio.Semaphore(concurrency)

    async def one(index: int, task: Task) -> Deliberation:
        async with places:
            engine = with_ticket(fleet, Ticket(priority="batch", order=index))
            return await deliberate(task, members, engine, config.deliberation, seed=config.seed, job=job)

    try:
        return await asyncio.gather(*(one(index, task) for index, task in enumerate(tasks)))
    finally:
        await job.close()


async def measure(fleet: RayFleet, config: RunConfig, tasks: list[Task], concurrency: int) -> Round:
    """Orchestrated, then raw, then plain."""
    await everywhere(fleet, "record")
    started = time.perf_counter()
    held = await hold(fleet, config, tasks, concurrency)
    seconds = time.perf_counter() - started
    traffic = {name: await on(fleet, name, "recorded") for name in fleet.engines}
    total = Traffic(seconds=seconds)
    for one in traffic.values():
        total = total + one
    replays = await asyncio.gather(*(on(fleet, name, "replay", False) for name in fleet.engines))
    raw = Traffic()
    for replay in replays:
        raw = raw + replay
    return Round(
        total,
        raw,
        await everywhere(fleet, "replay", True),
        {name: (traffic[name], replay) for name, replay in zip(fleet.engines, replays, strict=True)},
        sum(len(one.failures) for one in held),
    )


def show(number: int, found: Round) -> None:
    """One line a round, and one an engine."""
    work = found.orchestrated
    print(
        f"round {number}: {work.num_calls} calls, {work.prompt_tokens} prompt and {work.output_tokens} output tokens, "
        f"{found.num_failures} failures; orchestrated {work.seconds:.1f} s ({work.output_tokens / work.seconds:.0f} "
        f"tok/s), raw {found.raw.seconds:.1f} s (ratio {found.ratio:.2f}), plain {found.plain.seconds:.1f} s (ratio "
        f"{found.plain_ratio:.2f}); prefix hits {work.cached_tokens} of {work.shareable_tokens} shareable "
        f"({found.hits:.2f})",
        flush=True,
    )
    for name, (asked, raw) in found.by_engine.items():
        print(
            f"  {name:10} {asked.num_calls} calls, {asked.output_tokens} tokens out, hits {asked.cached_tokens}/"
            f"{asked.shareable_tokens}; raw alone {raw.seconds:.1f} s with {raw.cached_tokens} hits",
            flush=True,
        )


async def run(options: argparse.Namespace) -> dict[str, object]:
    """All rounds on one fleet, after one that warms it up."""
    config = settings(options.config, options.engines)
    tasks = tasks_of(config, options.tasks)
    with tempfile.TemporaryDirectory() as scratch:
        async with real_fleet(config, AdapterStore(Path(scratch))) as fleet:
            await hold(fleet, config, tasks[:4], 4)
            rounds = []
            for number in range(1, options.rounds + 1):
                rounds.append(await measure(fleet, config, tasks, options.concurrency))
                show(number, rounds[-1])
    ratio, plain = median(one.ratio for one in rounds), median(one.plain_ratio for one in rounds)
    hits = median(one.hits for one in rounds)
    print(
        f"medians of {len(rounds)}: orchestrated / raw {ratio:.2f} (aim 0.80), / plain raw {plain:.2f}, hits {hits:.2f}"
    )
    return {"orchestrated_over_raw": ratio, "orchestrated_over_plain": plain, "hits_over_shareable": hits}


def main() -> None:
    """Prints the rounds and their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"))
    parser.add_argument("--engines", nargs="*", default=[], help="only these engines of the configuration")
    parser.add_argument("--tasks", type=int, default=48)
    parser.add_argument("--concurrency", type=int, default=24, help="tasks under way at the same time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the medians there")
    options = parser.parse_args()
    found = asyncio.run(run(options))
    if options.json is not None:
        publish_json(options.json, found)


if __name__ == "__main__":
    main()
