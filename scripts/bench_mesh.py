"""What orchestration costs: CPU per member turn, memory over many deliberations, streaming against round barriers.

    python scripts/bench_mesh.py [--deliberations 50000]

The engine is a double that answers at once or after a skewed time; everything measured is this project's own work.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from statistics import median

import psutil

from mesh.config import CouncilConfig, EscalateConfig, ProtocolConfig, VoteConfig
from mesh.deliberate import deliberate
from mesh.job import Job
from mesh.seeds import derive_seed
from mesh.types import Completion, Deliberation, Member, Message, Profile, Sampling, Score, Task
from serving.traces import TraceWriter

MEMBERS = tuple(
    Member(name=name, engine=name, family=family)
    for name, family in (("ada", "a"), ("ben", "b"), ("cleo", "c"), ("dan", "a"))
)
OBJECTION = "The second step forgets to carry the one, so its total comes out too small."


class Double:
    """Answers a sum right two times in three; with `mean_s`, after a log-normal time that depends on the question."""

    def __init__(self, mean_s: float = 0.0, sigma: float = 1.0) -> None:
        self.mean_s, self.sigma = mean_s, sigma
        self.calls = 0

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[tuple[Completion, ...], int]:
        """One completion a sample."""
        await self._wait(member, messages)
        text = messages[-1].text
        if "first mistake" in text:
            return (Completion(text=OBJECTION, output_tokens=15),), 60
        # Talk does not move these members, so that every deliberation that differs goes through all phases.
        right = derive_seed(0, member.name, text[-16:]) % 3 > 0
        return (Completion(text=f"17 and 25 make that. Answer: {42 if right else 32}", output_tokens=8),), 60

    async def choose(self, member: Member, messages: Sequence[Message], labels: Sequence[str]) -> tuple[float, ...]:
        """Even odds."""
        await self._wait(member, messages)
        return tuple(1.0 / len(labels) for _ in labels)

    async def score(self, member: Member, messages: Sequence[Message], text: str) -> Score:
        """A fixed surprise."""
        return Score(log_prob=-1.0, num_tokens=1, num_bytes=1)

    async def count_tokens(self, member: Member, messages: Sequence[Message]) -> int:
        """A fixed length."""
        return 60

    async def profile(self, member: Member) -> Profile:
        """A roomy model."""
        return Profile(
            engine=member.engine, model="double", max_model_len=8192, has_chat_template=True, accepts_system_role=True,
            adds_bos=False, token_exact=True,
        )  # fmt: skip

    def seconds(self, member: str, messages: Sequence[Message]) -> float:
        """How long this call takes: log-normal around the mean, the same in every run."""
        if self.mean_s == 0.0:
            return 0.0
        dice = random.Random(derive_seed(1, member, messages[-1].text))
        return self.mean_s * math.exp(dice.gauss(0.0, self.sigma) - self.sigma**2 / 2)

    async def _wait(self, member: Member, messages: Sequence[Message]) -> None:
        self.calls += 1
        await asyncio.sleep(self.seconds(member.name, messages))


def tasks(number: int) -> Iterator[Task]:
    """Sums, all different."""
    for index in islice(count(), number):
        yield Task(id=f"t{index}", question=f"What is 17 + 25? ({index})", type="sum", answer_kind="number")


async def hold(engine: Double, config: ProtocolConfig, number: int, in_flight: int) -> AsyncIterator[Deliberation]:
    """Deliberations as they end, at most `in_flight` at a time."""
    job, todo = Job(), tasks(number)
    running = {asyncio.create_task(_one(engine, config, task, job)) for task in islice(todo, in_flight)}
    while running:
        done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for ended in done:
            yield ended.result()
        running |= {asyncio.create_task(_one(engine, config, task, job)) for task in islice(todo, len(done))}


async def _one(engine: Double, config: ProtocolConfig, task: Task, job: Job) -> Deliberation:
    return await deliberate(task, MEMBERS, engine, config, seed=1, job=job)


async def _drain(engine: Double, config: ProtocolConfig, number: int, in_flight: int) -> None:
    async for _ in hold(engine, config, number, in_flight):
        pass


def overhead(config: ProtocolConfig, number: int = 400) -> tuple[float, float]:
    """CPU milliseconds a member turn, ours and those of the double alone, one process on one core."""
    engine = Double()
    started = time.process_time()
    asyncio.run(_drain(engine, config, number, 16))
    ours, calls = time.process_time() - started, engine.calls

    async def bare() -> None:
        messages = (Message(role="user", parts=()),)
        for _ in range(calls):
            await engine.complete(MEMBERS[0], messages, Sampling())

    started = time.process_time()
    asyncio.run(bare())
    alone = time.process_time() - started
    return 1000 * (ours - alone) / calls, 1000 * alone / calls


def bounded_memory(number: int) -> None:
    """Many deliberations, traces streamed into one Parquet file: memory after a tenth and at the end."""
    process, sizes = psutil.Process(), []

    async def work(path: Path) -> None:
        with TraceWriter(path) as writer:
            seen = 0
            async for trace in hold(Double(), EscalateConfig(), number, 64):
                writer.add(trace)
                seen += 1
                if seen % (number // 10) == 0:
                    sizes.append(process.memory_info().rss / 2**20)
            writer.publish()

    with tempfile.TemporaryDirectory() as directory:
        started = time.perf_counter()
        path = Path(directory) / "traces.parquet"
        asyncio.run(work(path))
        seconds, written = time.perf_counter() - started, path.stat().st_size
    print(
        f"{number:,} deliberations (escalate) of 4 members in {seconds:.0f} s ({number / seconds:.0f}/s), "
        f"{written / 2**20:.0f} MiB of "
        f"traces; resident {sizes[0]:.0f} MiB after a tenth, {sizes[-1]:.0f} MiB at the end: "
        f"ratio {sizes[-1] / sizes[0]:.2f}"
    )


def streaming_against_barrier(number: int, in_flight: int, sigma: float) -> tuple[float, float]:
    """Seconds for the same calls with the same times: each task at its own pace, and all tasks of a wave in step.

    The barrier version is told the calls beforehand, so it pays nothing for deciding them.
    """
    engine, config = Double(mean_s=0.25, sigma=sigma), CouncilConfig()
    traces: list[Deliberation] = []

    async def streaming() -> None:
        async for trace in hold(engine, config, number, in_flight):
            traces.append(trace)

    started = time.perf_counter()
    asyncio.run(streaming())
    ours = time.perf_counter() - started

    async def barrier() -> None:
        ordered = sorted(traces, key=lambda trace: int(trace.task.id[1:]))
        for first in range(0, number, in_flight):
            phases: dict[tuple[int, str], list[float]] = {}
            for trace in ordered[first : first + in_flight]:
                for exchange in trace.exchanges:
                    seconds = engine.seconds(exchange.member, exchange.messages)
                    phases.setdefault((exchange.round, exchange.phase), []).append(seconds)
            for seconds_of_phase in phases.values():
                await asyncio.gather(*(asyncio.sleep(seconds) for seconds in seconds_of_phase))

    started = time.perf_counter()
    asyncio.run(barrier())
    return ours, time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--deliberations", type=int, default=50_000, help="how many to stream for the memory test")
    parser.add_argument("--runs", type=int, default=3, help="repetitions, of which the median counts")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print("CPU of one member turn, median of runs (aim: at most 0.5 ms)")
    for config in (VoteConfig(), CouncilConfig(), EscalateConfig()):
        measured = [overhead(config) for _ in range(options.runs)]
        ours, alone = median(m[0] for m in measured), median(m[1] for m in measured)
        print(f"  {config.kind:10}{ours:.3f} ms, besides {alone:.3f} ms of the double itself")
    print("streaming against round barriers, same calls, same 64 tasks in flight (aim: at least 1.3)")
    for sigma in (0.0, 0.5, 1.0):
        pairs = [streaming_against_barrier(256, 64, sigma) for _ in range(options.runs)]
        ratio = median(barrier / ours for ours, barrier in pairs)
        ours, barrier = (median(side) for side in zip(*pairs, strict=True))
        print(f"  lengths log-normal, sigma {sigma:.1f}: {ours:.2f} s against {barrier:.2f} s, ratio {ratio:.2f}")
    bounded_memory(options.deliberations)


if __name__ == "__main__":
    main()
