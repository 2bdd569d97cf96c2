from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from memory.ledger import AlreadyLocked, Ledger, exclusive_lock
from mesh.config import CouncilConfig, ProtocolConfig, SingleConfig, VoteConfig
from mesh.engine import EngineError
from mesh.types import Completion, Deliberation, Member, Message, Profile, Sampling, Usage
from serving.batch import run_batch
from serving.batch_tasks import TaskFileError
from serving.batch_types import BatchError, BatchPace, BatchProgress, BatchSummary
from serving.config import ScriptedSpec
from serving.scripted_engine import ScriptedEngine
from serving.traces import read_traces
from tests.serving.batches import mesh_of, plan_of

MEMBERS = tuple(Member(name=name, engine="alpha", family="script") for name in ("ada", "bob", "eve"))
NUM_TASKS = 12


class CountingEngine(ScriptedEngine):
    """Knows which questions it was asked to propose on, and can die or be ended by its caller."""

    def __init__(self, *, dies_after: int | None = None, latency_s: float = 0.0, max_model_len: int = 2048) -> None:
        super().__init__(ScriptedSpec(name="alpha", family="script", latency_s=latency_s, max_model_len=max_model_len))
        self.asked: list[str] = []
        self.dies_after = dies_after
        self.at_once = self.most_at_once = 0

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[tuple[Completion, ...], int]:
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            raise EngineError("engine is dead")
        self.asked.append(messages[-1].parts[-1].text)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await super().complete(member, messages, sampling)
        finally:
            self.at_once -= 1


def task_file(tmp_path: Path, *extra: str, count: int = NUM_TASKS) -> Path:
    lines = [
        json.dumps({"id": f"t{n}", "question": f"What is {n} + 5?", "type": "sum", "answer_kind": "number"})
        for n in range(count)
    ]
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join([*lines, *extra]) + "\n")
    return path


def batch(
    tasks: Path,
    out: Path,
    engine: ScriptedEngine | None = None,
    protocol: ProtocolConfig = VoteConfig(),  # noqa: B008 - frozen
    **options: Any,
) -> BatchSummary:
    plan, pace = {"seed": 3}, {"concurrency": 4}
    for name in ("seed", "answer_schema", "channel"):
        plan |= {name: options.pop(name)} if name in options else {}
    for name in ("concurrency", "budget", "deadline"):
        pace |= {name: options.pop(name)} if name in options else {}
    progress = options.pop("progress", None)
    mesh = mesh_of(engine or CountingEngine(), options.pop("members", MEMBERS), **options)
    return asyncio.run(run_batch(tasks, out, plan_of(protocol, **plan), mesh, BatchPace(**pace), progress=progress))


def answers(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]


def without_times(out: Path) -> list[Deliberation]:
    return [
        trace.model_copy(
            update={
                "exchanges": tuple(
                    exchange.model_copy(update={"usage": timeless(exchange.usage)}) for exchange in trace.exchanges
                )
            }
        )
        for trace in read_traces(out / "traces.parquet")
    ]


def test_every_task_is_answered_in_the_order_of_the_file(tmp_path: Path) -> None:
    summary = batch(task_file(tmp_path), tmp_path / "out")
    rows = answers(tmp_path / "out")
    assert [row["id"] for row in rows] == [f"t{n}" for n in range(NUM_TASKS)]
    columns = [
        "id",
        "answer",
        "confidence",
        "calibrated",
        "waiting",
        "cut",
        "needs_review",
        "review_reason",
        "method",
        "support",
        "tokens",
        "cost",
        "protocol",
        "fallback",
        "roster",
        "deliberation",
    ]
    assert all(list(row) == columns for row in rows)
    assert not any(row["waiting"] or row["needs_review"] or row["calibrated"] for row in rows)
    assert (summary.num_tasks, summary.num_answered, summary.num_resumed) == (NUM_TASKS, NUM_TASKS, 0)
    assert summary.usage.output_tokens == sum(row["tokens"] for row in rows) > 0


