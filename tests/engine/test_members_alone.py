"""Members asked alone over real engines: vLLM's own server behind the door, with all that it gives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from mesh.types import Member
from serving.adapters import Adapter
from serving.cluster import RayFleet
from serving.endpoint.members import ProxyAnswer
from serving.endpoint.proxy import FleetMembers

pytestmark = pytest.mark.engine

SMOL = Member(name="ann", engine="smol", family="smol")
GEMMA = Member(name="ben", engine="gemma", family="gemma")
ASK = {"messages": [{"role": "user", "content": "What is 2+3?"}], "max_tokens": 24, "temperature": 0}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}


async def chat(fleet: RayFleet, data: Mapping[str, Any], member: Member = SMOL) -> ProxyAnswer:
    members = FleetMembers(fleet, timeout_s=600.0)
    try:
        body = json.dumps({"model": member.name, **ASK, **data}).encode()
        answer = await members.chat(member, body, stream=bool(data.get("stream")))
        if answer.stream is not None:
            answer.body = b"".join([event async for event in answer.stream])
        return answer
    finally:
        await members.close()


def said(fleet: RayFleet, data: Mapping[str, Any], member: Member = SMOL) -> Any:
    answer = asyncio.run(chat(fleet, data, member))
    assert answer.body is not None
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def refusal(fleet: RayFleet, data: Mapping[str, Any], member: Member = SMOL) -> Any:
    answer = asyncio.run(chat(fleet, data, member))
    assert answer.body is not None
    assert answer.status == 400, answer.body
    return json.loads(answer.body)["error"]


def test_a_member_answers_under_its_own_name_with_log_probabilities(fleet: RayFleet) -> None:
    answer = said(fleet, {"logprobs": True, "top_logprobs": 3, "max_tokens": 2})
    assert answer["model"] == "ann"
    assert answer["usage"]["completion_tokens"] == 2
    assert [len(token["top_logprobs"]) for token in answer["choices"][0]["logprobs"]["content"]] == [3, 3]


def test_a_named_tool_is_called_with_arguments_of_its_schema(fleet: RayFleet) -> None:
    choice = {"type": "function", "function": {"name": "add"}}
    answer = said(fleet, {"tools": [ADD], "tool_choice": choice, "max_tokens": 200})
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "add"
    assert set(json.loads(call["function"]["arguments"])) == {"a", "b"}


def test_an_answer_follows_a_json_schema(fleet: RayFleet) -> None:
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "sum", "schema": schema}}
    answer = said(fleet, {"response_format": wanted, "max_tokens": 60})
    assert isinstance(json.loads(answer["choices"][0]["message"]["content"])["sum"], int)


def test_a_stream_says_the_same_as_the_whole_answer_and_counts_its_tokens(fleet: RayFleet) -> None:
    whole = said(fleet, {})["choices"][0]["message"]["content"]
    answer = asyncio.run(chat(fleet, {"stream": True}))
    assert answer.body is not None
    texts = [part.removeprefix("data: ") for part in answer.body.decode().split("\n\n") if part]
    assert texts.pop() == "[DONE]"
    chunks = [json.loads(text) for text in texts]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == whole
    assert all(chunk["model"] == "ann" and "usage" not in chunk for chunk in chunks)
    assert answer.usage.output_tokens > 0


def test_a_specialist_speaks_with_its_adapter_and_the_base_without(
    fleet: RayFleet, adapters: dict[str, tuple[Adapter, ...]]
) -> None:
    adapter = adapters["smol"][0]
    specialist = SMOL.model_copy(update={"name": "ann@1", "adapter": adapter.hash})

    async def loaded() -> list[ProxyAnswer]:
        await fleet.load_adapter("smol", adapter)
        try:
            return await asyncio.gather(chat(fleet, {}), chat(fleet, {}, specialist), chat(fleet, {}))
        finally:
            await fleet.retire_adapter("smol", adapter.hash)

    first, special, second = (json.loads(answer.body or b"") for answer in asyncio.run(loaded()))
    assert special["mesh"]["adapter"] == adapter.hash
    texts = [answer["choices"][0]["message"]["content"] for answer in (first, special, second)]
    assert texts[0] == texts[2] != texts[1]


@pytest.mark.parametrize(
    ("data", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"messages": [{"role": "user", "content": "a " * 5000}]}, "input_tokens"),
        ({"chat_template": "{{ 7 * 7 }}"}, "chat_template"),
        ({"priority": -5}, "priority"),
    ],
)
def test_what_is_wrong_is_refused_by_its_field(fleet: RayFleet, data: Mapping[str, Any], param: str) -> None:
    error = refusal(fleet, data)
    assert error["param"] == param
    assert "/models/" not in error["message"]


def test_a_model_without_a_chat_template_answers_and_refuses_tools_by_name(fleet: RayFleet) -> None:
    assert said(fleet, {}, GEMMA)["model"] == "ben"
    assert refusal(fleet, {"tools": [ADD]}, GEMMA)["param"] == "tools"
