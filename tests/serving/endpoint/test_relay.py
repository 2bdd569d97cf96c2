"""The relay to engines' own servers: what goes over and comes back, and what a lost engine leaves a client with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from mesh.engine import EngineError
from mesh.types import Member
from serving.endpoint.errors import Refused
from serving.endpoint.members import ProxyAnswer
from serving.endpoint.relay import Relay
from serving.endpoint.relay_wire import REFUSED, refusal
from serving.hosting import EngineBusy, EngineLost
from serving.member_http import HttpAddress
from serving.replica import ReplicaLoad
from tests.serving.endpoint.member_server import ANSWER, Behaviour, MemberServer, breaks, chunk, hangs, says, streams

ANN = Member(name="ann", engine="smol", family="smol")
SPECIALIST = Member(name="ann@3", engine="smol", family="smol", adapter="a" * 64)
ASK = {"model": "ann", "messages": [{"role": "user", "content": "2+3?"}]}


class Host:
    """One replica: where its server is, or why nobody knows."""

    def __init__(self, server: MemberServer | None, *errors: Exception) -> None:
        self.server = server
        self.errors = list(errors)
        self.num_asked = 0

    async def http_address(self, host: str = "") -> HttpAddress | None:
        self.num_asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.server.address if self.server is not None else None


class Stage:
    """A relay over some servers."""

    def __init__(self, hosts: list[Host], timeout_s: float) -> None:
        self.hosts = hosts
        self.loads = [ReplicaLoad(engine="smol", replica=index) for index in range(len(hosts))]
        self.relay = Relay("smol", hosts, lambda: self.loads, timeout_s=timeout_s)

    async def post(self, data: dict[str, Any] | None = None, member: Member = ANN, rank: int = 0) -> ProxyAnswer:
        asked = ASK | (data or {})
        return await self.relay.post(member, asked, stream=bool(asked.get("stream")), rank=rank)


@asynccontextmanager
async def stage(*replicas: Sequence[Behaviour] | Behaviour, timeout_s: float = 5.0) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        hosts = []
        for given in replicas:
            behaviours = list(given) if isinstance(given, Sequence) else [given]
            hosts.append(Host(await stack.enter_async_context(MemberServer(behaviours).running())))
        made = Stage(hosts, timeout_s)
        yield made
        await made.relay.close()


def got(made: Stage, index: int = 0) -> list[Any]:
    server = made.hosts[index].server
    assert server is not None
    return server.got


async def read(answer: ProxyAnswer) -> list[Any]:
    """All events, decoded; `[DONE]` as it is."""
    assert answer.stream is not None
    texts = [event.decode() async for event in answer.stream]
    parts = [part.removeprefix("data: ") for text in texts for part in text.split("\n\n") if part]
    return [part if part == "[DONE]" else json.loads(part) for part in parts]


def test_an_answer_comes_back_whole_under_the_members_name() -> None:
    async def act() -> None:
        async with stage(says(200, ANSWER)) as made:
            answer = await made.post({"temperature": 0, "tools": [{"type": "function"}], "user": None}, rank=7)
            assert answer.body is not None
            data = json.loads(answer.body)
            assert data["model"] == "ann"
            assert data["mesh"] == {"member": "ann", "engine": "smol", "adapter": None}
            assert data["choices"] == ANSWER["choices"]
            assert (answer.usage.prompt_tokens, answer.usage.output_tokens, answer.usage.num_calls) == (5, 2, 1)
            (request,) = got(made)
            assert request.path == "/v1/chat/completions"
            assert request.headers["authorization"] == "Bearer s3cret"
            assert "x-evomesh-adapter" not in request.headers
            assert request.data["model"] == "smol"
            assert request.data["priority"] == 7
            assert request.data["tools"] == [{"type": "function"}]
            assert "user" not in request.data

    asyncio.run(act())


def test_a_specialist_is_asked_by_its_adapters_hash() -> None:
    async def act() -> None:
        async with stage(says(200, ANSWER)) as made:
            answer = await made.post(member=SPECIALIST)
            (request,) = got(made)
            assert request.headers["x-evomesh-adapter"] == SPECIALIST.adapter
            assert request.data["model"] == SPECIALIST.adapter
            assert json.loads(answer.body or b"")["mesh"]["adapter"] == SPECIALIST.adapter

    asyncio.run(act())


@pytest.mark.parametrize("field", REFUSED)
def test_what_belongs_to_the_operator_is_refused_by_name(field: str) -> None:
    async def act() -> None:
        async with stage(says(200, ANSWER)) as made:
            with pytest.raises(Refused) as caught:
                await made.post({field: 1})
            assert (caught.value.status, caught.value.param) == (400, field)
            assert got(made) == []

    asyncio.run(act())


@pytest.mark.parametrize("wrong", [0, 17, -1, True, "2", 1.5, [1]])
def test_a_number_of_samples_that_would_fill_the_engine_is_refused(wrong: object) -> None:
    async def act() -> None:
        async with stage(says(200, ANSWER)) as made:
            with pytest.raises(Refused) as caught:
                await made.post({"n": wrong})
            assert caught.value.param == "n"

    asyncio.run(act())


def test_a_refusal_of_the_server_names_the_field_and_hides_the_machine() -> None:
    error = {"message": "/srv/models/smol is no multimodal model", "param": "body.messages", "code": 400}

    async def act() -> None:
        async with stage(says(400, {"error": error})) as made:
            answer = await made.post()
            assert answer.status == 400
            said = json.loads(answer.body or b"")["error"]
            assert said == {
                "message": "[path] is no multimodal model",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "invalid_value",
            }
            assert len(got(made)) == 1

    asyncio.run(act())


def test_tools_for_a_member_whose_calls_nothing_reads_are_refused_by_name() -> None:
    said = {"error": {"message": 'tool_choice=function "add" requires --tool-call-parser to be set', "param": None}}
    error = json.loads(refusal(400, json.dumps(said).encode()))["error"]
    assert error["param"] == "tools"
    assert "tool_parser" in error["message"]


def test_a_broken_connection_is_asked_again_of_the_process_that_took_over() -> None:
    async def act() -> None:
        async with stage([breaks(), says(200, ANSWER)]) as made:
            assert (await made.post()).status == 200
            assert len(got(made)) == 2
            assert made.hosts[0].num_asked == 2

    asyncio.run(act())


def test_a_dead_engine_of_several_is_left_for_another_one() -> None:
    async def act() -> None:
        async with stage(says(500, {"error": {"message": "dead"}}), says(200, ANSWER)) as made:
            asked = asyncio.ensure_future(made.post())
            await asyncio.sleep(0.1)
            made.loads[0] = ReplicaLoad(engine="smol", state="away")
            assert (await asked).status == 200
            assert (len(got(made, 0)), len(got(made, 1))) == (1, 1)

    asyncio.run(act())


def test_the_least_loaded_replica_is_asked_and_what_is_under_way_counts() -> None:
    async def act() -> None:
        async with stage(hangs(), says(200, ANSWER)) as made:
            waiting = asyncio.ensure_future(made.post())
            await asyncio.sleep(0.05)
            assert (await made.post()).status == 200
            assert (len(got(made, 0)), len(got(made, 1))) == (1, 1)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(act())


def test_an_engine_that_restarts_is_waited_for() -> None:
    async def act() -> None:
        async with stage(says(200, ANSWER)) as made:
            made.hosts[0].errors = [EngineLost("restarting", died=True), EngineLost("restarting", died=True)]
            assert (await made.post()).status == 200

    asyncio.run(act())


def test_an_engine_that_does_not_come_back_is_an_error_that_says_why() -> None:
    async def act() -> None:
        async with stage(says(200, ANSWER), timeout_s=0.5) as made:
            made.hosts[0].errors = [EngineLost("its process died", died=True)] * 100
            with pytest.raises(EngineError, match=r"no answer within 0\.5 s; its process died"):
                await made.post()

    asyncio.run(act())


def test_a_request_that_fails_every_server_is_not_asked_for_ever() -> None:
    async def act() -> None:
        async with stage(says(500, {"error": {"message": "/x/y.py broke"}})) as made:
            with pytest.raises(EngineError, match=r"answered 500: \[path\] broke"):
                await made.post()
            assert len(got(made)) == 3

    asyncio.run(act())


def test_a_busy_engine_says_so_at_once() -> None:
    async def act() -> None:
        async with stage(says(200, ANSWER)) as made:
            made.hosts[0].errors = [EngineBusy("it sleeps", retry_after_s=5.0)]
            with pytest.raises(EngineBusy):
                await made.post()

    asyncio.run(act())


def test_a_silent_server_ends_at_the_time_limit() -> None:
    async def act() -> None:
        async with stage(hangs(), timeout_s=0.3) as made:
            with pytest.raises(EngineError, match=r"within 0\.3 s"):
                await made.post()

    asyncio.run(act())


def test_a_cancelled_request_is_cut_off_at_the_server() -> None:
    async def act() -> None:
        async with stage(hangs()) as made:
            asked = asyncio.ensure_future(made.post())
            await asyncio.sleep(0.05)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            await asyncio.sleep(0.05)
            server = made.hosts[0].server
            assert server is not None
            assert (server.num_open, server.num_cut) == (0, 1)

    asyncio.run(act())


def test_a_stream_is_told_under_the_members_name_and_counts_only_where_asked() -> None:
    events = (chunk("2", 1), ": keep-alive", chunk("+3", 2, "stop"), chunk(None, 2), "data: [DONE]")

    async def act(options: dict[str, Any] | None) -> list[Any]:
        async with stage(streams(*events)) as made:
            answer = await made.post({"stream": True, "stream_options": options})
            assert answer.media_type == "text/event-stream"
            told = await read(answer)
            assert got(made)[0].data["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
            assert (answer.usage.prompt_tokens, answer.usage.output_tokens) == (5, 2)
            return told

    *plain, done = asyncio.run(act(None))
    assert done == "[DONE]"
    assert [one["choices"][0]["delta"]["content"] for one in plain] == ["2", "+3"]
    assert all(one["model"] == "ann" and "usage" not in one for one in plain)

    *counted, last, done = asyncio.run(act({"include_usage": True}))
    assert [one["usage"] for one in counted] == [None, None]
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 2)


def test_a_stream_that_breaks_before_its_first_event_is_asked_again() -> None:
    async def act() -> None:
        async with stage([streams(then="break"), streams(chunk("5", 1, "stop"), "data: [DONE]")]) as made:
            told = await read(await made.post({"stream": True}))
            assert told[0]["choices"][0]["delta"]["content"] == "5"
            assert len(got(made)) == 2

    asyncio.run(act())


def test_a_stream_that_breaks_in_the_middle_ends_with_an_error_and_its_tokens_count() -> None:
    async def act() -> None:
        async with stage(streams(chunk("5", 1), then="break")) as made:
            answer = await made.post({"stream": True})
            first, error, done = await read(answer)
            assert first["choices"][0]["delta"]["content"] == "5"
            assert error["error"]["code"] == "engine_lost"
            assert done == "[DONE]"
            assert answer.usage.output_tokens == 1
            assert len(got(made)) == 1

    asyncio.run(act())


def test_an_error_inside_a_stream_is_told_as_openais_clients_read_it() -> None:
    async def act() -> None:
        error = {"error": {"message": "/a/b failed", "type": "InternalServerError", "code": 500}}
        async with stage(streams(chunk("5", 1), error, "data: [DONE]")) as made:
            _, told, done = await read(await made.post({"stream": True}))
            assert told["error"]["message"] == "[path] failed"
            assert done == "[DONE]"

    asyncio.run(act())


@pytest.mark.parametrize("num_read", [0, 1])
def test_a_client_that_leaves_a_stream_cuts_it_off_at_the_server(num_read: int) -> None:
    async def act() -> None:
        async with stage(streams(chunk("5", 1), then="hang")) as made:
            answer = await made.post({"stream": True})
            stream: Any = answer.stream
            for _ in range(num_read):
                await anext(stream)
            await stream.aclose()
            await stream.aclose()
            await asyncio.sleep(0.05)
            server = made.hosts[0].server
            assert server is not None
            assert (server.num_open, server.num_cut) == (0, 1)
            assert answer.usage.output_tokens == 1
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    asyncio.run(act())


def test_a_reader_that_is_cancelled_cuts_the_stream_off_at_the_server() -> None:
    async def act() -> None:
        async with stage(streams(chunk("5", 1), then="hang")) as made:
            reading = asyncio.ensure_future(read(await made.post({"stream": True})))
            await asyncio.sleep(0.05)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await asyncio.sleep(0.05)
            server = made.hosts[0].server
            assert server is not None
            assert (server.num_open, server.num_cut) == (0, 1)

    asyncio.run(act())


def test_engines_without_a_server_are_known() -> None:
    async def act() -> None:
        made = Stage([Host(None)], timeout_s=1.0)
        assert not await made.relay.has_server()
        await made.relay.close()

    asyncio.run(act())


def test_half_a_character_reaches_the_server_as_json() -> None:
    async def act() -> None:
        async with stage(says(200, ANSWER)) as made:
            answer = await made.post({"messages": [{"role": "user", "content": "\ud800"}]})
            assert answer.status == 200
            assert got(made)[0].data["messages"][0]["content"] == "\ud800"

    asyncio.run(act())
