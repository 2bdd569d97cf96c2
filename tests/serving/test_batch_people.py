"""A batch whose tasks wait for people, are made of patterns, or run out of budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mesh.budget import Budget
from mesh.config import CouncilConfig, EscalateConfig, ParallelConfig, ProtocolConfig, SequentialConfig, VoteConfig
from mesh.oversight import OversightConfig
from mesh.patterns.step import Step
from mesh.reviews import ReviewDesk
from mesh.table import OUT_OF_BUDGET
from mesh.types import Deliberation, Member, Sampling
from serving.batch_types import BatchError, BatchSummary
from serving.config import ScriptedSpec
from serving.scripted_engine import ScriptedEngine
from serving.traces import read_traces
from tests.serving import test_batch as ours
from tests.serving.test_batch import CountingEngine, DeadEngine, answers, task_file

MEMBERS = tuple(
    Member(name=name, engine="alpha", family=family)
    for name, family in (("ada", "fox"), ("bob", "owl"), ("eve", "ant"))
)
NUM_TASKS = 6
DOUBTFUL = OversightConfig(below_confidence=0.6)


def batch(
    tasks: Path, out: Path, protocol: ProtocolConfig, engine: ScriptedEngine | None = None, **options: Any
) -> BatchSummary:
    return ours.batch(tasks, out, engine, protocol, members=MEMBERS, **{"concurrency": 8, **options})


def traces(out: Path) -> list[Deliberation]:
    return list(read_traces(out / "traces.parquet"))


def answer_all(out: Path, text: str = "0") -> int:
    desk = ReviewDesk(out)
    questions = desk.open_questions()
    for question in questions:
        desk.answer(question.id, by="Ann", edit=text)
    return len(questions)


@pytest.mark.parametrize(
    "protocol",
    [
        VoteConfig(oversight=DOUBTFUL),
        EscalateConfig(oversight=OversightConfig(below_confidence=0.9)),
        ParallelConfig(
            branches=(
                Step(name="one", protocol=VoteConfig(oversight=DOUBTFUL)),
                Step(name="two", protocol=CouncilConfig(oversight=DOUBTFUL)),
            )
        ),
    ],
    ids=lambda protocol: protocol.kind,
)
def test_tasks_that_wait_are_told_apart_and_finish_after_the_answer_without_a_call_made_twice(
    protocol: ProtocolConfig, tmp_path: Path
) -> None:
    tasks, out = task_file(tmp_path, count=NUM_TASKS), tmp_path / "out"
    first = batch(tasks, out, protocol)
    rows = answers(out)
    assert 0 < first.num_waiting < NUM_TASKS
    assert first.num_waiting == sum(row["waiting"] for row in rows) == sum(row["answer"] is None for row in rows)
    assert all(row["needs_review"] == row["waiting"] for row in rows)
    assert [trace.is_waiting for trace in traces(out)] == [row["waiting"] for row in rows]
    engine = CountingEngine()
    same = batch(tasks, out, protocol, engine)
    assert (engine.asked, same.num_waiting, answers(out)) == ([], first.num_waiting, rows)
    assert answer_all(out) >= first.num_waiting
    done = batch(tasks, out, protocol, engine)
    assert engine.asked == []
    assert (done.num_waiting, done.num_answered) == (0, NUM_TASKS)
    assert done.usage == first.usage
    for before, after in zip(rows, answers(out), strict=True):
        assert after["answer"] is not None if before["waiting"] else after == before
    decided = [reply.edit for trace in traces(out) for _, part in trace.walk() for reply in part.replies]
    assert decided == ["0"] * len(decided)
    assert len(decided) >= first.num_waiting
    assert not (out / "parts").exists()
    again = batch(tasks, out, protocol, DeadEngine())
    assert (again.num_resumed, again.num_answered) == (NUM_TASKS, NUM_TASKS)


def test_a_part_that_waits_is_followed_by_what_comes_after_it(tmp_path: Path) -> None:
    protocol = SequentialConfig(
        steps=(
            Step(name="draft", protocol=VoteConfig(oversight=DOUBTFUL)),
            Step(name="final", protocol=VoteConfig()),
        )
    )
    tasks, out = task_file(tmp_path, count=NUM_TASKS), tmp_path / "out"
    waiting = batch(tasks, out, protocol).num_waiting
    answer_all(out)
    engine = CountingEngine()
    batch(tasks, out, protocol, engine)
    assert len(engine.asked) == waiting * len(MEMBERS)
    assert all([child.step for child in trace.children] == ["draft", "final"] for trace in traces(out))


def test_one_answer_at_a_time_lets_one_task_after_the_other_finish(tmp_path: Path) -> None:
    tasks, out, protocol = task_file(tmp_path, count=NUM_TASKS), tmp_path / "out", VoteConfig(oversight=DOUBTFUL)
    waiting = batch(tasks, out, protocol).num_waiting
    for left in range(waiting - 1, -1, -1):
        desk = ReviewDesk(out)
        desk.answer(desk.open_questions()[0].id, by="Ann", choice=0)
        assert batch(tasks, out, protocol, CountingEngine()).num_waiting == left


@pytest.mark.parametrize("kind", ["sequential", "parallel"])
def test_dead_engines_stop_a_batch_of_patterns_too_and_spend_no_task(kind: str, tmp_path: Path) -> None:
    steps = tuple(Step(name=name, protocol=VoteConfig()) for name in ("one", "two"))
    protocol = SequentialConfig(steps=steps) if kind == "sequential" else ParallelConfig(branches=steps)
    tasks, out = task_file(tmp_path, count=NUM_TASKS), tmp_path / "out"
    with pytest.raises(BatchError, match=r"no member answers any more .*engine is dead.*2 of 6 tasks are finished"):
        batch(tasks, out, protocol, CountingEngine(dies_after=4 * len(MEMBERS)), concurrency=1)
    assert batch(tasks, out, protocol).num_resumed == 2


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_job_stays_within_its_budget_and_what_it_did_not_cover_is_recorded(concurrency: int, tmp_path: Path) -> None:
    tasks, out, engine = task_file(tmp_path, count=NUM_TASKS), tmp_path / "out", CountingEngine()
    protocol = VoteConfig(sampling=Sampling(max_tokens=16))
    summary = batch(tasks, out, protocol, engine, budget=Budget(calls=10), concurrency=concurrency)
    assert len(engine.asked) == summary.usage.num_calls == 9
    assert summary.num_answered == 3
    undone = [trace for trace in traces(out) if {f.kind for f in trace.failures} == {OUT_OF_BUDGET}]
    assert len(undone) == NUM_TASKS - 3
    assert [row["id"] for row in answers(out) if row["needs_review"]] == [trace.task.id for trace in undone]


def test_money_is_counted_by_the_engines_price(tmp_path: Path) -> None:
    tasks = task_file(tmp_path, count=NUM_TASKS)
    engine = ScriptedEngine(ScriptedSpec(name="alpha", family="script", latency_s=0.005))
    summary = batch(tasks, tmp_path / "out", VoteConfig(), engine, prices={"alpha": 3600.0})
    assert summary.cost == pytest.approx(summary.usage.engine_seconds)
    assert 0.0 < summary.usage.engine_seconds < summary.usage.seconds
    assert batch(tasks, tmp_path / "free", VoteConfig()).cost == 0.0


def test_what_the_talking_did_is_summed_over_the_parts(tmp_path: Path) -> None:
    steps = (Step(name="one", protocol=CouncilConfig()), Step(name="two", protocol=VoteConfig()))
    summary = batch(task_file(tmp_path, count=NUM_TASKS), tmp_path / "out", SequentialConfig(steps=steps))
    parts = [part for trace in traces(tmp_path / "out") for _, part in trace.walk()]
    assert summary.talk.num_critiques == sum(len(part.critiques) for part in parts) > 0
    assert summary.talk.num_revisions == sum(p.round > 0 for part in parts for p in part.proposals)
    journal = [json.loads(line) for line in (tmp_path / "out" / "journal.jsonl").read_text().splitlines()]
    assert journal[-1]["kind"] == "complete"
