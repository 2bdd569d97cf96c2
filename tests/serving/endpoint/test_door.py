"""The door as its clients see it: answers, streams, retries, limits, and what is kept."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from memory.ledger import Ledger
from tests.serving.endpoint.doors import QUESTION, Held, Says, ask, opened, scripted

CHAT = "/v1/chat/completions"


def test_an_answer_carries_what_the_mesh_knows_about_it(tmp_path: Path) -> None:
    async def work() -> dict[str, Any]:
        async with opened(tmp_path) as door, door.client() as client:
            return (await client.post(CHAT, json=ask(seed=3))).json()

    said = asyncio.run(work())
    mesh = said["mesh"]
    assert said["choices"][0]["message"] == {"role": "assistant", "content": "42", "refusal": None}
    assert said["choices"][0]["finish_reason"] == "stop"
    assert said["usage"]["total_tokens"] == said["usage"]["prompt_tokens"] + said["usage"]["completion_tokens"] > 0
    assert said["usage"]["completion_tokens"] == sum(row["output_tokens"] for row in mesh["usage"])
    assert mesh["answer"] == "42"
    assert mesh["support"] == [{"answer": "42", "weight": 1.0, "members": ["ada", "ben"]}]
    assert (mesh["missing"], mesh["dissent"], mesh["seed"]) == ([], [], 3)
    assert mesh["adapters"] == {"ada": None, "ben": None}
    assert said["id"] == f"chatcmpl-{mesh['deliberation']}"


def test_the_same_seed_gives_the_same_answer_and_no_seed_any(tmp_path: Path) -> None:
    async def work() -> list[dict[str, Any]]:
        async with opened(tmp_path, engine=scripted(skill=0.5)) as door, door.client() as client:
            return [(await client.post(CHAT, json=ask(**more))).json() for more in ({"seed": 5}, {"seed": 5}, {}, {})]

    first, again, other, another = (said["mesh"] for said in asyncio.run(work()))
    assert [first[key] for key in ("answer", "support", "seed")] == [
        again[key] for key in ("answer", "support", "seed")
    ]
    assert first["deliberation"] != again["deliberation"]
    assert other["seed"] != another["seed"]


def test_a_stream_tells_progress_where_it_is_asked_for_and_ends_with_usage(tmp_path: Path) -> None:
    async def work() -> list[dict[str, Any]]:
        body = ask(stream=True, stream_options={"include_usage": True})
        body["mesh"]["progress"] = True
        async with opened(tmp_path) as door, door.client() as client:
            return events(await client.post(CHAT, json=body))

    first, *middle, last, usage = asyncio.run(work())
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    calls = [chunk["mesh"]["call"] for chunk in middle if "call" in chunk.get("mesh", {})]
    assert {call["member"] for call in calls} == {"ada", "ben"}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in middle) == "42"
    assert (last["choices"][0]["finish_reason"], last["mesh"]["answer"]) == ("stop", "42")
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == sum(call["output_tokens"] for call in calls)


def test_a_silent_stream_is_kept_alive_by_comments(tmp_path: Path) -> None:
    async def work() -> list[str]:
        engine = Held()
        async with opened(tmp_path, engine=engine) as door, door.client() as client:
            lines: list[str] = []
            async with client.stream("POST", CHAT, json=ask(stream=True)) as answer:
                async for line in answer.aiter_lines():
                    lines.append(line)
                    if lines.count(": keep-alive") == 3:
                        engine.free.set()
            return lines

    lines = asyncio.run(work())
    assert lines.count(": keep-alive") >= 3
    assert [line for line in lines if line][-1] == "data: [DONE]"


def test_a_member_that_fails_is_named_and_the_others_decide(tmp_path: Path) -> None:
    async def work() -> httpx.Response:
        engine = Says(fails=frozenset({"ben"}))
        async with opened(tmp_path, engine=engine) as door, door.client() as client:
            return await client.post(CHAT, json=ask())

    answer = asyncio.run(work())
    mesh = answer.json()["mesh"]
    assert (answer.status_code, mesh["answer"]) == (200, "42")
    assert {(row["member"], row["kind"]) for row in mesh["missing"]} == {("ben", "EngineError")}


def test_no_member_at_all_is_a_503_that_may_be_tried_again(tmp_path: Path) -> None:
    async def work() -> list[httpx.Response]:
        engine = Says(fails=frozenset({"ada", "ben"}))
        async with opened(tmp_path, engine=engine) as door, door.client() as client:
            return [await client.post(CHAT, json=ask()), await client.post(CHAT, json=ask(stream=True))]

    whole, stream = asyncio.run(work())
    assert (whole.status_code, whole.json()["error"]["code"]) == (503, "no_member_answered")
    assert int(whole.headers["retry-after"]) >= 1
    assert events(stream)[-1]["error"]["code"] == "no_member_answered"


def test_a_conversation_too_long_for_every_window_is_the_clients_to_shorten(tmp_path: Path) -> None:
    async def work() -> httpx.Response:
        async with opened(tmp_path, engine=scripted(max_model_len=128)) as door, door.client() as client:
            return await client.post(CHAT, json=ask("word " * 500))

    refused = asyncio.run(work())
    assert refused.status_code == 400
    assert (refused.json()["error"]["code"], refused.json()["error"]["param"]) == (
        "context_length_exceeded",
        "messages",
    )


def test_a_client_that_leaves_ends_its_deliberation(tmp_path: Path) -> None:
    async def work() -> tuple[Held, list[int]]:
        engine = Held()
        async with opened(tmp_path, engine=engine) as door, door.client() as client:
            for stream in (False, True):
                engine.asked.clear()
                asking = asyncio.create_task(client.post(CHAT, json=ask(stream=stream)))
                await engine.asked.wait()
                asking.cancel()
                await until(lambda: door.door.gate.num_running == 0)
        return engine, [line.payload["code"] for line in Ledger(tmp_path / "requests.jsonl", readonly=True).entries()]

    engine, codes = asyncio.run(work())
    assert engine.num_cancelled == engine.num_asked >= 2
    assert codes == [499, 499]


def test_a_retry_joins_the_deliberation_under_way_and_both_get_its_answer(tmp_path: Path) -> None:
    async def work() -> tuple[list[dict[str, Any]], int]:
        engine, key = Held(), {"idempotency-key": "one"}
        async with opened(tmp_path, engine=engine) as door, door.client(headers=key) as client:
            first = asyncio.create_task(client.post(CHAT, json=ask()))
            await engine.asked.wait()
            second = asyncio.create_task(client.post(CHAT, json=ask()))
            await asyncio.sleep(0.05)
            first.cancel()  # the retry alone keeps it going
            third = asyncio.create_task(client.post(CHAT, json=ask()))
            await asyncio.sleep(0.05)
            asked = engine.num_asked
            engine.free.set()
            said = [(await one).json() for one in (second, third)]
            return said, asked

    (second, third), asked = asyncio.run(work())
    assert second == third
    assert second["choices"][0]["message"]["content"] == "42"
    assert asked == 2  # one proposal of each member, whoever waits


def test_a_finished_answer_is_given_again_even_by_the_next_process(tmp_path: Path) -> None:
    async def work() -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]], httpx.Response]:
        key = {"idempotency-key": "one"}
        async with opened(tmp_path) as door, door.client(headers=key) as client:
            first = (await client.post(CHAT, json=ask())).json()
        engine = Says(fails=frozenset({"ada", "ben"}))
        async with opened(tmp_path, engine=engine) as door, door.client(headers=key) as client:
            again = (await client.post(CHAT, json=ask())).json()
            other = await client.post(CHAT, json=ask("What is 1 + 1?"))
        streamed = ask(stream=True)
        async with opened(tmp_path) as door, door.client(headers={"idempotency-key": "two"}) as client:
            await client.post(CHAT, json=streamed)
            chunks = events(await client.post(CHAT, json=streamed))
        return first, again, chunks, other

    first, again, chunks, other = asyncio.run(work())
    assert first == again
    assert (other.status_code, other.json()["error"]["param"]) == (422, "Idempotency-Key")
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_failed_answer_is_not_given_again(tmp_path: Path) -> None:
    async def work() -> list[int]:
        engine = Says(fails=frozenset({"ada", "ben"}))
        async with opened(tmp_path, engine=engine) as door, door.client(headers={"idempotency-key": "x"}) as client:
            first = await client.post(CHAT, json=ask())
            engine.fails = frozenset()
            return [first.status_code, (await client.post(CHAT, json=ask())).status_code]

    assert asyncio.run(work()) == [503, 200]


def test_a_full_queue_is_refused_with_the_time_to_come_back(tmp_path: Path) -> None:
    async def work() -> tuple[list[int], httpx.Response]:
        engine = Held()
        settings = {"max_concurrent": 1, "max_queued": 1}
        async with opened(tmp_path, engine=engine, settings=settings) as door, door.client() as client:
            taken = [asyncio.create_task(client.post(CHAT, json=ask()))]
            await engine.asked.wait()
            taken.append(asyncio.create_task(client.post(CHAT, json=ask())))
            await until(lambda: door.door.gate.num_queued == 1)
            refused = await client.post(CHAT, json=ask())
            engine.free.set()
            return [(await one).status_code for one in taken], refused

    codes, refused = asyncio.run(work())
    assert codes == [200, 200]
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert int(refused.headers["retry-after"]) >= 1


def test_a_trace_is_read_by_its_own_team_and_by_no_other(tmp_path: Path) -> None:
    async def work() -> tuple[httpx.Response, ...]:
        async with opened(tmp_path, settings={"require_key": True}) as door, door.client() as client:
            (_, mine), (_, other) = door.door.keys.create("billing"), door.door.keys.create("search")
            said = await client.post(CHAT, json=ask(), headers=bearer(mine))
            path = f"/v1/deliberations/{said.json()['mesh']['deliberation']}"
            return (
                await client.get(path, headers=bearer(mine)),
                await client.get(path, headers=bearer(other)),
                await client.get(path),
                await client.get("/v1/deliberations/..%2F..%2Fetc", headers=bearer(mine)),
                await client.post(CHAT, json=ask()),
            )

    mine, other, nobody, odd, keyless = asyncio.run(work())
    trace = mine.json()
    assert trace["deliberation"]["task"]["question"] == QUESTION
    assert trace["deliberation"]["exchanges"]
    assert [other.status_code, nobody.status_code, odd.status_code, keyless.status_code] == [404, 401, 404, 401]
    assert keyless.headers["www-authenticate"] == "Bearer"


def test_only_so_many_traces_are_kept(tmp_path: Path) -> None:
    async def work() -> tuple[int, int]:
        async with opened(tmp_path, settings={"keep_traces": 2}) as door, door.client() as client:
            for _ in range(5):
                await client.post(CHAT, json=ask())
        return len(door.door.store), len(list((tmp_path / "deliberations").rglob("*.gz")))

    assert asyncio.run(work()) == (2, 2)


def test_an_outcome_is_kept_once_and_judged_by_the_right_answer(tmp_path: Path) -> None:
    async def work() -> tuple[list[dict[str, Any]], list[int]]:
        async with opened(tmp_path) as door, door.client() as client:
            id = (await client.post(CHAT, json=ask())).json()["id"]
            reports: list[dict[str, Any]] = [
                {"deliberation": id, "correct": True},
                {"deliberation": id, "correct": True},
                {"deliberation": id, "answer": "41"},
                {"deliberation": id},
                {"deliberation": "0" * 32, "correct": True},
                {"deliberation": id, "correct": "yes"},
            ]
            said = [await client.post("/v1/outcomes", json=report) for report in reports]
        return [one.json() for one in said], [one.status_code for one in said]

    said, codes = asyncio.run(work())
    assert codes == [200, 200, 200, 400, 404, 400]
    assert [(one["correct"], one["is_new"]) for one in said[:3]] == [(True, True), (True, False), (False, True)]
    assert said[5]["error"]["param"] == "correct"
    assert len(Ledger(tmp_path / "outcomes.jsonl", readonly=True).entries()) == 2


def test_the_log_names_every_request_and_not_a_word_of_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(tmp_path) as door, door.client() as client:
            await client.post(CHAT, json=ask(), headers={"x-request-id": "mine-1"})
            await client.post(CHAT, json=ask(model="no-such-secret-model"))

    asyncio.run(work())
    text = (tmp_path / "requests.jsonl").read_text()
    first, second = (line.payload for line in Ledger(tmp_path / "requests.jsonl", readonly=True).entries())
    assert (first["id"], first["code"], first["team"], first["model"]) == ("mine-1", 200, "local", "mesh")
    assert first["tokens"] > 0
    assert (second["code"], second["model"], second["error"]) == (404, "", "model_not_found")
    assert "12 + 30" not in text
    assert "no-such-secret-model" not in text


def test_what_a_caller_sends_is_sampled_with_and_history_goes_before_the_question(tmp_path: Path) -> None:
    async def work() -> Says:
        engine = Says()
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "Use digits."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi", "refusal": None, "reasoning_content": "hm"},
            {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
        ]
        body = ask(messages=messages, temperature=0.25, top_p=0.5, max_tokens=17, stop=["END"], model="mesh:vote")
        async with opened(tmp_path, engine=engine) as door, door.client() as client:
            assert (await client.post(CHAT, json=body)).status_code == 200
        return engine

    engine = asyncio.run(work())
    _, prompt = engine.prompts[0]
    order = [prompt.index(text) for text in ("Be brief.", "Use digits.", "Hello", "Hi", QUESTION)]
    assert order == sorted(order)
    sampling = engine.samplings[0]
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.stop) == (0.25, 0.5, 17, ("END",))


def test_prose_is_answered_in_the_words_it_was_written_in(tmp_path: Path) -> None:
    async def work() -> dict[str, Any]:
        text = "First line.\n\n  - a point\n"
        async with opened(tmp_path, engine=Says(text=text)) as door, door.client() as client:
            return (await client.post(CHAT, json={**ask(), "mesh": {}})).json()

    assert asyncio.run(work())["choices"][0]["message"]["content"] == "First line.\n\n  - a point"


def test_an_answer_that_was_cut_says_so(tmp_path: Path) -> None:
    async def work() -> dict[str, Any]:
        async with opened(tmp_path, engine=Says(finish_reason="length")) as door, door.client() as client:
            return (await client.post(CHAT, json={**ask(), "mesh": {}})).json()

    assert asyncio.run(work())["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ({"type": "json_object"}, '{"value": 42}'),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}, "42"),
        ({"type": "text"}, "42"),
    ],
)
def test_an_answer_is_brought_into_the_form_that_is_asked_for(tmp_path: Path, form: Any, content: str) -> None:
    @staticmethod
    def text() -> str:
        return '{"value": 42}' if form["type"] == "json_object" else "Answer: 42"

    async def work() -> dict[str, Any]:
        async with opened(tmp_path, engine=Says(text=text())) as door, door.client() as client:
            answer = "free" if form["type"] == "json_object" else "number"
            return (await client.post(CHAT, json={**ask(response_format=form), "mesh": {"answer": answer}})).json()

    assert asyncio.run(work())["choices"][0]["message"]["content"] == content


def test_an_answer_that_fits_no_form_is_refused_and_its_trace_is_kept(tmp_path: Path) -> None:
    async def work() -> tuple[list[httpx.Response], httpx.Response, int]:
        schema = {"type": "object", "properties": {"a": {"type": "array"}}, "required": ["a"]}
        form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
        engine, retry = Says(), {"idempotency-key": "1"}
        async with opened(tmp_path, engine=engine) as door, door.client() as client:
            body = ask(response_format=form)
            refused = [await client.post(CHAT, json=body, headers=retry)]
            id = refused[0].json()["error"]["message"].rpartition(" ")[2]
            trace, num_asked = await client.get(f"/v1/deliberations/{id}"), len(engine.prompts)
            refused.append(await client.post(CHAT, json=body, headers=retry))
            return refused, trace, len(engine.prompts) - num_asked

    refused, trace, num_asked_again = asyncio.run(work())
    assert [(one.status_code, one.json()["error"]["param"]) for one in refused] == [(422, "response_format")] * 2
    assert (trace.status_code, trace.json()["mesh"]["answer"], trace.json()["content"]) == (200, "42", "")
    assert trace.json()["problem"] in refused[0].json()["error"]["message"]
    assert num_asked_again > 0


def test_a_door_that_drains_lets_answers_end_and_takes_nothing_new(tmp_path: Path) -> None:
    async def work() -> tuple[int, int, int, bool]:
        engine = Held()
        async with opened(tmp_path, engine=engine, settings={"drain_s": 5.0}) as door, door.client() as client:
            asking = asyncio.create_task(client.post(CHAT, json=ask()))
            await engine.asked.wait()
            door.closing.signalled()
            await until(lambda: door.door.is_draining)
            ready, late = await client.get("/readyz"), await client.post(CHAT, json=ask())
            engine.free.set()
            answer = await asking
            await asyncio.wait_for(door.serving, 5.0)
            return ready.status_code, late.status_code, answer.status_code, door.serving.done()

    assert asyncio.run(work()) == (503, 503, 200, True)


def test_what_does_not_end_in_time_is_told_so_when_the_door_closes(tmp_path: Path) -> None:
    async def work() -> tuple[httpx.Response, list[dict[str, Any]]]:
        engine = Held()
        async with opened(tmp_path, engine=engine, settings={"drain_s": 0.05}) as door, door.client() as client:
            whole = asyncio.create_task(client.post(CHAT, json=ask()))
            stream = asyncio.create_task(client.post(CHAT, json=ask(stream=True)))
            await until(lambda: engine.num_asked == 4)
            door.closing.signalled()
            answers = await whole, events(await stream)
            await asyncio.wait_for(door.serving, 10.0)
            return answers

    whole, stream = asyncio.run(work())
    assert (whole.status_code, whole.json()["error"]["code"]) == (503, "shutting_down")
    assert stream[-1]["error"]["code"] == "shutting_down"


def test_models_are_the_mesh_its_protocols_and_every_member(tmp_path: Path) -> None:
    async def work() -> tuple[Any, Any, int]:
        async with opened(tmp_path) as door, door.client() as client:
            one = await client.get("/v1/models/mesh:vote")
            return (await client.get("/v1/models")).json(), one.json(), (await client.get("/v1/models/zed")).status_code

    listed, one, unknown = asyncio.run(work())
    assert [model["id"] for model in listed["data"]] == ["mesh", "mesh:vote", "mesh:single", "ada", "ben"]
    assert (one["protocol"], unknown) == ("vote", 404)


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The chunks of a stream, without its end."""
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


async def until(holds: Any) -> None:
    async with asyncio.timeout(5.0):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
