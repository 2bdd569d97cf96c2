"""Our memory beside two from PyPI, mem0's FAISS store and ariadne-memory: same texts, same vectors, no model.

    python scripts/bench_memory_rival.py --mem0 ENV/bin/python --ariadne ENV/bin/python [--sizes 1000 10000]

Neither is a dependency of this project. An environment for each, once:

    python -m venv /tmp/mem0 && /tmp/mem0/bin/pip install mem0ai==2.2.1 faiss-cpu==1.15.1
    python -m venv /tmp/ariadne && /tmp/ariadne/bin/pip install ariadne-memory==0.13.0 faiss-cpu==1.15.1

Measured: inserts/s in batches of 100 and one at a time once so many are stored, time to open, queries by vector alone
and by words and vector, recall@10 against exact search, bytes on disk, what is left of acknowledged inserts after
kill -9, and of two processes that write at once. Runs alternate between the stores; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from memory_load import Load, PerturbedEmbedder

ROOT = Path(__file__).resolve().parent.parent
CHILD = Path(__file__).with_name("rival_stores.py")
NUM_QUERIES = 200
NUM_SINGLES = 50
STORED_BEFORE_KILL = 1_000
PER_WRITER = 100

FIGURES = {
    "batch_per_s": ("inserts/s, batches of 100", 0),
    "single_per_s": ("inserts/s, one at a time", 1),
    "open_s": ("s to open", 3),
    "near_p50_ms": ("ms by vector, p50", 2),
    "near_p99_ms": ("ms by vector, p99", 2),
    "search_p50_ms": ("ms by words and vector, p50", 2),
    "search_p99_ms": ("ms by words and vector, p99", 2),
    "recall_at_10": ("recall@10 by vector", 3),
    "disk_mib": ("MiB on disk", 1),
}

Pythons = Mapping[str, str]
Result = dict[str, Any]


def main() -> None:
    """Run everything, or say why nothing was run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mem0", help="python of an environment with mem0ai")
    parser.add_argument("--ariadne", help="python of an environment with ariadne-memory")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--runs", type=int, default=3, help="of each measurement")
    parser.add_argument("--kills", type=int, default=10, help="of each store")
    args = parser.parse_args()
    pythons = {"ours": sys.executable} | available({"mem0": args.mem0, "ariadne": args.ariadne})
    if len(pythons) == 1:
        print(f"skipped: no rival is installed where --mem0 or --ariadne says.\n\n{__doc__}")
        return
    with tempfile.TemporaryDirectory(prefix="bench-rival-") as name:
        home = Path(name)
        data = made_data(home, max(args.sizes) + NUM_SINGLES + 10_000)
        for size in args.sizes:
            measured(pythons, home, data, size, args.runs)
        killed(pythons, home, data, args.kills)
        together(pythons, home, data, args.runs)


def available(given: Mapping[str, str | None]) -> dict[str, str]:
    """Those whose python can import its rival; the others are named with what is wrong."""
    modules = {"mem0": "mem0.vector_stores.faiss", "ariadne": "arriadne"}
    found = {}
    for name, python in given.items():
        if python is None:
            print(f"{name}: not given, left out")
            continue
        tried = subprocess.run(
            [python, "-c", f"import {modules[name]}"], capture_output=True, text=True, env=environment(), check=False
        )
        if tried.returncode == 0:
            found[name] = python
        else:
            print(f"{name}: left out: {tried.stderr.strip().splitlines()[-1:]}")
    return found


def made_data(home: Path, count: int) -> Path:
    """Texts, vectors and queries for every child, in one file."""
    load = Load(ROOT / "runs" / "bench-memory")
    embedder, rng = PerturbedEmbedder(load), np.random.default_rng(3)
    texts = [load.problem(number).text for number in range(count)]
    # Near entries that the smallest store holds too.
    queries = [load.query(int(rng.integers(1_000)), turn) for turn in range(NUM_QUERIES)]
    path = home / "data.npz"
    np.savez(path, texts=texts, vectors=embedder.embed(texts), queries=embedder.embed(queries), query_texts=queries)
    return path


def measured(pythons: Pythons, home: Path, data: Path, size: int, runs: int) -> None:
    """Print speed, recall and bytes at one size."""
    results: dict[str, list[Result]] = {name: [] for name in pythons}
    for _ in range(runs):
        for name, python in pythons.items():
            directory = fresh(home / name)
            results[name].append(answer(python, name, "measure", directory, data, size, NUM_SINGLES))
    print(f"\n{size:,} entries of 384 numbers (medians of {runs} runs; in brackets the share of ours)")
    for name, found in results.items():
        print(f"  {name}: {found[0]['settings']}; {found[0]['versions']}")
    print("  " + " " * 30 + "".join(f"{name:>20}" for name in pythons))
    for key, (title, digits) in FIGURES.items():
        middle = {name: statistics.median(run[key] for run in found) for name, found in results.items()}
        cells = (cell(name, value, middle["ours"], digits) for name, value in middle.items())
        print(f"  {title:<30}" + "".join(f"{one:>20}" for one in cells))


