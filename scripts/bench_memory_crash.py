"""What memory holds after kill -9 of its writer and its indexer, and after damage to every one of its files.

    python scripts/bench_memory_crash.py [--kills 240] [--flips 40] [--seed 0] [--quick]

A writer reports each verb that returned. Whatever the moment of the kill, all that was reported must be there, `check`
must pass, and held questions must be answered as after a rebuild of a copy. Then copies of a directory are damaged,
bit by bit and by truncation. An index is a cache: no answer may change. Of the write-ahead log SQLite keeps what comes
before the damage: a true beginning of the history may be left, and it is counted. A damaged database must be refused,
or found by `check`, unless the damage changed nothing. Ends with 1 if anything else happened.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memory import indexer
from memory.database import FILE_NAME, StoreError
from memory.embed import HashedNgramEmbedder
from memory.events import event_hash
from memory.ledger import LOCK_NAME
from memory.store import Memory, Submission
from memory.types import Artefact, Cue, Edge, Evidence, Experience, Kind, Namespace, Observation, Relation, Use

EMBEDDER = HashedNgramEmbedder()
RAM = Path("/dev/shm")
TIMEOUT_S = 120.0
KILLS_PER_STORE = 24
FRUIT = ("apples", "pears", "figs", "plums", "dates", "limes")
SOURCES = tuple(f"source{number}" for number in range(8))
NAMESPACES = (Namespace(), Namespace(team="acme"))


def question(number: int) -> str:
    """Problems that are alike, and never the same."""
    return f"How many {FRUIT[number % 6]} are left when {number % 7} of {number} {FRUIT[number % 6]} are eaten?"


CUES = tuple(
    Cue(text=text, namespaces=(str(namespace),), limit=8)
    for namespace in NAMESPACES
    for text in (question(3), question(11), f"Tell me: {question(8)}", "How many melons are left when 2 are eaten?")
)


# The writer that will be killed


def story(rng: random.Random) -> Submission:
    """A problem that was solved, or an attempt that failed."""
    number = rng.randrange(60)
    where: dict[str, Any] = {"namespace": rng.choice(NAMESPACES), "task_type": "sum"}
    who = {"source": rng.choice(SOURCES), "episode": f"e{rng.randrange(40)}"}
    problem = Experience(kind=Kind.PROBLEM, text=question(number), **where)
    kind, relation, verdict = rng.choice(
        [(Kind.SOLUTION, Relation.RESOLVED_BY, "passed"), (Kind.ERROR, Relation.FAILED_WITH, "failed")]
    )
    end = Experience(kind=kind, text=f"{question(number)} Answer: {rng.randrange(4)}", **where)
    check = Evidence(verifier="exact", verdict=verdict, digest=f"d{rng.randrange(9)}")  # type: ignore[arg-type]
    seen = [Observation(experience=problem, **who), Observation(experience=end, evidence=check, **who)]
    return Submission(seen, [Edge(source=problem.id, relation=relation, target=end.id)])


def act(memory: Memory, rng: random.Random, tell: Callable[..., None]) -> None:
    """One random verb; says what it is about to do, and that it is done."""
    with memory.reading() as connection:
        known = [id for (id,) in connection.execute("SELECT id FROM entries ORDER BY random() LIMIT 2")]
    verb = rng.choices(list(_VERBS), [weight for weight, _ in _VERBS.values()])[0]
    if verb != "remember" and len(known) < 2:
        return
    if verb == "remember":
        group = [story(rng) for _ in range(rng.choice((1, 1, 4, 16)))]
        ids = [seen.experience.id for one in group for seen in one.observations]
        tell(verb=verb, about=ids)
        memory.remember_many(group)
        tell(done=verb, kept=ids, **place(memory))
        return
    tell(verb=verb, about=known[:1])
    _VERBS[verb][1](memory, known[0], known[1], rng)
    tell(done=verb, gone=known[:1] if verb == "erase" else [], **place(memory))


def place(memory: Memory) -> dict[str, Any]:
    """Where the history stands."""
    with memory.reading() as connection:
        count, head = connection.execute("SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1").get or (0, "")
    return {"count": count, "head": head}


def _use(memory: Memory, one: str, other: str, rng: random.Random) -> None:
    shown, success = (one,), rng.random() < 0.7
    use = Use(episode=f"u{rng.randrange(999)}", success=success, verifier="exact", shown=shown, withheld=(other,))
    memory.used(use.model_copy(update={"followed": shown, "same": shown}))


def _merge(memory: Memory, one: str, other: str, rng: random.Random) -> None:
    try:
        memory.merge(one, other, "the same")
    except ValueError:  # the other way round already
        memory.unmerge(other)


def _verify(memory: Memory, one: str, other: str, rng: random.Random) -> None:
    verdict = "passed" if rng.random() < 0.8 else "failed"
    memory.verify(
        one, Evidence(verifier="exact", verdict=verdict, digest=f"{rng.random()}"), source=rng.choice(SOURCES)
    )


def _supersede(memory: Memory, one: str, other: str, rng: random.Random) -> None:
    memory.remember([], [Edge(source=one, relation=Relation.SUPERSEDES, target=other)])


def _note(memory: Memory, one: str, other: str, rng: random.Random) -> None:
    made_from = (f"e{rng.randrange(40)}",)
    memory.record_artefact(Artefact(id=f"set {rng.randrange(50)}", kind="dataset", made_from=made_from))


_VERBS: dict[str, tuple[int, Callable[[Memory, str, str, random.Random], object]]] = {
    "remember": (40, lambda memory, one, other, rng: None),
    "embed": (15, lambda memory, one, other, rng: memory.embed_pending()),
    "verify": (12, _verify),
    "used": (8, _use),
    "merge": (4, _merge),
    "unmerge": (3, lambda memory, one, other, rng: memory.unmerge(one)),
    "retire": (4, lambda memory, one, other, rng: memory.retire(one, "because")),
    "restore": (4, lambda memory, one, other, rng: memory.restore(one, "because")),
    "supersede": (3, _supersede),
    "artefact": (2, _note),
    "rollback": (1, lambda memory, one, other, rng: memory.rollback(source=rng.choice(SOURCES))),
    "erase": (3, lambda memory, one, other, rng: memory.erase(one)),
    "publish": (6, lambda memory, one, other, rng: memory.publish_index(force=rng.random() < 0.5)),
    "rebuild": (1, lambda memory, one, other, rng: memory.rebuild()),
}


def write_until_killed(directory: Path, seed: int, tell: Callable[..., None]) -> None:
    """Verb after verb, each told before and after."""
    rng = random.Random(seed)
    memory = Memory.open(directory, EMBEDDER, clock=lambda: 1e9)
    tell(done="open")
    while True:
        act(memory, rng, tell)


def index_until_killed(directory: Path, tell: Callable[..., None]) -> None:
    """Generation after generation, beside the writer, as `python -m memory.indexer` builds them."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the rest of this process
    tell(done="open")
    while True:
        indexer.main([str(directory), "--embedder", EMBEDDER.id, "--threads", "1"])


