"""`evomesh batch`, `outcomes import` and `traces export` as the shell sees them."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from evolve.cli import app
from evolve.commands.batch import deadline_at, window_gate
from evolve.commands.batch_view import BatchObserver, duration, summary_lines, throughput
from evolve.config import ConfigError
from mesh.types import Member, Usage
from serving.batch_types import BatchProgress, BatchSummary, ProtocolShare
from serving.channels import Channel
from serving.config import TimeWindow
from serving.roster import Roster

NAMES = ("ada", "bob", "eve")
NOW = datetime.fromisoformat("2026-03-01T22:30:00+01:00")


def evomesh(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a mesh of three scripted engines in this process, and twelve sums."""
    engines = [{"kind": "scripted", "name": name, "family": name, "skill": 0.7} for name in NAMES]
    config = {
        "name": "nightly", "run_dir": str(tmp_path / "run"), "protocol": {"kind": "vote"},
        "memory": {"embedder": "hashed"},
        "serving": {"in_process": True, "engines": engines, "channels": str(tmp_path / "channels"),
                    "adapter_store": str(tmp_path / "adapters"), "fleet": {"directory": str(tmp_path / "fleet")}},
    }  # fmt: skip
    (tmp_path / "mesh.yaml").write_text(yaml.safe_dump(config))
    lines = [
        {"id": f"t{n}", "question": f"What is {n} + 5?", "type": "sum", "answer_kind": "number"} for n in range(12)
    ]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "labels.csv").write_text("task,answer\n" + "".join(f"t{n},{n + 5}\n" for n in range(12)))
    return tmp_path


def batch(place: Path, *more: object) -> Result:
    return evomesh("batch", place / "tasks.jsonl", "--out", place / "out", "-c", place / "mesh.yaml", *more)


def answers(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place / "out" / "answers.jsonl").read_text().splitlines()]


def test_a_night_from_tasks_to_labels_to_rows(place: Path) -> None:
    (place / "memory").mkdir()
    assert evomesh("memory", "import", place / "memory", place / "nothing").exit_code != 0
    estimated = batch(place, "--estimate", "--sample", "4")
    assert estimated.exit_code == 0, estimated.stderr
    assert "From 4 of 12 tasks" in estimated.stdout
    assert "for the 8 tasks that are left" in estimated.stdout
    done = batch(place)
    assert done.exit_code == 0, done.stderr
    assert "12 of 12 tasks answered, 0 malformed lines, 4 finished by an earlier start" in done.stdout
    brought = evomesh("outcomes", "import", place / "labels.csv", "--key", "task", "--batch", place / "out",
                      "--memory", place / "memory")  # fmt: skip
    assert brought.exit_code == 0, brought.stderr
    assert "12 tasks of" in brought.stdout
    again = evomesh("outcomes", "import", place / "labels.csv", "--key", "task", "--batch", place / "out",
                    "--memory", place / "memory", "--json")  # fmt: skip
    told = json.loads(again.stdout)
    assert (told["num_new"], told["num_remembered"], told["num_judged"]) == (0, 12, 36)
    weighed = evomesh("deliberate", "What is 3 + 4?", "--number", "--type", "sum", "-c", place / "mesh.yaml",
                      "--reliability", told["reliability"], "--memory", place / "memory", "--json")  # fmt: skip
    assert "measured on 36 judged answers" in json.loads(weighed.stdout)["verdict"]["diagnosis"]["weighting"]
    exported = evomesh("traces", "export", place / "out", "--format", "trl", "--only-verified", "--out",
                       place / "rows.jsonl", "--json")  # fmt: skip
    assert json.loads(exported.stdout)["num_verified"] > 0