def cell(name: str, value: float, ours: float, digits: int) -> str:
    """A figure, and in brackets how many times ours it is; "-" where the store has no such thing."""
    if math.isnan(value):
        return "-"
    return f"{value:,.{digits}f}" + ("" if name == "ours" else f" ({value / ours:.2g}x)")


def killed(pythons: Pythons, home: Path, data: Path, kills: int) -> None:
    """Kill a writer at a random moment, again and again in the same directory, and look for what it acknowledged."""
    print(f"\nkill -9 of a writer of single inserts into {STORED_BEFORE_KILL:,} entries, {kills} times each")
    for name, python in pythons.items():
        rng = random.Random(7)
        total = lost = unfound = broken = first = 0
        for turn in range(kills):
            if first == 0 or turn == 0:
                directory = fresh(home / name)
                answer(python, name, "measure", directory, data, STORED_BEFORE_KILL, 0)
                first = STORED_BEFORE_KILL
            acknowledged = killed_once(python, name, directory, data, first, rng.uniform(0.05, 1.0))
            try:
                found = answer(python, name, "check", directory, data)
            except RuntimeError:
                broken, first = broken + 1, 0
                continue
            expected = set(range(STORED_BEFORE_KILL)) | acknowledged
            total += len(acknowledged)
            missing = expected - set(found["present"])
            lost += len(missing)
            unfound += len(expected - set(found["reachable"]) - missing)
            first = 0 if missing else max(found["present"]) + 1
            first = 0 if first > STORED_BEFORE_KILL + 8_000 else first
        print(
            f"  {name:<8} acknowledged {total:>6,}; of all stored, lost {lost:,}, there but not found by their own "
            f"vector {unfound:,}; could not be opened {broken} times"
        )


def killed_once(python: str, name: str, directory: Path, data: Path, first: int, after_s: float) -> set[int]:
    """Numbers of what a writer acknowledged until it was killed."""
    child = writer(python, name, directory, data, first, 8_000)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("go\n")
    child.stdin.flush()
    time.sleep(after_s)
    child.kill()
    return {int(line) for line in child.stdout.read().split("\n")[:-1] if line.strip().isdigit()}


def together(pythons: Pythons, home: Path, data: Path, runs: int) -> None:
    """Two processes write at once; what is there of what both acknowledged."""
    print(f"\ntwo processes insert {PER_WRITER} each into one directory at once, {runs} times")
    for name, python in pythons.items():
        acknowledged = present = refused = 0
        for _ in range(runs):
            directory = fresh(home / name)
            starts = (0, PER_WRITER)
            children = [writer(python, name, directory, data, start, PER_WRITER) for start in starts]
            outputs = [child.communicate("go\n")[0] for child in children]
            refused += sum(child.returncode != 0 for child in children)
            done = {int(line) for output in outputs for line in output.split("\n") if line.strip().isdigit()}
            acknowledged += len(done)
            present += len(done & set(answer(python, name, "check", directory, data)["reachable"]))
        print(
            f"  {name:<8} acknowledged {acknowledged:,} of {2 * PER_WRITER * runs:,}; found again {present:,}, "
            f"lost {acknowledged - present:,}; writers refused or failed {refused} of {2 * runs}"
        )


def writer(python: str, name: str, directory: Path, data: Path, first: int, count: int) -> subprocess.Popen[str]:
    """A process that has the store open and waits for a line to begin, or was refused."""
    child = subprocess.Popen(
        [python, str(CHILD), name, "write", str(directory), str(data), str(first), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    assert child.stdout is not None
    child.stdout.readline()  # "ready", or nothing
    return child


def answer(python: str, name: str, verb: str, directory: Path, data: Path, *numbers: int) -> Result:
    """What a child said. Raises RuntimeError with its last words if it failed."""
    command: Sequence[str] = [python, str(CHILD), name, verb, str(directory), str(data), *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    if done.returncode:
        raise RuntimeError(f"{name} {verb}: {done.stderr.strip().splitlines()[-1:]}")
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def environment() -> dict[str, str]:
    """One thread each, and nothing that would ask the network."""
    quiet = {"OMP_NUM_THREADS": "1", "MEM0_TELEMETRY": "False", "HF_HUB_OFFLINE": "1"}
    return os.environ | quiet | {"MEM0_DIR": str(Path(tempfile.gettempdir()) / "mem0-home")}


def fresh(directory: Path) -> Path:
    """The directory, empty."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


if __name__ == "__main__":
    main()
