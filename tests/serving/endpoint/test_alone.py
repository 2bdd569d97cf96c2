"""Members without a server of their own: what they give, what they refuse by name, and which way a request takes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mesh.engine import EngineError
from mesh.types import Member, Message, Sampling
from serving.config import ScriptedSpec
from serving.endpoint.alone import UNSUPPORTED
from serving.endpoint.members import MemberProxy, ProxyAnswer
from serving.endpoint.proxy import FleetMembers
from serving.fleet import Fleet
from serving.member_http import HttpAddress
from serving.scripted_engine import ScriptedEngine
from tests.serving.endpoint.member_server import ANSWER, MemberServer, says

ANN = Member(name="ann", engine="a", family="a")
ASK: dict[str, Any] = {"model": "ann", "messages": [{"role": "user", "content": "What is 17 + 25?"}]}


class Recording(ScriptedEngine):
    """Keeps how it was asked."""

    def __init__(self, window: int = 2048) -> None:
        super().__init__(ScriptedSpec(name="a", family="a", skill=1.0, max_model_len=window))
        self.asked: list[tuple[tuple[Message, ...], Sampling, int]] = []

    async def complete(self, member: Member, messages: Any, sampling: Sampling, *, rank: int = 0) -> Any:
        self.asked.append((tuple(messages), sampling, rank))
        return await super().complete(member, messages, sampling, rank=rank)


async def chat(engine: ScriptedEngine, data: dict[str, Any], member: Member = ANN) -> ProxyAnswer:
    members: MemberProxy = FleetMembers(Fleet({"a": engine}), timeout_s=5.0)
    body = json.dumps(ASK | data).encode()
    return await members.chat(member, body, stream=bool(data.get("stream")))


def said(answer: ProxyAnswer) -> Any:
    assert answer.body is not None
    return json.loads(answer.body)


def refused(data: dict[str, Any]) -> Any:
    answer = asyncio.run(chat(Recording(), data))
    assert answer.status == 400
    return said(answer)["error"]


def test_a_member_answers_as_openais_clients_expect() -> None:
    engine = Recording()
    answer = asyncio.run(chat(engine, {"max_tokens": 50, "seed": 3, "n": 2, "stop": "###", "temperature": 0.5}))
    data = said(answer)
    assert data["object"] == "chat.completion"
    assert data["model"] == "ann"
    assert [choice["index"] for choice in data["choices"]] == [0, 1]
    assert "42" in data["choices"][0]["message"]["content"]
    assert data["choices"][0]["finish_reason"] == "stop"
    assert data["usage"]["total_tokens"] == answer.usage.prompt_tokens + answer.usage.output_tokens > 0
    ((_, sampling, rank),) = engine.asked
    assert (sampling.max_tokens, sampling.seed, sampling.num_samples, sampling.stop) == (50, 3, 2, ("###",))
    assert rank == 0


def test_the_whole_conversation_is_shown_and_none_of_it_is_structure() -> None:
    engine = Recording()
    turns = [("developer", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "What is 17 + 25?")]
    asyncio.run(chat(engine, {"messages": [{"role": role, "content": text} for role, text in turns]}))
    messages = engine.asked[0][0]
    assert [message.role for message in messages] == ["system", "user", "assistant", "user"]
    assert not any(part.trusted for message in messages for part in message.parts)


def test_without_a_limit_the_rest_of_the_window_is_room() -> None:
    engine = Recording(window=64)
    asyncio.run(chat(engine, {}))
    assert engine.asked[0][1].max_tokens == 64 - 6
    asyncio.run(chat(engine, {"max_tokens": 900}))
    assert engine.asked[1][1].max_tokens == 64 - 6


def test_a_conversation_longer_than_the_window_is_refused_by_its_field() -> None:
    answer = asyncio.run(chat(Recording(window=64), {"messages": [{"role": "user", "content": "a " * 64}]}))
    assert answer.status == 400
    assert said(answer)["error"]["code"] == "context_length_exceeded"


def test_a_stream_holds_the_same_answer_and_ends() -> None:
    async def act(options: dict[str, Any]) -> list[Any]:
        answer = await chat(Recording(), {"stream": True, "seed": 1, **options})
        assert answer.stream is not None
        events = [event.decode().removeprefix("data: ").strip() async for event in answer.stream]
        assert events.pop() == "[DONE]"
        assert answer.usage.output_tokens > 0
        return [json.loads(event) for event in events]

    whole = said(asyncio.run(chat(Recording(), {"seed": 1})))["choices"][0]["message"]["content"]
    opening, text, end = asyncio.run(act({}))
    assert opening["choices"][0]["delta"]["role"] == "assistant"
    assert text["choices"][0]["delta"]["content"] == whole
    assert end["choices"][0]["finish_reason"] == "stop"
    *_, usage = asyncio.run(act({"stream_options": {"include_usage": True}}))
    assert (usage["choices"], usage["usage"]["total_tokens"] > 0) == ([], True)


@pytest.mark.parametrize("field", UNSUPPORTED)
def test_what_this_engine_does_not_give_is_refused_by_name(field: str) -> None:
    error = refused({field: 1})
    assert (error["param"], error["code"]) == (field, "unsupported_parameter")


@pytest.mark.parametrize(
    ("data", "param"),
    [
        ({"n": 17}, "n"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"mesh": {}}, "mesh"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_what_is_wrong_is_refused_by_its_field(data: dict[str, Any], param: str) -> None:
    assert refused(data)["param"] == param


def test_nulls_and_a_false_logprobs_are_as_if_they_were_not_there() -> None:
    assert asyncio.run(chat(Recording(), {"logprobs": False, "tools": None, "n": None})).status == 200


def test_a_body_that_is_no_object_is_refused() -> None:
    async def act() -> ProxyAnswer:
        return await FleetMembers(Fleet({"a": Recording()}), timeout_s=5.0).chat(ANN, b"[]", stream=False)

    assert asyncio.run(act()).status == 400


def test_an_unknown_engine_is_an_error_that_names_those_there_are() -> None:
    lost = ANN.model_copy(update={"engine": "z"})
    with pytest.raises(EngineError, match="running: a"):
        asyncio.run(chat(Recording(), {}, member=lost))


class Hosting(Recording):
    """An engine that has a server, or says that its kind has none."""

    def __init__(self, server: MemberServer | None, has_template: bool = True) -> None:
        super().__init__()
        self.server = server
        self.has_template = has_template
        self.num_asked = 0

    async def http_address(self, host: str = "") -> HttpAddress | None:
        self.num_asked += 1
        return None if self.server is None else self.server.address

    async def profile(self, member: Member) -> Any:
        profile = await super().profile(member)
        return profile.model_copy(update={"has_chat_template": self.has_template})


@pytest.mark.parametrize(("has_template", "num_relayed"), [(True, 2), (False, 0)])
def test_an_engine_with_a_server_and_a_chat_template_is_asked_through_it(has_template: bool, num_relayed: int) -> None:
    async def act() -> None:
        async with MemberServer([says(200, ANSWER)]).running() as server:
            engine = Hosting(server, has_template)
            members = FleetMembers(Fleet({"a": engine}), timeout_s=5.0)
            body = json.dumps(ASK).encode()
            answers = await asyncio.gather(*(members.chat(ANN, body, stream=False) for _ in range(2)))
            assert [answer.status for answer in answers] == [200, 200]
            assert (len(server.got), len(engine.asked)) == (num_relayed, 2 - num_relayed)
            await members.close()

    asyncio.run(act())


def test_an_engine_without_a_server_is_looked_at_once_and_asked_itself() -> None:
    async def act() -> None:
        engine = Hosting(None)
        members = FleetMembers(Fleet({"a": engine}), timeout_s=5.0)
        for _ in range(2):
            assert (await members.chat(ANN, json.dumps(ASK).encode(), stream=False)).status == 200
        assert (engine.num_asked, len(engine.asked)) == (1, 2)
        await members.close()

    asyncio.run(act())
