"""Memory under load: recall latency by lane while a writer writes, recall@10, opening, shared pages, commits.

    python scripts/bench_memory.py                       # 10k and 100k entries: some minutes
    python scripts/bench_memory.py --sizes 1000000       # half an hour, most of it filling; 5 GB of disk

Stores are kept in runs/bench-memory and filled once. Latencies are of an open loop: from the moment a query was due,
waiting included. Embedding a query (20 ms with MiniLM) is not in them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from memory_load import Load, PerturbedEmbedder

from memory.database import connect
from memory.embed import Vectors
from memory.lanes import Question, Scope
from memory.recall import MIN_OVERLAP
from memory.store import Memory, Submission
from memory.types import Cue, Observation

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "runs" / "bench-memory"
NAMESPACES = ("default/default/default",)
RATE = 100.0
LANES = ("fingerprint", "vector", "text", "whole")
NUM_RECALL_QUERIES = 200


def main() -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--readers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each lane's open loop")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        spec = json.loads(args.child)
        {"read": read, "insert": insert, "watch": watch}[spec.pop("what")](**spec)
        return
    for size in args.sizes:
        directory = filled(size)
        print(f"\n{size:,} entries; index {describe(directory)}")
        print(f"  recall@10 of the vector lane against exact search: {recall_at_10(directory, size):.3f}")
        for num_readers in args.readers:
            under_load(directory, size, num_readers, args.seconds)
    writes()


def filled(size: int) -> Path:
    """The store of this size; made, embedded and indexed if it is not there."""
    directory, mark = HOME / str(size), HOME / f"{size}.done"
    if mark.exists():
        return directory
    load, started = Load(HOME), time.perf_counter()
    with Memory.open(directory, PerturbedEmbedder(load)) as memory:
        already = memory.stats().num_experiences
        group: list[Submission] = []
        for place, submission in enumerate(load.submissions(size, 50)):
            if (place + 1) * 100 <= already:
                continue
            group.append(submission)
            if len(group) == 20:
                memory.remember_many(group)
                group = []
                print(f"\r  filling {place * 100:,}/{size:,}", end="", flush=True)
        memory.remember_many(group)
        stored = time.perf_counter()
        memory.embed_pending()
        embedded = time.perf_counter()
        memory.publish_index(force=True)
        print(
            f"\r  filled {size:,} in {stored - started:.0f} s ({size / (stored - started):,.0f} entries/s), "
            f"vectors {embedded - stored:.0f} s, index {time.perf_counter() - embedded:.0f} s"
        )
    mark.touch()
    return directory


def opened(directory: Path, *, readonly: bool = True) -> Memory:
    """The memory, with the benchmark's embedder."""
    return Memory.open(directory, PerturbedEmbedder(Load(HOME)), readonly=readonly)


def describe(directory: Path) -> str:
    """What searches run on."""
    with opened(directory) as memory:
        index = memory.stats().index
    return f"{index.rung.kind} (gate: recall@10 {index.rung.recall:.3f}), {index.num_delta} vectors beside it"


