"""Kills engines at random under load and counts what was lost: one fleet, a door and a batch on it, scripted engines.

Usage: python scripts/fault_run.py [--minutes 10] [--every 4] [--clients 16] [--seed 1]

`evomesh fleet up`, `evomesh serve` and `evomesh batch` are processes of their own, as in production. While clients ask
the door and the batch works, a random replica's process gets SIGKILL or SIGSTOP every few seconds; the batch itself is
killed once and started again. Printed at the end: requests by status, tasks of the batch answered, processes left.
The exit code is 1 if a request was lost, a task is missing or done twice, or a process stayed behind.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

CONFIG = """
name: faults
run_dir: {directory}/run
serving:
  fleet: {{directory: {directory}/fleet}}
  ray: {{object_store_mib: 80}}
  max_restarts: -1
  canary_interval_s: 5
  call_timeout_s: 60
  engines:
    - {{kind: scripted, name: ada, family: alpha, skill: 0.7, replicas: 2, latency_s: 0.05}}
    - {{kind: scripted, name: ben, family: beta, skill: 0.6, replicas: 2, latency_s: 0.05}}
    - {{kind: scripted, name: cid, family: gamma, skill: 0.5, replicas: 1, latency_s: 0.05}}
endpoint: {{state: {directory}/state}}
concurrency: 8
"""
EVOMESH = (sys.executable, "-m", "evolve.cli")


@dataclass
class Tally:
    """What came of it."""

    codes: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)


def main() -> None:
    """Run it and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two kills")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tasks", type=int, default=2000, help="tasks of the batch")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    raise SystemExit(asyncio.run(run(Path(tempfile.mkdtemp(prefix="faults-")), options)))


async def run(directory: Path, options: argparse.Namespace) -> int:
    """0 if nothing was lost and nothing stayed behind."""
    config, tasks = directory / "config.yaml", directory / "tasks.jsonl"
    config.write_text(CONFIG.format(directory=directory))
    lines = [
        {"id": f"t{i}", "question": f"What is {i} + {3 * i}?", "answer_kind": "number"} for i in range(options.tasks)
    ]
    tasks.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = {process.pid for process in psutil.process_iter()}
    fleet = start(directory / "fleet.log", "fleet", "up", str(config))
    await until(
        lambda: show(config)["is_up"] and show(config)["record"]["state"] == "ready", "the fleet to be ready", directory
    )
    door = start(directory / "serve.log", "serve", str(config), "--port", "0", "--json")
    await until(lambda: "url" in (directory / "serve.log").read_text(), "the door to open", directory)
    url = json.JSONDecoder().raw_decode((directory / "serve.log").read_text())[0]["url"]
    tally, ends_at = Tally(), time.monotonic() + options.minutes * 60
    job = asyncio.create_task(batch(config, tasks, directory, random.Random(options.seed + 1)))
    asking = [asyncio.create_task(ask(url, number, tally, ends_at)) for number in range(options.clients)]
    await kill_at_random(config, tally, options, ends_at)
    await asyncio.gather(*asking)
    starts = await job
    for process in (door, fleet):
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)
    left = [process for process in psutil.process_iter() if process.pid not in before and is_ours(process, directory)]
    return report(tally, directory, options, starts, left)


