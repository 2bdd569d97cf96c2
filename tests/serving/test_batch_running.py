"""A batch beside others: its tickets, its hours, its deadline, its channel, and the sample that goes before it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from memory.ledger import Ledger
from mesh.config import CouncilConfig, SingleConfig, VoteConfig
from mesh.engine import Engine
from mesh.oversight import OversightConfig
from mesh.reliability import AnswerCount, Reliability
from mesh.reviews import ReviewDesk
from mesh.types import Completion, Member, Message, Sampling
from serving.batch import estimate_batch, run_batch
from serving.batch_estimate import BatchEstimate
from serving.batch_types import BatchError, BatchPace, BatchProgress, BatchSummary
from serving.config import ScriptedSpec
from serving.roster import Roster
from serving.scripted_engine import ScriptedEngine
from serving.ticket import Ticket
from serving.traces import read_traces
from tests.serving.batches import mesh_of, plan_of, roster_of
from tests.serving.test_batch import MEMBERS, NUM_TASKS, CountingEngine, DeadEngine, answers, batch, task_file

SINGLE = SingleConfig()


class TicketedEngine(CountingEngine):
    """Notes the ticket of every task."""

    def __init__(self) -> None:
        super().__init__()
        self.tickets: list[Ticket] = []

    def for_ticket(self, ticket: Ticket) -> Engine:
        self.tickets.append(ticket)
        return self


class TurningSeats:
    """A channel that is given another roster after so many tasks; it knows who is still held."""

    def __init__(self, rosters: Sequence[Roster], after: int) -> None:
        self.rosters, self.after = list(rosters), after
        self.num_tasks = 0
        self.held_now: list[str] = []

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Roster]:
        roster = self.rosters[min(self.num_tasks // self.after, len(self.rosters) - 1)]
        self.num_tasks += 1
        self.held_now.append(roster.id)
        try:
            yield roster
        finally:
            self.held_now.remove(roster.id)


def channel(*rosters: Roster, after: int = 5) -> TurningSeats:
    return TurningSeats(rosters, after)


def follow(tasks: Path, out: Path, seats: TurningSeats, protocol: Any = SINGLE, **more: Any) -> BatchSummary:
    mesh = mesh_of(CountingEngine(), MEMBERS, seats=seats, **more)
    plan = plan_of(protocol, seed=3, channel="prod")
    return asyncio.run(run_batch(tasks, out, plan, mesh, BatchPace(concurrency=2)))


def test_tasks_that_were_begun_earlier_come_first_and_stay_together(tmp_path: Path) -> None:
    engine = TicketedEngine()
    batch(task_file(tmp_path), tmp_path / "out", engine)
    assert [ticket.order for ticket in engine.tickets] == list(range(1, NUM_TASKS + 1))
    assert {ticket.priority for ticket in engine.tickets} == {"batch"}
    assert len({ticket.affinity for ticket in engine.tickets}) == NUM_TASKS


def test_no_task_is_begun_while_the_gate_is_shut(tmp_path: Path) -> None:
    engine, opened, shut, asked = CountingEngine(), asyncio.Event(), asyncio.Event(), []

    async def gate() -> None:
        asked.append(len(engine.asked))
        if len(asked) > 4:
            if len(asked) == 6:
                shut.set()
            await opened.wait()

    async def work() -> None:
        running = asyncio.create_task(
            run_batch(task_file(tmp_path), tmp_path / "out", plan_of(VoteConfig(), seed=3),
                      mesh_of(engine, MEMBERS, gate=gate), BatchPace(concurrency=2))
        )  # fmt: skip
        await shut.wait()
        await asyncio.sleep(0.02)
        assert len(engine.asked) == 4 * len(MEMBERS)
        opened.set()
        assert (await running).num_answered == NUM_TASKS

    asyncio.run(work())


def test_every_answer_names_the_roster_that_gave_it_and_no_task_is_dropped_when_it_changes(tmp_path: Path) -> None:
    old, new = roster_of(MEMBERS[:2], channel="prod"), roster_of(MEMBERS[1:], channel="prod")
    out, seats = tmp_path / "out", channel(old, new)
    summary = follow(task_file(tmp_path), out, seats)
    rows = answers(out)
    assert [row["id"] for row in rows] == [f"t{n}" for n in range(NUM_TASKS)]
    assert [row["roster"] for row in rows] == [old.id] * 4 + [new.id] * 8
    assert summary.rosters == ((old.id, 4), (new.id, 8))
    assert [trace.members for trace in read_traces(out / "traces.parquet")] == [old.seats] * 4 + [new.seats] * 8
    known = {
        e.payload["id"]: e.payload["roster"] for e in Ledger(out / "journal.jsonl").entries() if e.kind == "roster"
    }
    assert [Roster.model_validate(known[roster.id]) for roster in (old, new)] == [old, new]
    assert seats.held_now == []


def test_a_batch_of_a_channel_goes_on_under_the_roster_of_the_day(tmp_path: Path) -> None:
    old, new = roster_of(MEMBERS[:2]), roster_of(MEMBERS[1:])
    tasks, out = task_file(tmp_path), tmp_path / "out"
    plan = plan_of(SINGLE, seed=3, channel="prod")
    stop = BatchPace(concurrency=1, deadline=time.time() + 0.15)
    slow = CountingEngine(latency_s=0.05)
    first = asyncio.run(run_batch(tasks, out, plan, mesh_of(slow, MEMBERS, seats=channel(old)), stop))
    assert 0 < first.num_left < NUM_TASKS
    assert follow(tasks, out, channel(new)).rosters[-1] == (new.id, first.num_left)


def test_what_is_measured_comes_with_the_roster_unless_it_is_given(tmp_path: Path) -> None:
    counts = [
        AnswerCount(member=name, task_type="sum", num_judged=9, num_answered=9, num_correct=right)
        for name, right in (("ada", 0), ("bob", 9), ("eve", 0))
    ]
    measured = roster_of(MEMBERS, reliability=Reliability(answers=tuple(counts)))
    follow(task_file(tmp_path), tmp_path / "with", channel(measured))
    assert {row["method"] for row in answers(tmp_path / "with")} == {"bob alone (measured best at sum)"}
    follow(task_file(tmp_path), tmp_path / "without", channel(roster_of(MEMBERS)), reliability=None)
    assert {row["method"] for row in answers(tmp_path / "without")} == {
        "ada alone (the first seat: nothing is measured)"
    }


def test_a_roster_that_cannot_hold_the_protocol_stops_the_batch_and_keeps_what_is_done(tmp_path: Path) -> None:
    old, new = roster_of(MEMBERS), roster_of(MEMBERS[1:], channel="prod")
    tasks, out = task_file(tmp_path), tmp_path / "out"
    with pytest.raises(
        BatchError, match=rf"'prod' has a roster now \({new.id}\) that cannot .*'ada'.*tasks are finished"
    ):
        follow(tasks, out, channel(old, new), SingleConfig(member="ada"))
    assert follow(tasks, out, channel(old), SingleConfig(member="ada")).num_resumed > 0


def test_a_task_that_waits_for_a_person_goes_on_with_the_seats_that_asked(tmp_path: Path) -> None:
    tasks, out = task_file(tmp_path), tmp_path / "out"
    protocol = VoteConfig(oversight=OversightConfig(always=True))
    old, new = roster_of(MEMBERS[:2]), roster_of(MEMBERS[1:])
    assert follow(tasks, out, channel(old), protocol).num_waiting == NUM_TASKS
    desk = ReviewDesk(out)
    for question in desk.open_questions():
        desk.answer(question.id, by="Ann", choice=0)
    assert follow(tasks, out, channel(new), protocol).rosters == ((old.id, NUM_TASKS),)
    assert all(trace.members == old.seats for trace in read_traces(out / "traces.parquet"))


def test_a_batch_of_fixed_seats_is_not_taken_over_by_a_channel(tmp_path: Path) -> None:
    tasks, out = task_file(tmp_path), tmp_path / "out"
    batch(tasks, out, protocol=SINGLE)
    with pytest.raises(BatchError, match="started with another members"):
        follow(tasks, out, channel(roster_of(MEMBERS)))


def test_protocols_get_cheaper_before_the_deadline_and_every_answer_says_which_and_why(tmp_path: Path) -> None:
    tasks, out = task_file(tmp_path, count=60), tmp_path / "out"
    engine = ScriptedEngine(ScriptedSpec(name="alpha", family="script", latency_s=0.01, skill=0.3))
    told: list[BatchProgress] = []
    summary = batch(
        tasks, out, engine, CouncilConfig(), concurrency=2, deadline=time.time() + 1.6, progress=told.append
    )
    rows = answers(out)
    assert {row["protocol"] for row in rows if row["protocol"]} >= {"council", "single"}
    assert all(bool(row["fallback"]) == (row["protocol"] not in ("council", "")) for row in rows)
    assert sum(share.num_tasks for share in summary.protocols) + summary.num_left == 60
    assert summary.protocols[0].protocol == "council"
    last = summary.protocols[-1]
    assert (last.protocol, bool(last.reason), last.first_task in {row["id"] for row in rows}) == ("single", True, True)
    assert any(step.fallback for step in told)
    traces = {trace.task.id: trace.protocol for trace in read_traces(out / "traces.parquet")}
    assert traces == {row["id"]: row["protocol"] for row in rows if row["protocol"]}


def test_what_the_deadline_left_undone_is_told_and_done_by_the_same_call_later(tmp_path: Path) -> None:
    tasks, out = task_file(tmp_path), tmp_path / "out"
    slow = ScriptedEngine(ScriptedSpec(name="alpha", family="script", latency_s=0.05))
    first = batch(tasks, out, slow, SINGLE, concurrency=1, deadline=time.time() + 0.2)
    rows = answers(out)
    undone = [row for row in rows if not row["deliberation"]]
    assert 0 < first.num_left == len(undone) < NUM_TASKS
    assert all(row["needs_review"] and "deadline" in row["review_reason"] for row in undone)
    assert [list(row) for row in undone] == [list(rows[0])] * len(undone)
    assert len(list(read_traces(out / "traces.parquet"))) == NUM_TASKS - first.num_left
    again = batch(tasks, out, protocol=SINGLE, concurrency=1)
    assert (again.num_left, again.num_answered) == (0, NUM_TASKS)
    assert again.num_resumed == NUM_TASKS - first.num_left
    batch(tasks, tmp_path / "straight", protocol=SINGLE)
    assert (out / "answers.jsonl").read_bytes() == (tmp_path / "straight" / "answers.jsonl").read_bytes()


def test_a_deadline_that_has_passed_begins_nothing(tmp_path: Path) -> None:
    engine = CountingEngine()
    summary = batch(task_file(tmp_path), tmp_path / "out", engine, deadline=time.time() - 1.0)
    assert (summary.num_left, engine.asked) == (NUM_TASKS, [])


def estimated(tasks: Path, out: Path, engine: ScriptedEngine, num_sampled: int) -> BatchEstimate:
    mesh = mesh_of(engine, MEMBERS, prices={"alpha": 3600.0})
    plan, pace = plan_of(VoteConfig(), seed=3), BatchPace(concurrency=4)
    return asyncio.run(estimate_batch(tasks, out, plan, mesh, pace, num_sampled=num_sampled))


def test_the_sample_belongs_to_the_batch_and_is_not_done_twice(tmp_path: Path) -> None:
    tasks, out, engine = task_file(tmp_path, count=40), tmp_path / "out", CountingEngine()
    found = estimated(tasks, out, engine, 10)
    assert (found.num_tasks, found.num_sampled, found.num_left) == (40, 10, 30)
    assert len(set(engine.asked)) == 10
    assert found.num_calls.expected == found.num_calls.high == 40 * len(MEMBERS)
    assert found.cost.expected > 0.0
    assert not (out / "answers.jsonl").exists()
    assert estimated(tasks, out, DyingEngine(), 10) == found
    summary = batch(tasks, out, protocol=VoteConfig())
    assert summary.num_resumed == 10
    assert found.output_tokens.low <= summary.usage.output_tokens <= found.output_tokens.high
    with pytest.raises(BatchError, match="is finished: there is nothing to estimate"):
        estimated(tasks, out, engine, 10)


def test_an_empty_batch_has_nothing_to_estimate(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text("")
    with pytest.raises(BatchError, match="has no tasks"):
        estimated(tmp_path / "tasks.jsonl", tmp_path / "out", CountingEngine(), 10)


class DyingEngine(DeadEngine):
    """Says what its model is and nothing else."""

    async def profile(self, member: Member) -> Any:
        return await ScriptedEngine.profile(self, member)


class ShapingEngine(CountingEngine):
    """Answers sums in words, and counts how often it is asked to bring an answer into form."""

    def __init__(self, reply: str) -> None:
        super().__init__()
        self.reply, self.num_shaped = reply, 0

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[tuple[Completion, ...], int]:
        if "as one JSON value" in messages[-1].text:
            self.num_shaped += 1
            return (Completion(text=self.reply, output_tokens=3),), 9
        return await super().complete(member, messages, sampling)


def schema(**properties: str) -> str:
    required = list(properties)
    inner = {name: {"type": kind} for name, kind in properties.items()}
    return json.dumps({"type": "object", "properties": inner, "required": required, "additionalProperties": False})


def test_an_answer_that_needs_only_its_form_is_shaped_without_asking_anybody(tmp_path: Path) -> None:
    engine = ShapingEngine("never asked")
    summary = batch(task_file(tmp_path), tmp_path / "out", engine, answer_schema=schema(total="integer"))
    for row in answers(tmp_path / "out"):
        assert row["answer"] == {"total": int(row["said"])}
        assert not row["needs_review"]
    assert (engine.num_shaped, summary.num_misshapen, summary.num_answered) == (0, 0, NUM_TASKS)


def test_an_answer_that_cannot_be_shaped_is_null_and_says_why(tmp_path: Path) -> None:
    out, engine = tmp_path / "out", ShapingEngine('{"total": 1}')
    summary = batch(task_file(tmp_path), out, engine, answer_schema=schema(total="integer", unit="string"))
    row = answers(out)[3]
    assert (row["answer"], row["needs_review"], row["said"]) == (None, True, "9")
    assert "does not follow the schema: 'unit' is a required property" in row["review_reason"]
    assert (summary.num_misshapen, summary.num_answered, summary.num_review) == (NUM_TASKS, 0, NUM_TASKS)
    assert engine.num_shaped == 2 * NUM_TASKS
    shaped = [e for trace in read_traces(out / "traces.parquet") for e in trace.exchanges if e.phase == "extract"]
    assert len(shaped) == 2 * NUM_TASKS
    assert row["tokens"] == sum(e.usage.output_tokens for e in list(read_traces(out / "traces.parquet"))[3].exchanges)


def test_another_schema_on_an_existing_directory_is_refused(tmp_path: Path) -> None:
    tasks, out = task_file(tmp_path), tmp_path / "out"
    batch(tasks, out, answer_schema=schema(total="integer"))
    with pytest.raises(BatchError, match="started with another schema"):
        batch(tasks, out)