def recall_at_10(directory: Path, size: int) -> float:
    """Share of the ten truly nearest entries that the vector lane finds, over fresh queries."""
    rng = np.random.default_rng(11)
    load = Load(HOME)
    texts = [load.query(int(rng.integers(size // 2)), turn) for turn in range(NUM_RECALL_QUERIES)]
    queries = PerturbedEmbedder(load).embed(texts)
    truth = exact(directory, queries)
    with opened(directory) as memory:
        found = [[row for row, _ in memory._mirror.search(query, 10, None)] for query in queries]
    return statistics.mean(len(set(f) & set(t)) / 10 for f, t in zip(found, truth, strict=True))


def exact(directory: Path, queries: Vectors) -> list[list[int]]:
    """Rows of the ten nearest vectors, by comparing with all of them."""
    connection = connect(directory, readonly=True)
    best: list[list[tuple[float, int]]] = [[] for _ in queries]
    after = 0
    while block := connection.execute(
        "SELECT seq, entry, vector FROM vectors WHERE seq > ? ORDER BY seq LIMIT 50000", (after,)
    ).fetchall():
        after = block[-1][0]
        vectors = np.frombuffer(b"".join(row[2] for row in block), dtype="<f4").reshape(len(block), -1)
        scores = queries @ vectors.T
        for place, line in enumerate(scores):
            near = np.argpartition(-line, min(10, len(line) - 1))[:10]
            best[place] = sorted([*best[place], *((-float(line[i]), block[i][1]) for i in near)])[:10]
    connection.close()
    return [[row for _, row in found] for found in best]


def under_load(directory: Path, size: int, num_readers: int, seconds: float) -> None:
    """Readers at RATE queries a second in all, beside a writer."""
    writer = child(what="insert", directory=str(directory), start=size)
    readers = [
        child(what="read", directory=str(directory), size=size, rate=RATE / num_readers, seconds=seconds, seed=seed)
        for seed in range(num_readers)
    ]
    opening = [json.loads(line(reader))["open_s"] for reader in readers]
    for reader in readers:
        tell(reader, "go")
    answers = [json.loads(line(reader)) for reader in readers]
    pss = [psutil.Process(reader.pid).memory_full_info().pss / 2**20 for reader in readers]
    own = [psutil.Process(reader.pid).memory_full_info().uss / 2**20 for reader in readers]
    for process in (*readers, writer):
        tell(process, "end")
    written = json.loads(line(writer))["written"]
    for process in (*readers, writer):
        process.wait(60)
    print(f"  {num_readers} readers, {RATE:.0f} queries/s in all, writer added {written} entries meanwhile")
    for lane in LANES:
        times = sorted(value for answer in answers for value in answer[lane])
        middle, late = 1e3 * pick(times, 0.5), 1e3 * pick(times, 0.99)
        print(f"    {lane:12} p50 {middle:7.2f} ms   p99 {late:7.2f} ms   n {len(times)}")
    print(f"    open {max(opening):.2f} s at most; the benchmark itself takes {answers[0]['bare_mib']:.0f} MiB of each")
    print(f"    memory of readers: PSS {sum(pss):.0f} MiB in all, private {statistics.mean(own):.0f} MiB each")


def read(directory: str, size: int, rate: float, seconds: float, seed: int) -> None:
    """A reader process: opens, waits for "go", runs each lane's open loop, reports, waits for "end"."""
    load = Load(HOME)
    load.base, load.questions  # noqa: B018 - made before the clock runs
    bare = psutil.Process().memory_full_info().uss / 2**20
    started = time.perf_counter()
    memory = Memory.open(Path(directory), PerturbedEmbedder(load), readonly=True)
    print(json.dumps({"open_s": time.perf_counter() - started}), flush=True)
    sys.stdin.readline()
    rng = np.random.default_rng(seed)
    found = {lane: open_loop(runner(memory, load, lane), rng, size, rate, seconds) for lane in LANES}
    print(json.dumps({**found, "bare_mib": bare}), flush=True)
    sys.stdin.readline()
    memory.close()


def runner(memory: Memory, load: Load, lane: str) -> Callable[[int, int], Callable[[], object]]:
    """Makes the timed part of one query of a lane; what comes before it is not timed."""
    embedder = PerturbedEmbedder(load)

    def prepare(number: int, turn: int) -> Callable[[], object]:
        if lane == "fingerprint":
            cue = Cue(text=load.problem(number).text, namespaces=NAMESPACES)
            return lambda: memory.recall(cue).shown[0]
        text = load.query(number, turn)
        if lane == "whole":
            return lambda: memory.recall(Cue(text=text, namespaces=NAMESPACES))
        vector = embedder.embed([text])[0]

        def vectors() -> object:
            with memory.reading():
                memory._mirror.refresh()
                return memory._mirror.search(vector, 10, None)

        def words() -> object:
            with memory.reading() as connection:
                question = Question(
                    connection, Cue(text=text, namespaces=NAMESPACES), Scope([1]), lambda *_: [], floor=(0, MIN_OVERLAP)
                )
                return question.belonging(question.matches, "works")

        return vectors if lane == "vector" else words

    return prepare


def open_loop(
    prepare: Callable[[int, int], Callable[[], object]],
    rng: np.random.Generator,
    size: int,
    rate: float,
    seconds: float,
) -> list[float]:
    """Seconds from when each query was due until it was answered; arrivals are a Poisson process."""
    gaps = rng.exponential(1 / rate, int(rate * seconds))
    calls = [prepare(int(rng.integers(size // 2)), int(rng.integers(1 << 30))) for _ in gaps]
    calls[0]()
    due, times = time.perf_counter(), []
    for gap, call in zip(gaps, calls, strict=True):
        due += gap
        if (ahead := due - time.perf_counter()) > 0:
            time.sleep(ahead)
        call()
        times.append(time.perf_counter() - due)
    return times


def insert(directory: str, start: int) -> None:
    """A writer process: 50 durable submissions a second, embedded every second, until "end"."""
    import select

    load, written = Load(HOME), 0
    with Memory.open(Path(directory), PerturbedEmbedder(load)) as memory:
        first = start + 10 * memory.stats().num_events  # new numbers in every run
        while not select.select([sys.stdin], [], [], 0.02)[0]:
            memory.remember(*load.submission([first + written // 2]))
            written += 2
            if written % 100 == 0:
                memory.embed_pending()
        print(json.dumps({"written": written}), flush=True)


def writes() -> None:
    """Durable commits alone and in groups, and how soon another process sees them."""
    load, directory = Load(HOME), HOME / f"writes-{os.getpid()}"
    memory = Memory.open(directory, PerturbedEmbedder(load))
    numbers = iter(range(10**7))

    def one() -> Submission:
        problem = load.problem(next(numbers))
        return Submission([Observation(experience=problem, source="load", episode="e")])

    print("\ndurable commits (one observation each, every one acknowledged after a sync of the disk)")
    for group in (1, 8, 64, 512):
        rates = []
        for _ in range(5):
            prepared = [one() for _ in range(max(300, 4 * group))]
            started = time.perf_counter()
            for place in range(0, len(prepared), group):
                memory.remember_many(prepared[place : place + group])
            rates.append(len(prepared) / (time.perf_counter() - started))
        print(f"  groups of {group:3}: {statistics.median(rates):7,.0f} commits/s (median of 5)")
    watcher = child(what="watch", directory=str(directory), count=300)
    line(watcher)
    acknowledged = []
    for _ in range(300):
        submission = one()
        tell(watcher, submission.observations[0].experience.id)
        memory.remember(*submission)
        acknowledged.append(time.time())
        time.sleep(0.02)
    seen = json.loads(line(watcher))
    delays = sorted(max(0.0, there - here) for there, here in zip(seen, acknowledged, strict=True))
    print(
        f"  acknowledged until seen by another process: p50 {1e3 * pick(delays, 0.5):.1f} ms, "
        f"p99 {1e3 * pick(delays, 0.99):.1f} ms"
    )
    memory.close()


def watch(directory: str, count: int) -> None:
    """A reader process that says when it first sees each id it is told."""
    with opened(Path(directory)) as memory:
        print("ready", flush=True)
        seen = []
        for _ in range(count):
            id = sys.stdin.readline().strip()
            while memory.get(id) is None:
                time.sleep(0.0005)
            seen.append(time.time())
        print(json.dumps(seen), flush=True)


def child(**spec: object) -> subprocess.Popen[str]:
    """This script as another process."""
    return subprocess.Popen(
        [sys.executable, __file__, "--child", json.dumps(spec)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def line(process: subprocess.Popen[str]) -> str:
    """The next line that a child prints."""
    assert process.stdout is not None
    found = process.stdout.readline()
    if not found:
        raise RuntimeError(f"a child ended with {process.wait()}; its error stands above")
    return found


def tell(process: subprocess.Popen[str], word: str) -> None:
    """Say a word to a child."""
    assert process.stdin is not None
    process.stdin.write(word + "\n")
    process.stdin.flush()


def pick(ordered: list[float], share: float) -> float:
    """The value at a share of an ordered list."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


if __name__ == "__main__":
    main()