def test_the_memory_a_batch_recalled_from_is_told_of_its_labels_unless_it_is_left_out(place: Path) -> None:
    (place / "labels.csv").write_text("id,correct\nt1,true\nt2,false\n")
    told = evomesh("outcomes", "import", place / "labels.csv", "--batch", place / "out")
    assert told.exit_code == 2
    assert "expected a batch with traces.parquet" in told.stderr
    batch(place)
    told = evomesh("outcomes", "import", place / "labels.csv", "--batch", place / "out")
    assert "No memory was told" in told.stdout
    evomesh("outcomes", "import", place / "labels.csv", "--batch", place / "out", "--memory", place / "memory")
    recalling = evomesh("batch", place / "tasks.jsonl", "--out", place / "next", "-c", place / "mesh.yaml", "--memory",
                        place / "memory")  # fmt: skip
    assert recalling.exit_code == 0, recalling.stderr
    told = evomesh("outcomes", "import", place / "labels.csv", "--batch", place / "next")
    assert f"2 outcomes are in the memory in {place / 'memory'}" in told.stdout.replace("\n", "")
    silent = evomesh("outcomes", "import", place / "labels.csv", "--batch", place / "next", "--no-memory")
    assert "No memory was told" in silent.stdout


def test_labels_of_another_batch_and_odd_options_are_refused(place: Path) -> None:
    batch(place)
    wrong = evomesh("outcomes", "import", place / "labels.csv", "--batch", place / "out")
    assert (wrong.exit_code, "a header with id" in wrong.stderr) == (2, True)
    (place / "labels.csv").write_text("id,answer\nzoe,1\n")
    wrong = evomesh("outcomes", "import", place / "labels.csv", "--batch", place / "out")
    assert (wrong.exit_code, "row 2: no task 'zoe'" in wrong.stderr) == (2, True)
    (place / "labels.csv").write_text("id,answer\nt1,6\n")
    same = place / "out" / "reliability.json"
    wrong = evomesh("outcomes", "import", place / "labels.csv", "--batch", place / "out", "--add-to", same)
    assert (wrong.exit_code, "count twice" in wrong.stderr) == (2, True)
    wrong = evomesh("traces", "export", place / "out", "--format", "csv", "--out", place / "rows.jsonl")
    assert (wrong.exit_code, "expected one of trl" in wrong.stderr) == (2, True)
    wrong = evomesh("traces", "export", place, "--out", place / "rows.jsonl")
    assert (wrong.exit_code != 0, "no such trace file" in wrong.stderr) == (True, True)


def test_labels_beside_the_traces_need_no_directory(place: Path) -> None:
    batch(place)
    labels = place / "out" / "labels.csv"
    labels.write_text("id,answer\nt1,6\n")
    assert evomesh("outcomes", "import", labels).exit_code == 0


def test_answers_follow_the_schema_that_is_given(place: Path) -> None:
    schema = place / "schema.json"
    schema.write_text('{"type": "object", "properties": {"total": {"type": "integer"}}, "required": ["total"]}')
    assert batch(place, "--schema", schema).exit_code == 0
    assert all(row["answer"] == {"total": int(row["said"])} for row in answers(place))
    schema.write_text('{"type": "nothing"}')
    wrong = batch(place, "--schema", schema)
    assert (wrong.exit_code, "--schema" in wrong.stderr) == (2, True)


def test_a_channel_decides_and_every_answer_names_its_roster(place: Path) -> None:
    seats = tuple(Member(name=name, engine=name, family=name) for name in NAMES[:2])
    roster = Roster(channel="prod", seats=seats, safe="ada", source="a test")
    missing = batch(place, "--channel", "prod")
    assert missing.exit_code != 0
    assert "Traceback" not in missing.stderr
    Channel(place / "channels", "prod").promote(roster)
    done = batch(place, "--channel", "prod")
    assert done.exit_code == 0, done.stderr
    assert {row["roster"] for row in answers(place)} == {roster.id}
    both = batch(place, "--channel", "prod", "--run", place / "run")
    assert (both.exit_code, "expected --channel or --run" in both.stderr) == (2, True)


def test_a_driver_without_a_terminal_and_elsewhere_does_the_same(place: Path) -> None:
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-m", "evolve.cli", "batch", place / "tasks.jsonl", "--out", place / "out", "-c",
               place / "mesh.yaml"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "TERM": "dumb"}
    done = subprocess.run(
        command, cwd=elsewhere, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "12/12 tasks" in done.stdout
    assert len(answers(place)) == 12
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("06:00", "2026-03-02T06:00:00+01:00"),
        ("23:15", "2026-03-01T23:15:00+01:00"),
        ("22:30", "2026-03-02T22:30:00+01:00"),
        ("2026-03-04T06:00", "2026-03-04T06:00:00+01:00"),
        ("2026-03-04T06:00:00Z", "2026-03-04T06:00:00+00:00"),
    ],
)
def test_a_time_of_day_is_the_next_one(text: str, moment: str) -> None:
    assert deadline_at(text, NOW) == datetime.fromisoformat(moment).timestamp()


