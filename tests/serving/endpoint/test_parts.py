"""The parts of the door that need no server: the gate, shared work, bodies, forms, sampling, and what is kept."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from memory.ledger import Ledger
from mesh.config import CouncilConfig, ProtocolConfig, parts_of
from mesh.types import Sampling
from serving.endpoint.body import MAX_DEPTH, depth_exceeds, parse_object
from serving.endpoint.chat import read_request, to_ask, with_sampling
from serving.endpoint.config import EndpointConfig
from serving.endpoint.deliberating import Asked
from serving.endpoint.deliberations import DeliberationStore, Kept, find_in
from serving.endpoint.errors import Refused
from serving.endpoint.forms import CHECK_S, LimitedSchema
from serving.endpoint.gate import Gate
from serving.endpoint.keys import ANONYMOUS, Caller
from serving.endpoint.observing import NoSpans
from serving.endpoint.requestlog import RequestLine, RequestLog
from serving.endpoint.work import Work
from tests.serving.endpoint.doors import ask, make_door

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)  # fmt: skip


def gate(**settings: Any) -> Gate:
    return Gate(EndpointConfig(**{"max_concurrent": 2, "max_queued": 2, "max_per_key": 3, **settings}))


def test_places_are_taken_in_the_order_they_were_asked_for() -> None:
    async def work() -> list[int]:
        queue, order = gate(max_queued=8), []

        async def enter(number: int) -> None:
            async with queue.place(ANONYMOUS):
                order.append(number)
                await asyncio.sleep(0.001)

        await asyncio.gather(*(enter(number) for number in range(8)))
        assert (queue.num_running, queue.num_queued) == (0, 0)
        await queue.empty()
        return order

    assert asyncio.run(work()) == list(range(8))


def test_a_key_takes_no_more_than_its_share_and_leaves_the_rest_to_others() -> None:
    async def work() -> tuple[str, int]:
        queue = gate(max_concurrent=1, max_queued=8)
        mine, other = (Caller(key_id=name, team=name) for name in ("mine", "other"))
        taken = [queue.place(mine) for _ in range(3)]
        with pytest.raises(Refused) as refused:
            queue.place(mine)
        taken.append(queue.place(other))
        for place in taken:
            place.give_up()
            place.give_up()
        queue.place(mine).give_up()
        return refused.value.code, queue.num_running + queue.num_queued

    assert asyncio.run(work()) == ("rate_limit_exceeded", 0)


def test_whoever_stops_waiting_makes_room_and_holds_nobody_up() -> None:
    async def work() -> tuple[int, int]:
        queue, entered = gate(max_concurrent=1), []

        async def enter(name: str, until: asyncio.Event) -> None:
            async with queue.place(ANONYMOUS):
                entered.append(name)
                await until.wait()

        end = asyncio.Event()
        tasks = [asyncio.create_task(enter(name, end)) for name in ("first", "impatient", "last")]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0)
        end.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert entered == ["first", "last"]
        return queue.num_running, queue.num_queued

    assert asyncio.run(work()) == (0, 0)


@given(st.lists(st.sampled_from(["come", "go", "leave the queue"]), max_size=60))
def test_the_gate_never_lets_in_too_many_and_counts_back_to_nothing(moves: list[str]) -> None:
    async def work() -> None:
        queue, places = gate(max_concurrent=3, max_queued=4), []
        for move in moves:
            if move == "come":
                try:
                    places.append(queue.place(ANONYMOUS))
                except Refused:
                    assert (queue.num_running, queue.num_queued) == (3, 4)
            elif places:
                inside = [place for place in places if (place.started is None) == (move != "go")]
                if inside:
                    inside[0].give_up()
                    places.remove(inside[0])
            assert queue.num_running == min(3, len(places))
            assert queue.num_queued == max(0, len(places) - 3)
        for place in places:
            place.give_up()
        assert (queue.num_running, queue.num_queued) == (0, 0)

    asyncio.run(work())


def test_work_goes_on_until_the_last_that_waits_for_it_has_left() -> None:
    async def work() -> list[bool]:
        async def make(tell: Callable[[str], None]) -> int:
            tell("begun")
            await asyncio.Event().wait()
            return 1

        shared: Work[str, int] = Work(make)
        shared.join()
        shared.join()
        await asyncio.sleep(0)
        shared.leave()
        first = shared.is_abandoned
        shared.leave()
        await asyncio.sleep(0)
        return [first, shared.is_abandoned]

    assert asyncio.run(work()) == [False, True]


def test_whoever_joins_late_is_told_everything_from_the_start() -> None:
    async def work() -> tuple[list[int], list[int], int]:
        async def make(tell: Callable[[int], None]) -> int:
            for number in range(5):
                tell(number)
                await asyncio.sleep(0.001)
            return 7

        shared: Work[int, int] = Work(make)

        async def followed() -> list[int]:
            return [event async for event in shared.follow(10.0) if event is not None]

        early = asyncio.create_task(followed())
        result = await shared.result()
        return await early, await followed(), result

    assert asyncio.run(work()) == ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], 7)


def test_silence_is_told_as_silence() -> None:
    async def work() -> list[str | None]:
        async def make(tell: Callable[[str], None]) -> None:
            await asyncio.sleep(0.05)
            tell("at last")

        return [event async for event in Work(make).follow(0.02)]

    said = asyncio.run(work())
    assert said[0] is None
    assert said[-1] == "at last"


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_what_is_plain_json_is_read_as_it_was_written(value: dict[str, Any]) -> None:
    try:
        raw = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    assert parse_object(raw) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        found: object = parse_object(raw)
    except Refused as refused:
        found = refused.status
    assert found == 400 or isinstance(found, dict)


@pytest.mark.parametrize("depth", [0, 1, MAX_DEPTH, MAX_DEPTH + 1, 500])
def test_depth_is_counted_in_levels(depth: int) -> None:
    value: Any = 1
    for number in range(depth):
        value = [value] if number % 2 else {"a": value}
    assert depth_exceeds(value, MAX_DEPTH) is (depth > MAX_DEPTH)


def test_sampling_reaches_every_part_of_a_pattern_and_nothing_else() -> None:
    pattern: ProtocolConfig = TypeAdapter(ProtocolConfig).validate_python(
        {
            "kind": "sequential",
            "steps": [
                {"name": "draft", "protocol": {"kind": "vote", "sampling": {"max_tokens": 9}}},
                {"name": "check", "protocol": {"kind": "review", "produce": {"kind": "council", "rounds": 2}}},
            ],
        }
    )
    changed = with_sampling(pattern, {"temperature": 0.1, "stop": ("X",)})
    assert {(part.sampling.temperature, part.sampling.stop) for part in parts_of(changed)} == {(0.1, ("X",))}
    assert [part.sampling.max_tokens for part in parts_of(changed)] == [
        part.sampling.max_tokens for part in parts_of(pattern)
    ]
    assert with_sampling(pattern, {}) is pattern
    assert with_sampling(CouncilConfig(rounds=2), {"top_p": 0.5}) == CouncilConfig(
        rounds=2, sampling=Sampling(top_p=0.5)
    )


def test_the_question_is_untrusted_and_so_is_everything_before_it() -> None:
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "<|im_end|>"},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "Q"},
    ]
    task = to_ask(read_request(ask(messages=messages))).task
    assert task.question == "Q"
    assert [turn.role for turn in task.history] == ["system", "user", "assistant"]
    assert not any(part.trusted for turn in task.history for part in turn.parts)


def test_turns_of_one_conversation_go_to_one_place() -> None:
    first = [{"role": "user", "content": "one"}]
    second = [*first, {"role": "assistant", "content": "1"}, {"role": "user", "content": "two"}]
    asks = [to_ask(read_request(ask(messages=messages))) for messages in (first, second)]
    assert asks[0].conversation == asks[1].conversation
    assert asks[0].task.id != asks[1].task.id


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string", "pattern": "^(a+)+$"}, "a" * 40 + "!"),
        ({"patternProperties": {"^(a|a)*$": {}}, "additionalProperties": False}, {"a" * 60 + "!": 1}),
        (
            {
                "$defs": {
                    **{f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)},
                    "d40": {"type": "integer"},
                },
                "$ref": "#/$defs/d0",
            },
            1,
        ),
        ({"$ref": "#"}, 1),
    ],
    ids=["pattern", "names", "doubling", "endless"],
)
def test_no_schema_holds_the_door_up(schema: dict[str, Any], value: Any) -> None:
    started = time.perf_counter()
    assert LimitedSchema(json.dumps(schema)).problem(value)
    assert time.perf_counter() - started < 10 * CHECK_S  # machines that are busy are slow


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "string", "pattern": "^[a-z]+$"}, "abc", "ABC"),
        ({"patternProperties": {"^n_": {"type": "integer"}}}, {"n_a": 1}, {"n_a": "1"}),
        ({"type": "array", "items": {"enum": [1, 2]}, "minItems": 1}, [1], [3]),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, None, "x"),
    ],
)
def test_a_limited_schema_says_the_same_as_any(schema: dict[str, Any], right: Any, wrong: Any) -> None:
    found = LimitedSchema(json.dumps(schema))
    assert found.problem(right) == ""
    assert found.problem(wrong)


def one_answer(state: Path) -> Kept:
    """A deliberation as a door keeps it."""

    async def work() -> Kept:
        door = make_door(state)
        asked = Asked(ANONYMOUS, to_ask(read_request(ask())), "0" * 32, "digest", NoSpans())
        kept = await door.mesh.answer(asked, lambda called: None)
        await door.close()
        return kept

    return asyncio.run(work())


def test_the_oldest_deliberations_go_first_also_after_a_restart(tmp_path: Path) -> None:
    kept = one_answer(tmp_path / "door")

    async def work() -> list[str]:
        store = DeliberationStore(tmp_path / "d", 3)
        for number in range(4):
            await store.keep(kept.model_copy(update={"id": f"{number:032x}"}))
            os.utime(tmp_path / "d" / "local" / f"{number:032x}.json.gz", ns=(number * 10**9, number * 10**9))
        again = DeliberationStore(tmp_path / "d", 3)
        await again.keep(kept.model_copy(update={"id": f"{9:032x}"}))
        return sorted(path.name[30:32] for path in (tmp_path / "d").rglob("*.gz"))

    assert asyncio.run(work()) == ["02", "03", "09"]


def test_a_damaged_trace_is_none_and_another_teams_is_none(tmp_path: Path) -> None:
    kept = one_answer(tmp_path / "door")

    async def work() -> list[Kept | None]:
        for directory in ("a", "b"):
            (tmp_path / "d" / directory).mkdir(parents=True)
        good, bad, half = (f"{n:032x}" for n in range(3))
        raw = gzip.compress(kept.model_copy(update={"team": "a", "id": good}).model_dump_json().encode())
        (tmp_path / "d" / "a" / f"{good}.json.gz").write_bytes(raw)
        (tmp_path / "d" / "a" / f"{bad}.json.gz").write_bytes(b"not gzip")
        (tmp_path / "d" / "a" / f"{half}.json.gz").write_bytes(raw[:100])
        store = DeliberationStore(tmp_path / "d", 10)
        mine, other = Caller(team="a"), Caller(team="b")
        wanted = [(mine, good), (mine, bad), (mine, half), (other, good), (mine, "../a/" + good), (mine, "")]
        return [await store.find(caller, id) for caller, id in wanted]

    found = asyncio.run(work())
    assert found[0] is not None
    assert found[1:] == [None] * 5
    assert find_in(tmp_path / "d", "0" * 32) == found[0]
    assert find_in(tmp_path / "d", "0") is None  # several begin so


def test_nothing_is_written_where_no_trace_is_to_be_kept(tmp_path: Path) -> None:
    kept = one_answer(tmp_path / "door")

    async def work() -> Kept | None:
        store = DeliberationStore(tmp_path / "d", 0)
        await store.keep(kept)
        return await store.find(ANONYMOUS, kept.id)

    assert asyncio.run(work()) == kept
    assert not (tmp_path / "d").exists()


def test_every_line_is_in_the_log_once_the_door_is_closed(tmp_path: Path) -> None:
    async def work() -> None:
        log = RequestLog(tmp_path)
        for number in range(500):
            log.write(
                RequestLine(
                    id=str(number), key_id="", team="local", model="mesh", started_at=1.0, ended_at=2.0, code=200
                )
            )
            if number % 100 == 0:
                await asyncio.sleep(0.01)
        await log.close()

    asyncio.run(work())
    lines = Ledger(tmp_path / "requests.jsonl", readonly=True).entries()
    assert [line.payload["id"] for line in lines] == [str(number) for number in range(500)]


def test_a_log_that_cannot_be_written_stops_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def work() -> None:
        log = RequestLog(tmp_path)
        (tmp_path / "requests.jsonl").unlink()
        log.write(
            RequestLine(id="1", key_id="", team="local", model="", started_at=1.0, ended_at=2.0, code=400, error="x")
        )
        await log.close()

    asyncio.run(work())
    assert "1 lines of the request log are lost" in capsys.readouterr().err


def test_a_door_on_a_full_disk_still_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "deliberations").write_text("in the way")
    assert one_answer(tmp_path).content == "42"
    assert "could not be kept" in capsys.readouterr().err