def test_traces_hold_the_whole_deliberations_and_nothing_is_left_beside_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    batch(task_file(tmp_path), out, protocol=CouncilConfig())
    traces = list(read_traces(out / "traces.parquet"))
    assert [trace.task.id for trace in traces] == [f"t{n}" for n in range(NUM_TASKS)]
    assert any(trace.critiques for trace in traces)
    assert [trace.verdict.answer for trace in traces] == [row["answer"] for row in answers(out)]
    assert pq.ParquetFile(out / "traces.parquet").metadata.num_rows == NUM_TASKS
    files = {"answers.jsonl", "traces.parquet", "errors.jsonl", "journal.jsonl", ".lock"}
    assert {path.name for path in out.iterdir()} == files


def test_malformed_line_is_recorded_with_its_number_and_the_rest_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = batch(task_file(tmp_path, "{torn", '{"question": "What is 1 + 1?", "answer": "2"}'), out)
    (error,) = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert (error["line"], error["text"]) == (NUM_TASKS + 1, "{torn")
    assert answers(out)[-1]["id"] == f"line-{NUM_TASKS + 2}"
    assert (summary.num_malformed, summary.ignored_keys) == (1, ("answer",))


def test_file_without_one_good_line_gives_empty_results(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text("nonsense\n")
    summary = batch(tmp_path / "tasks.jsonl", tmp_path / "out")
    assert (summary.num_tasks, summary.num_malformed) == (0, 1)
    assert answers(tmp_path / "out") == list(read_traces(tmp_path / "out" / "traces.parquet")) == []


def test_concurrency_is_kept_and_changes_no_answer(tmp_path: Path) -> None:
    tasks, engine = task_file(tmp_path), CountingEngine(latency_s=0.002)
    batch(tasks, tmp_path / "wide", engine, concurrency=3, protocol=CouncilConfig())
    assert len(MEMBERS) < engine.most_at_once <= 3 * len(MEMBERS)
    batch(tasks, tmp_path / "narrow", concurrency=1, protocol=CouncilConfig())
    assert without_times(tmp_path / "wide") == without_times(tmp_path / "narrow")


def test_progress_is_told_after_every_task(tmp_path: Path) -> None:
    told: list[BatchProgress] = []
    summary = batch(task_file(tmp_path), tmp_path / "out", progress=told.append)
    assert [step.num_done for step in told] == list(range(1, NUM_TASKS + 1))
    assert told[-1].output_tokens == summary.usage.output_tokens


def test_finished_batch_answers_at_once_without_asking_anybody(tmp_path: Path) -> None:
    tasks, out = task_file(tmp_path), tmp_path / "out"
    first = batch(tasks, out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    again = batch(tasks, out, DeadEngine())
    assert again == first.model_copy(update={"num_resumed": NUM_TASKS})
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_stopped_batch_goes_on_without_repeating_a_finished_task(tmp_path: Path) -> None:
    tasks, out = task_file(tmp_path), tmp_path / "out"
    with pytest.raises(StopHereError):
        batch(tasks, out, concurrency=1, progress=stop_after(5))
    assert not (out / "answers.jsonl").exists()
    engine = CountingEngine()
    assert batch(tasks, out, engine).num_resumed == 5
    assert len(set(engine.asked)) == NUM_TASKS - 5
    batch(tasks, tmp_path / "straight")
    assert without_times(out) == without_times(tmp_path / "straight")
    assert (out / "answers.jsonl").read_bytes() == (tmp_path / "straight" / "answers.jsonl").read_bytes()


@pytest.mark.parametrize("damage", ["torn", "missing"])
def test_finished_task_whose_trace_is_damaged_is_done_again(damage: str, tmp_path: Path) -> None:
    tasks, out = task_file(tmp_path), tmp_path / "out"
    with pytest.raises(StopHereError):
        batch(tasks, out, concurrency=1, progress=stop_after(5))
    part = out / "parts" / "00000002.json"
    part.write_bytes(part.read_bytes()[:-9]) if damage == "torn" else part.unlink()
    assert batch(tasks, out).num_resumed == 4
    batch(tasks, tmp_path / "straight")
    assert without_times(out) == without_times(tmp_path / "straight")


@pytest.mark.parametrize("num_finished", [1, 7])
def test_batch_killed_with_signal_9_goes_on_where_it_was(num_finished: int, tmp_path: Path) -> None:
    tasks, out = task_file(tmp_path), tmp_path / "out"
    child = subprocess.Popen([sys.executable, "-c", SLOW_BATCH, str(tasks), str(out)], cwd=Path.cwd())
    try:
        journal, deadline = out / "journal.jsonl", time.monotonic() + 30
        while not journal.exists() or journal.read_bytes().count(b'"finished"') < num_finished:
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert not (out / "answers.jsonl").exists()
    summary = batch(tasks, out)
    assert num_finished <= summary.num_resumed < NUM_TASKS
    entries = Ledger(out / "journal.jsonl", readonly=True).entries()
    finished = [entry.payload["index"] for entry in entries if entry.kind == "finished"]
    assert sorted(finished) == list(range(NUM_TASKS))
    batch(tasks, tmp_path / "straight")
    assert without_times(out) == without_times(tmp_path / "straight")


def test_kill_between_publishing_and_cleaning_up_is_cleaned_up_by_the_next_start(tmp_path: Path) -> None:
    tasks, out = task_file(tmp_path), tmp_path / "out"
    batch(tasks, out)
    (out / "parts").mkdir()
    (out / "parts" / "00000000.json").write_text("left over")
    assert batch(tasks, out, DeadEngine()).num_resumed == NUM_TASKS
    assert not (out / "parts").exists()


def test_second_process_on_one_directory_is_refused(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path / "out" / ".lock"), pytest.raises(AlreadyLocked):
        batch(task_file(tmp_path), tmp_path / "out")


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 4}, "seed"),
        ({"protocol": CouncilConfig()}, "protocol"),
        ({"members": MEMBERS[:2]}, "members"),
        ({"tasks": True}, "task file"),
    ],
)
def test_changed_setting_on_an_existing_directory_is_refused_and_named(
    changes: dict[str, Any], named: str, is_finished: bool, tmp_path: Path
) -> None:
    tasks, out = task_file(tmp_path), tmp_path / "out"
    if is_finished:
        batch(tasks, out)
    else:
        with pytest.raises(StopHereError):
            batch(tasks, out, progress=stop_after(1))
    if "tasks" in changes:
        tasks, changes = task_file(tmp_path, count=3), {}
    with pytest.raises(BatchError, match=f"started with another {named}"):
        batch(tasks, out, **changes)