def start(log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """An `evomesh` of its own, its output in `log`."""
    return subprocess.Popen([*EVOMESH, *arguments], stdout=log.open("wb"), stderr=subprocess.STDOUT)


def show(config: Path) -> Any:
    """What `evomesh fleet show` says."""
    done = subprocess.run([*EVOMESH, "fleet", "show", str(config), "--json"], capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else {"is_up": False, "record": None, "replicas": []}


async def until(condition: Any, what: str, directory: Path, limit_s: float = 180.0) -> None:
    """Wait; SystemExit if it takes too long."""
    ends_at = time.monotonic() + limit_s
    while not await asyncio.to_thread(condition):
        if time.monotonic() > ends_at:
            raise SystemExit(f"expected {what} within {limit_s:g} s; see {directory}")
        await asyncio.sleep(0.5)


async def batch(config: Path, tasks: Path, directory: Path, draw: random.Random) -> int:
    """Run the batch to its end, killing it once on the way; the number of starts."""
    out = directory / "out"
    for number in range(1, 20):
        process = start(directory / f"batch-{number}.log", "batch", str(tasks), "--out", str(out), "-c", str(config))
        if number == 1:
            await asyncio.sleep(draw.uniform(25.0, 40.0))
            process.kill()
        if await asyncio.to_thread(process.wait) == 0:
            return number
    raise SystemExit(f"the batch did not end; see {directory}")


async def ask(url: str, number: int, tally: Tally, ends_at: float) -> None:
    """One client: question after question, half of them streamed."""
    async with httpx.AsyncClient(base_url=url, timeout=120.0, trust_env=False) as client:
        turn = 0
        while time.monotonic() < ends_at:
            turn, started = turn + 1, time.perf_counter()
            question = f"What is {number * 1000 + turn} + {turn}?"
            body = {
                "model": "mesh:council",
                "messages": [{"role": "user", "content": question}],
                "stream": turn % 2 == 0,
            }
            try:
                code = await one(client, body, tally)
            except httpx.HTTPError as error:
                code = type(error).__name__
            tally.codes[code] += 1
            tally.seconds.append(time.perf_counter() - started)
            await asyncio.sleep(0.1)


async def one(client: httpx.AsyncClient, body: dict[str, Any], tally: Tally) -> str:
    """The status of one request; of a stream also whether it came to its end."""
    if not body["stream"]:
        answer = await client.post("/v1/chat/completions", json=body)
        if answer.status_code == 200:
            tally.missing.update(one["member"] for one in answer.json()["mesh"]["missing"])
        return str(answer.status_code)
    async with client.stream("POST", "/v1/chat/completions", json=body) as stream:
        lines = [line async for line in stream.aiter_lines()]
        is_whole = "data: [DONE]" in lines and not any('"error"' in line for line in lines)
        return f"{stream.status_code}" if stream.status_code != 200 or is_whole else "stream cut"


async def kill_at_random(config: Path, tally: Tally, options: argparse.Namespace, ends_at: float) -> None:
    """A random replica, every few seconds: killed, or stopped so that it hangs."""
    draw = random.Random(options.seed)
    while time.monotonic() < ends_at - 15.0:
        await asyncio.sleep(draw.expovariate(1.0 / options.every))
        view = await asyncio.to_thread(show, config)
        pids = [one["pid"] for one in view["replicas"] if one["pid"]]
        if not pids:
            continue
        how = signal.SIGSTOP if draw.random() < 0.1 else signal.SIGKILL
        try:
            os.kill(draw.choice(pids), how)
        except ProcessLookupError:
            continue
        tally.kills[how.name] += 1


def is_ours(process: psutil.Process, directory: Path) -> bool:
    """Whether a process belongs to this run's fleet."""
    try:
        text = " ".join(process.cmdline())
        return str(directory) in text or any(str(directory) in value for value in process.environ().values())
    except psutil.Error:
        return False


def report(tally: Tally, directory: Path, options: argparse.Namespace, starts: int, left: list[psutil.Process]) -> int:
    """Print it; 1 if something was lost."""
    rows = [json.loads(line) for line in (directory / "out" / "answers.jsonl").read_text().splitlines()]
    answered = [row["id"] for row in rows if row["answer"] is not None]
    lost = options.tasks - len(set(answered))
    seconds = sorted(tally.seconds)
    print(f"kills: {dict(tally.kills)} in {options.minutes:g} minutes; the batch was started {starts} times")
    print(f"requests by status: {dict(tally.codes)}; seconds p50 {seconds[len(seconds) // 2]:.2f}, "
          f"p99 {seconds[len(seconds) * 99 // 100]:.2f}, most {seconds[-1]:.2f}")  # fmt: skip
    print(f"members missing from an answer (the rest decided): {dict(tally.missing)}")
    twice = len(rows) - len({row["id"] for row in rows})
    print(f"batch: {len(set(answered))} of {options.tasks} tasks answered, {twice} twice")
    print(f"processes left: {[(process.pid, process.name()) for process in left]}")
    bad = {code: count for code, count in tally.codes.items() if code != "200"}
    return 1 if bad or lost or left or len(rows) != options.tasks else 0


if __name__ == "__main__":
    main()
