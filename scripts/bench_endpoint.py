"""What the door costs: requests a second and added latency of `evomesh serve` against the mesh called in-process.

    python scripts/bench_endpoint.py [--clients 1 50 200] [--seconds 4] [--rounds 3] [--latency 0.05] [--streams 1000]

Three scripted engines answer after `--latency` seconds, as many calls at a time as come. The door runs as a process of
its own, keeps every trace on the disk, and is asked over loopback with connections that stay open; then the same
questions with the same seeds are given to `mesh.deliberate` in this process, in turn, and medians of the rounds are
shown. CPU time per answer does not depend on what else the machine does; the client's own is not in the door's.
Last, the resident memory of a door is read before, with and after `--streams` open streams, twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import psutil

from evolve.commands.general import serving
from evolve.commands.serve import served_protocols
from evolve.config import MeshConfig, load_mesh
from mesh.deliberate import deliberate
from mesh.job import Job
from mesh.types import Member
from serving.endpoint.answer import content_of
from serving.endpoint.chat import read_request, to_ask, with_sampling
from serving.endpoint.deliberating import limited
from serving.fleet import Fleet
from serving.ticket import Ticket

CONFIG = """
name: bench
run_dir: {directory}/run
serving:
  in_process: true
  engines:
    - {{kind: scripted, name: ada, family: alpha, skill: 0.9, latency_s: {latency}}}
    - {{kind: scripted, name: ben, family: beta, skill: 0.8, latency_s: {latency}}}
    - {{kind: scripted, name: cid, family: gamma, skill: 0.7, latency_s: {latency}}}
endpoint: {{state: {directory}/state, max_concurrent: 8192, max_queued: 8192, keep_alive_s: 1.0, drain_s: 0}}
"""
WARM_UP = 5
HELD_S = 5.0
"""Seconds for which streams stay open between the two looks at the memory with them."""
Ask = Callable[[int], Awaitable[str]]
"""Asks the question of that number; returns the answer."""


@dataclass(frozen=True)
class Measured:
    """One way of asking, for one number of clients."""

    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    """CPU time for one answer: of the door's process, or of this one where the mesh is called in it."""
    answers: dict[int, str]


def body(number: int, kind: str, *, stream: bool = False) -> dict[str, Any]:
    """One of many questions, with a seed of its own; `kind` of answer: "number", or "free" for prose."""
    question = f"A shop counts its stock. What is {number} + {number % 97}?"
    messages = [{"role": "user", "content": question}]
    return {"model": "mesh", "messages": messages, "seed": number, "stream": stream, "mesh": {"answer": kind}}


