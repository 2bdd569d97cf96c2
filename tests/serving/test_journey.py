"""The life of one request or task is put together from what was kept, however much of it is missing or damaged."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Literal

import pytest

from memory.types import Evidence
from mesh.config import VoteConfig
from mesh.types import Deliberation, Outcome
from serving.batch import run_batch
from serving.batch_types import BatchPace
from serving.endpoint.requestlog import REQUESTS, RequestLine
from serving.journey import Journey, clock, journey_of, request_in, requests_like
from serving.outcomes import LateOutcome, OutcomeLedger
from tests.mesh.doubles import hold
from tests.mesh.test_budget import COUNCIL, MEMBERS, TASK, quarrelling
from tests.serving.batches import mesh_of, plan_of
from tests.serving.endpoint.doors import ADA, BEN, Says, ask, opened, scripted
from tests.serving.endpoint.test_door import CHAT


def line_of(**fields: Any) -> RequestLine:
    known = {
        "id": "r" * 32,
        "key_id": "",
        "team": "local",
        "model": "mesh",
        "started_at": 5.0,
        "ended_at": 7.5,
        "code": 200,
    }
    return RequestLine.model_validate(known | fields)


def write_log(state: Path, *lines: RequestLine, name: str = REQUESTS) -> None:
    state.mkdir(exist_ok=True)
    rows = [{"kind": "request", "payload": line.model_dump(mode="json")} for line in lines]
    (state / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def found(journey: Journey | None) -> Journey:
    assert journey is not None
    return journey


def told(journey: Journey | None) -> list[str]:
    return [one.what for one in found(journey).happenings]


async def served(state: Path, request_id: str, **more: Any) -> dict[str, Any]:
    async with opened(state, **more) as door, door.client() as client:
        answer = await client.post(CHAT, json=ask(), headers={"x-request-id": request_id})
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body


def test_a_served_request_is_told_from_its_arrival_to_its_answer(tmp_path: Path) -> None:
    body = asyncio.run(served(tmp_path, "from-the-client", engine=scripted()))
    journey = found(journey_of("from-the-client", [tmp_path], []))
    what = told(journey)
    assert what[0] == "request from-the-client came in for mesh, team local, without a key"
    assert what[1].startswith(f"deliberation {body['mesh']['deliberation']} of task")
    assert what[2].startswith("it was decided after")
    assert what[3].startswith("answered 200 after")
    times = [one.at for one in journey.happenings if one.at is not None]
    assert times == sorted(times)
    assert journey.decided.startswith("an answer by")
    assert journey.members == ("ada on ada, base model", "ben on ben, base model")
    assert journey.usage.num_calls > 0
    same = found(journey_of(body["mesh"]["deliberation"][:8], [tmp_path], []))
    assert told(same) == what, "the id of the deliberation, shortened, tells the same"


def test_a_member_that_failed_is_named_with_its_phase_and_its_error(tmp_path: Path) -> None:
    asyncio.run(served(tmp_path, "weaker", engine=Says(fails=frozenset({"ben"}))))
    journey = found(journey_of("weaker", [tmp_path], []))
    (trouble,) = {(one.member, one.phase, one.kind) for one in journey.troubles}
    assert trouble == ("ben", "propose", "EngineError")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"code": 499}, "the client left after 2.50 s"),
        ({"code": 429, "error": "queue_full", "model": ""}, "answered 429, refused with queue_full after 2.50 s"),
        ({"tokens": 1234, "roster": "r1"}, "answered 200 after 2.50 s, 1,234 tokens, roster r1"),
    ],
)
def test_the_end_of_a_request_is_said_in_words(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    write_log(tmp_path, line_of(**fields))
    assert told(journey_of("rrrr", [tmp_path], []))[-1] == said


def test_who_came_with_a_key_and_who_joined_another_request_is_told(tmp_path: Path) -> None:
    write_log(tmp_path, line_of(key_id="k1", team="billing", joined=True))
    what = told(journey_of("rrrr", [tmp_path], []))
    assert what[0].endswith("key k1 of team billing")
    assert what[1] == "it joined a request under the same idempotency key"


def test_logs_that_were_set_aside_are_read_too_and_torn_lines_hide_nothing(tmp_path: Path) -> None:
    write_log(tmp_path, line_of(id="old-one"), name="requests-0001.jsonl")
    write_log(tmp_path, line_of(id="new-one"))
    with (tmp_path / REQUESTS).open("ab") as file:
        file.write(b'{"kind": "request", "payload": {"id": "new-one"\n\xff\n' + b"[" * 100_000 + b"new-one\n")
    assert [one.id for one, _ in requests_like(tmp_path, "old-")] == ["old-one"]
    assert [one.id for one, _ in requests_like(tmp_path, "new-one")] == ["new-one"]


def test_a_request_whose_deliberation_is_kept_no_more_still_names_it(tmp_path: Path) -> None:
    write_log(tmp_path, line_of(deliberation="d" * 32))
    journey = found(journey_of("rrrr", [tmp_path], []))
    assert (journey.deliberation, journey.decided, journey.task) == ("d" * 32, "", None)


def test_less_than_four_characters_and_what_nobody_kept_are_found_nowhere(tmp_path: Path) -> None:
    write_log(tmp_path, line_of())
    assert journey_of("rrr", [tmp_path], []) is None
    assert journey_of("nothing-like-it", [tmp_path, tmp_path / "absent"], [tmp_path / "absent"]) is None


@pytest.mark.parametrize(
    "raw", [b"", b"7", b"[]", b"{}", b'{"kind": "request"}', b'{"kind": "x", "payload": {}}', b"\xff"]
)
def test_what_is_no_request_is_none(raw: bytes) -> None:
    assert request_in(raw) is None


def hold_a_batch(directory: Path, *, times: int = 1) -> Path:
    tasks = directory / "tasks.jsonl"
    tasks.write_text("".join(json.dumps({"id": f"task-{n}", "question": f"What is {n} + 1?"}) + "\n" for n in range(3)))
    for _ in range(times):
        work = run_batch(tasks, directory / "out", plan_of(VoteConfig()), mesh_of(scripted(), (ADA, BEN)), BatchPace())
        asyncio.run(work)
    return directory / "out"


def test_a_task_of_a_finished_batch_is_told_with_its_place_its_time_and_its_roster(tmp_path: Path) -> None:
    out = hold_a_batch(tmp_path)
    journey = found(journey_of("task-1", [], [out]))
    what = told(journey)
    assert what[1] == "it belongs to a batch that was started once"
    assert what[2].startswith("finished as task 2 of the file, in ")
    assert journey.task == "task-1"
    assert len(what) == 3


def test_a_damaged_journal_is_told_and_the_trace_still_speaks(tmp_path: Path) -> None:
    out = hold_a_batch(tmp_path)
    text = (out / "journal.jsonl").read_text()
    (out / "journal.jsonl").write_text(text.replace("finished", "finnished", 1))
    journey = found(journey_of("task-1", [], [out]))
    assert any("the journal is damaged" in what for what in told(journey))
    assert journey.decided


def trace() -> Deliberation:
    return hold(TASK, MEMBERS, quarrelling(), COUNCIL)


def test_the_longest_calls_come_first_and_only_so_many(tmp_path: Path) -> None:
    held = trace()
    (tmp_path / "one.json").write_text(held.model_dump_json())
    journey = found(journey_of(held.id, [], [tmp_path / "one.json"], num_slowest=3))
    seconds = [one.seconds for one in journey.slowest]
    assert len(seconds) == 3
    assert seconds == sorted(seconds, reverse=True)
    assert journey.usage == held.usage


def test_what_was_reported_of_its_answer_is_part_of_the_story(tmp_path: Path) -> None:
    held = trace()
    (tmp_path / "one.json").write_text(held.model_dump_json())
    OutcomeLedger(tmp_path).add([reported(held, held.verdict.answer, "failed"), reported(held, "elephants", "unknown")])
    what = told(journey_of(held.id, [], [tmp_path / "one.json"]))
    assert "its answer was reported wrong by user:mia" in what
    assert "another answer in it was reported beyond judging by user:mia" in what


def reported(held: Deliberation, answer: str | None, verdict: Literal["failed", "unknown"]) -> LateOutcome:
    evidence = Evidence(verifier="user:mia", verdict=verdict, digest="0" * 64)
    outcome = Outcome(task_id=held.task.id, task_type=held.task.type, answer=answer, correct=False, evidence=evidence)
    return LateOutcome(deliberation=held.id, outcome=outcome)


def test_a_clock_shows_utc_and_nothing_for_what_has_no_time() -> None:
    assert clock(0.0) == "1970-01-01 00:00:00"
    assert clock(None) == ""
