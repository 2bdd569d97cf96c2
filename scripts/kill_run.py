"""Kills an evolution run with SIGKILL at random moments, continues it, and checks that nothing accepted was lost.

Usage: python scripts/kill_run.py --scripted [--kills 50] [--seed 1]
       python scripts/kill_run.py --config FILE [--kills 5] [--run-dir DIR] [--minutes 30]

`--scripted`: three generations of two scripted engines, slowed down so that kills land in every stage; at the end the
run is compared, byte for byte, with one that was never interrupted. `--config`: any configuration. Real models need not
say the same twice, so what is compared is what was accepted: every journal line, sealed file and single deliberation
that was there at a kill must be there afterwards, unchanged, and none of them drawn twice.

The moments are uniform over the time of an uninterrupted run; with `--config`, over the time it is expected to take.
Starting and reading back what was accepted count as nothing, but every fifth kill comes during that. The exit code is
1 if anything differs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from evolve.config import RunConfig, load_config
from evolve.journal import timeless
from evolve.run import run
from evolve.run_memory import open_memory
from memory.ledger import Ledger
from memory.types import content_hash
from serving.traces import read_traces

POLL_S = 0.02
LONGEST_START_S = 900.0
"""After this a start counts as work, for training may accept nothing for longer."""
TIMES = {"times.jsonl", "facts.json", "report.html", "driver.lock", "driver", "config.yaml", "identity"}
"""Clock times, this machine and this run alone; the configuration names the directory, which two runs cannot share."""
AHEAD = "ahead.jsonl"
"""Draws made while others train, in the order in which jobs end; it is gone once a step has accepted them."""
CLOCKED = {"audit.jsonl", "approvals.jsonl"}
"""Ledgers of what people are shown: every entry holds when it happened, and its hash covers that."""
TIMED = {"started_at", "finished_at", "stages", "hot_load_ms", "config", "peak_memory_gib", "resumed_steps", "at"}


def snapshot(directory: Path) -> dict[str, object]:
    """Every file of a run with its content; clock times left out, traces in Parquet read, databases left to others."""
    found: dict[str, object] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        left_out = path.name in TIMES or path.name == AHEAD or path.suffix in (".lock", ".torn")
        # TensorBoard names its files after the moment they were begun, and every event in them has its time.
        if not path.is_file() or left_out or name.startswith(("memory/", "tensorboard/")):
            continue
        if path.suffix == ".parquet":
            found[name] = timeless([trace.model_dump(mode="json") for trace in read_traces(path)])
        elif path.name in CLOCKED:
            found[name] = [without_times(e.payload) for e in Ledger(path, readonly=True).entries()]
        elif path.name in ("training_report.json", "report.json") or name.startswith("steps/"):
            found[name] = without_times(json.loads(path.read_bytes()))
        else:
            found[name] = path.read_bytes()
    return found


def without_times(value: object) -> object:
    """`value` without what differs between two runs on one clock."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMED and "seconds" not in key}
    if isinstance(value, list):
        return [without_times(item) for item in value]
    return value


def differences(first: Path, second: Path) -> list[str]:
    """Names of the files in which two run directories differ, or that only one of them has."""
    one, two = snapshot(first), snapshot(second)
    return sorted(name for name in one.keys() | two.keys() if name not in one or one[name] != two.get(name))


def memory_head(config: RunConfig) -> str:
    """Hash of everything the run remembered; "" where it remembers nothing."""
    if not config.memory.enabled:
        return ""
    with open_memory(config.run_dir, config.memory, readonly=True) as memory:
        return memory.stats().head


Progress = tuple[int, int]
"""Bytes of the journal, and deliberations of the stage under way; ordered as a run goes on."""