def test_other_weights_under_the_same_name_are_refused(tmp_path: Path) -> None:
    tasks, out = task_file(tmp_path), tmp_path / "out"
    with pytest.raises(StopHereError):
        batch(tasks, out, progress=stop_after(1))
    other = ScriptedEngine(ScriptedSpec(name="alpha", family="script", skill=0.9))
    with pytest.raises(BatchError, match=r"another model of ada.*skill 0\.5.*skill 0\.9"):
        batch(tasks, out, other)


def test_setting_that_let_nothing_start_may_be_corrected(tmp_path: Path) -> None:
    tasks, out = task_file(tmp_path), tmp_path / "out"
    with pytest.raises(ValueError, match="to name members among"):
        batch(tasks, out, protocol=SingleConfig(member="zoe"))
    assert batch(tasks, out).num_answered == NUM_TASKS


def test_dead_engines_stop_the_batch_and_spend_no_task(tmp_path: Path) -> None:
    tasks, out = task_file(tmp_path), tmp_path / "out"
    with pytest.raises(BatchError, match=r"no member answers any more .*engine is dead.*4 of 12 tasks are finished"):
        batch(tasks, out, CountingEngine(dies_after=4 * len(MEMBERS)), concurrency=1)
    assert batch(tasks, out).num_resumed == 4
    assert None not in [row["answer"] for row in answers(out)]