async def measure(asks: Sequence[Ask], seconds: float, cpu: Callable[[], float]) -> Measured:
    """Keeps one request of each of `asks` under way for so long; all draw the same numbers, one after the other."""
    numbers, answers, times = count(), dict[int, str](), list[float]()
    due = time.perf_counter() + seconds

    async def work(ask: Ask) -> None:
        while (started := time.perf_counter()) < due:
            number = next(numbers)
            answers[number] = await ask(number)
            times.append(time.perf_counter() - started)

    before, used = time.perf_counter(), cpu()
    await asyncio.gather(*map(work, asks))
    wall, used, took = time.perf_counter() - before, cpu() - used, sorted(times)
    return Measured(
        per_second=len(took) / wall,
        p50_ms=took[len(took) // 2] * 1e3,
        p99_ms=took[len(took) * 99 // 100] * 1e3,
        cpu_ms=used / len(took) * 1e3,
        answers=answers,
    )


class Connection:
    """A client of one connection that speaks as much HTTP as it needs, so that it costs little."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: str) -> None:
        self._reader, self._writer, self._kind = reader, writer, kind

    def send(self, data: dict[str, Any]) -> None:
        """A request."""
        sent = json.dumps(data).encode()
        head = f"content-type: application/json\r\ncontent-length: {len(sent)}\r\n\r\n"
        self._writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n" + head.encode() + sent)

    async def head(self) -> dict[str, str]:
        """Headers of an answer. Raises SystemExit where it is no answer."""
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        if " 200 " not in status:
            raise SystemExit(f"expected 200 of the door, got {status}: {await self._reader.read(2000)!r}")
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    async def ask(self, number: int) -> str:
        """As `Ask`."""
        self.send(body(number, self._kind))
        answer = json.loads(await self._reader.readexactly(int((await self.head())["content-length"])))
        return str(answer["choices"][0]["message"]["content"])

    async def first_event(self, number: int) -> None:
        """Opens a stream and reads its first event; the rest comes as it may."""
        self.send(body(number, self._kind, stream=True))
        await self.head()
        await self._reader.readuntil(b"\n\n")

    async def close(self) -> None:
        """Leaves, whatever is under way."""
        self._writer.transport.abort()


@asynccontextmanager
async def connected(address: tuple[str, int], number: int, kind: str = "number") -> AsyncIterator[list[Connection]]:
    """So many open connections."""
    async with AsyncExitStack() as held:
        found = []
        for _ in range(number):
            connection = Connection(*await asyncio.open_connection(*address), kind)
            held.push_async_callback(connection.close)
            found.append(connection)
        yield found


@contextmanager
def door(directory: Path, latency: float) -> Iterator[tuple[psutil.Process, tuple[str, int], Path]]:
    """`evomesh serve` as a process of its own: process, address, configuration."""
    directory.mkdir()
    path = directory / "config.yaml"
    path.write_text(CONFIG.format(directory=directory, latency=latency))
    command = [sys.executable, "-m", "evolve.cli", "serve", str(path), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = ""
            while "}" not in said:
                line = process.stdout.readline()
                if not line:
                    raise SystemExit("expected the door to open, but it ended; see above")
                said += line
            address = urlsplit(json.loads(said)["url"])
            yield psutil.Process(process.pid), (str(address.hostname), int(address.port or 0)), path
        finally:
            process.terminate()


def in_process(config: MeshConfig, fleet: Fleet, members: Sequence[Member], kind: str) -> Ask:
    """Asks the mesh as the door does, without it."""
    protocol, job, orders = served_protocols(config, members, safe=False)["mesh"], Job(), count()

    async def ask(number: int) -> str:
        asked = to_ask(read_request(body(number, kind)))
        held = await deliberate(
            asked.task,
            members,
            fleet.for_ticket(Ticket(order=next(orders), affinity=asked.conversation)),
            limited(with_sampling(protocol, asked.sampling), config.endpoint.request_timeout_s),
            seed=number,
            job=job,
        )
        return content_of(held)

    return ask


async def compare(directory: Path, options: argparse.Namespace) -> dict[int, list[tuple[Measured, Measured]]]:
    """(door, in-process) of every round, by number of clients."""
    found: dict[int, list[tuple[Measured, Measured]]] = {}
    with door(directory, options.latency) as (process, address, path):
        config = load_mesh(path)
        async with serving(config, None, quiet=True) as (fleet, members):
            direct = in_process(config, fleet, members, options.answer)
            for number in options.clients:
                for _ in range(options.rounds):
                    # Anew each round: the door ends connections that say nothing for 30 s, as busy machines do.
                    async with connected(address, number, options.answer) as clients:
                        for client in clients[:WARM_UP]:
                            await asyncio.gather(client.ask(0), direct(0))
                        asks = [client.ask for client in clients]
                        through = await measure(asks, options.seconds, lambda: cpu_of(process))
                    plain = await measure([direct] * number, options.seconds, time.process_time)
                    found.setdefault(number, []).append((through, plain))
    return found


def cpu_of(process: psutil.Process) -> float:
    """CPU seconds of a process so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def memory(directory: Path, num_streams: int) -> list[tuple[str, float]]:
    """(when, resident MiB of the door) before, with and after so many open streams, twice."""
    with door(directory, 600.0) as (process, address, _):

        def look(when: str) -> tuple[str, float]:
            return when, process.memory_info().rss / 2**20

        await hold(address, 20, 0.0, lambda: None)  # what is imported late is not theirs
        found = [look("before")]
        for wave in ("first", "second"):
            await hold(address, num_streams, 0.0, lambda wave=wave: found.append(look(f"{wave} time open")))
            await asyncio.sleep(2.0)
            found.append(look(f"{wave} time closed"))
        await hold(address, num_streams, HELD_S, lambda: found.append(look(f"open for {HELD_S:g} s")))
        return found


async def hold(address: tuple[str, int], number: int, seconds: float, look: Callable[[], None]) -> None:
    """Opens so many streams, waits, looks, and leaves."""
    async with connected(address, number) as clients:
        for start in range(0, number, 50):
            await asyncio.gather(
                *(client.first_event(start + at) for at, client in enumerate(clients[start : start + 50]))
            )
        await asyncio.sleep(seconds)
        look()


def show(found: dict[int, list[tuple[Measured, Measured]]]) -> None:
    """The table of throughput and latency: medians of all rounds."""
    print(f"{'':<9}{'requests/s':^24}{'added ms':^16}{'latency, ms (door)':^20}{'CPU ms an answer':^18}{'same':>8}")
    heads = f"{'door':>8}{'mesh':>8}{'ratio':>8}{'p50':>8}{'p99':>8}{'p50':>10}{'p99':>10}{'door':>9}{'mesh':>9}"
    print(f"{'clients':<9}{heads}{'answers':>8}")
    for number, rounds in found.items():

        def mid(value: Callable[[Measured, Measured], float], rounds: Sequence[Any] = rounds) -> float:
            return median(value(*one) for one in rounds)

        print(
            f"{number:<9}{mid(lambda d, m: d.per_second):>8.1f}{mid(lambda d, m: m.per_second):>8.1f}"
            f"{mid(lambda d, m: d.per_second / m.per_second):>8.2f}"
            f"{mid(lambda d, m: d.p50_ms - m.p50_ms):>8.1f}{mid(lambda d, m: d.p99_ms - m.p99_ms):>8.1f}"
            f"{mid(lambda d, m: d.p50_ms):>10.1f}{mid(lambda d, m: d.p99_ms):>10.1f}"
            f"{mid(lambda d, m: d.cpu_ms):>9.2f}{mid(lambda d, m: m.cpu_ms):>9.2f}{mid(same):>8.0%}"
        )


def same(one: Measured, other: Measured) -> float:
    """Share of the questions both were asked to which both say the same."""
    both = one.answers.keys() & other.answers.keys()
    return sum(one.answers[number] == other.answers[number] for number in both) / len(both)


def main() -> None:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 50, 200])
    parser.add_argument("--latency", type=float, default=0.05, help="seconds an engine takes for one call")
    parser.add_argument("--answer", choices=["number", "free"], default="number", help="free: prose, judged in pairs")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=1000, help="0: memory is not measured")
    options = parser.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with tempfile.TemporaryDirectory() as directory:
        print(f"load average {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores before", flush=True)
        show(asyncio.run(compare(Path(directory) / "speed", options)))
        print(f"load average {os.getloadavg()[0]:.1f} after", flush=True)
        if options.streams:
            looks = asyncio.run(memory(Path(directory) / "memory", options.streams))
            print(
                f"resident memory of the door with {options.streams} streams, each asked of engines that say nothing:"
            )
            for when, mib in looks:
                print(
                    f"  {when:<20}{mib:>8.1f} MiB{(mib - looks[0][1]) * 1024 / options.streams:>8.1f} KiB a stream more"
                )


if __name__ == "__main__":
    main()