# Processes: this one never opens a store, so that every child starts clean


@dataclass
class Child:
    """A forked process and the lines it told."""

    pid: int
    pipe: int
    data: bytes = b""

    def wait_for_a_line(self) -> None:
        """Until it told something, or ended."""
        while b"\n" not in self.data and self._read(TIMEOUT_S):
            pass

    def kill(self) -> list[dict[str, Any]]:
        """Kill it as a power cut would, and return what it had told."""
        os.kill(self.pid, signal.SIGKILL)
        return self.end()[0]

    def end(self) -> tuple[list[dict[str, Any]], int]:
        """What it told until it ended, and its wait status; it is killed if it takes too long."""
        while self._read(TIMEOUT_S):
            pass
        os.close(self.pipe)
        status = os.waitpid(self.pid, 0)[1]
        return [json.loads(line) for line in self.data.split(b"\n")[:-1]], status

    def _read(self, timeout: float) -> bool:
        if not select.select([self.pipe], [], [], timeout)[0]:
            os.kill(self.pid, signal.SIGKILL)
        more = os.read(self.pipe, 1 << 16)
        self.data += more
        return bool(more)


def fork(work: Callable[[Callable[..., None]], None]) -> Child:
    """Run `work` in a child; it tells lines of JSON through a pipe."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Child(pid, reading)
    status = 70
    try:
        os.close(reading)
        work(lambda **line: _send(writing, line))
        status = 0
    finally:
        if status:
            _send(writing, {"error": traceback.format_exc(limit=-4)})
        os._exit(status)


def _send(pipe: int, line: dict[str, Any]) -> None:
    os.write(pipe, json.dumps(line).encode() + b"\n")


# What must hold after a kill


@dataclass
class Acknowledged:
    """What the writer was told is stored, and what the verb that a kill overtook may have changed."""

    kept: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    unclear: set[str] = field(default_factory=set)
    count: int = 0
    head: str = ""

    def settle(self) -> None:
        """Expect nothing more of what the overtaken verb was about: it may have come to its end."""
        self.kept -= self.unclear
        self.gone -= self.unclear

    def hear(self, lines: Sequence[dict[str, Any]]) -> Counter[str]:
        """Take in what a writer told; returns how often it finished each verb."""
        done: Counter[str] = Counter()
        self.unclear = set()
        for line in lines:
            self.unclear = set(line.get("about", ()))
            kept, gone = set(line.get("kept", ())), set(line.get("gone", ()))
            self.kept = (self.kept | kept) - gone
            self.gone = (self.gone | gone) - kept
            self.count, self.head = line.get("count", self.count), line.get("head", self.head)
            done.update([line["done"]] if "done" in line else [])
        return done


def answers(memory: Memory) -> list[Any]:
    """What held questions get, as JSON; scores and reasons included."""
    return [memory.recall(cue).model_dump(mode="json") for cue in CUES]


def look_after_a_kill(directory: Path, told: Acknowledged, tell: Callable[..., None]) -> None:
    """Tell each thing that is not as it must be."""
    copy = directory.with_name(f"{directory.name}-copy")
    shutil.copytree(directory, copy)
    with Memory.open(directory, EMBEDDER, clock=lambda: 1e9) as memory:
        for id in told.kept - told.unclear:
            if memory.get(id) is None:
                tell(wrong=f"acknowledged and not there: {id}")
        for id in told.gone - told.unclear:
            if memory.get(id) is not None:
                tell(wrong=f"erased and there: {id}")
        with memory.reading() as connection:
            if told.head and event_hash(connection, told.count) != told.head:
                tell(wrong=f"the history is not the one that was acknowledged at event {told.count}")
        memory.check()
        memory.embed_pending()
        ours = answers(memory)
    with Memory.open(copy, EMBEDDER, clock=lambda: 1e9) as memory:
        memory.rebuild()
        if answers(memory) != ours:
            tell(wrong="another answer than after a rebuild")
    with Memory.open(directory, EMBEDDER, readonly=True, clock=lambda: 1e9) as memory:
        if answers(memory) != ours:
            tell(wrong="a reader answers otherwise")
    shutil.rmtree(copy)
    tell(num_answers=sum(len(one["shown"]) for one in ours))


TABLES = (
    *("events", "namespaces", "entries", "vectors", "erasures", "observations", "checks", "uses", "marks", "edges"),
    *("artefacts", "artefact_parts", "standings", "gains", "terms"),
)


def contents(memory: Memory) -> str:
    """One hash over every row of every table."""
    with memory.reading() as connection:
        rows = [sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr) for table in TABLES]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


@dataclass
class Report:
    """What happened, counted, and what should not have."""

    rows: dict[str, Counter[str]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def count(self, kind: str, what: str) -> None:
        """One more."""
        self.rows.setdefault(kind, Counter())[what] += 1

    def wrong(self, kind: str, message: str) -> None:
        """One thing that must not be."""
        self.count(kind, "VIOLATION")
        self.violations.append(f"{kind}: {message}")

    def print(self) -> None:
        """A line for each kind, and every violation."""
        for kind, counts in self.rows.items():
            print(
                f"{kind:32} {sum(counts.values()):5}  " + ", ".join(f"{n} {what}" for what, n in counts.most_common())
            )
        print("\n".join(f"VIOLATION {one}" for one in self.violations))


def kill_many(root: Path, kills: int, rng: random.Random, report: Report) -> Counter[str]:
    """Kill writers and indexers at random moments; a new store now and then. Returns the verbs that were finished."""
    verbs: Counter[str] = Counter()
    told, directory = Acknowledged(), root / "store"
    for number in range(kills):
        if number % KILLS_PER_STORE == 0:
            shutil.rmtree(directory, ignore_errors=True)
            told, directory = Acknowledged(), root / f"store{number}"
        kind = ("kill of the writer", "kill of the indexer", "kill of both")[number % 3]
        verbs += kill_one(directory, kind, rng, told, report)
        looker = fork(lambda tell: look_after_a_kill(directory, told, tell))  # noqa: B023 - it runs at once
        lines, status = looker.end()
        wrong = [line.get("wrong") or line.get("error") for line in lines if "wrong" in line or "error" in line]
        if status and not wrong:
            wrong = [f"the process that looked ended with status {status}"]
        for one in wrong:
            report.wrong(kind, str(one))
        if not wrong:
            report.count(kind, "all as acknowledged")
        told.settle()
    shutil.rmtree(directory, ignore_errors=True)
    return verbs


def kill_one(directory: Path, kind: str, rng: random.Random, told: Acknowledged, report: Report) -> Counter[str]:
    """Start a writer, an indexer beside it, and kill one or both; what is left is killed a moment later."""
    seed = rng.randrange(1 << 30)
    writer = fork(lambda tell: write_until_killed(directory, seed, tell))
    writer.wait_for_a_line()
    children = {"writer": writer}
    if kind != "kill of the writer":
        children["indexer"] = fork(lambda tell: index_until_killed(directory, tell))
        children["indexer"].wait_for_a_line()
    time.sleep(rng.random() ** 2 * 0.4)
    first = "indexer" if kind == "kill of the indexer" else "writer"
    lines = {first: children.pop(first).kill()}
    if kind == "kill of the indexer":
        time.sleep(rng.random() * 0.1)  # the writer goes on beside the remains
    lines.update({name: child.kill() for name, child in children.items()})
    for line in (line for told_lines in lines.values() for line in told_lines if "error" in line):
        report.wrong(kind, line["error"])
    return told.hear(lines["writer"])


# Damage


def make_template(root: Path, rng: random.Random) -> tuple[Path, Path]:
    """(as a kill leaves it, with the log; as a close leaves it): stores with two generations and every verb in them."""
    open_, closed = root / "killed", root / "closed"

    def write(tell: Callable[..., None]) -> None:
        memory = Memory.open(open_, EMBEDDER, clock=lambda: 1e9)
        own = random.Random(seed)
        for number in range(120):
            act(memory, own, lambda **line: None)
            if number in (60, 110):
                memory.publish_index(force=True)
        memory.embed_pending()
        tell(done="all")
        signal.pause()

    seed = rng.randrange(1 << 30)
    child = fork(write)
    child.wait_for_a_line()
    lines = child.kill()
    if "error" in lines[0]:
        raise RuntimeError(lines[0]["error"])
    shutil.copytree(open_, closed)
    fork(lambda tell: Memory.open(closed, EMBEDDER, clock=lambda: 1e9).close()).end()
    return open_, closed


def damaged(data: bytes, rng: random.Random, how: str) -> bytes:
    """`data` with one flipped bit, 16 random bytes, or cut off."""
    if how == "cut" or not data:
        return data[: rng.randrange(len(data) or 1)]
    at, size = rng.randrange(len(data)), 1 if how == "bit" else 16
    new = bytes([data[at] ^ 1 << rng.randrange(8)]) if how == "bit" else rng.randbytes(size)
    return data[:at] + new + data[at + size :]


@dataclass(frozen=True)
class Whole:
    """What an undamaged directory holds: its answers, a hash of all its rows, and the hash at each event."""

    answers: list[Any]
    contents: str
    heads: dict[int, str]


def look_at_damage(directory: Path, whole: Whole, tell: Callable[..., None]) -> None:
    """Open for reading, then for writing; tell what each came to."""
    for readonly in (True, False):
        try:
            with Memory.open(directory, EMBEDDER, readonly=readonly, clock=lambda: 1e9) as memory:
                where = place(memory)
                if not _is_sound(memory):
                    tell(sound=False)
                    os._exit(0)  # closing would build an index of it
                is_same = contents(memory) == whole.contents
                if not readonly:
                    memory.embed_pending()
                ours = answers(memory)
                if not readonly and ours != whole.answers:
                    memory.rebuild()
                tell(
                    sound=True,
                    same=is_same,
                    equal=ours == whole.answers,
                    follows=readonly or ours == answers(memory),
                    beginning=whole.heads.get(where["count"]) == where["head"],
                )
        except StoreError as error:
            tell(refused=str(error)[:200])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            tell(rough=f"{type(error).__name__}: {str(error)[:160]}")


def _is_sound(memory: Memory) -> bool:
    try:
        memory.check()
    except StoreError:
        return False
    return True


def judge(path: str, line: dict[str, Any]) -> tuple[str, bool]:
    """(what to call it, whether it may be)."""
    is_cache = not path.startswith(FILE_NAME) or path.endswith("-shm")
    if "refused" in line:
        return "refused", not is_cache
    if "rough" in line:
        return f"another error than StoreError: {line['rough']}", False
    if not line["sound"]:
        return "found by check", not is_cache
    if line["equal"] and line["same"]:
        return "no change", True
    if path.endswith("-wal") and line["beginning"] and line["follows"]:
        return "the log lost its end", True
    return "silently another answer" if not line["equal"] else "silently other contents", False


def reference(directory: Path) -> Whole:
    """What an undamaged copy holds."""
    copy = directory.with_name("reference")
    shutil.copytree(directory, copy)

    def look(tell: Callable[..., None]) -> None:
        with Memory.open(copy, EMBEDDER, readonly=True, clock=lambda: 1e9) as memory:
            memory.check()
            with memory.reading() as connection:
                heads = connection.execute("SELECT seq, hash FROM events").fetchall()
            tell(answers=answers(memory), contents=contents(memory), heads=heads)

    ((line, *_), _) = fork(look).end()
    if "error" in line:
        raise RuntimeError(line["error"])
    shutil.rmtree(copy)
    return Whole(line["answers"], line["contents"], dict(line["heads"]))


def damage_many(root: Path, flips: int, rng: random.Random, report: Report) -> None:
    """Damage each file in turn: bits, runs of bytes, truncations."""
    for directory in make_template(root, rng):
        whole = reference(directory)
        for path in sorted(files_of(directory)):
            share = 4 if path.endswith(FILE_NAME) else 1
            for number in range(flips * share):
                how = ("bit", "bit", "bytes", "cut")[number % 4]
                damage_one(directory, path, how, whole, rng, report)
        shutil.rmtree(directory)


def files_of(directory: Path) -> Iterator[str]:
    """Paths of all files below a directory that hold anything."""
    for path in directory.rglob("*"):
        if path.is_file() and path.name != LOCK_NAME and path.stat().st_size:
            yield path.relative_to(directory).as_posix()


def damage_one(directory: Path, path: str, how: str, whole: Whole, rng: random.Random, report: Report) -> None:
    """One copy, one damage, and what comes of it."""
    copy = directory.with_name("damaged")
    shutil.copytree(directory, copy)
    (copy / path).write_bytes(damaged((directory / path).read_bytes(), rng, how))
    kind = f"{how} of {directory.name} {Path(path).name}"
    lines, status = fork(lambda tell: look_at_damage(copy, whole, tell)).end()
    if status:
        report.wrong(kind, f"the process ended with status {status}")
    for line in lines:
        what, is_allowed = judge(path, line) if "error" not in line else (line["error"], False)
        (report.count if is_allowed else report.wrong)(kind, what)
    shutil.rmtree(copy)


def main() -> int:
    """Run it; 1 if anything happened that must not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=240)
    parser.add_argument(
        "--flips", type=int, default=40, help="damages to each file; four times as many to the database"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="3 kills and 1 damage to each file: some seconds")
    given = parser.parse_args()
    kills, flips = (3, 1) if given.quick else (given.kills, given.flips)
    rng, report, began = random.Random(given.seed), Report(), time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="evomesh-crash-", dir=RAM if RAM.is_dir() else None))
    try:
        verbs = kill_many(root, kills, rng, report)
        damage_many(root, flips, rng, report)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    report.print()
    print("verbs finished before a kill: " + ", ".join(f"{count} {verb}" for verb, count in verbs.most_common()))
    print(f"{kills} kills, {len(report.violations)} violations, {time.monotonic() - began:.0f} s")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