def test_task_that_no_member_can_read_is_recorded_without_an_answer(tmp_path: Path) -> None:
    tasks = task_file(tmp_path, json.dumps({"id": "long", "question": "word " * 200}))
    summary = batch(tasks, tmp_path / "out", CountingEngine(max_model_len=100))
    assert (summary.num_tasks, summary.num_answered) == (NUM_TASKS + 1, NUM_TASKS)
    row = answers(tmp_path / "out")[-1]
    assert (row["id"], row["answer"], row["confidence"], row["cut"], row["tokens"]) == ("long", None, 0.0, False, 0)
    assert (row["needs_review"], row["review_reason"]) == (True, "no member gave an answer")
    assert row["method"] == "plurality of 0 proposals"
    *_, last = read_traces(tmp_path / "out" / "traces.parquet")
    assert {failure.member for failure in last.failures} == {"ada", "bob", "eve"}


def test_changed_results_of_a_finished_batch_are_told(tmp_path: Path) -> None:
    tasks, out = task_file(tmp_path), tmp_path / "out"
    batch(tasks, out)
    (out / "answers.jsonl").write_text("{}\n")
    with pytest.raises(BatchError, match=r"answers\.jsonl: expected sha256"):
        batch(tasks, out)
    (out / "journal.jsonl").unlink()
    with pytest.raises(BatchError, match="holds results but no journal"):
        batch(tasks, out)


def test_unreadable_task_file_and_silly_concurrency_leave_no_directory(tmp_path: Path) -> None:
    with pytest.raises(TaskFileError):
        batch(tmp_path / "missing.jsonl", tmp_path / "out")
    with pytest.raises(BatchError, match="at least 1"):
        batch(task_file(tmp_path), tmp_path / "out", concurrency=0)
    assert not (tmp_path / "out").exists()


class StopHereError(RuntimeError):
    """What ends a batch from its progress callback."""


def stop_after(count: int) -> Any:
    def stop(progress: BatchProgress) -> None:
        if progress.num_done == count:
            raise StopHereError

    return stop


class DeadEngine(ScriptedEngine):
    """Answers nothing at all."""

    def __init__(self) -> None:
        super().__init__(ScriptedSpec(name="alpha", family="script"))

    async def profile(self, member: Member) -> Profile:
        raise EngineError("dead")

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[tuple[Completion, ...], int]:
        raise EngineError("dead")


def test_usage_of_a_resumed_batch_is_that_of_all_tasks(tmp_path: Path) -> None:
    tasks, out = task_file(tmp_path), tmp_path / "out"
    with pytest.raises(StopHereError):
        batch(tasks, out, concurrency=1, progress=stop_after(5))
    resumed, straight = batch(tasks, out), batch(tasks, tmp_path / "straight")
    assert timeless(resumed.usage) == timeless(straight.usage)


def timeless(usage: Usage) -> Usage:
    return usage.model_copy(update={"seconds": 0.0, "engine_seconds": 0.0})


SLOW_BATCH = """
import asyncio, sys
from pathlib import Path
from mesh.config import VoteConfig
from mesh.types import Member
from serving.batch import run_batch
from serving.batch_types import BatchPace
from serving.config import ScriptedSpec
from serving.scripted_engine import ScriptedEngine
from tests.serving.batches import mesh_of, plan_of

members = [Member(name=name, engine="alpha", family="script") for name in ("ada", "bob", "eve")]
mesh = mesh_of(ScriptedEngine(ScriptedSpec(name="alpha", family="script", latency_s=0.1)), members)
pace = BatchPace(concurrency=2)
asyncio.run(run_batch(Path(sys.argv[1]), Path(sys.argv[2]), plan_of(VoteConfig(), seed=3), mesh, pace))
"""