@dataclass(frozen=True)
class Accepted:
    """What a run had accepted at one moment."""

    journal: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)
    drawn: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(stage file, key) of single deliberations that are not sealed yet, to the hash of each with its times."""

    @property
    def progress(self) -> Progress:
        """Grows with everything that is accepted."""
        return len(self.journal), len(self.drawn)

    @property
    def last_step(self) -> str:
        """Name of the step accepted last; 'nothing' before the first."""
        lines = self.journal.splitlines()
        return str(json.loads(lines[-1])["payload"]["step"]) if lines else "nothing"


def accepted(directory: Path) -> Accepted:
    """What lies in the directory of a run that nobody works on, torn last lines aside.

    Raises ValueError where a deliberation was accepted twice.
    """
    journal = directory / "journal.jsonl"
    whole = journal.read_bytes() if journal.exists() else b""
    whole = whole[: whole.rfind(b"\n") + 1]
    files = {}
    for line in whole.splitlines():
        step = json.loads(line)["payload"]
        path = directory / "steps" / f"{step['step']}-{step['id'][:12]}.json"
        if path.exists():
            files[str(path.relative_to(directory))] = path.read_bytes()
    for path in directory.rglob("*.parquet"):
        # Beside an open ledger it may be half a stage's, and is written again.
        if not path.with_suffix(".partial.jsonl").exists() and "memory" not in path.relative_to(directory).parts:
            files[str(path.relative_to(directory))] = path.read_bytes()
    drawn: dict[tuple[str, str], str] = {}
    for path in directory.rglob("*.partial.jsonl"):
        stage = str(path.relative_to(directory)).removesuffix(".partial.jsonl")
        for entry in Ledger(path, readonly=True).entries():
            if entry.kind != "deliberation":  # what was judged
                continue
            place = (stage, f"{entry.payload['step']} {entry.payload['key']}")
            if place in drawn:
                raise ValueError(f"{path}: {place[1]} was drawn and accepted twice")
            drawn[place] = content_hash(entry.payload["deliberation"])
    return Accepted(journal=whole, files=files, drawn=drawn)


def losses(before: Accepted, after: Accepted, directory: Path) -> list[str]:
    """What `before` held and `after` holds no more, or otherwise."""
    found = [] if after.journal.startswith(before.journal) else ["journal.jsonl: accepted lines changed"]
    found += [f"{name}: changed or lost" for name, data in before.files.items() if after.files.get(name) != data]
    sealed: dict[str, set[str]] = {}
    for (stage, key), digest in before.drawn.items():
        if after.drawn.get((stage, key)) == digest:
            continue
        if stage not in sealed:
            path = directory / f"{stage}.parquet"
            traces = read_traces(path) if path.exists() else ()
            sealed[stage] = {content_hash(trace.model_dump(mode="json")) for trace in traces}
        if digest not in sealed[stage]:  # times included: the same words drawn again would differ in them
            found.append(f"{stage}: the accepted deliberation {key} is lost or was drawn again")
    return found


class Started:
    """One attempt at a run: a process, and everything it started, to be killed at once."""

    def __init__(self, pid: int, reap: Callable[[], int | None]) -> None:
        self._process, self._reap = psutil.Process(pid), reap

    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._reap()

    def kill(self) -> None:
        """SIGKILL to the process and to all it started, the process itself first."""
        try:
            tree = [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for one in tree:
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue
        while self.status() is None:
            time.sleep(POLL_S)


class Stages:
    """An observer that leaves the current stage in a file, and takes its time where scripted engines take none."""

    def __init__(self, path: Path, pause_s: float) -> None:
        self._path, self._pause_s, self._stage = path, pause_s, ""

    def stage(self, name: str, total: int, unit: str = "") -> None:
        """A short pause, since many stages are a moment's work."""
        self._stage = name
        self._path.write_text(name, encoding="utf-8")
        time.sleep(self._pause_s)

    def advance(self, units: int = 1) -> None:
        """A pause after each training job: what it wrote is there, and no step has accepted it."""
        if "training" in self._stage:
            time.sleep(4 * self._pause_s)

    def say(self, text: str) -> None:
        """Nobody watches."""

    def finished(self) -> None:
        """The report is written now."""
        self._path.write_text("report", encoding="utf-8")