@pytest.mark.parametrize("text", ["25:00", "soon", "6", "2026-02-30T06:00", "2026-03-01T22:00"])
def test_what_is_no_time_to_come_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--deadline: expected a time"):
        deadline_at(text, NOW)


def test_many_that_wait_for_a_window_say_so_once() -> None:
    start = datetime.now() - timedelta(hours=2)
    closed = TimeWindow(who="batch", start=f"{start:%H:%M}", end=f"{start + timedelta(minutes=1):%H:%M}")
    said: list[datetime] = []

    async def work() -> None:
        gate = window_gate([closed], said.append)
        waiting = [asyncio.create_task(gate()) for _ in range(5)]
        await asyncio.sleep(0.01)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await window_gate([], said.append)()

    asyncio.run(work())
    assert len(said) == 1


def progress(done: int, **more: Any) -> BatchProgress:
    fields = {"num_done": done, "num_tasks": 10, "num_resumed": 2, "output_tokens": 80, "seconds": 4.0}
    return BatchProgress(**{**fields, "protocol": "council", **more})


def test_a_log_gets_a_line_now_and_then_and_the_last_one() -> None:
    out, clock = io.StringIO(), iter([0.0, 1.0, 40.0, 41.0])
    observer = BatchObserver(Console(file=out, width=200), quiet=False, now=lambda: next(clock))
    with observer:
        for done in (3, 4, 6, 10):
            observer.told(progress(done, **({"protocol": "vote", "fallback": "late"} if done > 4 else {})))
    assert out.getvalue().splitlines() == [
        "3/10 tasks, 0.25 tasks/s, 20 tok/s, 28 s to go",
        "from here on vote: late",
        "6/10 tasks, 1.00 tasks/s, 20 tok/s, 4 s to go",
        "10/10 tasks, 2.00 tasks/s, 20 tok/s, 0 s to go",
    ]


def test_a_terminal_gets_a_bar_with_throughput_and_time_to_go() -> None:
    out = io.StringIO()
    with BatchObserver(Console(file=out, force_terminal=True, width=120), quiet=False) as observer:
        observer.told(progress(6))
        observer._progress.refresh()
    assert "6/10" in out.getvalue()
    assert "1.00 tasks/s, 20 tok/s, 4 s to go" in out.getvalue()


def test_nothing_is_shown_where_nobody_looks() -> None:
    out = io.StringIO()
    with BatchObserver(Console(file=out), quiet=True) as observer:
        observer.told(progress(6))
    assert out.getvalue() == ""
    assert throughput(progress(2)) == ""
    assert [duration(seconds) for seconds in (5.4, 300.0, 9000.0)] == ["5 s", "5 min", "2.5 h"]


def test_the_summary_says_what_is_left_to_do_and_where_protocols_changed() -> None:
    shares = (
        ProtocolShare(protocol="council", num_tasks=6, first_task="a", reason=""),
        ProtocolShare(protocol="vote", num_tasks=2, first_task="g", reason="9 s before the deadline"),
    )
    summary = BatchSummary(
        num_tasks=10, num_answered=8, num_malformed=1, num_resumed=0, usage=Usage(), seconds=1.0,
        ignored_keys=("note",), num_left=2, num_waiting=1, num_review=3, num_misshapen=1, num_cut=1, cost=0.5,
        protocols=shares, rosters=(("r1", 5), ("r2", 3)),
    )  # fmt: skip
    text = "\n".join(summary_lines(summary, Path("out")))
    for sentence in (
        "2 tasks were decided by vote, first 'g': 9 s before the deadline.",
        "The deadline left 2 tasks undone; the same command goes on with them.",
        "3 answers need a look", "1 answers do not follow the schema", "rosters: r1 (5 tasks), r2 (3 tasks)",
        "1 tasks wait for a person", "Keys that were not used: note", "Cost: 0.5000",
    ):  # fmt: skip
        assert sentence in text
    assert "council" not in text