def forked(config: RunConfig, stages: Path, pause_s: float) -> Started:
    """The run in a process of its own that need not import anything anew."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            asyncio.run(run(config, Stages(stages, pause_s)))
            status = 0
        finally:
            os._exit(status)
    ended: list[int] = []

    def reap() -> int | None:
        if not ended:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                ended.append(os.waitstatus_to_exitcode(status))
        return ended[0] if ended else None

    return Started(pid, reap)


def commanded(path: Path, run_dir: Path, log: Path) -> Started:
    """`evomesh evolve` on a configuration, as a user starts it."""
    with log.open("ab") as out:
        command = [sys.executable, "-m", "evolve.cli", "evolve", str(path), "--run-dir", str(run_dir)]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    return Started(process.pid, process.poll)


@dataclass
class Tally:
    """What came of all the kills."""

    landed: list[tuple[str, str]] = field(default_factory=list)
    """(stage that ran, step accepted last) at each kill."""
    losses: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kill:
    """A moment to kill at: so long after the run got so far. `reached` None: after this attempt accepted anything."""

    reached: Progress | None
    delay_s: float


def torment(
    begin: Callable[[], Started], directory: Path, stages: Path, kills: Sequence[Kill], chance: random.Random
) -> Tally:
    """Start, kill and start again until all kills are spent or the run has ended, then let it end.

    Raises SystemExit where the run fails by itself.
    """
    tally, before, replay_s = Tally(), Accepted(), 0.0
    for number, kill in enumerate((*kills, None)):
        started, began = begin(), time.monotonic()
        early = chance.uniform(0.0, replay_s) if number % 5 == 4 else None
        went_on: float | None = None
        due: float | None = None
        while (status := started.status()) is None:
            now, there = time.monotonic(), progress(directory)
            if went_on is None and (there > before.progress or now - began > LONGEST_START_S):
                went_on, replay_s = now, now - began
            if kill is not None:
                reached = went_on is not None if kill.reached is None else there >= kill.reached
                due = due or (now + kill.delay_s if reached else None)
                if (due is not None and now >= due) or (early is not None and now - began >= early):
                    break
            time.sleep(POLL_S)
        if status is None:
            started.kill()
        after = accepted(directory)
        tally.losses += losses(before, after, directory)
        if status is not None:
            if status != 0:
                raise SystemExit(f"the run failed by itself with status {status}; see {directory}")
            return tally
        where = stages.read_text(encoding="utf-8") if stages.exists() else "?"
        tally.landed.append((where, after.last_step))
        before = after
    return tally


def progress(directory: Path) -> Progress:
    """As `Accepted.progress`, of a run that is under way."""
    journal = directory / "journal.jsonl"
    lines = 0
    for path in directory.rglob("*.partial.jsonl"):
        with suppress(FileNotFoundError):
            lines += path.read_bytes().count(b"\n")
    return (journal.stat().st_size if journal.exists() else 0), lines


def watched(started: Started, directory: Path) -> list[tuple[float, Progress]]:
    """(seconds since the start, how far it was) of a run that is left alone, to its end. SystemExit if it fails."""
    began, seen = time.monotonic(), [(0.0, (0, 0))]
    while (status := started.status()) is None:
        there = progress(directory)
        if there > seen[-1][1]:
            seen.append((time.monotonic() - began, there))
        time.sleep(POLL_S)
    if status != 0:
        raise SystemExit(f"the uninterrupted run failed with status {status}")
    return [*seen, (time.monotonic() - began, seen[-1][1])]


def kill_at(moment: float, seen: Sequence[tuple[float, Progress]]) -> Kill:
    """The kill that lands where the run that was watched was at this moment, however busy the machine is now."""
    elapsed, there = max((one for one in seen if one[0] <= moment), key=lambda one: one[0])
    return Kill(reached=there, delay_s=moment - elapsed)


def scripted_config(directory: Path, run_dir: Path) -> RunConfig:
    """Three generations of two scripted engines on sums, with all controls; tens of seconds."""
    tasks = directory / "tasks.jsonl"
    rows = [
        {"question": f"{a} + {b} =", "answer": str(a + b), "type": "sum"} for a in range(11, 35) for b in range(30, 42)
    ]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    engine: dict[str, Any] = {"kind": "scripted", "adapter_gain": 0.5, "latency_s": 0.05}
    settings = {
        "name": "killed",
        "run_dir": str(run_dir),
        "seed": 3,
        "num_generations": 3,
        "serving": {
            "in_process": True,
            "engines": [
                engine | {"name": "ada", "family": "alpha", "skill": 0.35},
                engine | {"name": "ben", "family": "beta", "skill": 0.3},
            ],
        },
        "problems": {
            "kind": "file",
            "path": str(tasks),
            "verifier": {"kind": "numeric"},
            "answer_kind": "number",
            "sizes": {"train": 8, "dev": 12, "gate": 40, "audit": 6},
        },
        "training": {"kind": "scripted"},
        "memory": {"embedder": "hashed"},
        "harvest": {"problems_per_type": 4, "samples_per_member": 2, "councils_per_type": 2},
        "evaluation": {
            "audit_councils_per_type": 2,
            "emergence_samples": 2,
            "dev_samples_per_member": 1,
            "screen_items": 4,
            "max_elites": 1,
            "audit_samples_per_member": 1,
        },
        "recipes": {"min_rows": 1, "placebo": True},
        "gate": {"required": ["placebo", "budget"], "aa_every": 1, "samples_per_member": 1},
        "concurrency": 4,
    }
    return RunConfig.model_validate(settings)


def kill_scripted(directory: Path, kills: int, seed: int, pause_s: float) -> bool:
    """Whether the tormented run equals the uninterrupted one; prints the figures."""
    whole = scripted_config(directory, directory / "whole")
    stages = directory / "stage"
    seen = watched(forked(whole, stages, pause_s), whole.run_dir)
    took = seen[-1][0]
    print(f"uninterrupted: {took:.1f} s, {len(accepted(whole.run_dir).journal.splitlines())} steps", flush=True)
    chance, same, left = random.Random(seed), True, kills
    total = Tally()
    began = time.monotonic()
    while left > 0:  # a run that is quicker than the first leaves some kills over, for another one
        for wear in directory.glob("*.gate-wear.jsonl"):
            wear.unlink()  # what the run before wore of the file's GATE items would set another level
        killed = whole.model_copy(update={"run_dir": directory / f"killed-{left}"})
        plan = [kill_at(moment, seen) for moment in sorted(chance.uniform(0.0, took) for _ in range(left))]
        tally = torment(partial(forked, killed, stages, pause_s), killed.run_dir, stages, plan, chance)
        total.landed += tally.landed
        total.losses += tally.losses
        left -= max(1, len(tally.landed))
        different = differences(whole.run_dir, killed.run_dir)
        same_memory = memory_head(whole) == memory_head(killed)
        print(f"{len(tally.landed)} kills; files that differ: {', '.join(different) or 'none'} of", end=" ")
        print(f"{len(snapshot(whole.run_dir))}; memory {'the same' if same_memory else 'DIFFERENT'}", flush=True)
        same = same and not different and not tally.losses and same_memory
    print(f"killed {len(total.landed)} times in {time.monotonic() - began:.0f} s")
    tell(total)
    return same


def kill_config(path: Path, run_dir: Path, kills: int, seed: int, minutes: float | None) -> bool:
    """Whether a run of any configuration kept all it accepted; prints the figures."""
    config = load_config(path)
    if minutes is None:
        from evolve.planning.plan import plan_run
        from evolve.preflight import draw

        minutes = sum(stage.seconds for stage in plan_run(config, draw(config)).stages) / 60.0
    chance = random.Random(seed)
    moments = sorted(chance.uniform(0.0, 60.0 * minutes) for _ in range(kills))
    plan = [Kill(None, later - sooner) for sooner, later in zip((0.0, *moments), moments, strict=False)]
    log = run_dir.with_name(f"{run_dir.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"expected to work {minutes:.1f} min; output in {log}", flush=True)
    tally = torment(partial(commanded, path, run_dir, log), run_dir, run_dir / "no-stage", plan, chance)
    print(f"killed {len(tally.landed)} times of {kills}")
    tell(tally)
    return not tally.losses


def tell(tally: Tally) -> None:
    """Where the kills landed, and what was lost."""
    for (stage, step), count in Counter(tally.landed).items():
        print(f"  {count:3d} in '{stage}', after {step}")
    for loss in tally.losses:
        print(f"  LOST {loss}")


def main() -> None:
    """Parse, torment, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--scripted", action="store_true")
    which.add_argument("--config", type=Path)
    parser.add_argument("--kills", type=int, default=None)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, help="of --config; a new one beside the configured one by default")
    parser.add_argument("--minutes", type=float, help="work expected of --config; the estimate by default")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds more a stage of --scripted")
    arguments = parser.parse_args()
    if arguments.scripted:
        with tempfile.TemporaryDirectory(prefix="kill-run-") as name:
            same = kill_scripted(Path(name), arguments.kills or 50, arguments.seed, arguments.pause)
    else:
        run_dir = arguments.run_dir or load_config(arguments.config).run_dir.with_name("killed")
        same = kill_config(arguments.config, run_dir, arguments.kills or 5, arguments.seed, arguments.minutes)
    print("nothing was lost" if same else "SOMETHING DIFFERS")
    raise SystemExit(0 if same else 1)


if __name__ == "__main__":
    main()
